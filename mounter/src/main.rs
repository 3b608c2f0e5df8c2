//! The mounter's process: connects to the csi container and serves what it hands over.

mod args;

use anyhow::{Context, Result};
use clap::Parser;
use penstock_health::Readiness;
use penstock_mounter::keeper::Mounter;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Args;

fn main() -> Result<()> {
    let Args {
        keeper_socket,
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
    runtime.spawn(penstock_health::serve(health_listen, readiness.clone(), String::new));
    let mounter = Mounter::new(runtime.handle().clone());
    std::thread::Builder::new()
        .name("keeper".into())
        .spawn(move || mounter.run(&keeper_socket, &readiness))
        .context("start a thread")?;
    runtime.block_on(async {
        signal(SignalKind::terminate())?.recv().await;
        tracing::info!("asked to end; the csi container keeps the connections for the next one");
        Ok(())
    })
}
