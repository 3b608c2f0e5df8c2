//! S3-FIFO: three queues in which nothing is moved by a hit (Yang and others, "FIFO queues are all you need for cache
//! eviction", SOSP 2023). It must not know that there are other policies.
//!
//! A newcomer waits in a small queue, a tenth of the capacity, and most leave it unused. What was used twice meanwhile, or
//! comes again while the ghost remembers it, goes to the main queue, a clock that spares what was used.

use crate::Policy;
use crate::content::{Content, LOOKS_MAX, MAIN, SMALL, STALE};
use crate::ring::Unit;
use crate::shelves::UNITS_MAX;

/// The small queue's part of the capacity: one tenth, as in the paper.
const SMALL_PART: u64 = 10;

/// Uses by which a newcomer proves itself.
const PROVED_USES: u32 = 2;

/// The policy.
#[derive(Debug)]
pub struct S3Fifo {
    pub(crate) content: Content,
}

impl S3Fifo {
    /// An empty cache of so many bytes.
    pub fn new(capacity: u64) -> Self {
        Self {
            content: Content::new(capacity),
        }
    }

    /// Bytes of all units.
    pub fn bytes(&self) -> u64 {
        self.content.shelves.bytes()
    }
}

impl Policy for S3Fifo {
    fn read(&mut self, key: u64, bytes: u32) -> bool {
        hit(&mut self.content, key) || admits(&self.content, bytes)
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

/// Counts a use. False when the unit is not there.
pub(crate) fn hit(content: &mut Content, key: u64) -> bool {
    let Some(place) = content.shelves.find(key) else {
        return false;
    };
    let unit = content.shelves.get(place);
    let used = unit.with_uses(unit.uses() + 1);
    if place.shelf() == STALE {
        content.shelves.put_behind(place, MAIN, used);
    } else {
        content.shelves.set(place, used);
    }
    true
}

/// Everything that fits may come: the small queue is the judge.
pub(crate) fn admits(content: &Content, bytes: u32) -> bool {
    u64::from(bytes) <= content.capacity && content.shelves.units() < UNITS_MAX
}

pub(crate) fn insert(content: &mut Content, key: u64, bytes: u32) {
    if content.resized(key, bytes).is_some() {
        return;
    }
    // While there is room nobody has to prove anything.
    let small_is_full = content.shelves.shelf(SMALL).bytes() >= content.capacity / SMALL_PART;
    let fills = small_is_full && content.has_room(bytes);
    let shelf = if fills || content.ghost.knows(key) { MAIN } else { SMALL };
    content.shelves.push(shelf, Unit::new(key, bytes, 0));
}

/// The next to go.
pub(crate) fn victim(content: &mut Content) -> Option<u64> {
    let mut main_was_refused = false;
    for _ in 0..LOOKS_MAX {
        let stale = content.shelves.front(STALE);
        let small = content.shelves.front(SMALL);
        let main = content.shelves.front(MAIN);
        let small_is_over = content.shelves.shelf(SMALL).bytes() > content.capacity / SMALL_PART;
        let (place, is_small) = match (stale, small, main) {
            (Some(stale), ..) => (stale, true),
            (_, Some(small), _) if small_is_over || main_was_refused => (small, true),
            (_, _, Some(main)) => (main, false),
            (_, small, None) => (small?, true),
        };
        if content.spares(place) {
            main_was_refused |= !is_small;
            continue;
        }
        let unit = content.shelves.get(place);
        if is_small && unit.uses() >= PROVED_USES {
            content.shelves.put_behind(place, MAIN, unit.with_uses(0));
        } else if !is_small && unit.uses() > 0 {
            content.shelves.put_behind(place, MAIN, unit.with_uses(unit.uses() - 1));
        } else {
            return Some(content.condemn(place));
        }
    }
    let place = content.shelves.front(MAIN)?;
    Some(content.condemn(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next_gone(policy: &mut S3Fifo) -> Option<u64> {
        policy.victim().inspect(|key| policy.removed(*key))
    }

    #[test]
    fn newcomers_that_are_not_used_go_before_what_was_there() {
        let mut policy = S3Fifo::new(100);
        (0..100).for_each(|key| policy.inserted(key, 1));
        for key in 100..150 {
            policy.inserted(key, 1);
            assert!(next_gone(&mut policy).is_some_and(|gone| !(10..100).contains(&gone)));
        }
    }

    #[test]
    fn what_comes_back_while_it_is_remembered_stays() {
        let mut policy = S3Fifo::new(100);
        (0..110).for_each(|key| policy.inserted(key, 1));
        let gone: Vec<u64> = (0..10).filter_map(|_| next_gone(&mut policy)).collect();
        policy.inserted(gone[0], 1);
        for key in 200..260 {
            policy.inserted(key, 1);
            next_gone(&mut policy);
        }
        assert!(policy.content.shelves.find(gone[0]).is_some());
    }

    #[test]
    fn what_was_used_twice_stays_and_what_was_used_once_goes() {
        let mut policy = S3Fifo::new(100);
        (0..100).for_each(|key| policy.inserted(key, 1));
        policy.inserted(100, 1);
        policy.inserted(101, 1);
        assert!(policy.read(100, 1) && policy.read(100, 1) && policy.read(101, 1));
        for key in 200..260 {
            policy.inserted(key, 1);
            next_gone(&mut policy);
        }
        assert!(policy.content.shelves.find(100).is_some() && policy.content.shelves.find(101).is_none());
    }
}
