//! When this process may end after SIGTERM.
//!
//! `helm uninstall` ends the mounter's pods and this one together. The mounter's pod has a volume of this driver, which the
//! kubelet takes away when the mounter's containers are gone, and it can do so only through us: its pod would stay Terminating
//! for ever. When only this container is replaced, its successor answers the kubelet.
//!
//! ```text
//! SIGTERM ─► is our DaemonSet still wanted? ── yes: a successor comes ─► end
//!                     │ no, or the API server does not say
//!                     ▼
//!            the mounter's volume is gone, or KEEPER_GONE_MAX has passed ─► end
//! ```

use tokio::time::Instant;

use crate::limits::{KEEPER_GONE_MAX, LEAVING_LOOK};
use crate::node::Node;

/// Waits until nobody needs this process any more; begin it with SIGTERM.
pub async fn until_not_needed(node: &Node) {
    match node.cluster.is_installed(&node.mounter.namespace).await {
        Ok(true) => return,
        Ok(false) => tracing::info!("Penstock is being uninstalled: the mounter's volume is waited for"),
        // It may be an uninstall: our rights go with the chart.
        Err(error) => tracing::info!(%error, "the mounter's volume is waited for"),
    }
    let until = Instant::now() + KEEPER_GONE_MAX;
    while node.shows_keeper().unwrap_or(true) {
        if Instant::now() >= until {
            tracing::warn!("the mounter's pod still has its volume; the next csi container takes it away");
            return;
        }
        tokio::time::sleep(LEAVING_LOOK).await;
    }
}
