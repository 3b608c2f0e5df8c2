//! Whole trees in memory: of a million files one takes 200 MB, so a node has one at a time, whether a person looks into it or a build
//! takes it over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whose turn it is, and how large a tree may be; clones share it.
#[derive(Clone, Debug)]
pub struct Unpacking(Arc<Room>);

#[derive(Debug)]
struct Room {
    turn: Mutex<()>,
    bytes_max: u64,
}

impl Unpacking {
    /// Room for one tree of so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Room {
            turn: Mutex::default(),
            bytes_max,
        }))
    }

    /// Bytes of the largest tree; what is larger is not unpacked.
    pub fn bytes_max(&self) -> u64 {
        self.0.bytes_max
    }

    /// Waits on this thread until there is no other tree in memory; there is none as long as this is held.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.0.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
