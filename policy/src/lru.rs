//! LRU: what was not used for the longest time goes first. It must not know that there are other policies.
//!
//! By generations, as the Linux kernel does it for its pages (MGLRU): a unit that is used goes to the youngest of up to 15,
//! and a new one begins when the youngest holds an eighth of the capacity. So the order is that of LRU to an eighth, a unit
//! needs no links, and further uses of what is in the youngest generation cost nothing.

use crate::Policy;
use crate::ring::Unit;
use crate::shelves::{SHELVES_MAX, Shelves, UNITS_MAX};

/// The part of the capacity that a generation holds before the next begins.
const GENERATION_PART: u64 = 8;

/// The policy.
#[derive(Debug)]
pub struct Lru {
    shelves: Shelves,
    capacity: u64,
    youngest: usize,
}

impl Lru {
    /// An empty cache of so many bytes.
    pub fn new(capacity: u64) -> Self {
        Self {
            shelves: Shelves::new(SHELVES_MAX),
            capacity,
            youngest: 0,
        }
    }

    /// Bytes of all units.
    pub fn bytes(&self) -> u64 {
        self.shelves.bytes()
    }

    /// Begins a generation when it is time and there is one that is empty.
    fn age(&mut self) {
        let next = (self.youngest + 1) % SHELVES_MAX;
        let is_full = self.shelves.shelf(self.youngest).bytes() >= self.capacity / GENERATION_PART;
        if is_full && self.shelves.front(next).is_none() {
            self.youngest = next;
        }
    }
}

impl Policy for Lru {
    fn read(&mut self, key: u64, bytes: u32) -> bool {
        let Some(place) = self.shelves.find(key) else {
            return u64::from(bytes) <= self.capacity && self.shelves.units() < UNITS_MAX;
        };
        if place.shelf() != self.youngest {
            self.age();
            let unit = self.shelves.get(place);
            self.shelves.put_behind(place, self.youngest, unit);
        }
        true
    }

    fn inserted(&mut self, key: u64, bytes: u32) {
        if let Some(place) = self.shelves.find(key) {
            let unit = self.shelves.get(place);
            self.shelves.set(place, unit.with_bytes(bytes));
        } else {
            self.age();
            self.shelves.push(self.youngest, Unit::new(key, bytes, 0));
        }
    }

    fn removed(&mut self, key: u64) {
        if let Some(place) = self.shelves.find(key) {
            self.shelves.take(place);
        }
    }

    fn victim(&mut self) -> Option<u64> {
        let mut oldest_first = (1..=SHELVES_MAX).map(|age| (self.youngest + age) % SHELVES_MAX);
        let place = oldest_first.find_map(|shelf| self.shelves.front(shelf))?;
        let unit = self.shelves.get(place);
        // Who may not remove it is told another one before this again.
        self.shelves.put_behind(place, self.youngest, unit);
        Some(unit.key())
    }

    fn resize(&mut self, capacity: u64) {
        self.capacity = capacity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_outlives_what_was_not() {
        let mut lru = Lru::new(800);
        (0..800).for_each(|key| lru.inserted(key, 1));
        assert!((0..100).all(|key| lru.read(key, 1)));
        let gone: Vec<u64> = (0..700)
            .filter_map(|_| lru.victim().inspect(|key| lru.removed(*key)))
            .collect();
        assert_eq!(gone, Vec::from_iter(100..800));
        assert_eq!((lru.bytes(), lru.victim()), (100, Some(0)));
    }

    #[test]
    fn a_victim_that_may_not_go_is_followed_by_another() {
        let mut lru = Lru::new(10);
        (0..10).for_each(|key| lru.inserted(key, 1));
        let named: Vec<u64> = (0..10).filter_map(|_| lru.victim()).collect();
        assert_eq!(named, Vec::from_iter(0..10));
    }
}
