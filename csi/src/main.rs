//! The process of the csi container: takes its mount namespace, clears what a predecessor left, and serves the kubelet
//! until SIGTERM. It never unlinks its sockets: the next one replaces them.

mod args;
mod work;

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use penstock_csi::doctor::{self, Chosen};
use penstock_csi::folders::Folders;
use penstock_csi::keeper::Keeper;
use penstock_csi::kubernetes::ApiServer;
use penstock_csi::limits::{HANGING_CALL_MAX, SHUTDOWN_MAX};
use penstock_csi::metrics::{Metrics, Seen};
use penstock_csi::mounts::LinuxMounts;
use penstock_csi::namespace;
use penstock_csi::neighbours::Neighbours;
use penstock_csi::node::{MounterIdentity, Node};
use penstock_csi::revisions::Revisions;
use penstock_csi::succession::container_started;
use penstock_csi::tier::Tiers;
use penstock_csi::users::Users;
use penstock_csi::volume_lock::VolumeLocks;
use penstock_health::{Pages, Readiness};
use penstock_mount::forms::{self, SMALL_CONTENT};
use penstock_mount::fuse;
use penstock_protocol::connection::Unanswered;
use penstock_revision::image_of_one_file;
use penstock_supervisor::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::{Args, Resend};
use crate::work::Work;

fn main() -> Result<()> {
    let args = Args::parse();
    log();
    let folders = Folders {
        kubelet: args.kubelet_root.clone(),
        state: args.state_dir.clone(),
        private: args.private_dir.clone(),
    };
    make_folders(&folders, args.mounter_uid)?;
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
        mounter_uid,
        cache_node_uid,
        kubelet_root: _,
        state_dir: _,
        private_dir: _,
        form,
        resend,
        health_listen,
    } = args;
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        bail!("another TLS provider is installed already");
    }
    let client = kube::Client::try_default()
        .await
        .context("find the API server; this runs in a pod with a service account, or with KUBECONFIG")?;
    let small = image_of_one_file("file", SMALL_CONTENT.len() as u64);
    let small = small.map_err(|error| anyhow::anyhow!("make an image of one file: {error}"))?;
    let (form, why) = forms::choose(form, &small, &folders.state, &folders.private);
    tracing::info!(?form, why, "the form of volumes");
    let unanswered = unanswered(resend, &folders.private);
    let chosen = Chosen { form, why };
    let mounts = Arc::new(LinuxMounts {
        form,
        scratch: folders.private.clone(),
        unanswered,
    });
    let cluster = Arc::new(ApiServer(client.clone()));
    let (store, entries) = Store::of_this_process().context("ask the supervisor what a predecessor left")?;
    tokio::spawn(store.clone().stay_alive());
    let started = container_started().context("find out when this container started")?;
    let metrics = Metrics::default();
    let keeper = {
        let (mounts, folders) = (mounts.clone(), folders.clone());
        Keeper::new(started, store, metrics.clone(), move |connection, descriptors| {
            Revisions::adopted(&*mounts, &folders, connection, descriptors)
        })
    };
    let users = Users {
        mounter: mounter_uid,
        cache_node: cache_node_uid,
    };
    let node = Arc::new(Node {
        name: node_name,
        folders: folders.clone(),
        mounts: mounts.clone(),
        cluster: cluster.clone(),
        revisions: Revisions::new(mounts.clone(), keeper.clone(), folders.clone()),
        tiers: Tiers {
            folder: folders.tiers(),
            users,
            mounts: mounts.clone(),
            cluster: cluster.clone(),
            sweeping: Default::default(),
            giving: Default::default(),
        },
        neighbours: Neighbours {
            folder: folders.neighbours(),
            users,
            mounts,
            cluster,
            changing: Default::default(),
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
            .page("/metrics", move || {
                node.metrics.text(&Seen {
                    forms: node.revisions.shown().into_iter().map(|(_, _, form)| form).collect(),
                    kept: keeper.kept(),
                    served: keeper.served(),
                    has_mounter: keeper.has_mounter(),
                })
            })
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
        worked = work.run(entries, client, mounter_uid) => worked,
        error = health => error,
        () = overdue(&ending) => {
            tracing::warn!("calls were still under way");
            Ok(())
        }
    }
}

/// What this kernel can do for a mounter that takes over.
fn unanswered(resend: Resend, private: &Path) -> Unanswered {
    let probe = private.join("probe");
    let probed = match resend {
        Resend::Off => Ok(false),
        Resend::Auto => fs::create_dir_all(&probe)
            .map_err(anyhow::Error::from)
            .and_then(|()| Ok(fuse::resends(&probe)?)),
    };
    let _ = fs::remove_dir(&probe);
    let unanswered = match &probed {
        Ok(true) => Unanswered::Resent,
        // A ledger works everywhere.
        Ok(false) | Err(_) => Unanswered::InLedger,
    };
    tracing::info!(?unanswered, ?resend, error = ?probed.err(), "what a mounter leaves when it dies");
    unanswered
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

fn make_folders(folders: &Folders, mounter_uid: u32) -> Result<()> {
    for folder in [
        folders.plugin(),
        folders.keeper(),
        folders.neighbours(),
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
    for folder in [folders.keeper(), folders.neighbours()] {
        let handed = chown(&folder, Some(0), Some(mounter_uid))
            .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)));
        handed.with_context(|| format!("hand {} to the mounter", folder.display()))?;
    }
    Ok(())
}

/// Logs from `info` on, or what `RUST_LOG` says.
fn log() {
    let filter = tracing_subscriber::EnvFilter::builder();
    let filter = filter
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).init();
}
