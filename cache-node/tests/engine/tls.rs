//! The bulk protocol over TLS: the same bytes, for those who can prove that they belong here, and a sentence for others.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_cache_client::CacheClient;
use penstock_cache_node::Engine;
use penstock_cache_node::report::Counters;
use penstock_cache_node::server::bulk::BulkServer;
use penstock_cache_node::server::node::Node;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::frame::{HEADER_BYTES, Header, Kind, Status};
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ring::{Member, Ring};
use penstock_revision::Package;
use penstock_tls::Identity;
use penstock_tls::test_support::Authority;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::bulk::{answer, ask_by, assert_data};
use crate::generated::{Generated, bytes};

const MIB: u64 = 1 << 20;
const HOST: &str = "127.0.0.1";
const PATIENCE: Duration = Duration::from_secs(20);

fn identity(authority: &Authority, names: &[&str]) -> Arc<Identity> {
    let folder = tempfile::tempdir().unwrap();
    authority.identify(names, folder.path()).unwrap();
    Identity::open(folder.path()).unwrap()
}

/// A node alone in its ring, with one object in its origin.
struct Alone {
    origin: Generated,
    node: Node,
    package: Package,
    engine: Engine,
    address: String,
    serving: JoinHandle<()>,
    _folders: [TempDir; 2],
}

impl Alone {
    async fn begin(object_bytes: u64, identity: Option<Arc<Identity>>, silence_max: Duration) -> Self {
        let origin = Generated::one(object_bytes);
        let package = origin.package().await;
        // On a disk, where it can be sent unread.
        let folders = ["/var/tmp", "/tmp"].map(|place| tempfile::tempdir_in(place).unwrap());
        let engine = origin.engine(&package, folders[0].path(), 1 << 40);
        let node = Node::open(engine.clone(), &[folders[1].path().into()], identity).unwrap();
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let member = wire::Member {
            name: "alone".into(),
            address: address.clone(),
            weight: 1,
        };
        let config = wire::NodeConfig {
            generation: 1,
            ring_epoch: 1,
            members: vec![member],
            datasets: Vec::new(),
            ..Default::default()
        };
        node.apply(config).await.unwrap();
        Generated::announce(&[&origin], &package, &engine);
        let server = BulkServer::with_silence_max(node.clone(), silence_max);
        Self {
            origin,
            node,
            package,
            engine,
            address,
            serving: tokio::spawn(server.serve(listener)),
            _folders: folders,
        }
    }

    /// Has the ring be of these members.
    async fn tell_members(&self, members: Vec<wire::Member>) {
        let config = wire::NodeConfig {
            generation: 2,
            ring_epoch: 2,
            members,
            datasets: Vec::new(),
            ..Default::default()
        };
        self.node.apply(config).await.unwrap();
        Generated::announce(&[&self.origin], &self.package, &self.engine);
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_same_authority_reads_the_same_bytes_cold_and_warm() {
    let authority = Authority::new().unwrap();
    let node = Alone::begin(9 * MIB + 5000, Some(identity(&authority, &[HOST])), PATIENCE).await;
    let seeds = vec![node.address.clone()];
    let client = CacheClient::with_identity(seeds, PATIENCE, Some(identity(&authority, &[])));
    let extent = node.package.all_extents().next().unwrap().unwrap();
    let length = extent.bytes.next_multiple_of(4096);
    for _ in 0..2 {
        let range = BlockRange::new(extent.address, length).unwrap();
        let mut into = vec![0xAA; length as usize];
        client
            .read(&node.package.id(), &node.package.space(), range, &mut into)
            .await
            .unwrap();
        assert!(into.starts_with(&bytes(0..extent.bytes)));
    }
    assert_eq!(Counters::get(&node.engine.counters().origin_bytes), extent.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_in_flight_on_one_connection_are_answered_whole() {
    let authority = Authority::new().unwrap();
    let node = Alone::begin(32 * MIB, Some(identity(&authority, &[HOST])), PATIENCE).await;
    let client = identity(&authority, &[]);
    let mut stream = client.connect(&node.address, node.connect().await).await.unwrap();
    let pieces: Vec<u64> = (0..32).map(|piece| piece * MIB).collect();
    for _ in 0..2 {
        for address in &pieces {
            ask_by(Kind::Read, &mut stream, node.package.id(), *address, MIB as u32).await;
        }
        let mut answered = Vec::new();
        for _ in &pieces {
            let answer = answer(&mut stream).await;
            let at = answer.0.address;
            answered.push(at);
            assert_data(&node.package, answer, &bytes(at..at + MIB));
        }
        answered.sort_unstable();
        assert_eq!(answered, pieces);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_tls_is_told_so_and_gets_nothing() {
    let authority = Authority::new().unwrap();
    let node = Alone::begin(MIB, Some(identity(&authority, &[HOST])), PATIENCE).await;
    let mut stream = node.connect().await;
    ask_by(Kind::Read, &mut stream, node.package.id(), 0, 4096).await;
    let (header, text) = answer(&mut stream).await;
    assert_eq!((header.kind, header.status), (Kind::Error, Status::Unsupported));
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("TLS only") && text.contains("--tls"), "{text}");
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    // As its client says it.
    let client = CacheClient::new(vec![node.address.clone()], Duration::from_millis(500));
    let error = client.package(&node.package.id(), |_| Ok(())).await.unwrap_err();
    assert!(error.to_string().contains("TLS only"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_an_identity_leaves_a_node_that_has_none_or_one_of_another_authority() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    for (other, says) in [
        (None, "greeting of TLS failed"),
        (Some(identity(&theirs, &[HOST])), "certificate"),
    ] {
        let node = Alone::begin(MIB, other, PATIENCE).await;
        let seeds = vec![node.address.clone()];
        let client = CacheClient::with_identity(seeds, Duration::from_millis(500), Some(identity(&ours, &[])));
        let error = client.package(&node.package.id(), |_| Ok(())).await.unwrap_err();
        let error = error.to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_nothing_of_what_is_sealed_is_cut_off() {
    let authority = Authority::new().unwrap();
    let silence_max = Duration::from_millis(300);
    let node = Alone::begin(32 * MIB, Some(identity(&authority, &[HOST])), silence_max).await;
    let client = identity(&authority, &[]);
    let mut stream = client.connect(&node.address, node.connect().await).await.unwrap();
    for piece in 0..32 {
        ask_by(Kind::Read, &mut stream, node.package.id(), piece * MIB, MIB as u32).await;
    }
    // Cut off in the middle of an answer, so a reset and no end.
    let (socket, _) = stream.get_ref();
    let cut_off = tokio::time::timeout(PATIENCE, socket.ready(tokio::io::Interest::ERROR)).await;
    assert!(cut_off.unwrap().unwrap().is_error());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_with_the_end_of_the_greeting_is_answered() {
    let authority = Authority::new().unwrap();
    let node = Alone::begin(MIB, Some(identity(&authority, &[HOST])), PATIENCE).await;
    let (address, revision, client) = (node.address.clone(), node.package.id(), identity(&authority, &[]));
    let asking = tokio::task::spawn_blocking(move || {
        let mut socket = std::net::TcpStream::connect(&address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = ServerName::try_from(HOST).unwrap();
        let mut connection = ClientConnection::new(client.client_config(), host).unwrap();
        connection.write_tls(&mut socket).unwrap();
        while connection.is_handshaking() {
            connection.read_tls(&mut socket).unwrap();
            connection.process_new_packets().unwrap();
        }
        let request = Header::request(Kind::Read, 1, revision, 0, 4096, 0).encode();
        connection.writer().write_all(&request).unwrap();
        let mut all = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut all).unwrap();
        }
        socket.write_all(&all).unwrap();
        let mut header = [0; HEADER_BYTES];
        let mut stream = rustls::Stream::new(&mut connection, &mut socket);
        stream.read_exact(&mut header).map(|()| Header::decode(&header))
    });
    let answered = asking.await.unwrap().unwrap().unwrap();
    assert_eq!((answered.kind, answered.request_id), (Kind::Data, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_accepted_is_told_why() {
    let (ours, theirs) = (Authority::new().unwrap(), Authority::new().unwrap());
    let node = Alone::begin(MIB, Some(identity(&ours, &[HOST])), PATIENCE).await;
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    ours.identify(&[], folders[0].path()).unwrap();
    theirs.identify(&[], folders[1].path()).unwrap();
    // It trusts the node, which does not trust it.
    std::fs::copy(folders[0].path().join("ca.crt"), folders[1].path().join("ca.crt")).unwrap();
    let stranger = Identity::open(folders[1].path()).unwrap();
    let client = CacheClient::with_identity(vec![node.address.clone()], Duration::from_millis(500), Some(stranger));
    let error = client.package(&node.package.id(), |_| Ok(())).await.unwrap_err();
    assert!(error.to_string().contains("does not accept our certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_plainly_and_says_no_more_is_left() {
    let authority = Authority::new().unwrap();
    let node = Alone::begin(MIB, Some(identity(&authority, &[HOST])), PATIENCE).await;
    for begun in ["", "P", "\x16"] {
        let mut stream = node.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{begun:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_greet_is_left_within_two_seconds() {
    let authority = Authority::new().unwrap();
    let node = Alone::begin(MIB, Some(identity(&authority, &[HOST])), PATIENCE).await;
    // The kernel accepts for it.
    let hung = TcpListener::bind((HOST, 0)).await.unwrap();
    let addresses = [hung.local_addr().unwrap().to_string(), node.address.clone()];
    let members = |number: u32| -> Vec<wire::Member> {
        let member = |(which, address): (&str, &String)| wire::Member {
            name: format!("{which}-{number}"),
            address: address.clone(),
            weight: 1,
        };
        ["hung", "well"].into_iter().zip(&addresses).map(member).collect()
    };
    let asked_first = |members: &[wire::Member]| {
        let members = members.iter().map(|of| Member {
            name: of.name.clone(),
            address: of.address.clone(),
            weight: of.weight,
        });
        let ring = Ring {
            epoch: 2,
            members: members.collect(),
        };
        ring.owners(&node.package.space(), 0)[0].address.clone()
    };
    let members = (0..).map(members).find(|members| asked_first(members) == addresses[0]);
    node.tell_members(members.unwrap()).await;
    let seeds = vec![node.address.clone()];
    let client = CacheClient::with_identity(seeds, PATIENCE, Some(identity(&authority, &[])));
    let (begun, mut into) = (Instant::now(), [0; 4096]);
    let range = BlockRange::new(0, 4096).unwrap();
    let (revision, space) = (node.package.id(), node.package.space());
    client.read(&revision, &space, range, &mut into).await.unwrap();
    assert!(into == *bytes(0..4096));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_nodes_ask_each_other_over_tls() {
    let authority = Authority::new().unwrap();
    let node = Alone::begin(MIB, Some(identity(&authority, &[HOST])), PATIENCE).await;
    node.node.keep(&node.package).await.unwrap();
    let beside = Alone::begin(MIB, Some(identity(&authority, &[HOST])), PATIENCE).await;
    let (revision, from) = (node.package.id(), vec![node.address.clone()]);
    let fetched = beside.node.fetch_package(&revision, from).await;
    assert_eq!(fetched.unwrap().id(), revision);
}
