//! Blocks from cache nodes: from the files of one that is on this node, or over the bulk protocol.

use std::time::Duration;

use async_trait::async_trait;
use penstock_cache_client::{CacheClient, ClientError};
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::{RevisionId, SpaceId};
use tokio::runtime::Handle;

use crate::metrics::Metrics;
use crate::neighbours::{Neighbours, Stripes};
use crate::reader::{ReadFailure, SpaceReader, TryRead};
use crate::telling::Telling;

/// One revision, as the cache nodes serve it.
pub struct RemoteSpace {
    client: CacheClient,
    revision: RevisionId,
    space: SpaceId,
    timeout: Duration,
    stripes: Stripes,
    metrics: Metrics,
    /// Kept for its end.
    _telling: Option<Telling>,
}

impl RemoteSpace {
    /// Blocks of `revision` in `space` from the cache nodes that `client` knows. A read may take as long as `timeout`: the
    /// client gives up by itself when nobody can help, this is for one that hangs.
    pub fn new(
        client: CacheClient,
        (revision, space): (RevisionId, SpaceId),
        timeout: Duration,
        neighbours: &Neighbours,
        metrics: Metrics,
    ) -> Self {
        let stripes = Stripes::new(neighbours.clone(), revision, space);
        Self {
            client,
            revision,
            space,
            timeout,
            stripes,
            metrics,
            _telling: None,
        }
    }

    /// Tells cache nodes now, and again after each `interval`, that the revision is in use, as long as this lives.
    #[must_use]
    pub fn told(self, runtime: &Handle, interval: Duration) -> Self {
        let telling = Telling::begin(runtime, self.client.clone(), self.revision, interval);
        Self {
            _telling: Some(telling),
            ..self
        }
    }
}

#[async_trait]
impl SpaceReader for RemoteSpace {
    fn try_read(&self, range: BlockRange, into: &mut [u8]) -> TryRead {
        let look = self.stripes.try_read(range, into);
        if look == TryRead::Hit {
            self.metrics.read_nearby(range.bytes());
        }
        look
    }

    async fn read(&self, range: BlockRange, into: &mut [u8]) -> Result<(), ReadFailure> {
        let reading = self.client.read(&self.revision, &self.space, range, into);
        match tokio::time::timeout(self.timeout, reading).await {
            Ok(Ok(())) => {
                // Now the owner has what was read.
                if self.stripes.lacks(range.stripe())
                    && let Some(owner) = self.client.owner(&self.space, range.stripe())
                {
                    self.stripes.want(range.stripe(), &owner);
                }
                Ok(())
            }
            Ok(Err(ClientError::Drifted(text))) => Err(ReadFailure::Drifted(text)),
            Ok(Err(other)) => Err(ReadFailure::Unavailable(other.to_string())),
            Err(_) => Err(ReadFailure::Unavailable(format!(
                "no answer for {} s (spec.readTimeoutSeconds of the Dataset)",
                self.timeout.as_secs()
            ))),
        }
    }
}
