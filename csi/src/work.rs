//! The work of the process, from its turn on: takes what predecessors left, serves the kubelet, and hands everything over when
//! a younger container comes.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use penstock_csi::identity::Identity;
use penstock_csi::keeper::Keeper;
use penstock_csi::kubernetes::cache_runtimes_gone;
use penstock_csi::limits::{TIER_SWEEP_INTERVAL, TIER_SWEEP_RETRY, YIELD_MAX};
use penstock_csi::node::{Node, NodeService};
use penstock_csi::proto::csi::identity_server::IdentityServer;
use penstock_csi::proto::csi::node_server::NodeServer;
use penstock_csi::proto::pluginregistration::registration_server::RegistrationServer;
use penstock_csi::registration::Registration;
use penstock_csi::succession::wait_for_turn;
use penstock_csi::{authority, leaving, socket, told};
use penstock_health::Readiness;
use penstock_protocol::connection::Connection;
use penstock_supervisor::Entry;
use tokio::io::DuplexStream;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// What this process works with.
pub(crate) struct Work {
    pub(crate) node: Arc<Node>,
    pub(crate) keeper: Arc<Keeper>,
    /// Whether the kubelet has taken the driver.
    pub(crate) registered: Readiness,
    /// When this container did, see [`penstock_csi::succession`].
    pub(crate) started: u64,
    /// SIGTERM came.
    pub(crate) ending: CancellationToken,
}

impl Work {
    /// Waits for this container's turn, serves the kubelet, and hands everything over when another one comes.
    pub(crate) async fn run(
        self,
        entries: Vec<Entry<Vec<OwnedFd>>>,
        client: kube::Client,
        mounter_uid: u32,
    ) -> Result<()> {
        let folders = self.node.folders.clone();
        let keeper_socket = folders.keeper_socket();
        let (lock, socket) = (folders.lock(), keeper_socket.clone());
        let waiting = blocking(move || wait_for_turn(&lock, &socket, self.started));
        let (turn, predecessor) = tokio::select! {
            turn = waiting => turn?.with_context(|| format!("lock {}", folders.lock().display()))?,
            () = self.ending.cancelled() => return Ok(()),
        };
        let (node, keeper) = (self.node.clone(), self.keeper.clone());
        let (runtime, concerned) = (tokio::runtime::Handle::current(), node.clone());
        let tell = move |connection: &Connection| {
            runtime.spawn(told::refused(concerned.clone(), connection.clone()));
        };
        blocking(move || {
            keeper.resume(entries);
            node.revisions.clear().context("look at what a predecessor left")?;
            node.neighbours.sweep();
            let listening = keeper.listen(&keeper_socket, mounter_uid);
            listening.with_context(|| format!("listen at {}", keeper_socket.display()))?;
            if let Some(predecessor) = predecessor {
                keeper.inherit(predecessor);
            }
            keeper.watch(tell).context("start a thread")?;
            anyhow::Ok(())
        })
        .await??;
        tokio::spawn(told::lost(self.node.clone(), self.keeper.clone()));
        let sweeping = tokio::spawn(sweep_tiers(self.node.clone(), cache_runtimes_gone(client)));
        tokio::select! {
            served = self.serve_kubelet() => served?,
            () = self.yields_late() => tracing::error!("a call hangs; the successor does not wait for it"),
        }
        let Some(successor) = self.keeper.found_successor() else {
            tracing::info!("asked to end; mounts and sockets stay for the next one");
            return Ok(());
        };

        sweeping.abort();
        let Self {
            node, keeper, ending, ..
        } = self;
        if !blocking(move || node.locks.wait_until_free(YIELD_MAX)).await? {
            tracing::error!("a call hangs; the successor does not wait for it");
        }
        drop(turn);
        tracing::info!("yielded; descriptors are held until this process is asked to end");
        tokio::select! {
            retired = blocking(move || keeper.retire(&successor)) => retired?.context("hand everything over"),
            () = ending.cancelled() => Ok(()),
        }
    }

    /// Ends some time after a successor came.
    async fn yields_late(&self) {
        self.keeper.successor().await;
        tokio::time::sleep(YIELD_MAX).await;
    }

    /// Serves the kubelet until SIGTERM or a successor.
    async fn serve_kubelet(&self) -> Result<()> {
        let ready = Readiness::default();
        ready.set(true);
        let folders = &self.node.folders;
        let until_asked = async {
            tokio::select! {
                () = self.ending.cancelled() => {}
                () = self.keeper.successor() => {}
            }
        };
        let until_not_needed = async {
            tokio::select! {
                () = self.ending.cancelled() => leaving::until_not_needed(&self.node).await,
                () = self.keeper.successor() => {}
            }
        };
        let csi = Server::builder()
            .add_service(IdentityServer::new(Identity { ready }))
            .add_service(NodeServer::new(NodeService(self.node.clone())))
            .serve_with_incoming_shutdown(listen(&folders.csi_socket())?, until_not_needed);
        let registration = Server::builder()
            .add_service(RegistrationServer::new(Registration {
                endpoint: folders.csi_socket(),
                registered: self.registered.clone(),
            }))
            .serve_with_incoming_shutdown(listen(&folders.registration_socket())?, until_asked);
        tracing::info!(socket = %folders.csi_socket().display(), "serving");
        tokio::try_join!(csi, registration).context("serve the kubelet")?;
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a thread ended")
}

fn listen(path: &Path) -> Result<impl Stream<Item = std::io::Result<DuplexStream>> + use<>> {
    let listener = socket::listen_at(path).with_context(|| format!("listen at {}", path.display()))?;
    Ok(UnixListenerStream::new(listener).map(|stream| stream.map(authority::corrected)))
}

/// Removes the folders of CacheRuntimes that are gone: at the start, when one goes, and now and then.
async fn sweep_tiers(node: Arc<Node>, gone: impl Stream<Item = ()>) {
    let mut gone = pin!(gone);
    loop {
        let pause = match node.tiers.sweep().await {
            Ok(true) => TIER_SWEEP_INTERVAL,
            Ok(false) => TIER_SWEEP_RETRY,
            Err(error) => {
                tracing::warn!(%error, "look for tier folders that nobody wants; it will be done again");
                TIER_SWEEP_RETRY
            }
        };
        // The watch never ends.
        let _ = tokio::time::timeout(pause, gone.next()).await;
    }
}
