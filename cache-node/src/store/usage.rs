//! How much is stored, and of what: bookkeeping of a [`Store`](super::Store).

use std::collections::{HashMap, HashSet};

use super::Key;

/// Who holds how much. The total is the sum of the stripes, whatever happens to their files.
#[derive(Default)]
pub(super) struct Usage {
    /// Bytes of every stripe that has files.
    pub(super) stripes: HashMap<Key, u64>,
    pub(super) total: u64,
    /// What the files of stripes of an earlier process take, until the stripe is opened and its blocks are counted.
    pub(super) estimates: HashMap<Key, u64>,
    /// Stripes whose cells are to be told again.
    pub(super) untold: HashSet<Key>,
}

impl Usage {
    pub(super) fn set(&mut self, key: Key, bytes: u64) {
        let before = self.stripes.insert(key, bytes).unwrap_or(0);
        self.total = self.total.saturating_sub(before) + bytes;
    }

    pub(super) fn add(&mut self, key: Key, bytes: u64) {
        let before = self.stripes.get(&key).copied().unwrap_or(0);
        self.set(key, before + bytes);
    }

    pub(super) fn remove(&mut self, key: Key) {
        self.set(key, 0);
        self.stripes.remove(&key);
        self.estimates.remove(&key);
        self.untold.remove(&key);
    }

    /// Of a stripe that was removed there is nothing to subtract.
    pub(super) fn subtract(&mut self, key: Key, bytes: u64) {
        if let Some(before) = self.stripes.get(&key).copied() {
            self.set(key, before.saturating_sub(bytes));
        }
    }
}
