//! What the engine says of itself: counters and the state of its tiers.

mod requests;

use std::sync::atomic::{AtomicU64, Ordering};

use penstock_protocol::ids::{RevisionId, SpaceId};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::limits::TIERS_MAX;
pub use crate::rules::Refusal;
use crate::rules::size;
pub use requests::{OriginOutcome, OriginOutcomes, SourceReport};

/// Counters since the start of the process.
#[derive(Debug)]
pub struct Counters {
    /// Bytes that reads got from the store.
    pub hit_bytes: AtomicU64,
    /// Bytes that reads had to wait for.
    pub miss_bytes: AtomicU64,
    /// Requests to origins.
    pub origin_requests: AtomicU64,
    /// ... by how they ended, when they have.
    pub origin_outcomes: OriginOutcomes,
    /// Bytes that origins sent.
    pub origin_bytes: AtomicU64,
    /// Stored blocks that did not match their checksum.
    pub damaged_blocks: AtomicU64,
    /// Bytes that were evicted, by cause.
    pub evicted_bytes: [AtomicU64; Cause::ALL.len()],
    /// Bytes that were compared with their checksums, in the background or for a person.
    pub scrubbed_bytes: AtomicU64,
    /// Cells that were moved to a faster tier.
    pub risen_cells: AtomicU64,
    /// Cells that were moved to a slower tier.
    pub sunk_cells: AtomicU64,
    /// Bytes that were passed through without being stored: there was no room, or they were not worth it.
    pub passed_bytes: AtomicU64,
    /// Times of reads that waited for an origin.
    pub(crate) miss_seconds: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            hit_bytes: AtomicU64::default(),
            miss_bytes: AtomicU64::default(),
            origin_requests: AtomicU64::default(),
            origin_outcomes: OriginOutcomes::default(),
            origin_bytes: AtomicU64::default(),
            damaged_blocks: AtomicU64::default(),
            evicted_bytes: Default::default(),
            scrubbed_bytes: AtomicU64::default(),
            risen_cells: AtomicU64::default(),
            sunk_cells: AtomicU64::default(),
            passed_bytes: AtomicU64::default(),
            // 1 ms to 260 s: from an origin in the same rack to the end of all patience.
            miss_seconds: Histogram::new(exponential_buckets(1e-3, 4.0, 10)),
        }
    }
}

/// Why something was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It made room for something else.
    Room,
    /// Its Dataset held more than it may.
    Limit,
    /// Nobody had read it for as long as its rule says.
    Expired,
    /// It did not match its checksum.
    Damaged,
    /// A person wanted it.
    Asked,
}

impl Cause {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Room, Self::Limit, Self::Expired, Self::Damaged, Self::Asked];

    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Limit => "limit",
            Self::Expired => "expired",
            Self::Damaged => "damaged",
            Self::Asked => "asked",
        }
    }
}

impl Counters {
    /// Those that are not plain numbers.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Time of reads that waited for an origin";
        registry.register_with_unit("cache_miss", help, Unit::Seconds, self.miss_seconds.clone());
    }

    pub(crate) fn evicted(&self, cause: Cause, bytes: u64) {
        Self::add(&self.evicted_bytes[cause as usize], bytes);
    }

    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// The value of a counter.
    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

/// What was read of a Dataset since the start of the process.
#[derive(Debug)]
pub struct Traffic {
    /// Namespace and name of the Dataset.
    pub dataset: String,
    /// Bytes that reads got from the store, by the number of the tier.
    pub hit_bytes: [AtomicU64; TIERS_MAX],
    /// Bytes that reads had to wait for.
    pub miss_bytes: AtomicU64,
}

impl Traffic {
    pub(crate) fn of(dataset: String) -> Self {
        Self {
            dataset,
            hit_bytes: Default::default(),
            miss_bytes: AtomicU64::new(0),
        }
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
    /// Bytes of the file system that it is on; `None` when the system does not tell.
    pub disk_bytes: Option<u64>,
    /// What is wrong with it, as a sentence.
    pub fault: Option<String>,
}

impl TierReport {
    /// That it may hold more than its disk, as a sentence that says what to do.
    pub fn excess(&self) -> Option<String> {
        let disk_bytes = self.disk_bytes.filter(|bytes| self.capacity_bytes > *bytes)?;
        Some(format!(
            "tier {} may hold {}, and its disk has {}: what comes when the disk is full is not cached; lower its capacity",
            self.name,
            size(self.capacity_bytes),
            size(disk_bytes)
        ))
    }
}

/// An object that the origin no longer has in the version of a revision, or does not give away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// The revision.
    pub revision: RevisionId,
    /// Key relative to the source's prefix.
    pub key: String,
    /// When it was noticed, seconds since 1970.
    pub seen_at_unix_seconds: u64,
    /// Why it cannot be read, as a sentence; "" when it changed or is gone.
    pub fault: String,
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
    /// What is not done of what Datasets want.
    pub refusals: Vec<Refusal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_larger_than_the_disk_is_said() {
        let tier = |capacity_bytes, disk_bytes| TierReport {
            name: "ssd".into(),
            capacity_bytes,
            used_bytes: 0,
            disk_bytes,
            fault: None,
        };
        assert_eq!(tier(2 << 30, Some(2 << 30)).excess(), None);
        assert_eq!(tier(2 << 30, None).excess(), None);
        let said = tier(3 << 30, Some(2 << 30)).excess().unwrap();
        assert!(
            said.contains("ssd may hold 3.0 GiB, and its disk has 2.0 GiB"),
            "{said}"
        );
    }
}
