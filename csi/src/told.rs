//! What pods must hear of their volumes after they were mounted: an event on each pod that is concerned.

use std::collections::BTreeSet;
use std::sync::Arc;

use penstock_protocol::connection::Connection;

use crate::keeper::Keeper;
use crate::limits::TELL_PAUSES;
use crate::node::Node;

/// An event for pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// One word for machines.
    pub reason: &'static str,
    /// What happened, and what to do.
    pub note: String,
}

impl News {
    fn refused(connection: &Connection) -> Self {
        Self {
            reason: "ReadsFail",
            note: format!(
                "nobody on this node has answered reads for {} s (spec.readTimeoutSeconds of the Dataset): what the node has in \
                 memory can be read, other reads fail with an I/O error. They work again when the pod of the DaemonSet \
                 penstock-mounter on this node does",
                connection.read_timeout.as_secs()
            ),
        }
    }

    fn lost() -> Self {
        Self {
            reason: "ReadsLost",
            note: "csi and the mounter of this node were lost at the same moment: what the node has in memory can be read, \
                   other reads fail with an I/O error. Start this pod again"
                .to_owned(),
        }
    }
}

/// Tells the pods that show the revision of a connection that it is refused.
pub async fn refused(node: Arc<Node>, connection: Connection) {
    let news = News::refused(&connection);
    tell(&node, move |number| number == connection.number, &news).await;
}

/// Once a mounter has handed back what it had, tells the pods of those connections that nobody had.
pub async fn lost(node: Arc<Node>, keeper: Arc<Keeper>) {
    let waiting = keeper.clone();
    if let Err(error) = tokio::task::spawn_blocking(move || waiting.wait_for_a_complete_mounter()).await {
        tracing::error!(%error, "a thread ended");
        return;
    }
    tell(&node, |number| !keeper.keeps(number), &News::lost()).await;
}

async fn tell(node: &Node, concerned: impl Fn(u32) -> bool, news: &News) {
    let pods: BTreeSet<String> = node.revisions.pods_of(concerned);
    if pods.is_empty() {
        return;
    }
    tracing::warn!(?pods, reason = news.reason, "pods are told");
    for pause in TELL_PAUSES {
        match node.cluster.tell_pods(&node.name, &pods, news).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "pods could not be told what became of their volumes; it is tried again");
            }
        }
        tokio::time::sleep(pause).await;
    }
}
