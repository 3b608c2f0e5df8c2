//! Blocks from cache nodes, over the bulk protocol.

use std::time::Duration;

use async_trait::async_trait;
use penstock_cache_client::{CacheClient, ClientError};
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::{RevisionId, SpaceId};

use crate::reader::{ReadFailure, SpaceReader, TryRead};

/// One revision, as the cache nodes serve it.
pub struct RemoteSpace {
    /// The cache nodes.
    pub client: CacheClient,
    /// Which revision.
    pub revision: RevisionId,
    /// Its space.
    pub space: SpaceId,
    /// How long a read may take. The client gives up by itself when nobody can help; this is for one that hangs.
    pub timeout: Duration,
}

#[async_trait]
impl SpaceReader for RemoteSpace {
    fn try_read(&self, _: BlockRange, _: &mut [u8]) -> TryRead {
        TryRead::Miss
    }

    async fn read(&self, range: BlockRange, into: &mut [u8]) -> Result<(), ReadFailure> {
        let reading = self.client.read(&self.revision, &self.space, range, into);
        match tokio::time::timeout(self.timeout, reading).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ClientError::Drifted(text))) => Err(ReadFailure::Drifted(text)),
            Ok(Err(other)) => Err(ReadFailure::Unavailable(other.to_string())),
            Err(_) => Err(ReadFailure::Unavailable(format!(
                "no answer for {} s (spec.readTimeoutSeconds of the Dataset)",
                self.timeout.as_secs()
            ))),
        }
    }
}
