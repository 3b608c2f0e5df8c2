//! The mounter's process: goes on with what a predecessor served, connects to the csi container and serves what it hands over.

mod args;

use anyhow::{Context, Result};
use clap::Parser;
use penstock_descriptors::limit;
use penstock_health::Readiness;
use penstock_mounter::keeper::Mounter;
use penstock_mounter::{Metrics, Neighbours, Sessions};
use penstock_supervisor::Store;
use penstock_tls::Identity;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Args;

fn main() -> Result<()> {
    let Args {
        keeper_socket,
        neighbours,
        tls,
        health_listen,
    } = Args::parse();
    let filter = tracing_subscriber::EnvFilter::builder();
    let filter = filter
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).init();

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let readiness = Readiness::default();
    let metrics = Metrics::default();
    let shown = metrics.clone();
    runtime.spawn(penstock_health::serve(health_listen, readiness.clone(), move || {
        shown.text()
    }));
    let identity = tls.as_deref().map(Identity::open).transpose().context("speak TLS")?;
    let (store, entries) = Store::of_this_process().context("ask the supervisor what a predecessor left")?;
    runtime.spawn(store.clone().stay_alive());
    let descriptors_max = limit::raise().unwrap_or_else(|error| {
        tracing::warn!(%error, "raise the number of descriptors");
        limit::now()
    });
    let neighbours = Neighbours::new(neighbours, descriptors_max, runtime.handle().clone());
    let sessions = Sessions::new(runtime.handle().clone(), store, neighbours, identity, metrics);
    let left = sessions.left_by_predecessor(entries);
    let mounter = Mounter::new(runtime.handle().clone(), sessions);
    let serving = runtime.spawn_blocking(move || mounter.run(&keeper_socket, &readiness, left));
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => tracing::info!("asked to end; csi keeps the connections for the next one"),
            ended = serving => match ended? {
                Ok(never) => match never {},
                Err(error) => return Err(error).context("go on with what a predecessor served"),
            },
        }
        // Threads that wait for the kernel or for csi end with the process.
        std::process::exit(0)
    })
}
