//! A bulk server and whatever is sent to it, cut anywhere: each request that it understands is answered once, or the connection
//! ends.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use penstock_cache_node::server::bulk::BulkServer;
use penstock_cache_node::server::node::Node;
use penstock_protocol::checksum::{crc32c, first_mismatch};
use penstock_protocol::frame::{HEADER_BYTES, Header, Kind};
use penstock_protocol::ids::RevisionId;
use tokio::net::TcpListener;

use super::letters;
use super::revisions::{self, SPACE};
use crate::numbers::Numbers;
use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "bulk",
    bytes_max: 1024,
    memory_max: 64 << 20,
    begin,
};

/// Frames of one connection.
const FRAMES_MAX: usize = 8;
/// The server answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a frame of an input begins with: how it is sent.
const AS_IT_IS: u8 = 0;
const SEALED: u8 = 1;

fn begin() -> Trying {
    // Its bytes are zeros behind the objects, which nobody has to fetch.
    let package = revisions::built(None, &[]);
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime begins");
    let server = runtime.block_on(async {
        let engine = letters::engine(folder.path(), &package);
        let node = Node::open(engine, &[folder.path().into()], None).expect("a node begins");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are ports");
        let server = listener.local_addr().expect("it has one");
        tokio::spawn(BulkServer::new(node).serve(listener));
        server
    });
    Trying {
        samples: samples(package.id()),
        read: Box::new(move |input| {
            let _lives = (&runtime, &folder);
            exchange(server, Numbers(input));
        }),
    }
}

fn samples(revision: RevisionId) -> Vec<Vec<u8>> {
    let kinds = [Kind::Read, Kind::Package, Kind::Ring, Kind::ReadChecked, Kind::Data];
    let requests = kinds.map(|kind| Header::request(kind, 7, revision, 0, 8192, 0).encode());
    let one = |how: u8, frame: &[u8; HEADER_BYTES]| [&[how, 80], &frame[..]].concat();
    let each = requests.iter().map(|request| one(SEALED, request));
    let all = requests.iter().flat_map(|request| one(SEALED, request)).collect();
    let cut = [&[AS_IT_IS, 30], &requests[0][..30], &[AS_IT_IS, 42], &requests[0][30..]].concat();
    each.chain([all, cut]).collect()
}

fn exchange(server: SocketAddr, mut frames: Numbers<'_>) {
    let mut stream = TcpStream::connect(server).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is a socket");
    let mut sent = Vec::new();
    for _ in 0..FRAMES_MAX {
        let (how, length) = (frames.u8(), frames.u8());
        let mut bytes = frames.bytes(length.into()).to_vec();
        if let (SEALED, Some(header)) = (how, bytes.first_chunk_mut::<HEADER_BYTES>()) {
            header[12..16].fill(0);
            let sum = crc32c(header);
            header[12..16].copy_from_slice(&sum.to_le_bytes());
            bytes.truncate(HEADER_BYTES);
        }
        sent.extend(bytes);
    }
    // It may have ended the connection by now.
    let _ = stream.write_all(&sent).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut received = Vec::new();
    if let Err(error) = stream.read_to_end(&mut received) {
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "the server neither answers nor ends"
        );
        return;
    }
    check(&sent, &received);
}

fn check(sent: &[u8], mut received: &[u8]) {
    let (frames, _) = sent.as_chunks();
    let mut unanswered: HashMap<(u64, u64, RevisionId), Vec<Kind>> = HashMap::new();
    for frame in frames {
        let Ok(request) = Header::decode(frame) else {
            // Answered as far as it is about the connection.
            unanswered
                .entry((0, 0, RevisionId([0; 32])))
                .or_default()
                .push(Kind::Error);
            break;
        };
        let key = (request.request_id, request.address, request.revision);
        unanswered.entry(key).or_default().push(request.kind);
    }
    while let Some((header, rest)) = received.split_first_chunk::<HEADER_BYTES>() {
        let answer = Header::decode(header).expect("the server writes frames");
        let kinds = unanswered.get_mut(&(answer.request_id, answer.address, answer.revision));
        let kinds = kinds
            .filter(|kinds| !kinds.is_empty())
            .expect("a request is answered once");
        let is_read = |kind: &Kind| matches!(kind, Kind::Read | Kind::ReadChecked);
        let sums = match answer.kind {
            Kind::Data if kinds.iter().all(is_read) => answer.checksum_bytes(),
            // Two requests of one number, and nobody knows which was answered.
            Kind::Data if kinds.iter().any(is_read) => return,
            Kind::Data | Kind::Error => 0,
            other => panic!("{other:?} is no answer"),
        };
        kinds.pop();
        let (sums, rest) = rest.split_at_checked(sums).expect("an answer is sent whole");
        let (body, rest) = rest
            .split_at_checked(answer.length as usize)
            .expect("an answer is sent whole");
        if !sums.is_empty() {
            let sums: Vec<u32> = sums.chunks_exact(4).map(|sum| Numbers(sum).u32()).collect();
            assert_eq!(first_mismatch(&SPACE, answer.address, body, &sums), None);
            assert!(body.iter().all(|byte| *byte == 0), "there is nothing in the space");
        }
        received = rest;
    }
    assert!(received.is_empty(), "an answer is sent whole");
}
