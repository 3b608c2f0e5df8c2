//! What the engine says of itself: counters and the state of its tiers.

use std::sync::atomic::{AtomicU64, Ordering};

use penstock_protocol::ids::{RevisionId, SpaceId};

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes that reads got from the store.
    pub hit_bytes: AtomicU64,
    /// Bytes that reads had to wait for.
    pub miss_bytes: AtomicU64,
    /// Requests to origins.
    pub origin_requests: AtomicU64,
    /// Bytes that origins sent.
    pub origin_bytes: AtomicU64,
    /// Stored blocks that did not match their checksum.
    pub damaged_blocks: AtomicU64,
    /// Bytes that were evicted.
    pub evicted_bytes: AtomicU64,
    /// Bytes that were passed through without being stored: there was no room, or they were not worth it.
    pub passed_bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// The value of a counter.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// A tier as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierReport {
    /// Name in the CacheRuntime.
    pub name: String,
    /// Bytes that it may hold.
    pub capacity_bytes: u64,
    /// Bytes that it holds.
    pub used_bytes: u64,
    /// What is wrong with it, as a sentence.
    pub fault: Option<String>,
}

/// An object that the origin no longer has in the version of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The revision.
    pub revision: RevisionId,
    /// Key relative to the source's prefix.
    pub key: String,
    /// When it was noticed, seconds since 1970.
    pub seen_at_unix_seconds: u64,
}

/// The state at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Bytes that are stored of each space.
    pub spaces: Vec<(SpaceId, u64)>,
    /// The tiers.
    pub tiers: Vec<TierReport>,
    /// Drifted objects, the newest last.
    pub drifts: Vec<Drift>,
}
