//! The cache node's process: wires the engine to its servers and ends on SIGTERM.

mod args;

use anyhow::{Context, Result};
use clap::Parser;
use penstock_cache_node::report::{Counters, OriginOutcome, SourceReport};
use penstock_cache_node::server::bulk::BulkServer;
use penstock_cache_node::server::control::ControlServer;
use penstock_cache_node::server::neighbour;
use penstock_cache_node::server::node::Node;
use penstock_cache_node::{Engine, EngineConfig, limits};
use penstock_health::Readiness;
use penstock_protocol::control::cache_node::cache_node_server::CacheNodeServer;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Args;

#[tokio::main]
async fn main() -> Result<()> {
    let Args {
        tier,
        bulk_listen,
        control_listen,
        neighbour_socket,
        health_listen,
    } = Args::parse();
    log();

    let folder = tier.path.clone();
    let engine = Engine::open(EngineConfig { tier })?;
    let node = Node::open(engine, &folder).with_context(|| format!("use the cache folder {}", folder.display()))?;
    let readiness = Readiness::default();
    // What it remembers it serves at once; the operator is needed for anything new.
    readiness.set(!node.ring().members.is_empty());

    let listener = TcpListener::bind(bulk_listen)
        .await
        .with_context(|| format!("listen on {bulk_listen}"))?;
    let bulk = tokio::spawn(BulkServer::new(node.clone()).serve(listener));
    if let Some(socket) = neighbour_socket
        && let Err(error) = neighbour::serve(node.engine().clone(), &socket)
    {
        tracing::warn!(socket = %socket.display(), %error, "listen for the mounter of this node; it reads over the network");
    }
    let metrics = {
        let node = node.clone();
        move || metrics(&node)
    };
    tokio::spawn(penstock_health::serve(health_listen, readiness.clone(), metrics));

    tracing::info!(%bulk_listen, %control_listen, folder = %folder.display(), "the cache node serves");
    let mut terminate = signal(SignalKind::terminate())?;
    let control = ControlServer { node, readiness };
    let serving = tonic::transport::Server::builder()
        .add_service(CacheNodeServer::new(control))
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

async fn after_termination() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            terminate.recv().await;
            tokio::time::sleep(limits::SHUTDOWN_MAX / 10).await;
        }
        Err(_) => std::future::pending().await,
    }
}

fn metrics(node: &Node) -> String {
    let (counters, report) = (node.engine().counters(), node.engine().report());
    let mut text = String::new();
    let counted = [
        (
            "penstock_cache_hit_bytes_total",
            "Bytes that reads got from the store.",
            &counters.hit_bytes,
        ),
        (
            "penstock_cache_miss_bytes_total",
            "Bytes that reads had to wait for.",
            &counters.miss_bytes,
        ),
        (
            "penstock_cache_passed_bytes_total",
            "Bytes that were not stored: not worth it, or there was no room.",
            &counters.passed_bytes,
        ),
        (
            "penstock_cache_evicted_bytes_total",
            "Bytes that made room for others.",
            &counters.evicted_bytes,
        ),
        (
            "penstock_cache_damaged_blocks_total",
            "Stored blocks that did not match.",
            &counters.damaged_blocks,
        ),
        (
            "penstock_origin_bytes_total",
            "Bytes that origins sent.",
            &counters.origin_bytes,
        ),
    ];
    for (name, help, counter) in counted {
        text += &format!(
            "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}\n",
            Counters::get(counter)
        );
    }
    for tier in report.tiers {
        let (name, used, capacity) = (tier.name, tier.used_bytes, tier.capacity_bytes);
        text += &format!(
            "penstock_tier_used_bytes{{tier=\"{name}\"}} {used}\npenstock_tier_capacity_bytes{{tier=\"{name}\"}} {capacity}\n"
        );
    }
    text + &origin_metrics(node)
}

fn origin_metrics(node: &Node) -> String {
    let name = "penstock_origin_requests_total";
    let mut text = format!("# HELP {name} Requests to origins, by how they ended.\n# TYPE {name} counter\n");
    for outcome in OriginOutcome::ALL {
        let (label, count) = (outcome.label(), node.engine().counters().origin_outcomes.get(outcome));
        text += &format!("{name}{{outcome=\"{label}\"}} {count}\n");
    }
    let sources = node.engine().sources();
    let mut gauge = |name: &str, help: &str, value: fn(&SourceReport) -> usize| {
        text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
        for source in &sources {
            let identity = source
                .identity
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            text += &format!("{name}{{source=\"{identity}\"}} {}\n", value(source));
        }
    };
    gauge("penstock_origin_gone", "1 while a source does not answer.", |source| {
        usize::from(source.is_gone)
    });
    gauge(
        "penstock_origin_requests_max",
        "Requests that a source may be sent at the same time.",
        |source| source.requests_max,
    );
    text
}

/// Logs from `info` on, or what `RUST_LOG` says.
fn log() {
    let filter = tracing_subscriber::EnvFilter::builder();
    let filter = filter
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).init();
}
