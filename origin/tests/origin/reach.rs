//! Addresses that no origin may have: nobody connects there, whichever kind of origin it is and however the address is named.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use penstock_origin::meter::Tally;
use penstock_origin::{Environment, OriginError, Reach, client_within};
use penstock_protocol::control::cache_node as wire;
use wire::source::Origin as Kind;

/// A server that leads everybody to one address, and counts who asks.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn leading_to(target: &str) -> Self {
        let asked: Arc<AtomicUsize> = Arc::default();
        let state = (asked.clone(), target.to_owned());
        let answer = async |State((asked, target)): State<(Arc<AtomicUsize>, String)>| -> Response {
            asked.fetch_add(1, Ordering::Relaxed);
            (StatusCode::FOUND, [(header::LOCATION, target)]).into_response()
        };
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(state);
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self { address, asked, task }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A source of each kind at a server.
fn kinds(host: &str, port: u16) -> [(&'static str, Kind); 6] {
    let endpoint = format!("http://{host}:{port}");
    let s3 = wire::S3 {
        bucket: "bucket".into(),
        endpoint: endpoint.clone(),
        ..Default::default()
    };
    let gcs = wire::Gcs {
        bucket: "bucket".into(),
        endpoint: endpoint.clone(),
        ..Default::default()
    };
    let azure = wire::Azure {
        account: "account".into(),
        container: "container".into(),
        endpoint: endpoint.clone(),
        ..Default::default()
    };
    let http = wire::Http {
        url: format!("{endpoint}/pub/"),
        ..Default::default()
    };
    let hub = wire::HuggingFace {
        repository: "owner/name".into(),
        endpoint,
        ..Default::default()
    };
    let hdfs = wire::Hdfs {
        name_nodes: vec![format!("{host}:{port}")],
        path: "/".into(),
        ..Default::default()
    };
    [
        ("s3", Kind::S3(s3)),
        ("gcs", Kind::Gcs(gcs)),
        ("azure", Kind::Azure(azure)),
        ("http", Kind::Http(http)),
        ("hub", Kind::HuggingFace(hub)),
        ("hdfs", Kind::Hdfs(hdfs)),
    ]
}

async fn list(kind: Kind, reach: &Reach) -> OriginError {
    let source = wire::Source {
        origin: Some(kind),
        ..Default::default()
    };
    client_within(&source, &Environment::default(), reach, &Tally::default())
        .unwrap()
        .list_all()
        .await
        .unwrap_err()
}

fn reach(cluster: &[&str], granted: &[&str]) -> Reach {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let reach = Reach::default();
    assert_eq!(reach.set(&owned(cluster), &owned(granted)), [""; 0]);
    reach
}

const LOOPBACK: [&str; 3] = ["127.0.0.0/8", "0.0.0.0/8", "::1"];

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_the_cluster_is_refused_to_every_kind_of_origin_and_nobody_connects_there() {
    let server = Server::leading_to("/").await;
    let port = server.address.port();
    let refused = reach(&LOOPBACK, &[]);
    for host in [
        "localhost",
        "127.0.0.1",
        "0.0.0.0",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::ffff:127.0.0.1]",
        "[::1]",
    ] {
        for (name, kind) in kinds(host, port) {
            let error = list(kind, &refused).await;
            assert!(
                matches!(&error, OriginError::NotAllowed(text) if text.contains("spec.origins.clusterAddresses")),
                "{name} at {host}: {error:?}"
            );
        }
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_granted_by_name_or_address_is_asked_and_what_is_for_the_machine_never_is() {
    let server = Server::leading_to("/").await;
    let port = server.address.port();
    for (host, granted) in [
        ("localhost", format!("localhost:{port}")),
        ("LOCALHOST", "localhost".to_owned()),
        ("127.0.0.1", format!("127.0.0.1:{port}")),
        ("localhost", "127.0.0.0/24".to_owned()),
    ] {
        let reach = reach(&LOOPBACK, &[&granted]);
        for (name, kind) in kinds(host, port) {
            let (before, error) = (server.asked(), list(kind, &reach).await);
            assert!(
                !matches!(error, OriginError::NotAllowed(_)),
                "{name} at {host}: {error}"
            );
            // It speaks no HDFS.
            assert!(name == "hdfs" || server.asked() > before, "{name} at {host}: {error}");
        }
    }
    let reach = reach(&LOOPBACK, &["169.254.169.254", "0.0.0.0/0"]);
    for (name, kind) in kinds("169.254.169.254", 80) {
        let error = list(kind, &reach).await;
        assert!(
            matches!(&error, OriginError::NotAllowed(text) if text.contains("for the machine itself")),
            "{name}: {error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_the_api_server_is_refused_while_another_one_at_the_same_address_is_asked() {
    let server = Server::leading_to("/").await;
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let api_server = other.local_addr().unwrap();
    // A name of two addresses is reached at neither.
    let reach = reach(&[&api_server.to_string(), &format!("[::1]:{}", api_server.port())], &[]);
    for host in ["127.0.0.1", "localhost"] {
        for (name, kind) in kinds(host, api_server.port()) {
            let error = list(kind, &reach).await;
            assert!(
                matches!(error, OriginError::NotAllowed(_)),
                "{name} at {host}: {error:?}"
            );
        }
        for (name, kind) in kinds(host, server.address.port()) {
            let error = list(kind, &reach).await;
            assert!(
                !matches!(error, OriginError::NotAllowed(_)),
                "{name} at {host}: {error:?}"
            );
        }
    }
    other.set_nonblocking(true).unwrap();
    assert!(other.accept().is_err(), "somebody connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_lead_to_no_such_address() {
    let inner = Server::leading_to("/").await;
    for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "0x7f000001"] {
        let target = format!("http://{host}:{}/secret", inner.address.port());
        let outer = Server::leading_to(&target).await;
        let reach = reach(&LOOPBACK, &[&outer.address.to_string()]);
        for (name, kind) in kinds("127.0.0.1", outer.address.port()) {
            if name == "hdfs" {
                continue;
            }
            let error = list(kind, &reach).await;
            let (asked, says) = (outer.asked(), error.to_string());
            assert!(asked > 0, "{name} to {host}: {error}");
            // Redirects are followed by none; the hub's own lead to files, and there is none here.
            assert!(
                !matches!(error, OriginError::Unreachable(_)),
                "{name} to {host}: {says}"
            );
        }
    }
    assert_eq!(inner.asked(), 0, "somebody followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_made_before_is_not_used_when_its_address_is_not_allowed_any_more() {
    let server = Server::leading_to("/").await;
    let reach = Reach::default();
    for (name, kind) in kinds("localhost", server.address.port()) {
        let source = wire::Source {
            origin: Some(kind),
            ..Default::default()
        };
        let origin = client_within(&source, &Environment::default(), &reach, &Tally::default()).unwrap();
        reach.set(&[], &[]);
        let error = origin.list_all().await.unwrap_err();
        assert!(!matches!(error, OriginError::NotAllowed(_)), "{name}: {error:?}");
        reach.set(&LOOPBACK.map(str::to_owned), &[]);
        let error = origin.list_all().await.unwrap_err();
        assert!(matches!(error, OriginError::NotAllowed(_)), "{name}: {error:?}");
    }
}
