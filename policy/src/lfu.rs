//! LFU with dynamic aging (LFU-DA; Arlitt and others, 1999): what was used least goes first, and old fame fades. It must not
//! know that there are other policies.
//!
//! A unit stands on one of 15 levels, a use lifts it by one. A newcomer begins one above the lowest, so that the lowest
//! empties and is put on top: with each such turn everything that was not used meanwhile has one use less than before.

use crate::Policy;
use crate::ring::Unit;
use crate::shelves::{Place, SHELVES_MAX, Shelves, UNITS_MAX};

/// Level of a newcomer.
const NEW_LEVEL: usize = 1;

/// The policy.
#[derive(Debug)]
pub struct Lfu {
    shelves: Shelves,
    capacity: u64,
    /// The shelf that is the lowest level.
    lowest: usize,
}

impl Lfu {
    /// An empty cache of so many bytes.
    pub fn new(capacity: u64) -> Self {
        Self {
            shelves: Shelves::new(SHELVES_MAX),
            capacity,
            lowest: 0,
        }
    }

    /// Bytes of all units.
    pub fn bytes(&self) -> u64 {
        self.shelves.bytes()
    }

    fn shelf(&self, level: usize) -> usize {
        (self.lowest + level) % SHELVES_MAX
    }

    fn level(&self, place: Place) -> usize {
        (place.shelf() + SHELVES_MAX - self.lowest) % SHELVES_MAX
    }
}

impl Policy for Lfu {
    fn read(&mut self, key: u64, bytes: u32) -> bool {
        let Some(place) = self.shelves.find(key) else {
            return u64::from(bytes) <= self.capacity && self.shelves.units() < UNITS_MAX;
        };
        let level = (self.level(place) + 1).min(SHELVES_MAX - 1);
        let unit = self.shelves.get(place);
        self.shelves.put_behind(place, self.shelf(level), unit);
        true
    }

    fn inserted(&mut self, key: u64, bytes: u32) {
        if let Some(place) = self.shelves.find(key) {
            let unit = self.shelves.get(place);
            self.shelves.set(place, unit.with_bytes(bytes));
        } else {
            self.shelves.push(self.shelf(NEW_LEVEL), Unit::new(key, bytes, 0));
        }
    }

    fn removed(&mut self, key: u64) {
        if let Some(place) = self.shelves.find(key) {
            self.shelves.take(place);
        }
    }

    fn victim(&mut self) -> Option<u64> {
        if self.shelves.units() == 0 {
            return None;
        }
        while self.shelves.front(self.lowest).is_none() {
            self.lowest = self.shelf(1);
        }
        let place = self.shelves.front(self.lowest)?;
        let unit = self.shelves.get(place);
        // Who may not remove it is told others first: it counts as used.
        self.shelves.put_behind(place, self.shelf(1), unit);
        Some(unit.key())
    }

    fn resize(&mut self, capacity: u64) {
        self.capacity = capacity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next_gone(lfu: &mut Lfu) -> Option<u64> {
        lfu.victim().inspect(|key| lfu.removed(*key))
    }

    #[test]
    fn what_was_used_least_goes_first() {
        let mut lfu = Lfu::new(3);
        for (key, uses) in [(0, 5), (1, 0), (2, 2)] {
            lfu.inserted(key, 1);
            assert!((0..uses).all(|_| lfu.read(key, 1)));
        }
        let gone: Vec<u64> = std::iter::from_fn(|| next_gone(&mut lfu)).collect();
        assert_eq!(gone, [1, 2, 0]);
    }

    #[test]
    fn old_fame_fades() {
        let mut lfu = Lfu::new(4);
        lfu.inserted(0, 1);
        assert!((0..50).all(|_| lfu.read(0, 1)));
        for key in 1..4 {
            lfu.inserted(key, 1);
        }
        let mut newcomers = 4..;
        let turns = newcomers.by_ref().take(1000).position(|key| {
            let gone = next_gone(&mut lfu);
            lfu.inserted(key, 1);
            gone == Some(0)
        });
        assert!(turns.is_some_and(|turns| (20..200).contains(&turns)), "{turns:?}");
    }
}
