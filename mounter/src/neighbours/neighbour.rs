//! One cache node of this node: asks it for the files of stripes, and tells it what was read from them. All of it waits for
//! the peer, a bounded time, so it is done where nobody else has to.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use penstock_descriptors as descriptors;
use penstock_protocol::control::neighbour::{
    FromCacheNode, Open, Range, ToCacheNode, Used, from_cache_node, to_cache_node,
};
use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::RevisionId;
use prost::Message;

use crate::limits::{NEIGHBOUR_PATIENCE, USED_INTERVAL, USED_RANGES_MAX};

pub(super) struct Neighbour {
    socket: PathBuf,
    connection: Mutex<Option<OwnedFd>>,
    unsaid: Mutex<Unsaid>,
}

/// What was read and the cache node was not told yet.
struct Unsaid {
    ranges: Vec<(RevisionId, BlockRange)>,
    said: Instant,
    /// Somebody is about to say it.
    is_being_said: bool,
}

impl Neighbour {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            connection: Mutex::default(),
            unsaid: Mutex::new(Unsaid {
                ranges: Vec::new(),
                said: Instant::now(),
                is_being_said: false,
            }),
        }
    }

    /// Data and side file of a stripe; `None` when the cache node has none. What it sends is not trusted.
    pub(super) fn open(&self, revision: &RevisionId, stripe: u64) -> io::Result<Option<[File; 2]>> {
        let letter = to_cache_node::Letter::Open(Open {
            revision: revision.as_bytes().to_vec(),
            stripe,
        });
        let packet = self.on_connection(letter, |connection| {
            descriptors::receive(connection.as_fd())?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        })?;
        let answer = FromCacheNode::decode(packet.bytes.as_slice()).map_err(io::Error::other)?;
        let files = <[OwnedFd; 2]>::try_from(packet.descriptors).map(|files| files.map(File::from));
        match (answer.letter, files) {
            (Some(from_cache_node::Letter::Opened(_)), Ok(files)) => Ok(Some(files)),
            (Some(from_cache_node::Letter::NotHere(_)), _) => Ok(None),
            _ => Err(io::Error::other("an answer that makes no sense")),
        }
    }

    /// Takes note of a read, and sees to it that the cache node hears of it soon. Does not wait.
    pub(super) fn note(self: &Arc<Self>, revision: &RevisionId, range: BlockRange, runtime: &tokio::runtime::Handle) {
        let mut unsaid = self.unsaid();
        unsaid.add(revision, range);
        let is_time = unsaid.said.elapsed() >= USED_INTERVAL || unsaid.ranges.len() == USED_RANGES_MAX;
        if is_time && !unsaid.is_being_said {
            unsaid.is_being_said = true;
            let neighbour = self.clone();
            runtime.spawn_blocking(move || neighbour.say());
        }
    }

    fn say(&self) {
        let ranges = std::mem::take(&mut self.unsaid().ranges);
        for of_one in ranges.chunk_by(|(one, _), (other, _)| one == other) {
            let letter = to_cache_node::Letter::Used(Used {
                revision: of_one[0].0.as_bytes().to_vec(),
                ranges: of_one.iter().map(|(_, range)| wire(*range)).collect(),
            });
            if let Err(error) = self.on_connection(letter, |_| Ok(())) {
                // It is away; what it does not hear it fetches or evicts a little less well.
                tracing::debug!(socket = %self.socket.display(), %error, "tell a cache node of this node what was read");
                break;
            }
        }
        let mut unsaid = self.unsaid();
        unsaid.said = Instant::now();
        unsaid.is_being_said = false;
    }

    /// Sends a letter and goes on by `then`; on a new connection when the old one's peer was replaced meanwhile.
    fn on_connection<T>(
        &self,
        letter: to_cache_node::Letter,
        then: impl Fn(&OwnedFd) -> io::Result<T>,
    ) -> io::Result<T> {
        let letter = ToCacheNode { letter: Some(letter) }.encode_to_vec();
        let mut place = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let ask = |connection: OwnedFd| {
            descriptors::send(connection.as_fd(), &letter, &[])?;
            let answer = then(&connection)?;
            Ok::<_, io::Error>((connection, answer))
        };
        let asked = match place.take().map(ask) {
            // A peer that is there and silent has used up the patience.
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Some(Ok(asked)) => Ok(asked),
            Some(Err(_)) | None => descriptors::connect_within(&self.socket, NEIGHBOUR_PATIENCE).and_then(ask),
        };
        let (connection, answer) = asked?;
        *place = Some(connection);
        Ok(answer)
    }

    fn unsaid(&self) -> MutexGuard<'_, Unsaid> {
        self.unsaid.lock().unwrap_or_else(PoisonError::into_inner)
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
    debug_assert!(range.bytes() <= STRIPE_BYTES);
    Range {
        address: range.address(),
        bytes: range.bytes(),
    }
}
