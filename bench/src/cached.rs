//! A cache node of the bench, where everything is cached, and readers of it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use penstock_cache_client::CacheClient;
use penstock_cache_node::Engine;
use penstock_cache_node::server::bulk::BulkServer;
use penstock_cache_node::server::node::Node;
use penstock_mounter::remote::RemoteSpace;
use penstock_mounter::{Metrics, Neighbours, SpaceReader};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::Package;
use penstock_tls::Identity;

use crate::READ_TIMEOUT;

/// What a cache node has.
pub struct Cached<'a> {
    pub engine: &'a Engine,
    pub package: &'a Package,
    pub source: wire::Source,
}

impl Cached<'_> {
    /// A cache node that is the only member of its ring; `folder` is for what it remembers.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn serve(&self, folder: &Path, listener: TcpListener, runtime: &tokio::runtime::Runtime) -> Result<SocketAddr> {
        self.serve_as(None, folder, listener, runtime)
    }

    /// The same, which speaks TLS with an identity.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn serve_as(
        &self,
        identity: Option<Arc<Identity>>,
        folder: &Path,
        listener: TcpListener,
        runtime: &tokio::runtime::Runtime,
    ) -> Result<SocketAddr> {
        let packages = std::slice::from_ref(self.package);
        serve(
            (self.engine, identity),
            packages,
            &self.source,
            (folder, listener),
            runtime,
        )
    }

    /// Blocks of the cache node at `address`, as a mounter with these neighbours gets them.
    pub fn reader(&self, address: SocketAddr, neighbours: &Neighbours) -> Arc<dyn SpaceReader> {
        Arc::new(RemoteSpace::new(
            CacheClient::new(vec![address.to_string()], READ_TIMEOUT),
            (self.package.id(), self.package.space()),
            READ_TIMEOUT,
            neighbours,
            Metrics::default(),
        ))
    }
}

/// As [`Cached::serve`], with a Dataset for each of `packages`, all of the same source.
///
/// # Errors
/// When the folder cannot be used.
pub fn serve(
    (engine, identity): (&Engine, Option<Arc<Identity>>),
    packages: &[Package],
    source: &wire::Source,
    (folder, listener): (&Path, TcpListener),
    runtime: &tokio::runtime::Runtime,
) -> Result<SocketAddr> {
    let tier = folder.join("tier");
    std::fs::create_dir_all(&tier)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let _entered = runtime.enter();
    let node = Node::open(engine.clone(), &[tier], identity)?;
    for package in packages {
        runtime.block_on(node.keep(package))?;
    }
    let dataset = |(number, package): (usize, &Package)| wire::Dataset {
        uid: format!("bench-{number}"),
        namespace: String::new(),
        name: format!("bench-{number}"),
        sources: vec![source.clone()],
        revisions: vec![package.id().as_bytes().to_vec()],
        ..Default::default()
    };
    runtime.block_on(node.apply(wire::NodeConfig {
        generation: 1,
        ring_epoch: 1,
        members: vec![wire::Member {
            name: "bench".into(),
            address: address.to_string(),
            weight: 1,
        }],
        datasets: packages.iter().enumerate().map(dataset).collect(),
        ..Default::default()
    }))?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    runtime.spawn(BulkServer::new(node).serve(listener));
    Ok(address)
}
