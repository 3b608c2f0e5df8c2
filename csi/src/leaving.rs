//! When this process may end after SIGTERM.
//!
//! `helm uninstall` ends the mounter's pods and this one at the same moment. The mounter's pod has a volume of this driver,
//! which the kubelet takes away when the mounter's containers are gone, and it can do so only through us: its pod would stay
//! Terminating for ever. So the calls of the kubelet are answered until then.
//!
//! ```text
//! SIGTERM ─► the mounter's link ends within MOUNTER_END_MAX? ── no: only we are replaced ─► end
//!                     │ yes
//!                     ▼
//!            its volume is gone, or KEEPER_GONE_MAX has passed ─► end
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::keeper::Keeper;
use crate::limits::{KEEPER_GONE_MAX, LEAVING_LOOK, MOUNTER_END_MAX};
use crate::node::Node;

/// Waits until nobody needs this process any more; begin it with SIGTERM.
pub async fn until_not_needed(node: &Node, keeper: &Keeper) {
    if !within(MOUNTER_END_MAX, || !keeper.has_mounter()).await {
        return;
    }
    let is_gone = || match node.shows_keeper() {
        Ok(shown) => !shown,
        Err(error) => {
            tracing::warn!(%error, "look for the mounter's volume");
            false
        }
    };
    if !within(KEEPER_GONE_MAX, is_gone).await {
        tracing::warn!("the mounter's pod still has its volume; the next csi container takes it away");
    }
}

async fn within(most: Duration, mut happened: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + most;
    while !happened() {
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(LEAVING_LOOK).await;
    }
    true
}
