//! What fetches work on: where units arrive, and what is counted and remembered of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use penstock_buffer::BufferPool;
use penstock_protocol::ids::{RevisionId, SpaceId};
use tokio::sync::Semaphore;

use crate::inflight::InFlight;
use crate::limits::{ORIGIN_BUFFERS_KEPT, UNIT_BYTES_MAX};
use crate::memory::Budget;
use crate::report::{Counters, Drift};
use crate::tiers::Tiers;
use crate::unread::Unread;

pub(crate) struct Intake {
    pub(crate) tiers: Arc<Tiers>,
    pub(crate) in_flight: InFlight,
    pub(crate) counters: Arc<Counters>,
    pub(crate) memory: Budget,
    /// KiB that more fetches may take.
    pub(crate) fetches: Arc<Semaphore>,
    /// ... that those from cache nodes may take.
    pub(crate) fetches_from_caches: Arc<Semaphore>,
    pub(crate) buffers: BufferPool,
    unread: Mutex<Unread>,
}

impl Intake {
    pub(crate) fn new(tiers: Arc<Tiers>, counters: Arc<Counters>, memory: Budget) -> Self {
        Self {
            tiers,
            in_flight: InFlight::default(),
            counters,
            memory,
            fetches: Arc::new(Semaphore::new(memory.fetches_kib())),
            fetches_from_caches: Arc::new(Semaphore::new(memory.fetches_from_caches_kib())),
            buffers: BufferPool::new(UNIT_BYTES_MAX as usize, ORIGIN_BUFFERS_KEPT),
            unread: Mutex::default(),
        }
    }

    /// A read of an object failed, for good: `fault` says why, or is "" when it changed or is gone.
    pub(crate) fn note_unread(&self, space: SpaceId, revision: RevisionId, key: &str, fault: &str) {
        self.lock().note(space, revision, key, fault, unix_seconds());
    }

    /// The objects that drifted or cannot be read, the newest last. Of long keys the beginning: see [`unread::key_shown`](crate::unread::key_shown).
    pub(crate) fn drifts(&self) -> Vec<Drift> {
        self.lock().report(unix_seconds())
    }

    /// Forgets those of other revisions.
    pub(crate) fn keep_drifts_only(&self, is_wanted: impl Fn(&RevisionId) -> bool) {
        self.lock().keep_only(is_wanted);
    }

    fn lock(&self) -> MutexGuard<'_, Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unix_seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
