//! The first touch of blocks that another node has: a cache node in another network namespace serves them. The least that
//! can move the same bytes over the same cable beside it: a loop around sendfile(2).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use penstock_cache_client::CacheClient;
use penstock_cache_node::Engine;
use penstock_cache_node::server::bulk::BulkServer;
use penstock_cache_node::server::node::Node;
use penstock_mounter::remote::RemoteSpace;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::Package;

use crate::READ_TIMEOUT;
use crate::data::{BIG, Data};
use crate::figure::{Figure, Goal, Reference};
use crate::first_touch::RANDOM_READS;
use crate::load;
use crate::namespace::Namespace;
use crate::random::Random;
use crate::rounds::Rounds;
use crate::sendfile_loop;
use crate::shown::Shown;

const REQUEST_BYTES: u64 = 1 << 20;

/// The figures of a mount whose blocks come from a cache node with `engine`, where everything is cached.
///
/// # Errors
/// When a read fails or there is no `ip` command.
pub fn figures(
    scratch: &Path,
    (engine, package, source): (&Engine, &Package, wire::Source),
    (data, flat): (&Data, &Path),
    runtime: &tokio::runtime::Runtime,
    rounds: &Rounds<'_>,
) -> Result<Vec<Figure>> {
    let folder = scratch.join("other");
    let namespace = Namespace::new()?;
    let server = serve(&folder, engine, package, source, &namespace, runtime)?;
    let reader = Arc::new(RemoteSpace {
        client: CacheClient::new(vec![server.to_string()], READ_TIMEOUT),
        revision: package.id(),
        space: package.space(),
        timeout: READ_TIMEOUT,
    });
    let ours = Shown::new(&folder, package, reader, runtime.handle())?;
    let raw = sendfile_loop::serve(namespace.listen()?, flat)?;
    let places = Places::of(package, data)?;

    let mut figures = Vec::new();
    let mut figure = |name: &str, unit, goals, (value, reference)| {
        figures.push(Figure {
            name: name.into(),
            value,
            unit,
            reference: Some(Reference {
                name: "raw sendfile loop",
                value: reference,
            }),
            goals,
        });
    };
    let medians = rounds.run(
        rounds.short,
        |_| {
            ours.forget()?;
            Ok(load::sequential(&ours.root().join(BIG))?.gib_per_second())
        },
        |_| Ok(sendfile_loop::fetch(raw, &places.sequential(), 2)?.gib_per_second()),
    )?;
    figure(
        "other-node-sequential",
        "GiB/s",
        vec![Goal::RatioAtLeast(0.85)],
        medians,
    );
    let medians = rounds.run(
        rounds.short,
        |round| {
            ours.forget()?;
            Ok(load::epoch(&data.small_below(ours.root()), round, 1)?.per_second())
        },
        |round| Ok(sendfile_loop::fetch(raw, &places.small(round), 1)?.per_second()),
    )?;
    figure("other-node-small-files", "files/s", vec![], medians);
    for (name, depth) in [("other-node-random-4k", 1), ("other-node-random-4k-depth-8", 8)] {
        let medians = rounds.run(
            rounds.short,
            |round| {
                ours.forget()?;
                let took = load::random_blocks(&ours.root().join(BIG), round, RANDOM_READS, depth)?;
                Ok(took.micros_each() * depth as f64)
            },
            |round| {
                let took = sendfile_loop::fetch(raw, &places.random(round), depth)?;
                Ok(took.micros_each() * depth as f64)
            },
        )?;
        figure(name, "us", vec![], medians);
    }
    Ok(figures)
}

/// A cache node that listens in the namespace, the only member of its ring.
fn serve(
    folder: &Path,
    engine: &Engine,
    package: &Package,
    source: wire::Source,
    namespace: &Namespace,
    runtime: &tokio::runtime::Runtime,
) -> Result<SocketAddr> {
    let tier = folder.join("tier");
    std::fs::create_dir_all(&tier)?;
    let listener = namespace.listen()?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let _entered = runtime.enter();
    let node = Node::open(engine.clone(), &tier)?;
    runtime.block_on(node.keep(package))?;
    runtime.block_on(node.apply(wire::NodeConfig {
        generation: 1,
        ring_epoch: 1,
        members: vec![wire::Member {
            name: "bench".into(),
            address: address.to_string(),
            weight: 1,
        }],
        datasets: vec![wire::Dataset {
            uid: "bench".into(),
            namespace: String::new(),
            name: "bench".into(),
            sources: vec![source],
            revisions: vec![package.id().as_bytes().to_vec()],
        }],
    }))?;
    let _inside = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    runtime.spawn(BulkServer::new(node).serve(listener));
    Ok(address)
}

/// Where the files lie in the space, and so in the flat file.
struct Places {
    big: (u64, u64),
    small: Vec<(u64, u64)>,
}

impl Places {
    fn of(package: &Package, data: &Data) -> Result<Self> {
        let (mut big, mut small) = (None, Vec::with_capacity(data.small().len()));
        for extent in package.all_extents() {
            let extent = extent?;
            if extent.object.key == BIG {
                big = Some((extent.address, extent.bytes));
            } else if extent.object.key.starts_with("small/") {
                small.push((extent.address, extent.bytes));
            }
        }
        let big = big.context("the big file has an extent")?;
        Ok(Self { big, small })
    }

    fn sequential(&self) -> Vec<(u64, u64)> {
        let (address, bytes) = self.big;
        let starts = (0..bytes).step_by(REQUEST_BYTES as usize);
        starts.map(|at| (address + at, REQUEST_BYTES.min(bytes - at))).collect()
    }

    fn small(&self, round: u64) -> Vec<(u64, u64)> {
        let mut requests = self.small.clone();
        Random(round).shuffle(&mut requests);
        requests
    }

    fn random(&self, round: u64) -> Vec<(u64, u64)> {
        let (address, bytes) = self.big;
        let mut requests: Vec<_> = (0..bytes / 4096).map(|block| (address + block * 4096, 4096)).collect();
        Random(round).shuffle(&mut requests);
        requests.truncate(RANDOM_READS);
        requests
    }
}
