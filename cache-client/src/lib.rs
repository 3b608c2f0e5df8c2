//! Client of the cache nodes: asks the owner of a stripe for blocks, checks them, and goes to the next node when one does
//! not answer.
//!
//! ```text
//! read ──► ring: owners of the stripe, in hash order ──► lane (a connection with one request at a time) ──► checksums
//! ```
//!
//! Must not know FUSE, files or Kubernetes. A member of the ring is a name and a `host:port`; names are looked up anew for
//! each connection, so a cache node may come back at another address.

mod lane;
pub mod limits;
mod patience;
mod round;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use penstock_protocol::checksum::first_mismatch;
use penstock_protocol::frame::{Header, Kind, PACKAGE_BYTES_MAX, READ_BYTES_MAX, Status};
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_protocol::ring::Ring;

use crate::lane::{Lane, LaneError};
use crate::limits::{DEAD_MEMBER_PAUSE, IDLE_LANES_MAX};
use crate::patience::Patience;
use crate::round::Drift;

/// Why something cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The origin no longer has the object in this version, and no cache node that could hold the block has it, or those
    /// that could did not answer until the deadline.
    #[error("{0}")]
    Drifted(String),
    /// Nobody could help until the deadline; says what the last one said.
    #[error("no cache node could help for {seconds} s; the last one: {last}")]
    Unavailable {
        /// How long it was tried.
        seconds: u64,
        /// What the last node said, or why it could not be reached.
        last: String,
    },
}

/// The client; clones share its connections.
#[derive(Clone)]
pub struct CacheClient(Arc<Inner>);

struct Inner {
    seeds: Vec<String>,
    deadline: Duration,
    ring: RwLock<Arc<Ring>>,
    members: Mutex<HashMap<String, Member>>,
}

#[derive(Default)]
struct Member {
    idle: Vec<Lane>,
    /// Not asked before this, because it did not answer.
    dead_until: Option<Instant>,
}

/// How one node answered.
enum Outcome {
    Done,
    /// Another node may know better.
    Next(String),
    Drifted(String),
}

impl CacheClient {
    /// A client that learns of the cache nodes from any of `seeds` (`host:port`) and gives up after `deadline`.
    pub fn new(seeds: Vec<String>, deadline: Duration) -> Self {
        Self(Arc::new(Inner {
            seeds,
            deadline,
            ring: RwLock::default(),
            members: Mutex::default(),
        }))
    }

    /// Reads whole blocks of a revision; `into` has the length of `range`, and every block matches its checksum.
    ///
    /// # Errors
    /// When the object drifted, or nobody could help until the deadline.
    pub async fn read(
        &self,
        revision: &RevisionId,
        space: &SpaceId,
        range: BlockRange,
        into: &mut [u8],
    ) -> Result<(), ClientError> {
        let mut address = range.address();
        for piece in into.chunks_mut(READ_BYTES_MAX as usize) {
            self.read_piece(revision, space, address, piece).await?;
            address += piece.len() as u64;
        }
        Ok(())
    }

    async fn read_piece(
        &self,
        revision: &RevisionId,
        space: &SpaceId,
        address: u64,
        into: &mut [u8],
    ) -> Result<(), ClientError> {
        let stripe = address / penstock_protocol::geometry::STRIPE_BYTES;
        let mut patience = Patience::new(self.0.deadline);
        let mut drift = Drift::default();
        let mut sums = vec![0; into.len() / BLOCK_BYTES as usize * 4];
        loop {
            let ring = self.0.ring(&mut patience).await?;
            let owners: Vec<&str> = ring.owners(space, stripe).iter().map(|m| m.address.as_str()).collect();
            for member in drift.round(&owners, &self.0.alive_first(&owners)) {
                let request = Header::request(Kind::Read, 0, *revision, address, into.len() as u32, ring.epoch);
                match self.0.ask(member, request, &mut sums, into).await {
                    Outcome::Done => match mismatch(space, address, into, &sums) {
                        None => return Ok(()),
                        Some(block) => {
                            tracing::warn!(member, address, block, "a block arrived damaged; it is asked for again");
                            patience.last = format!("{member} sent a damaged block");
                        }
                    },
                    Outcome::Next(said) => patience.last = said,
                    Outcome::Drifted(said) => {
                        drift.said_by(member);
                        patience.drifted = Some(said);
                    }
                }
            }
            if drift.is_final(&owners) {
                return Err(patience.over());
            }
            self.0.forget_ring(ring.epoch);
            patience.wait().await?;
        }
    }

    /// Downloads a package, piece after piece, into `sink`. The caller compares its digest with the revision's id.
    ///
    /// # Errors
    /// When nobody has it until the deadline, or the sink refuses.
    pub async fn package(
        &self,
        revision: &RevisionId,
        mut sink: impl FnMut(&[u8]) -> std::io::Result<()> + Send,
    ) -> Result<(), ClientError> {
        let mut patience = Patience::new(self.0.deadline);
        let mut piece = vec![0; PACKAGE_BYTES_MAX as usize];
        let mut offset = 0u64;
        'pieces: loop {
            let ring = self.0.ring(&mut patience).await?;
            for member in &ring.members {
                let request = Header::request(Kind::Package, 0, *revision, offset, PACKAGE_BYTES_MAX, ring.epoch);
                let got = match self.0.ask_some(&member.address, request, &mut piece).await {
                    Ok(got) => got,
                    Err(said) => {
                        patience.last = said;
                        continue;
                    }
                };
                let refused = |error: std::io::Error| ClientError::Unavailable {
                    seconds: 0,
                    last: error.to_string(),
                };
                sink(&piece[..got]).map_err(refused)?;
                offset += got as u64;
                if got < PACKAGE_BYTES_MAX as usize {
                    return Ok(());
                }
                continue 'pieces;
            }
            self.0.forget_ring(ring.epoch);
            patience.wait().await?;
        }
    }
}

impl Inner {
    /// The ring, learnt from a seed if there is none yet.
    async fn ring(&self, patience: &mut Patience) -> Result<Arc<Ring>, ClientError> {
        loop {
            let known = self.ring.read().unwrap_or_else(PoisonError::into_inner).clone();
            if !known.members.is_empty() {
                return Ok(known);
            }
            for seed in &self.seeds {
                if let Err(said) = self.learn(seed).await {
                    patience.last = said;
                }
            }
            let learnt = !self
                .ring
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .members
                .is_empty();
            if !learnt {
                patience.wait().await?;
            }
        }
    }

    /// Asks one node for its ring and takes it when it is newer.
    async fn learn(&self, address: &str) -> Result<(), String> {
        let request = Header::request(Kind::Ring, 0, RevisionId([0; 32]), 0, 0, 0);
        let mut bytes = vec![0; penstock_protocol::frame::TEXT_BYTES_MAX as usize];
        let got = self.ask_some(address, request, &mut bytes).await?;
        let ring = Ring::decode(&bytes[..got]).map_err(|error| format!("{address}: {error}"))?;
        let mut known = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        if !ring.members.is_empty() && (known.members.is_empty() || ring.epoch > known.epoch) {
            *known = Arc::new(ring);
        }
        Ok(())
    }

    /// After everybody failed: the members may be others now, so the seeds are asked again.
    fn forget_ring(&self, epoch: u64) {
        let mut known = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        if known.epoch == epoch {
            *known = Arc::default();
        }
    }

    /// The same members, those that did not answer lately last.
    fn alive_first<'a>(&self, owners: &[&'a str]) -> Vec<&'a str> {
        let members = self.lock();
        let now = Instant::now();
        let is_dead = |address: &str| {
            members
                .get(address)
                .and_then(|member| member.dead_until)
                .is_some_and(|until| until > now)
        };
        let (dead, alive): (Vec<&str>, Vec<&str>) = owners.iter().partition(|address| is_dead(address));
        alive.into_iter().chain(dead).collect()
    }

    /// Asks for exactly `into.len()` bytes with their checksums.
    async fn ask(&self, address: &str, request: Header, sums: &mut [u8], into: &mut [u8]) -> Outcome {
        let asking = self.round_trip(address, request, async |lane, reply| {
            if reply.length as usize != into.len() {
                return Err(LaneError::Nonsense("an answer of another length"));
            }
            lane.body(sums).await?;
            lane.body(into).await
        });
        match asking.await {
            Ok(_) => Outcome::Done,
            Err((Some(Status::Drifted), said)) => Outcome::Drifted(said),
            Err((_, said)) => Outcome::Next(said),
        }
    }

    /// Asks for at most `into.len()` bytes; returns how many there are.
    async fn ask_some(&self, address: &str, request: Header, into: &mut [u8]) -> Result<usize, String> {
        let reply = self.round_trip(address, request, async |lane, reply| {
            let piece = into.get_mut(..reply.length as usize);
            lane.body(piece.ok_or(LaneError::Nonsense("an answer that is too long"))?)
                .await
        });
        reply.await.map(|reply| reply.length as usize).map_err(|(_, said)| said)
    }

    /// One request on an idle or new lane; `body` reads what follows the header.
    async fn round_trip(
        &self,
        address: &str,
        request: Header,
        body: impl AsyncFnOnce(&mut Lane, &Header) -> Result<(), LaneError>,
    ) -> Result<Header, (Option<Status>, String)> {
        let idle = self.lock().get_mut(address).and_then(|member| member.idle.pop());
        let was_idle = idle.is_some();
        let mut lane = match idle {
            Some(lane) => lane,
            None => self.connect(address).await.map_err(|said| (None, said))?,
        };
        let mut reply = lane.ask(&request).await;
        if was_idle && matches!(reply, Err(LaneError::Closed(_))) {
            // The peer closed it while it was idle; that says nothing about the peer.
            lane = self.connect(address).await.map_err(|said| (None, said))?;
            reply = lane.ask(&request).await;
        }
        let outcome = match reply {
            Ok(reply) if reply.kind == Kind::Error => {
                let text = lane
                    .text(reply.length)
                    .await
                    .map_err(|error| (None, self.dead(address, &error)))?;
                self.give_back(address, lane);
                return Err((Some(reply.status), format!("{address}: {text}")));
            }
            Ok(reply) => body(&mut lane, &reply).await.map(|()| reply),
            Err(error) => Err(error),
        };
        let reply = outcome.map_err(|error| (None, self.dead(address, &error)))?;
        self.give_back(address, lane);
        Ok(reply)
    }

    async fn connect(&self, address: &str) -> Result<Lane, String> {
        Lane::connect(address).await.map_err(|error| self.dead(address, &error))
    }

    /// Remembers that a member did not answer; returns the sentence about it.
    fn dead(&self, address: &str, error: &LaneError) -> String {
        let mut members = self.lock();
        let member = members.entry(address.to_owned()).or_default();
        member.idle.clear();
        member.dead_until = Some(Instant::now() + DEAD_MEMBER_PAUSE);
        format!("{address}: {error}")
    }

    fn give_back(&self, address: &str, lane: Lane) {
        let mut members = self.lock();
        let member = members.entry(address.to_owned()).or_default();
        member.dead_until = None;
        if member.idle.len() < IDLE_LANES_MAX {
            member.idle.push(lane);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first block that does not match its checksum.
fn mismatch(space: &SpaceId, address: u64, bytes: &[u8], sums: &[u8]) -> Option<usize> {
    let expected: Vec<u32> = sums
        .chunks_exact(4)
        .map(|sum| u32::from_le_bytes(std::array::from_fn(|i| sum[i])))
        .collect();
    first_mismatch(space, address, bytes, &expected)
}
