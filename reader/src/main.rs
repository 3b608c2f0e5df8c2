//! The reader's process: serves its volume and ends on SIGTERM.

mod args;

use anyhow::{Context, Result, bail};
use clap::Parser;
use penstock_reader::limits::{SERVER_THREADS, THREADS_MAX};
use penstock_reader::{Volume, serve};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Args;

fn main() -> Result<()> {
    let args = Args::parse();
    let filter = tracing_subscriber::EnvFilter::builder();
    let filter = filter
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVER_THREADS)
        .max_blocking_threads(THREADS_MAX)
        .enable_all()
        .build()
        .context("start threads")?;
    let outcome = runtime.block_on(run(args));
    // One that waits for a volume that is away waits for ever.
    runtime.shutdown_background();
    outcome
}

async fn run(args: Args) -> Result<()> {
    let Args {
        volume,
        folder,
        place,
        token_file,
        listen,
    } = args;
    let token = std::fs::read_to_string(&token_file).with_context(|| format!("read {}", token_file.display()))?;
    let token = token.trim().to_owned();
    if token.is_empty() {
        bail!("{} is empty: everybody could read", token_file.display());
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on {listen}"))?;
    tracing::info!(%listen, place, volume = %volume.display(), folder, "the reader serves");
    let volume = Volume {
        path: volume,
        folder,
        place,
        token,
    };
    serve(listener, volume, async move {
        terminate.recv().await;
        tracing::info!("asked to end");
    })
    .await;
    Ok(())
}
