//! The store behind a source: what the engine needs of it, and what can go wrong.

#[cfg(any(test, feature = "test-support"))]
pub mod fake;
pub mod http;
mod reach;
pub mod s3;
mod transport;

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use penstock_revision::{Listed, ObjectVersion};

/// The body of a read, in pieces as they arrive. An empty one says that something has arrived which is not believed yet.
pub type Body = BoxStream<'static, Result<Bytes, OriginError>>;

/// What went wrong, so that the engine and the operator can act on it. Each text is one sentence for people that says
/// what to do, and never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Name resolution, connection, TLS, or no answer in time. May pass.
    #[error("{0}")]
    Unreachable(String),
    /// The origin asks to slow down. Passes.
    #[error("{text}")]
    Throttled {
        /// The sentence.
        text: String,
        /// For how long, if it says so.
        wait: Option<Duration>,
    },
    /// Credentials or permissions.
    #[error("{0}")]
    Denied(String),
    /// No such bucket.
    #[error("{0}")]
    NotFound(String),
    /// The object is gone or changed since it was listed.
    #[error("{0}")]
    Drifted(String),
    /// The configuration makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl OriginError {
    /// Whether the same request may succeed in a moment.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Throttled { .. } | Self::Other(_))
    }
}

/// One prefix of one origin.
#[async_trait]
pub trait Origin: Send + Sync + 'static {
    /// What names the source across revisions; objects keep their addresses as long as it stays the same.
    fn identity(&self) -> String;

    /// Every object below the prefix, with keys relative to it.
    async fn list(&self) -> Result<Vec<Listed>, OriginError>;

    /// The bytes `range` of an object of `bytes` bytes, in exactly the version that was listed. The body has the length of
    /// the range or ends with an error.
    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError>;
}
