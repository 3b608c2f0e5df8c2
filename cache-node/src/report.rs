//! What the engine says of itself: counters and the state of its tiers.

use std::sync::atomic::{AtomicU64, Ordering};

use penstock_protocol::ids::{RevisionId, SpaceId};

use crate::origin::OriginError;

/// Counters since the start of the process.
#[derive(Debug, Default)]
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

/// How a request to an origin ended. The last one is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginOutcome {
    /// All of its bytes came.
    Ok,
    /// The origin asked to slow down.
    Throttled,
    /// No answer, or one that broke off.
    Unreachable,
    /// The keys, or their rights.
    Denied,
    /// The object is gone or changed.
    Drifted,
    /// Any other error.
    Other,
    /// It was late or stalled, and another one was faster.
    Hedged,
    /// Not sent: the origin does not answer.
    Refused,
}

impl OriginOutcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::Throttled,
        Self::Unreachable,
        Self::Denied,
        Self::Drifted,
        Self::Other,
        Self::Hedged,
        Self::Refused,
    ];

    pub(crate) fn of(error: &OriginError) -> Self {
        match error {
            OriginError::Unreachable(_) => Self::Unreachable,
            OriginError::Throttled { .. } => Self::Throttled,
            OriginError::Denied(_) => Self::Denied,
            OriginError::Drifted(_) => Self::Drifted,
            OriginError::NotFound(_) | OriginError::Invalid(_) | OriginError::Other(_) => Self::Other,
        }
    }

    /// As metrics name it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Throttled => "throttled",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Drifted => "drifted",
            Self::Other => "other",
            Self::Hedged => "hedged",
            Self::Refused => "refused",
        }
    }
}

/// A counter for each outcome.
#[derive(Debug, Default)]
pub struct OriginOutcomes([AtomicU64; OriginOutcome::ALL.len()]);

impl OriginOutcomes {
    pub(crate) fn add(&self, outcome: OriginOutcome) {
        Counters::add(&self.0[outcome as usize], 1);
    }

    /// How many ended so.
    pub fn get(&self, outcome: OriginOutcome) -> u64 {
        Counters::get(&self.0[outcome as usize])
    }
}

/// A source as far as requests to it go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// What names it; holds no secret.
    pub identity: String,
    /// It does not answer, and is asked only now and then.
    pub is_gone: bool,
    /// Requests that it may be sent at the same time.
    pub requests_max: usize,
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
