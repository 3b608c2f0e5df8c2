//! The bulk server: who waits does not keep others from what is cached, and silent peers do not stay.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use penstock_cache_node::Engine;
use penstock_cache_node::report::Counters;
use penstock_cache_node::server::bulk::BulkServer;
use penstock_cache_node::server::node::Node;
use penstock_protocol::checksum::first_mismatch;
use penstock_protocol::frame::{HEADER_BYTES, Header, Kind, Status};
use penstock_protocol::ids::RevisionId;
use penstock_revision::Package;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::generated::{Generated, bytes};

const MIB: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    pub address: std::net::SocketAddr,
    serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Server {
    pub async fn of(engine: &Engine, silence_max: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::open(engine.clone(), &[folder.path().into()], None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            serving: tokio::spawn(BulkServer::with_silence_max(node, silence_max).serve(listener)),
            _folder: folder,
        }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn ask(stream: &mut TcpStream, revision: RevisionId, address: u64, length: u32) {
    ask_by(Kind::Read, stream, revision, address, length).await;
}

pub async fn ask_by(
    kind: Kind,
    stream: &mut (impl AsyncWrite + Unpin),
    revision: RevisionId,
    address: u64,
    length: u32,
) {
    let request = Header::request(kind, address, revision, address, length, 0);
    stream.write_all(&request.encode()).await.unwrap();
    stream.flush().await.unwrap();
}

/// The next answer: its header and its body.
pub async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> (Header, Vec<u8>) {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await.unwrap();
    let header = Header::decode(&header).unwrap();
    let sums = if header.kind == Kind::Data {
        header.checksum_bytes()
    } else {
        0
    };
    let mut body = vec![0; sums + header.length as usize];
    stream.read_exact(&mut body).await.unwrap();
    (header, body)
}

pub fn assert_data(package: &Package, (header, body): (Header, Vec<u8>), expected: &[u8]) {
    let text = || String::from_utf8_lossy(&body).into_owned();
    assert_eq!((header.kind, header.status), (Kind::Data, Status::Ok), "{}", text());
    assert_eq!(damaged_block(package, header, &body), None);
    assert!(body[header.checksum_bytes()..].starts_with(expected));
}

fn damaged_block(package: &Package, header: Header, body: &[u8]) -> Option<usize> {
    let (sums, bytes) = body.split_at(header.checksum_bytes());
    let sums: Vec<u32> = sums
        .chunks(4)
        .map(|sum| u32::from_le_bytes(sum.try_into().unwrap()))
        .collect();
    first_mismatch(&package.space(), header.address, bytes, &sums)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_stuck_keeps_neither_hits_nor_the_misses_of_others_from_being_read() {
    let objects = (0..100).map(|number| (format!("o{number:02}"), MIB));
    let (stuck, well) = (
        Generated::new("generated://", objects),
        Generated::new("well://", [("cached".to_owned(), 5000), ("cold".to_owned(), 5001)]),
    );
    let package = Generated::package_of(&[&stuck, &well]).await;
    let folder = tempfile::tempdir().unwrap();
    let engine = Generated::engine_of(&[&stuck, &well], &package, folder.path(), 1 << 40);
    let server = Server::of(&engine, PATIENCE).await;
    let extents: Vec<_> = package.all_extents().map(Result::unwrap).collect();
    let address = |bytes: u64| extents.iter().find(|extent| extent.bytes == bytes).unwrap().address;
    let mut other = server.connect().await;
    ask(&mut other, package.id(), address(5000), 8192).await;
    assert_data(&package, answer(&mut other).await, &bytes(0..5000));

    stuck.allow(0);
    let mut waiting = Vec::new();
    for extents in extents
        .iter()
        .filter(|extent| extent.bytes == MIB)
        .collect::<Vec<_>>()
        .chunks(50)
    {
        let mut stream = server.connect().await;
        for extent in extents {
            ask(&mut stream, package.id(), extent.address, 4096).await;
        }
        waiting.push((stream, extents.len()));
    }
    while stuck.asked().len() < 64 {
        tokio::task::yield_now().await;
    }
    for bytes_of in [5000, 5001] {
        ask(&mut other, package.id(), address(bytes_of), 8192).await;
        assert_data(&package, answer(&mut other).await, &bytes(0..bytes_of));
    }
    stuck.allow(u64::MAX);
    for (mut stream, count) in waiting {
        for _ in 0..count {
            assert_data(&package, answer(&mut stream).await, &bytes(0..4096));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_nothing_loses_its_connection_with_everything_it_asked_for() {
    let (origin, folder) = (Generated::one(4 * MIB), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), 1 << 40);
    let server = Server::of(&engine, Duration::from_millis(200)).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut silent = socket.connect(server.address).await.unwrap();
    for _ in 0..32 {
        ask(&mut silent, package.id(), 0, 4 * MIB as u32).await;
    }
    let cut_off = tokio::time::timeout(PATIENCE, silent.ready(Interest::ERROR)).await;
    cut_off.expect("the connection stays").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_blocks_are_sent_unread_and_mended_for_the_client_that_found_them_damaged() {
    let (origin, folder) = (Generated::one(MIB), tempfile::tempdir().unwrap());
    let package = origin.package().await;
    let engine = origin.engine(&package, folder.path(), 1 << 40);
    let server = Server::of(&engine, PATIENCE).await;
    let mut stream = server.connect().await;
    let whole = MIB as u32;
    let damaged_blocks = || Counters::get(&engine.counters().damaged_blocks);
    for _ in 0..2 {
        ask(&mut stream, package.id(), 0, whole).await;
        assert_data(&package, answer(&mut stream).await, &bytes(0..MIB));
    }

    let stripe = folder.path().join(format!("v1/{}/0.data", package.space()));
    let data = std::fs::OpenOptions::new().write(true).open(stripe).unwrap();
    data.write_all_at(&[!bytes(20_000..20_001)[0]], 20_000).unwrap();
    ask(&mut stream, package.id(), 0, whole).await;
    let (header, body) = answer(&mut stream).await;
    assert_eq!(
        damaged_block(&package, header, &body),
        Some(4),
        "it was read on the way"
    );
    assert_eq!(damaged_blocks(), 0);

    ask_by(Kind::ReadChecked, &mut stream, package.id(), 0, whole).await;
    assert_data(&package, answer(&mut stream).await, &bytes(0..MIB));
    assert_eq!(damaged_blocks(), 1);
    ask(&mut stream, package.id(), 0, whole).await;
    assert_data(&package, answer(&mut stream).await, &bytes(0..MIB));
    assert_eq!(Counters::get(&engine.counters().hit_bytes), 3 * MIB);
}
