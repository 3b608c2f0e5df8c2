//! What a node reports of revisions that somebody uses.

use std::time::Duration;

use penstock_cache_node::server::bulk::BulkServer;
use penstock_cache_node::server::control::ControlServer;
use penstock_cache_node::server::node::Node;
use penstock_health::Readiness;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::control::cache_node::cache_node_client::CacheNodeClient;
use penstock_protocol::control::cache_node::cache_node_server::CacheNodeServer;
use penstock_protocol::frame::Kind;
use penstock_protocol::ids::RevisionId;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

use crate::bulk::{answer, ask_by};
use crate::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(20);

/// A node of a scene, as a mounter and as the operator see it.
struct Served {
    bulk: TcpStream,
    reports: tonic::Streaming<wire::NodeReport>,
    serving: [JoinHandle<()>; 2],
    _folder: tempfile::TempDir,
}

impl Served {
    async fn of(scene: &Scene) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::open(scene.engine.clone(), &[folder.path().into()], None).unwrap();
        let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (bulk, control) = (listen().await, listen().await);
        let (to_bulk, to_control) = (bulk.local_addr().unwrap(), control.local_addr().unwrap());
        let server = ControlServer {
            node: node.clone(),
            readiness: Readiness::default(),
        };
        let server = tonic::transport::Server::builder().add_service(CacheNodeServer::new(server));
        let serving = [
            tokio::spawn(BulkServer::new(node).serve(bulk)),
            tokio::spawn(async move {
                server
                    .serve_with_incoming(TcpListenerStream::new(control))
                    .await
                    .unwrap();
            }),
        ];
        let mut client = CacheNodeClient::connect(format!("http://{to_control}")).await.unwrap();
        let reports = client.link(tokio_stream::pending()).await.unwrap().into_inner();
        Self {
            bulk: TcpStream::connect(to_bulk).await.unwrap(),
            reports,
            serving,
            _folder: folder,
        }
    }

    /// What the next report says that is in use.
    async fn in_use(&mut self) -> Vec<Vec<u8>> {
        let report = tokio::time::timeout(PATIENCE, self.reports.message()).await;
        report.expect("nothing is reported").unwrap().unwrap().revisions_in_use
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_a_mounter_serves_is_reported_though_nobody_reads_it() {
    let scene = Scene::with(&[("a", 5000)]).await;
    let mut served = Served::of(&scene).await;
    assert_eq!(served.in_use().await, [[0; 0]; 0], "nobody said anything");
    // The ring is asked for without a revision, and with one that this node does not know.
    for revision in [RevisionId([0; 32]), RevisionId([9; 32]), scene.package.id()] {
        ask_by(Kind::Ring, &mut served.bulk, revision, 1, 0).await;
        assert_eq!(answer(&mut served.bulk).await.0.kind, Kind::Data);
    }
    assert_eq!(served.in_use().await, [scene.package.id().as_bytes()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_is_read_is_reported_whoever_reads_it() {
    let scene = Scene::with(&[("a", 5000), ("b", 1 << 20)]).await;
    for (key, bytes) in [("a", 8192), ("b", 1 << 20)] {
        let address = scene.extent(key).address;
        // The second time what is stored is sent unread, where it is large enough.
        for _ in 0..2 {
            let mut served = Served::of(&scene).await;
            assert_eq!(served.in_use().await, [[0; 0]; 0], "{key}");
            ask_by(Kind::Read, &mut served.bulk, scene.package.id(), address, bytes).await;
            assert_eq!(answer(&mut served.bulk).await.0.kind, Kind::Data, "{key}");
            let told = async { while served.in_use().await != [scene.package.id().as_bytes()] {} };
            let told = tokio::time::timeout(PATIENCE, told).await;
            told.expect("what is read is not reported");
        }
    }
}
