//! Client of the cache nodes: asks the owner of a stripe for blocks, checks them, and goes to the next node when one does
//! not answer.
//!
//! ```text
//! read ──► ring: owners of the stripe, in hash order ──► lane (a connection with one request at a time) ──► checksums
//! ```
//!
//! Must not know FUSE, files or Kubernetes. A member of the ring is a name and a `host:port`; names are looked up anew for
//! each connection, so a cache node may come back at another address.

mod health;
mod lane;
pub mod limits;
mod nodes;
mod patience;
mod probe;
mod round;
mod uses;

use std::sync::Arc;
use std::time::Duration;

use penstock_protocol::checksum::first_mismatch;
use penstock_protocol::frame::{Header, Kind, PACKAGE_BYTES_MAX, READ_BYTES_MAX, Status};
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_protocol::ring::Ring;
use penstock_tls::Identity;

use crate::lane::LaneError;
use crate::nodes::Nodes;
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
    nodes: Arc<Nodes>,
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
        Self::with_identity(seeds, deadline, None)
    }

    /// The same; with an identity it speaks TLS, and only with nodes that do.
    pub fn with_identity(seeds: Vec<String>, deadline: Duration, identity: Option<Arc<Identity>>) -> Self {
        Self(Arc::new(Inner {
            seeds,
            deadline,
            nodes: Arc::new(Nodes::new(identity)),
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
            for member in drift.round(&owners, &self.0.nodes.alive_first(&owners)) {
                let request = Header::request(Kind::Read, 0, *revision, address, into.len() as u32, ring.epoch);
                match self.0.ask_for_blocks(member, request, space, &mut sums, into).await {
                    Outcome::Done => return Ok(()),
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
            self.0.nodes.doubt_ring(ring.epoch);
            patience.wait().await?;
        }
    }

    /// Whose stripe it is (`host:port`); `None` while no ring is known.
    pub fn owner(&self, space: &SpaceId, stripe: u64) -> Option<String> {
        let ring = self.0.nodes.ring()?;
        ring.owners(space, stripe).first().map(|member| member.address.clone())
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
        // Who sent the last piece: it has the next one too.
        let mut source: Option<String> = None;
        'pieces: loop {
            let ring = self.0.ring(&mut patience).await?;
            let members: Vec<&str> = ring.members.iter().map(|member| member.address.as_str()).collect();
            let mut asked = self.0.nodes.alive_first(&members);
            asked.sort_by_key(|member| source.as_deref() != Some(*member));
            for member in asked {
                let request = Header::request(Kind::Package, 0, *revision, offset, PACKAGE_BYTES_MAX, ring.epoch);
                let got = match self.0.ask_some(member, request, &mut piece).await {
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
                source = Some(member.to_owned());
                continue 'pieces;
            }
            source = None;
            self.0.nodes.doubt_ring(ring.epoch);
            patience.wait().await?;
        }
    }
}

impl Inner {
    /// The ring, learnt from a seed if there is none or the known one is doubted.
    async fn ring(&self, patience: &mut Patience) -> Result<Arc<Ring>, ClientError> {
        loop {
            if !self.nodes.ring_is_fresh() {
                self.ask_seeds(patience).await;
            }
            match self.nodes.ring() {
                Some(ring) => return Ok(ring),
                None => patience.wait().await?,
            }
        }
    }

    /// Asks seeds for the ring, until one has told it.
    async fn ask_seeds(&self, patience: &mut Patience) {
        let seeds: Vec<&str> = self.seeds.iter().map(String::as_str).collect();
        for seed in self.nodes.alive_first(&seeds) {
            match self.nodes.probe(seed).wait().await {
                Ok(()) if self.nodes.ring_is_fresh() => return,
                Ok(()) => {}
                Err(said) => patience.last = said,
            }
        }
    }

    /// Asks for blocks that match their checksums. A node may send them unread; what arrives damaged it has to look at.
    async fn ask_for_blocks(
        &self,
        address: &str,
        request: Header,
        space: &SpaceId,
        sums: &mut [u8],
        into: &mut [u8],
    ) -> Outcome {
        for kind in [Kind::Read, Kind::ReadChecked] {
            let outcome = self.ask(address, Header { kind, ..request }, sums, into).await;
            let Outcome::Done = outcome else { return outcome };
            let Some(block) = mismatch(space, request.address, into, sums) else {
                return outcome;
            };
            tracing::warn!(
                address,
                at = request.address,
                block,
                "a block arrived damaged; it is asked for again"
            );
        }
        Outcome::Next(format!("{address} sent a damaged block"))
    }

    /// Asks for exactly `into.len()` bytes with their checksums.
    async fn ask(&self, address: &str, request: Header, sums: &mut [u8], into: &mut [u8]) -> Outcome {
        let asking = self.nodes.round_trip(address, request, async |lane, reply| {
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
        let reply = self.nodes.round_trip(address, request, async |lane, reply| {
            let piece = into.get_mut(..reply.length as usize);
            lane.body(piece.ok_or(LaneError::Nonsense("an answer that is too long"))?)
                .await
        });
        reply.await.map(|reply| reply.length as usize).map_err(|(_, said)| said)
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
