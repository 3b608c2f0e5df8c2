//! Tells cache nodes that a session serves its revision, also when nobody reads it: they keep what is in use.

use std::time::Duration;

use penstock_cache_client::CacheClient;
use penstock_protocol::ids::RevisionId;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// It is told until this is dropped.
pub(crate) struct Telling(AbortHandle);

impl Telling {
    /// Tells it now, and again after each `interval`.
    pub(crate) fn begin(runtime: &Handle, client: CacheClient, revision: RevisionId, interval: Duration) -> Self {
        let telling = async move {
            loop {
                if let Err(error) = client.tell_use(&revision).await {
                    // Reads fail too, and that is said where they do.
                    tracing::debug!(%revision, %error, "tell cache nodes that a revision is in use");
                }
                tokio::time::sleep(interval).await;
            }
        };
        Self(runtime.spawn(telling).abort_handle())
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.abort();
    }
}
