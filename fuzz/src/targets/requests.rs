//! What the kernel asks of a FUSE file system, by a session that shows a tree: over a socket instead of /dev/fuse.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use penstock_buffer::BufferPool;
use penstock_descriptors as descriptors;
use penstock_mounter::files::Tree;
use penstock_mounter::{Metrics, ReadFailure, Session, SpaceReader, Start, TryRead};
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};

use super::revisions;
use crate::numbers::Numbers;
use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "requests",
    bytes_max: 1024,
    memory_max: 64 << 20,
    begin,
};

const HEADER_BYTES: usize = 40;
/// Requests of one input.
const REQUESTS_MAX: usize = 8;
/// The number of the last request, which is asked for the attributes of the root.
const LAST: u64 = u64::MAX / 4;
const GET_ATTRIBUTES: u32 = 3;
/// The session answers at once, or hangs.
const PATIENCE: Duration = Duration::from_secs(10);

fn begin() -> Trying {
    let (kernel, connection) = descriptors::pair().expect("there are descriptors");
    descriptors::be_patient(kernel.as_fd(), Some(PATIENCE), Some(PATIENCE)).expect("it is a socket");
    // As much as an answer has at most, or it could not be sent.
    rustix::net::sockopt::set_socket_send_buffer_size(&connection, 4 << 20).expect("it is a socket");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .expect("a runtime begins");
    let image = revisions::built(None, &[("a", 5), ("b/c", 0), ("b/d", 3 << 20)])
        .image()
        .expect("it has an image");
    let session = Session::start(Start {
        descriptors: vec![connection],
        files: Box::new(Tree::open(image.into()).expect("it shows a tree")),
        reader: Arc::new(Half),
        buffers: BufferPool::new(penstock_mounter::limits::READ_BYTES_MAX + 2 * BLOCK_BYTES as usize, 4),
        runtime: runtime.handle().clone(),
        initialised: false,
        notes: None,
        name: "fuzz".to_owned(),
        metrics: Metrics::default(),
    });
    let session = session.expect("a session begins");
    Trying {
        samples: samples(),
        read: Box::new(move |input| {
            let _lives = (&session, &runtime);
            exchange(&kernel, Numbers(input));
        }),
    }
}

/// Has every other block at hand, and gets the others.
struct Half;

#[async_trait]
impl SpaceReader for Half {
    fn try_read(&self, range: BlockRange, _: &mut [u8]) -> TryRead {
        if (range.address() / BLOCK_BYTES).is_multiple_of(2) {
            TryRead::Hit
        } else {
            TryRead::Miss
        }
    }

    async fn read(&self, range: BlockRange, _: &mut [u8]) -> Result<(), ReadFailure> {
        if range.address() == 3 * BLOCK_BYTES {
            return Err(ReadFailure::Unavailable("no such luck".to_owned()));
        }
        Ok(())
    }
}

/// Each request has a length of its own in front of it; the one in its header may be another.
fn exchange(kernel: &OwnedFd, mut requests: Numbers<'_>) {
    let mut asked = vec![LAST];
    for _ in 0..REQUESTS_MAX {
        let length = requests.u8();
        let request = requests.bytes(length.into());
        // A length of nothing would be the end of the socket.
        if request.is_empty() {
            break;
        }
        if let Some(unique) = request.get(8..16) {
            let unique = Numbers(unique).u64();
            if unique == LAST {
                continue;
            }
            asked.push(unique);
        }
        descriptors::send(kernel.as_fd(), request, &[]).expect("the session takes requests");
    }
    let last = request(GET_ATTRIBUTES, LAST, 1, &[]);
    descriptors::send(kernel.as_fd(), &last, &[]).expect("the session takes requests");
    let mut is_answered = false;
    while !is_answered {
        is_answered = check_answer(&receive(kernel), &asked) == LAST;
    }
}

/// Its number.
fn check_answer(answer: &[u8], asked: &[u64]) -> u64 {
    let mut header = Numbers(answer);
    let (length, errno, unique) = (header.u32(), header.u32() as i32, header.u64());
    assert_eq!(length as usize, answer.len());
    assert!(
        (-4095..=0).contains(&errno) && (errno == 0 || answer.len() == 16),
        "{errno}"
    );
    assert!(asked.contains(&unique), "an answer to {unique}, which nobody asked");
    unique
}

fn receive(kernel: &OwnedFd) -> Vec<u8> {
    let mut answer = vec![0; penstock_mounter::limits::READ_BYTES_MAX + 4096];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(kernel, answer.as_mut_slice()));
    answer.truncate(length.expect("the session answers"));
    answer
}

fn request(operation: u32, unique: u64, node: u64, body: &[u8]) -> Vec<u8> {
    let length = (HEADER_BYTES + body.len()) as u32;
    let mut request = [length.to_ne_bytes(), operation.to_ne_bytes()].concat();
    request.extend(unique.to_ne_bytes());
    request.extend(node.to_ne_bytes());
    request.resize(HEADER_BYTES, 0);
    request.extend(body);
    request
}

fn samples() -> Vec<Vec<u8>> {
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_ne_bytes()).collect() };
    let init = words(&[7, 38, 1 << 17, u32::MAX, u32::MAX, 0]);
    let read = |offset: u32, bytes: u32| words(&[0, 0, offset, 0, bytes, 0, 0, 0, 0, 0]);
    let file = 40;
    let requests = [
        vec![
            request(26, 2, 0, &init),
            request(1, 4, 1, b"b\0"),
            request(1, 6, 1, b"none\0"),
        ],
        vec![
            request(3, 2, 1, &[]),
            request(14, 4, file, &[0; 8]),
            request(17, 6, 1, &[]),
            request(22, 8, 1, &[]),
        ],
        vec![
            request(28, 2, 1, &read(0, 4096)),
            request(44, 4, 1, &read(1, 4096)),
            request(23, 6, 1, &words(&[64, 0])),
        ],
        (30..60)
            .map(|node| request(15, node * 2, node, &read(0, 8192)))
            .take(REQUESTS_MAX)
            .collect(),
        vec![
            request(15, 2, file, &read(4096, 100)),
            request(36, 4, file, &[0; 8]),
            request(16, 6, file, &[0; 40]),
        ],
    ];
    let framed = |request: Vec<u8>| [&[request.len() as u8], &request[..]].concat();
    requests
        .map(|requests| requests.into_iter().flat_map(framed).collect())
        .to_vec()
}
