//! One cache node of this node: asks it for the files of stripes, tells it what was read from them, and closes them. All of it
//! may wait for the peer or a disk, so it is done on a thread of its own.
//!
//! *Hidden contract*: the queue of the thread is short. A session asks one question at a time, there is one request to say what
//! was read, and as many files to close as may be open.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use penstock_descriptors as descriptors;
use penstock_protocol::control::neighbour::{
    FromCacheNode, Open, Range, ToCacheNode, Used, from_cache_node, to_cache_node,
};
use penstock_protocol::geometry::BlockRange;
use penstock_protocol::ids::RevisionId;
use prost::Message;

use super::stripe::Part;
use super::stripes;
use crate::limits::{NEIGHBOUR_PATIENCE, NEIGHBOUR_SILENCE, NEIGHBOUR_TIERS_MAX, USED_INTERVAL, USED_RANGES_MAX};

pub(super) struct Neighbour {
    work: Sender<Work>,
    unsaid: Arc<Mutex<Unsaid>>,
}

/// What the thread does.
pub(super) enum Work {
    /// Open a stripe for a session.
    Open(Arc<stripes::Inner>, Arc<Neighbour>, u64),
    /// Read the side file of a stripe, which is not in memory.
    Warm(Arc<stripes::Inner>, u64),
    /// Say what was read.
    Say,
    /// Close files; the place that they had is free then.
    Close(Vec<Part>, tokio::sync::OwnedSemaphorePermit),
}

/// What was read and the cache node was not told yet.
struct Unsaid {
    ranges: Vec<(RevisionId, BlockRange)>,
    not_before: Instant,
    /// The thread will say it.
    is_being_said: bool,
}

/// The thread's end of the socket.
pub(super) struct Asking<'a> {
    socket: &'a Path,
    connection: Option<OwnedFd>,
}

impl Neighbour {
    /// The cache node that listens at `socket`, now or later. Its thread ends when this is dropped.
    pub(super) fn start(socket: PathBuf) -> io::Result<Self> {
        let (work, queue) = channel();
        let unsaid = Arc::new(Mutex::new(Unsaid {
            ranges: Vec::new(),
            not_before: Instant::now(),
            is_being_said: false,
        }));
        let of_thread = unsaid.clone();
        let run = move || run(&socket, &queue, &of_thread);
        std::thread::Builder::new().name("neighbour".into()).spawn(run)?;
        Ok(Self { work, unsaid })
    }

    /// Has something done; does not wait.
    pub(super) fn send(&self, work: Work) {
        // The thread ends after the last who could send.
        let _ = self.work.send(work);
    }

    /// Takes note of a read, and sees to it that the cache node hears of it soon. Does not wait.
    pub(super) fn note(&self, revision: &RevisionId, range: BlockRange) {
        let mut unsaid = lock(&self.unsaid);
        unsaid.add(revision, range);
        let is_time = Instant::now() >= unsaid.not_before || unsaid.ranges.len() == USED_RANGES_MAX;
        if is_time && !unsaid.is_being_said {
            unsaid.is_being_said = true;
            self.send(Work::Say);
        }
    }
}

fn run(socket: &Path, queue: &Receiver<Work>, unsaid: &Mutex<Unsaid>) {
    let mut asking = Asking {
        socket,
        connection: None,
    };
    for work in queue {
        match work {
            Work::Open(session, neighbour, stripe) => session.open(neighbour, stripe, &mut asking),
            Work::Warm(session, stripe) => session.warm(stripe),
            Work::Say => say(&mut asking, unsaid),
            Work::Close(files, room) => {
                drop(files);
                drop(room);
            }
        }
    }
}

fn say(asking: &mut Asking<'_>, unsaid: &Mutex<Unsaid>) {
    let ranges = std::mem::take(&mut lock(unsaid).ranges);
    let mut pause = USED_INTERVAL;
    for of_one in ranges.chunk_by(|(one, _), (other, _)| one == other) {
        let letter = to_cache_node::Letter::Used(Used {
            revision: of_one[0].0.as_bytes().to_vec(),
            ranges: of_one.iter().map(|(_, range)| wire(*range)).collect(),
        });
        if let Err(error) = asking.exchange(letter, |_| Ok(())) {
            // It is away; what it does not hear it fetches or evicts a little less well.
            tracing::debug!(socket = %asking.socket.display(), %error, "tell a cache node of this node what was read");
            pause = NEIGHBOUR_SILENCE;
            break;
        }
    }
    let mut unsaid = lock(unsaid);
    unsaid.not_before = Instant::now() + pause;
    unsaid.is_being_said = false;
}

impl Asking<'_> {
    /// Data and side file of a stripe of each tier that has some of it; `None` when the cache node has none. What it sends is not
    /// trusted.
    pub(super) fn files(&mut self, revision: &RevisionId, stripe: u64) -> io::Result<Option<Vec<[File; 2]>>> {
        let letter = to_cache_node::Letter::Open(Open {
            revision: revision.as_bytes().to_vec(),
            stripe,
        });
        let packet = self.exchange(letter, |connection| {
            descriptors::receive(connection.as_fd())?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        })?;
        let answer = FromCacheNode::decode(packet.bytes.as_slice()).map_err(io::Error::other)?;
        let count = packet.descriptors.len();
        let mut files = packet.descriptors.into_iter().map(File::from);
        let pairs: Vec<[File; 2]> = std::iter::from_fn(|| Some([files.next()?, files.next()?])).collect();
        let are_pairs = (1..=NEIGHBOUR_TIERS_MAX).contains(&pairs.len()) && pairs.len() * 2 == count;
        match answer.letter {
            Some(from_cache_node::Letter::Opened(_)) if are_pairs => Ok(Some(pairs)),
            Some(from_cache_node::Letter::NotHere(_)) => Ok(None),
            _ => Err(io::Error::other("an answer that makes no sense")),
        }
    }

    /// Sends a letter and goes on by `then`; on a new connection when the old one's peer was replaced meanwhile.
    fn exchange<T>(
        &mut self,
        letter: to_cache_node::Letter,
        then: impl Fn(&OwnedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        let letter = ToCacheNode { letter: Some(letter) }.encode_to_vec();
        let ask = |connection: OwnedFd| {
            descriptors::send(connection.as_fd(), &letter, &[])?;
            let answer = then(&connection)?;
            Ok::<_, io::Error>((connection, answer))
        };
        let asked = match self.connection.take().map(ask) {
            // A peer that is there and silent has used up the patience.
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Some(Ok(asked)) => Ok(asked),
            Some(Err(_)) | None => descriptors::connect_within(self.socket, NEIGHBOUR_PATIENCE).and_then(ask),
        };
        let (connection, answer) = asked?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

impl Unsaid {
    /// Beyond [`USED_RANGES_MAX`] it is forgotten: it is advice.
    fn add(&mut self, revision: &RevisionId, range: BlockRange) {
        if let Some((of, last)) = self.ranges.last_mut()
            && of == revision
            && last.end() == range.address()
            && let Ok(both) = BlockRange::new(last.address(), last.bytes() + range.bytes())
        {
            *last = both;
        } else if self.ranges.len() < USED_RANGES_MAX {
            self.ranges.push((*revision, range));
        }
    }
}

fn wire(range: BlockRange) -> Range {
    Range {
        address: range.address(),
        bytes: range.bytes(),
    }
}

fn lock(unsaid: &Mutex<Unsaid>) -> MutexGuard<'_, Unsaid> {
    unsaid.lock().unwrap_or_else(PoisonError::into_inner)
}
