//! What is stored and not kept: bytes that were fetched ahead of their reader, or the rest of a unit that was not admitted.

use std::collections::{HashMap, VecDeque};

/// Keys in the queue of what passes that are of no use any more, beside as many as are.
const STALE_KEYS_MAX: usize = 1024;

/// What only passes.
#[derive(Default)]
pub(super) struct Passing {
    /// Bytes, and whether somebody has read it to its end.
    cells: HashMap<u64, (u32, bool)>,
    /// The oldest first. Those that are kept by now, or gone, stay until they come up.
    waiting: VecDeque<u64>,
    spent: VecDeque<u64>,
    pub(super) waiting_bytes: u64,
    /// ... and of those that were read to their end.
    pub(super) bytes: u64,
}

impl Passing {
    pub(super) fn insert(&mut self, key: u64, bytes: u32) {
        self.remove(key);
        self.cells.insert(key, (bytes, false));
        self.waiting_bytes += u64::from(bytes);
        self.bytes += u64::from(bytes);
        if self.waiting.len() > 2 * self.cells.len() + STALE_KEYS_MAX {
            self.waiting
                .retain(|key| matches!(self.cells.get(key), Some((_, false))));
        }
        self.waiting.push_back(key);
    }

    pub(super) fn knows(&self, key: u64) -> bool {
        self.cells.contains_key(&key)
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, key: u64) -> bool {
        let removed = self.cells.remove(&key);
        if let Some((bytes, is_spent)) = removed {
            self.waiting_bytes -= if is_spent { 0 } else { u64::from(bytes) };
            self.bytes -= u64::from(bytes);
        }
        removed.is_some()
    }

    pub(super) fn spend(&mut self, key: u64) {
        if let Some((bytes, is_spent @ false)) = self.cells.get_mut(&key) {
            *is_spent = true;
            self.waiting_bytes -= u64::from(*bytes);
            self.spent.push_back(key);
        }
    }

    pub(super) fn next_spent(&mut self) -> Option<u64> {
        std::iter::from_fn(|| self.spent.pop_front()).find(|key| matches!(self.cells.get(key), Some((_, true))))
    }

    pub(super) fn oldest(&mut self) -> Option<u64> {
        std::iter::from_fn(|| self.waiting.pop_front()).find(|key| matches!(self.cells.get(key), Some((_, false))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_of_what_passes_does_not_grow_with_what_has_passed() {
        let mut passing = Passing::default();
        for key in 0..100_000 {
            passing.insert(key, 4096);
            passing.remove(key);
        }
        assert_eq!((passing.waiting_bytes, passing.bytes, passing.cells.len()), (0, 0, 0));
        assert!(passing.waiting.len() <= 2 * STALE_KEYS_MAX);
    }
}
