//! The stores behind sources: how each lists its objects, and how a range of one is read in the version that was listed.
//!
//! A client is made of what a cache node is told of a source ([`client`]). It must not know caches, trees or Kubernetes.

pub mod azure;
mod bearer;
mod checked;
mod contact;
#[cfg(any(test, feature = "test-support"))]
pub mod fake;
#[cfg(feature = "test-support")]
pub mod fake_bucket;
pub mod folder;
pub mod gcs;
pub mod hdfs;
pub mod http;
pub mod hugging_face;
mod kerberos;
pub mod limits;
pub mod meter;
mod ranges;
mod reach;
mod refusal;
pub mod s3;
mod selected;
mod sum;
mod transport;
pub mod volume;
mod workload_identity;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion};

use crate::azure::AzureOrigin;
pub use crate::contact::{Contact, contact, proof, proven};
use crate::folder::FolderOrigin;
use crate::gcs::GcsOrigin;
use crate::hdfs::HdfsOrigin;
use crate::http::HttpOrigin;
use crate::hugging_face::HuggingFaceOrigin;
#[cfg(feature = "test-support")]
pub use crate::kerberos::{read_anything as read_kerberos, samples as kerberos_samples};
use crate::meter::{Meter, Metered, Tally};
pub use crate::reach::Reach;
use crate::s3::S3Origin;
use crate::selected::Selected;
use crate::volume::VolumeOrigin;
pub use crate::workload_identity::Environment;

/// What an origin lists, some objects at a time, in any order.
pub type Pages<'a> = BoxStream<'a, Result<Vec<Listed>, OriginError>>;

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
    /// The origin may not be reached from here.
    #[error("{0}")]
    NotAllowed(String),
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

    /// It for people, for example `s3://bucket/prefix/`.
    fn place(&self) -> String;

    /// Whether its bytes come out of a cache of ours: to keep them would be to cache them twice.
    fn is_a_cache(&self) -> bool {
        false
    }

    /// Every object below the prefix, with keys relative to it. Ends with the first error.
    fn list(&self) -> Pages<'_>;

    /// Every object whose key (the part below the prefix) begins with `start`, and none besides; `None` where only all can be listed. A
    /// marker of the folder that `start` names is among them.
    fn list_below(&self, _start: &str) -> Option<Pages<'_>> {
        None
    }

    /// All of them at once, for what is known to be small.
    ///
    /// # Errors
    /// The listing's.
    async fn list_all(&self) -> Result<Vec<Listed>, OriginError> {
        self.list().try_concat().await
    }

    /// The bytes `range` of an object of `bytes` bytes, in exactly the version that was listed. The body has the length of
    /// the range or ends with an error.
    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError>;

    /// Where who reads much waits for its turn before each read, and after each piece of a body, if there is a limit: a read itself
    /// never waits for that.
    fn meter(&self) -> Option<&Meter> {
        None
    }
}

/// How clients speak to their servers.
#[derive(Clone, Debug)]
pub struct Network {
    /// PEM of who may sign servers' certificates, beside the public ones.
    pub authorities: String,
    /// Patience with a server that sends nothing.
    pub silence_max: Duration,
    /// Which addresses may be reached.
    pub reach: Reach,
    /// How much is asked, and where that is counted.
    pub meter: Meter,
    /// What says as whom those ask that have the workload identity of this process.
    pub environment: Environment,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            authorities: String::new(),
            silence_max: limits::SILENCE_MAX,
            reach: Reach::default(),
            meter: Meter::default(),
            environment: Environment::default(),
        }
    }
}

/// The client of a source in this environment; asks nobody yet.
///
/// # Errors
/// When the source makes no sense.
pub fn client(source: &wire::Source, environment: &Environment) -> Result<Arc<dyn Origin>, OriginError> {
    client_within(source, environment, &Reach::default(), &Tally::default())
}

/// The same, that reaches no other addresses than these, and counts in `tally`.
///
/// # Errors
/// When the source makes no sense.
pub fn client_within(
    source: &wire::Source,
    environment: &Environment,
    reach: &Reach,
    tally: &Tally,
) -> Result<Arc<dyn Origin>, OriginError> {
    let network = Network {
        authorities: source.authorities.clone(),
        reach: reach.clone(),
        meter: Meter::of(source.limits.as_ref(), tally),
        environment: environment.clone(),
        ..Network::default()
    };
    client_over(source, &network)
}

/// The same, that speaks to its servers in this way.
///
/// # Errors
/// When the source makes no sense.
pub fn client_over(source: &wire::Source, network: &Network) -> Result<Arc<dyn Origin>, OriginError> {
    use wire::source::Origin as Kind;
    let unknown = || {
        OriginError::Invalid(format!(
            "the source at {:?} has no origin that this version knows",
            source.path
        ))
    };
    let origin: Arc<dyn Origin> = match source.origin.clone().ok_or_else(unknown)? {
        Kind::S3(config) => Arc::new(S3Origin::new(config, network)?),
        Kind::Gcs(config) => Arc::new(GcsOrigin::new(config, network)?),
        Kind::Azure(config) => Arc::new(AzureOrigin::new(config, network)?),
        Kind::Http(config) => Arc::new(HttpOrigin::new(config, network)?),
        Kind::Hdfs(config) => Arc::new(HdfsOrigin::new(config, network)?),
        Kind::HuggingFace(config) => Arc::new(HuggingFaceOrigin::new(config, network)?),
        Kind::Folder(wire::Folder { path, reader: None }) => Arc::new(FolderOrigin::new(path)?),
        Kind::Folder(wire::Folder {
            path,
            reader: Some(reader),
        }) => Arc::new(VolumeOrigin::of_nodes(&path, reader, &to_readers(network))?),
        Kind::Dataset(other) => {
            return Err(OriginError::Invalid(format!(
                "the Dataset {}/{} is no origin; only cache nodes have files of it",
                other.namespace, other.name
            )));
        }
        Kind::Claim(config) => Arc::new(VolumeOrigin::of_claim(config, &to_readers(network))?),
    };
    Ok(Metered::of(selected(origin, source)?, network.meter.clone()))
}

/// The readers of volumes are Services of the cluster by our own hand.
fn to_readers(network: &Network) -> Network {
    Network {
        reach: Reach::default(),
        ..network.clone()
    }
}

/// The part of an origin that the patterns of the source select.
///
/// # Errors
/// When a pattern is none.
pub fn selected(origin: Arc<dyn Origin>, source: &wire::Source) -> Result<Arc<dyn Origin>, OriginError> {
    Selected::of(origin, &source.include, &source.exclude)
}
