//! Keep what is there: what serves epochs over a dataset larger than the cache best, in whatever order it is read. Nothing
//! new is taken in as long as everything that is held is in use. It must not know that there are other policies.
//!
//! Every unit of an epoch is read once, so none is worth more than another, and each exchange loses a unit that is still to
//! come in this epoch for one that has just gone by. What is held yields cache / dataset, and no policy that does not know the
//! order yields more. But what is not read in a whole [round](crate::rounds) is of a part that nobody reads any more: it
//! makes room.

use crate::Policy;
use crate::content::{Content, LOOKS_MAX, MAIN, SMALL, STALE};
use crate::hash::hashed;
use crate::ring::Unit;
use crate::rounds::Rounds;
use crate::shelves::UNITS_MAX;

/// Units that are looked at after each read while a look at all of them is due. A round has at least two reads for each
/// unit, so a look at all of them takes a small part of it.
const LOOKS_PER_READ: u32 = 8;

/// When what is held is looked through for what was not read.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    rounds: Rounds,
    /// Units that are still to be looked at.
    due: u32,
}

/// The policy.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) content: Content,
    sweep: Sweep,
}

impl Hold {
    pub(crate) fn new(capacity: u64) -> Self {
        Self {
            content: Content::new(capacity),
            sweep: Sweep::default(),
        }
    }
}

impl Policy for Hold {
    fn read(&mut self, key: u64, bytes: u32) -> bool {
        self.sweep.read(&mut self.content, key);
        hit(&mut self.content, key) || admits(&mut self.content, key, bytes)
    }

    fn inserted(&mut self, key: u64, bytes: u32) {
        insert(&mut self.content, key, bytes);
    }

    fn removed(&mut self, key: u64) {
        self.content.removed(key);
    }

    fn victim(&mut self) -> Option<u64> {
        victim(&mut self.content)
    }

    fn resize(&mut self, capacity: u64) {
        self.content.capacity = capacity;
    }
}

impl Sweep {
    /// Counts a read and looks at the next units.
    pub(crate) fn read(&mut self, content: &mut Content, key: u64) {
        let units = content.shelves.units();
        if self.rounds.read(hashed(key), 2 * u64::from(units)) {
            self.due = units;
        }
        for _ in 0..LOOKS_PER_READ {
            // Who still has to prove itself by other rules is in use here until it was not read.
            if let Some(place) = content.shelves.front(SMALL) {
                let unit = content.shelves.get(place).with_uses(1);
                content.shelves.put_behind(place, MAIN, unit);
                continue;
            }
            let next = content.shelves.front(MAIN).filter(|_| self.due > 0);
            let Some(place) = next else { return };
            self.due -= 1;
            let unit = content.shelves.get(place);
            let shelf = if unit.uses() == 0 { STALE } else { MAIN };
            content.shelves.put_behind(place, shelf, unit.with_uses(0));
        }
    }
}

/// Notes that the unit is in use. False when it is not there.
pub(crate) fn hit(content: &mut Content, key: u64) -> bool {
    let Some(place) = content.shelves.find(key) else {
        return false;
    };
    let unit = content.shelves.get(place);
    let used = unit.with_uses(1);
    if place.shelf() == STALE {
        content.shelves.put_behind(place, MAIN, used);
    } else {
        content.shelves.set(place, used);
    }
    true
}

/// What fits may come, and what replaces something that nobody reads.
pub(crate) fn admits(content: &mut Content, key: u64, bytes: u32) -> bool {
    let stale = content.shelves.shelf(STALE).bytes() >= u64::from(bytes);
    let fits = u64::from(bytes) <= content.capacity && content.shelves.units() < UNITS_MAX;
    let admitted = fits && (content.has_room(bytes) || stale);
    if !admitted {
        // For the other rules, should they come into force.
        content.remember(key, bytes);
    }
    admitted
}

pub(crate) fn insert(content: &mut Content, key: u64, bytes: u32) {
    if content.resized(key, bytes).is_none() {
        content.shelves.push(MAIN, Unit::new(key, bytes, 1));
    }
}

/// The next to go: what is not in use; and if all is, any is as good as another.
pub(crate) fn victim(content: &mut Content) -> Option<u64> {
    for _ in 0..LOOKS_MAX {
        let place = content.shelves.front(STALE).or(content.shelves.front(SMALL));
        let Some(place) = place else { break };
        if !content.spares(place) {
            return Some(content.condemn(place));
        }
    }
    let place = content.shelves.front(MAIN)?;
    Some(content.condemn(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads keys, stores what is admitted, and evicts; tells how many were there.
    fn hits(hold: &mut Hold, keys: impl IntoIterator<Item = u64>) -> usize {
        let mut hits = 0;
        for key in keys {
            let is_there = hold.content.shelves.find(key).is_some();
            hits += usize::from(is_there);
            if hold.read(key, 1) && !is_there {
                hold.inserted(key, 1);
            }
            while hold.content.shelves.bytes() > hold.content.capacity {
                let victim = hold.victim().unwrap();
                hold.removed(victim);
            }
        }
        hits
    }

    #[test]
    fn what_is_held_and_read_in_each_epoch_stays() {
        let mut hold = Hold::new(300);
        let epochs = std::iter::repeat_with(|| hits(&mut hold, 0..1000));
        assert_eq!(Vec::from_iter(epochs.take(12)), [vec![0], vec![300; 11]].concat());
    }

    #[test]
    fn what_is_read_no_more_makes_room_within_ten_epochs_of_what_is_read() {
        let mut hold = Hold::new(300);
        (0..4).for_each(|_| assert!(hits(&mut hold, 0..1000) <= 300));
        let epochs = std::iter::repeat_with(|| hits(&mut hold, 1000..1600));
        let epochs: Vec<usize> = epochs.take(11).collect();
        assert_eq!((epochs[0], epochs[10]), (0, 300), "{epochs:?}");
    }
}
