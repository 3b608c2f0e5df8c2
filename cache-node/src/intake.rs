//! What fetches work on: where units arrive, and what is counted and remembered of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use penstock_buffer::BufferPool;
use penstock_protocol::ids::RevisionId;
use tokio::sync::Semaphore;

use crate::inflight::InFlight;
use crate::limits::{DRIFTS_REPORTED_MAX, ORIGIN_BUFFERS_KEPT, UNIT_BYTES_MAX};
use crate::memory::Budget;
use crate::report::{Counters, Drift};
use crate::tiers::Tiers;

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
    drifts: Mutex<VecDeque<Drift>>,
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
            drifts: Mutex::default(),
        }
    }

    pub(crate) fn note_drift(&self, revision: RevisionId, key: &str) {
        let mut drifts = self.lock();
        if drifts
            .iter()
            .any(|drift| drift.revision == revision && drift.key == key)
        {
            return;
        }
        if drifts.len() >= DRIFTS_REPORTED_MAX {
            drifts.pop_front();
        }
        let seen_at_unix_seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        drifts.push_back(Drift {
            revision,
            key: key.to_owned(),
            seen_at_unix_seconds,
        });
    }

    /// The objects that drifted, the newest last.
    pub(crate) fn drifts(&self) -> Vec<Drift> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Drift>> {
        self.drifts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
