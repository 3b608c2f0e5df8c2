//! The process of the csi container: takes its mount namespace, clears what a predecessor left, and serves the kubelet
//! until SIGTERM. It never unlinks its sockets: the next one replaces them.

mod args;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use penstock_csi::doctor::{self, Chosen};
use penstock_csi::folders::Folders;
use penstock_csi::identity::Identity;
use penstock_csi::keeper::Keeper;
use penstock_csi::kubernetes::{ApiServer, cache_runtimes_gone};
use penstock_csi::limits::{HANGING_CALL_MAX, SHUTDOWN_MAX, TIER_SWEEP_INTERVAL, TIER_SWEEP_RETRY, YIELD_MAX};
use penstock_csi::metrics::Metrics;
use penstock_csi::mounts::LinuxMounts;
use penstock_csi::node::{MounterIdentity, Node, NodeService};
use penstock_csi::proto::csi::identity_server::IdentityServer;
use penstock_csi::proto::csi::node_server::NodeServer;
use penstock_csi::proto::pluginregistration::registration_server::RegistrationServer;
use penstock_csi::registration::Registration;
use penstock_csi::revisions::Revisions;
use penstock_csi::succession::{container_started, wait_for_turn};
use penstock_csi::tier::{Owner, Tiers};
use penstock_csi::volume_lock::VolumeLocks;
use penstock_csi::{authority, forms, leaving, namespace, socket, told};
use penstock_health::{Pages, Readiness};
use penstock_protocol::connection::Connection;
use penstock_supervisor::{Entry, Store};
use tokio::io::DuplexStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::args::Args;

fn main() -> Result<()> {
    let args = Args::parse();
    log();
    let folders = Folders {
        kubelet: args.kubelet_root.clone(),
        state: args.state_dir.clone(),
        private: args.private_dir.clone(),
    };
    make_folders(&folders, args.unprivileged_uid)?;
    // Before the runtime starts its threads, which would stay in the old namespace.
    namespace::enter(&folders.private).context("take a mount namespace; this needs a privileged container")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    let ended = runtime.block_on(serve(args, folders));
    // A call that hangs in the kernel must not keep the process.
    runtime.shutdown_timeout(HANGING_CALL_MAX);
    ended
}

async fn serve(args: Args, folders: Folders) -> Result<()> {
    let Args {
        node_name,
        namespace,
        mounter_service_account,
        unprivileged_uid,
        kubelet_root: _,
        state_dir: _,
        private_dir: _,
        form,
        health_listen,
    } = args;
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        bail!("another TLS provider is installed already");
    }
    let client = kube::Client::try_default()
        .await
        .context("find the API server; this runs in a pod with a service account, or with KUBECONFIG")?;
    let (form, why) = forms::choose(form, &folders.state, &folders.private)?;
    tracing::info!(?form, why, "the form of volumes");
    let chosen = Chosen { form, why };
    let mounts = Arc::new(LinuxMounts {
        form,
        scratch: folders.private.clone(),
    });
    let cluster = Arc::new(ApiServer(client.clone()));
    let (store, entries) = Store::of_this_process().context("ask the supervisor what a predecessor left")?;
    tokio::spawn(store.clone().stay_alive());
    let started = container_started().context("find out when this container started")?;
    let metrics = Metrics::default();
    let keeper = {
        let (mounts, folders) = (mounts.clone(), folders.clone());
        Keeper::new(started, store, metrics.clone(), move |connection, descriptors| {
            Revisions::is_mounted(&*mounts, &folders, connection, descriptors)
        })
    };
    let node = Arc::new(Node {
        name: node_name,
        folders: folders.clone(),
        mounts: mounts.clone(),
        cluster: cluster.clone(),
        revisions: Revisions::new(mounts.clone(), keeper.clone(), folders.clone()),
        tiers: Tiers {
            folder: folders.tiers(),
            owner: Owner(unprivileged_uid),
            mounts,
            cluster,
            sweeping: Default::default(),
        },
        mounter: MounterIdentity {
            namespace,
            service_account: mounter_service_account,
        },
        locks: VolumeLocks::default(),
        metrics,
    });
    let registered = Readiness::default();
    let health = {
        let (node, keeper) = (node.clone(), keeper.clone());
        let (of_node, of_keeper) = (node.clone(), keeper.clone());
        let pages = Pages::new(registered.clone())
            .page("/metrics", move || node.metrics.text(&node.revisions, &keeper))
            .page("/doctor", move || doctor::report(&of_node, &of_keeper, &chosen));
        pages.serve(health_listen)
    };
    let health = async {
        let ended = health.await;
        ended.with_context(|| format!("serve /livez on {health_listen}"))
    };
    let ending = CancellationToken::new();
    tokio::spawn(cancel_with_terminate(ending.clone()));
    let work = Work {
        node,
        keeper,
        registered,
        started,
        ending: ending.clone(),
    };
    tokio::select! {
        worked = work.run(entries, client, unprivileged_uid) => worked,
        error = health => error,
        () = overdue(&ending) => {
            tracing::warn!("calls were still under way");
            Ok(())
        }
    }
}

/// What this process works with.
struct Work {
    node: Arc<Node>,
    keeper: Arc<Keeper>,
    registered: Readiness,
    /// When this container did, see [`penstock_csi::succession`].
    started: u64,
    /// SIGTERM came.
    ending: CancellationToken,
}

impl Work {
    /// Waits for this container's turn, serves the kubelet, and hands everything over when another one comes.
    async fn run(self, entries: Vec<Entry<Vec<OwnedFd>>>, client: kube::Client, unprivileged_uid: u32) -> Result<()> {
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
            let listening = keeper.listen(&keeper_socket, unprivileged_uid);
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

async fn cancel_with_terminate(ending: CancellationToken) {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            terminate.recv().await;
            ending.cancel();
        }
        Err(error) => tracing::error!(%error, "listen for SIGTERM"),
    }
}

/// Ends some time after SIGTERM, when calls are still under way.
async fn overdue(ending: &CancellationToken) {
    ending.cancelled().await;
    tokio::time::sleep(SHUTDOWN_MAX).await;
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

fn make_folders(folders: &Folders, unprivileged_uid: u32) -> Result<()> {
    for folder in [
        folders.plugin(),
        folders.keeper(),
        folders.revisions(),
        folders.state.clone(),
        folders.images(),
        folders.tiers(),
        folders.spaces(),
    ] {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.with_context(|| format!("make the folder {}", folder.display()))?;
    }
    // Bound into the mounter's pod, which may pass through but not write.
    let keeper = folders.keeper();
    let handed = chown(&keeper, Some(0), Some(unprivileged_uid))
        .and_then(|()| fs::set_permissions(&keeper, fs::Permissions::from_mode(0o750)));
    handed.with_context(|| format!("hand {} to the mounter", keeper.display()))
}

/// Logs from `info` on, or what `RUST_LOG` says.
fn log() {
    let filter = tracing_subscriber::EnvFilter::builder();
    let filter = filter
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).init();
}
