//! Blocks from cache nodes, over the bulk protocol.

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
}

#[async_trait]
impl SpaceReader for RemoteSpace {
    fn try_read(&self, _: BlockRange, _: &mut [u8]) -> TryRead {
        TryRead::Miss
    }

    async fn read(&self, range: BlockRange, into: &mut [u8]) -> Result<(), ReadFailure> {
        self.client
            .read(&self.revision, &self.space, range, into)
            .await
            .map_err(|error| match error {
                ClientError::Drifted(text) => ReadFailure::Drifted(text),
                other => ReadFailure::Unavailable(other.to_string()),
            })
    }
}
