//! How requests to origins ended, and how each source bears them.

use std::sync::atomic::AtomicU64;

use super::Counters;
use penstock_origin::OriginError;

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
            OriginError::NotFound(_) | OriginError::Invalid(_) | OriginError::NotAllowed(_) | OriginError::Other(_) => {
                Self::Other
            }
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
