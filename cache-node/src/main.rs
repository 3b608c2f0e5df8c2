//! The cache node's process: wires the engine to its servers and ends on SIGTERM.

mod args;
mod metrics;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use penstock_cache_node::server::bulk::BulkServer;
use penstock_cache_node::server::control::ControlServer;
use penstock_cache_node::server::inspection::InspectionServer;
use penstock_cache_node::server::neighbour;
use penstock_cache_node::server::node::Node;
use penstock_cache_node::{Engine, EngineConfig, is_in_memory, limits, packages};
use penstock_descriptors::limit;
use penstock_health::Readiness;
use penstock_protocol::control::MESSAGE_BYTES_MAX;
use penstock_protocol::control::cache_node::cache_node_server::CacheNodeServer;
use penstock_protocol::control::cache_node::inspection_server;
use penstock_tls::Identity;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Args;
use crate::metrics::Metrics;

#[tokio::main]
async fn main() -> Result<()> {
    let Args {
        tiers,
        memory,
        bulk_listen,
        tls,
        control_listen,
        inspection_listen,
        neighbour_socket,
        health_listen,
    } = Args::parse();
    log();
    // One for each revision that is announced, and for each stripe that is open.
    if let Err(error) = limit::raise() {
        tracing::warn!(%error, now = limit::now(), "raise the number of descriptors");
    }

    let folders = lasting(tiers.iter().map(|tier| tier.path.clone()).collect());
    let engine = Engine::open(EngineConfig {
        tiers,
        memory,
        scratch: packages::scratch_of(&folders),
    })?;
    let identity = tls.as_deref().map(Identity::open).transpose().context("speak TLS")?;
    let node = Node::open(engine, &folders, identity).with_context(|| format!("use the cache folders {folders:?}"))?;
    let readiness = Readiness::default();
    // What it remembers it serves at once; the operator is needed for anything new.
    readiness.set(!node.ring().members.is_empty());

    let listener = TcpListener::bind(bulk_listen)
        .await
        .with_context(|| format!("listen on {bulk_listen}"))?;
    let bulk = BulkServer::new(node.clone());
    let metrics = Arc::new(Metrics::of(node.engine(), bulk.queues(), node.asked().clone()));
    let bulk = tokio::spawn(bulk.serve(listener));
    if let Some(socket) = neighbour_socket
        && let Err(error) = neighbour::serve(node.engine().clone(), &socket)
    {
        tracing::warn!(socket = %socket.display(), %error, "listen for the mounter of this node; it reads over the network");
    }
    let metrics = move || metrics.text();
    tokio::spawn(penstock_health::serve(health_listen, readiness.clone(), metrics));

    tracing::info!(%bulk_listen, %control_listen, ?folders, "the cache node serves");
    let mut terminate = signal(SignalKind::terminate())?;
    let inspection = inspection_server::InspectionServer::new(InspectionServer::new(node.clone()));
    let inspection = tonic::transport::Server::builder()
        // Who has gone without a word holds the turn of others.
        .http2_keepalive_interval(Some(limits::PEER_SILENCE_MAX))
        .add_service(inspection);
    tokio::spawn(async move {
        if let Err(error) = inspection.serve(inspection_listen).await {
            tracing::error!(%inspection_listen, %error, "serve `penstock cache` and `penstock explain`; all else goes on");
        }
    });
    let control = ControlServer { node, readiness };
    let serving = tonic::transport::Server::builder()
        .add_service(CacheNodeServer::new(control).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_shutdown(control_listen, async move {
            terminate.recv().await;
            tracing::info!("asked to end");
        });
    tokio::select! {
        served = serving => served.context("serve the control protocol")?,
        // A link lives as long as the operator; it does not keep the process.
        () = after_termination() => {}
    }
    bulk.abort();
    Ok(())
}

/// The folders that are not in memory; all if all are.
fn lasting(folders: Vec<PathBuf>) -> Vec<PathBuf> {
    let on_disk = folders.iter().filter(|folder| !is_in_memory(folder));
    let on_disk: Vec<PathBuf> = on_disk.cloned().collect();
    if on_disk.is_empty() { folders } else { on_disk }
}

async fn after_termination() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            terminate.recv().await;
            tokio::time::sleep(limits::SHUTDOWN_MAX / 10).await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// Logs from `info` on, or what `RUST_LOG` says.
fn log() {
    let filter = tracing_subscriber::EnvFilter::builder();
    let filter = filter
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).init();
}
