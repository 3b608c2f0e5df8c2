//! The control server: what the operator is told without asking.

use std::time::Duration;

use penstock_cache_node::server::control::ControlServer;
use penstock_cache_node::server::node::Node;
use penstock_health::Readiness;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::control::cache_node::cache_node_client::CacheNodeClient;
use penstock_protocol::control::cache_node::cache_node_server::{CacheNode, CacheNodeServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use crate::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_came_to_rest_has_told_every_byte() {
    let scene = Scene::with(&[("large", 2_500_000), ("small", 300_000)]).await;
    let folder = tempfile::tempdir().unwrap();
    let control = ControlServer {
        node: Node::open(scene.engine.clone(), &[folder.path().into()], None).unwrap(),
        readiness: Readiness::default(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(CacheNodeServer::new(control));
    let serving = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let mut client = CacheNodeClient::connect(format!("http://{address}")).await.unwrap();
    let link = client.link(tokio_stream::pending()).await;
    let mut reports = link.unwrap().into_inner();
    let first = reports.message().await.unwrap().unwrap();
    assert_eq!(first.spaces, [], "nothing was read");
    assert_eq!(first.understands, penstock_protocol::level::LEVEL);

    for (object, blocks) in [("large", 611), ("small", 611 + 74)] {
        scene.read(object).await.unwrap();
        let told = async {
            loop {
                let report = reports.message().await.unwrap().unwrap();
                if report.spaces.iter().map(|usage| usage.cached_bytes).sum::<u64>() == blocks * 4096 {
                    return report.tiers[0].used_bytes;
                }
            }
        };
        let told = tokio::time::timeout(PATIENCE, told).await;
        assert_eq!(told, Ok(blocks * 4096), "{object}");
    }
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_from_an_address_of_the_cluster_is_refused_before_anybody_connects() {
    let scene = Scene::with(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let control = ControlServer {
        node: Node::open(scene.engine.clone(), &[folder.path().into()], None).unwrap(),
        readiness: Readiness::default(),
    };
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let s3 = wire::S3 {
        bucket: "bucket".into(),
        endpoint: format!("http://{address}"),
        ..Default::default()
    };
    let source = wire::Source {
        path: "raw".into(),
        origin: Some(wire::source::Origin::S3(s3)),
        ..Default::default()
    };
    let told = |cluster_addresses: &[String]| wire::NodeConfig {
        datasets: vec![wire::Dataset {
            uid: "d".into(),
            sources: vec![source.clone()],
            ..Default::default()
        }],
        cluster_networks: vec!["127.0.0.0/8".into()],
        cluster_addresses: cluster_addresses.to_vec(),
        ..Default::default()
    };
    let build = async || {
        let request = wire::BuildRequest {
            dataset: told(&[]).datasets.pop(),
            parent: Vec::new(),
            dirty: Vec::new(),
        };
        control.build(tonic::Request::new(request)).await.unwrap().into_inner()
    };
    control.node.apply(told(&[])).await.unwrap();
    let Some(wire::build_reply::Outcome::Failed(failed)) = build().await.outcome else {
        panic!("it was built")
    };
    assert_eq!(
        failed.reason(),
        wire::build_failed::Reason::NotAllowed,
        "{}",
        failed.message
    );
    let says = format!("add {address} to spec.origins.clusterAddresses");
    assert!(failed.message.contains(&says), "{}", failed.message);
    assert_eq!(failed.source_path.as_deref(), Some("raw"), "whose fault it is");

    // An edit of the CacheRuntime counts at once.
    control.node.apply(told(&[address.to_string()])).await.unwrap();
    let accepted = tokio::time::timeout(PATIENCE, server.accept());
    let (building, connected) = (build(), accepted);
    tokio::select! {
        reply = building => panic!("it ended before anybody connected: {reply:?}"),
        connected = connected => drop(connected.expect("nobody connects").unwrap()),
    }
}
