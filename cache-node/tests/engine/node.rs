//! What a node does with what it is told.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use penstock_cache_node::engine::InspectError;
use penstock_cache_node::memory::Budget;
use penstock_cache_node::server::bulk::BulkServer;
use penstock_cache_node::server::node::Node;
use penstock_cache_node::{Engine, EngineConfig, TierConfig};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Package, Scratch};
use tokio::net::TcpListener;

use crate::generated::Generated;

/// Less than a peer is asked for a package that it does not have.
const PATIENCE: Duration = Duration::from_secs(8);
/// Two rounds of looking.
const FOUND_WITHIN: Duration = Duration::from_secs(60);

fn node_in(folder: &tempfile::TempDir) -> Node {
    let tier = TierConfig {
        name: "ssd".into(),
        path: folder.path().into(),
        capacity_bytes: Some(1 << 40),
    };
    Node::open(
        Engine::open(EngineConfig {
            tiers: vec![tier],
            memory: Budget::default(),
            scratch: Scratch::memory(),
        })
        .unwrap(),
        &[folder.path().into()],
        None,
    )
    .unwrap()
}

/// Two nodes that have a package, of which one rots: the other, the address at which it serves, and the node.
struct Rotten {
    address: String,
    node: Node,
    package: Package,
    serving: tokio::task::JoinHandle<()>,
    _folders: [tempfile::TempDir; 2],
}

impl Rotten {
    /// The disk gives other bytes than it was given from here on, where nothing is in memory of them yet.
    async fn with(package: Package) -> Self {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (peer, node) = (node_in(&folders[0]), node_in(&folders[1]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(BulkServer::new(peer.clone()).serve(listener));
        for keeper in [&peer, &node] {
            keeper.keep(&package).await.unwrap();
            keeper.apply(config(&address, &[&package])).await.unwrap();
        }
        let path = folders[1].path().join("packages").join(package.id().to_string());
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&[0; 64], package.bytes() - 64).unwrap();
        Self {
            address,
            node,
            package,
            serving,
            _folders: folders,
        }
    }
}

impl Drop for Rotten {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn config(peer: &str, packages: &[&Package]) -> wire::NodeConfig {
    let member = wire::Member {
        name: "peer".into(),
        address: peer.into(),
        weight: 1,
    };
    let dataset = wire::Dataset {
        uid: "d".into(),
        revisions: packages
            .iter()
            .map(|package| package.id().as_bytes().to_vec())
            .collect(),
        ..Default::default()
    };
    wire::NodeConfig {
        ring_epoch: 7,
        members: vec![member],
        datasets: vec![dataset],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_nobody_has_yet_holds_up_nothing_and_is_found_later() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (peer, node) = (node_in(&folders[0]), node_in(&folders[1]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(BulkServer::new(peer.clone()).serve(listener));
    let here = Generated::one(5000).package().await;
    let missing = Generated::one(6000).package().await;
    node.keep(&here).await.unwrap();
    peer.apply(config(&address, &[])).await.unwrap();

    let applied = tokio::time::timeout(PATIENCE, node.apply(config(&address, &[&missing, &here]))).await;
    applied.expect("what is here is served at once").unwrap();
    assert_eq!(node.missing(), [missing.id()]);
    assert!(node.engine().package(&here.id()).is_some());
    assert_eq!((node.ring_epoch(), node.ring().epoch), (7, 7));

    peer.keep(&missing).await.unwrap();
    let begun = Instant::now();
    while node.engine().package(&missing.id()).is_none() || !node.missing().is_empty() {
        assert!(begun.elapsed() < FOUND_WITHIN, "not looked for again");
        tokio::task::yield_now().await;
    }
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_was_built_survives_a_restart_before_it_is_announced() {
    let folder = tempfile::tempdir().unwrap();
    let package = Generated::one(5000).package().await;
    node_in(&folder).keep(&package).await.unwrap();
    let restarted = node_in(&folder);
    restarted.apply(config("127.0.0.1:1", &[])).await.unwrap();
    assert!(
        restarted.package(&package.id()).await.is_some(),
        "the commit that follows names it"
    );
    restarted.apply(config("127.0.0.1:1", &[&package])).await.unwrap();
    assert_eq!(restarted.missing(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_rots_on_the_disk_is_fetched_again_from_a_peer() {
    let rotten = Rotten::with(Generated::one(5000).package().await).await;
    let (node, package) = (&rotten.node, &rotten.package);
    let whole = || async { node.package_piece(&package.id(), 0, package.bytes() as usize).await };
    assert_eq!(whole().await, None, "nothing damaged is passed on");
    let begun = Instant::now();
    // It is readable first and no longer missing afterwards.
    while whole().await.is_none() || !node.missing().is_empty() {
        assert!(begun.elapsed() < FOUND_WITHIN, "not fetched again");
        tokio::task::yield_now().await;
    }
    assert_eq!(whole().await.unwrap(), package.whole().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_into_a_package_that_rots_is_told_so_and_finds_another_copy_later() {
    let rotten = Rotten::with(Generated::one(5000).package().await).await;
    let engine = rotten.node.engine().clone();
    let stat = || engine.stat("/", "", &|| true);
    let told = stat().unwrap_err();
    assert!(matches!(told, InspectError::DamagedPackage(..)), "{told}");
    let begun = Instant::now();
    while stat().is_err() {
        assert!(begun.elapsed() < FOUND_WITHIN, "not fetched again");
        tokio::task::yield_now().await;
    }
    assert_eq!(stat().unwrap().files, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_for_paths_of_a_package_that_rots_count_once_another_copy_is_here() {
    let rotten = Rotten::with(Generated::one(5000).package().await).await;
    let mut config = config(&rotten.address, &[&rotten.package]);
    config.datasets[0].rules.push(wire::CacheRule {
        path: "object".into(),
        pin: true,
        ..Default::default()
    });
    rotten.node.apply(config).await.unwrap();
    let engine = rotten.node.engine();
    let begun = Instant::now();
    while !engine.report().refusals.is_empty() || !rotten.node.missing().is_empty() {
        assert!(begun.elapsed() < FOUND_WITHIN, "{:?}", engine.report().refusals);
        tokio::task::yield_now().await;
    }
    let held = engine.holdings();
    assert_eq!(held.datasets[0].files, 1);
    let explained = engine.explain("/", "object", 0, |_, _| None).unwrap();
    assert!(explained.rule.pin, "{explained:?}");
}
