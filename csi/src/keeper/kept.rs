//! The connections that are kept, and which mounters serve each. There may be two mounters for a while, when one is
//! replaced.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Space;
use super::link::Link;

/// A connection.
pub(super) struct Kept {
    pub(super) space: Space,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// All of them, by their numbers.
#[derive(Default)]
pub(super) struct KeptSpaces(Mutex<BTreeMap<u32, Entry>>);

struct Entry {
    kept: Arc<Kept>,
    served_by: Vec<Arc<Link>>,
}

impl Entry {
    fn is_served(&self) -> bool {
        self.served_by.iter().any(|link| link.is_open())
    }
}

impl KeptSpaces {
    pub(super) fn insert(&self, connection: u32, kept: Kept, server: Arc<Link>) {
        let entry = Entry {
            kept: Arc::new(kept),
            served_by: vec![server],
        };
        self.entries().insert(connection, entry);
    }

    pub(super) fn remove(&self, connection: u32) {
        self.entries().remove(&connection);
    }

    pub(super) fn count(&self) -> usize {
        self.entries().len()
    }

    pub(super) fn contains(&self, connection: u32) -> bool {
        self.entries().contains_key(&connection)
    }

    pub(super) fn served(&self) -> usize {
        self.entries().values().filter(|entry| entry.is_served()).count()
    }

    pub(super) fn is_served(&self, connection: u32) -> bool {
        self.entries().get(&connection).is_some_and(Entry::is_served)
    }

    /// Notes that a mounter serves a connection too.
    pub(super) fn taken(&self, connection: u32, link: &Arc<Link>) {
        if let Some(entry) = self.entries().get_mut(&connection) {
            entry.served_by.push(link.clone());
        }
    }

    /// What a mounter does not serve yet.
    pub(super) fn left_for(&self, link: &Arc<Link>) -> Vec<(u32, Arc<Kept>)> {
        let serves = |entry: &Entry| entry.served_by.iter().any(|other| Arc::ptr_eq(other, link));
        let entries = self.entries();
        let left = entries.iter().filter(|(_, entry)| !serves(entry));
        left.map(|(connection, entry)| (*connection, entry.kept.clone()))
            .collect()
    }

    /// Forgets mounters that have ended, and returns what others serve.
    pub(super) fn served_by_others(&self) -> Vec<(u32, Arc<Kept>)> {
        let mut entries = self.entries();
        for entry in entries.values_mut() {
            entry.served_by.retain(|link| link.is_open());
        }
        let served = entries.iter().filter(|(_, entry)| entry.is_served());
        served
            .map(|(connection, entry)| (*connection, entry.kept.clone()))
            .collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u32, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
