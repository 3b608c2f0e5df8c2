//! The engine: reads blocks of revisions, from the store or through it from the origins.
//!
//! *Every way in which a wrong byte could reach a reader, and what stops it*: the wrong version of an object (the origin's
//! If-Match, see the origin), damage or a misplaced block in the store (checksum seeded with the place, at every read), a
//! cut or long body (`fetch` counts), two revisions with one address (a space never gives an address twice).

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use penstock_buffer::{Buffer, BufferPool};
use penstock_protocol::checksum::block_checksum;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, STRIPE_BYTES, round_up_to_block};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::{Extent, Package};
use tokio::sync::Semaphore;

use crate::fetch::Fetch;
use crate::inflight::{self, Arrived, InFlight, Unit};
use crate::limits::{
    DAMAGED_BLOCK_ATTEMPTS_MAX, DRIFTS_REPORTED_MAX, FOLLOWED_READS_MAX, ORIGIN_REQUESTS_MAX, UNIT_BYTES_MAX,
};
use crate::origin::{Origin, OriginError};
use crate::plan::{self, Followed, Reach};
use crate::report::{Counters, Drift, Report};
use crate::store::{Look, Store};

/// One tier of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierConfig {
    /// Name in the CacheRuntime.
    pub name: String,
    /// Its folder; made if it is not there.
    pub path: PathBuf,
    /// Bytes that it may hold.
    pub capacity_bytes: u64,
}

/// What an engine begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Where it stores.
    pub tier: TierConfig,
}

/// Why an engine cannot begin.
#[derive(Debug, thiserror::Error)]
#[error("open the cache folder {}: {source}; it has to be a folder that this user can write", .path.display())]
pub struct OpenError {
    /// The folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// A Dataset as far as reads go.
#[derive(Clone)]
pub struct Dataset {
    /// UID of the object.
    pub uid: String,
    /// Its sources.
    pub origins: Vec<Arc<dyn Origin>>,
    /// The revisions that may be read.
    pub revisions: Vec<Package>,
}

/// Why blocks cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The revision was not announced here.
    #[error("this cache node does not know revision {0}")]
    UnknownRevision(RevisionId),
    /// The origin no longer has the object in this version.
    #[error("{0}")]
    Drifted(String),
    /// The origin cannot be reached or refuses; it may pass.
    #[error("{0}")]
    Unavailable(String),
}

impl From<OriginError> for ReadError {
    fn from(error: OriginError) -> Self {
        match error {
            OriginError::Drifted(text) => Self::Drifted(text),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// What a look without waiting found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRead {
    /// All bytes are in the buffer and match their checksums.
    Hit,
    /// Not all of it is stored.
    Miss,
}

/// The engine; clones share everything.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) in_flight: InFlight,
    pub(crate) counters: Counters,
    pub(crate) origin_requests: Arc<Semaphore>,
    pub(crate) buffers: BufferPool,
    revisions: RwLock<HashMap<RevisionId, Arc<Announced>>>,
    followed: Mutex<HashMap<(SpaceId, u64), Followed>>,
    drifts: Mutex<VecDeque<Drift>>,
    sharded: AtomicBool,
}

struct Announced {
    package: Package,
    /// By the number of the source in the package; `None` when the Dataset no longer has it.
    origins: Vec<Option<Arc<dyn Origin>>>,
}

/// The parts of a read that are not in the store.
struct Gathered {
    /// Addresses that belong to no object: zeros.
    gaps: Vec<Range<u64>>,
    /// Units that the store did not take.
    passed: Vec<(Arc<Unit>, Arc<Buffer>)>,
}

impl Engine {
    /// Adopts what the folder of the tier holds.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(config: EngineConfig) -> Result<Self, OpenError> {
        let path = config.tier.path.clone();
        let store = Store::open(config.tier).map_err(|source| OpenError { path, source })?;
        Ok(Self(Arc::new(Inner {
            store,
            in_flight: InFlight::default(),
            counters: Counters::default(),
            origin_requests: Arc::new(Semaphore::new(ORIGIN_REQUESTS_MAX)),
            buffers: BufferPool::new(UNIT_BYTES_MAX as usize, ORIGIN_REQUESTS_MAX),
            revisions: RwLock::default(),
            followed: Mutex::default(),
            drifts: Mutex::default(),
            sharded: AtomicBool::new(false),
        })))
    }

    /// Replaces what may be read. Removes the spaces of other revisions unless `keep_other_spaces`, which is right while a
    /// package that was announced has not been found yet.
    pub fn set_datasets(&self, datasets: &[Dataset], keep_other_spaces: bool) {
        let mut revisions = HashMap::new();
        let mut spaces = HashSet::new();
        for Dataset {
            uid: _,
            origins,
            revisions: packages,
        } in datasets
        {
            for package in packages {
                let named = |identity: &String| origins.iter().find(|origin| origin.identity() == *identity).cloned();
                let origins = package.sources().iter().map(named).collect();
                spaces.insert(package.space());
                revisions.insert(
                    package.id(),
                    Arc::new(Announced {
                        package: package.clone(),
                        origins,
                    }),
                );
            }
        }
        *self.0.revisions.write().unwrap_or_else(PoisonError::into_inner) = revisions;
        if !keep_other_spaces {
            self.0.store.keep_only(&spaces);
        }
    }

    /// Says whether neighbouring stripes may belong to other nodes, so that nothing is fetched for them here.
    pub fn set_sharded(&self, sharded: bool) {
        self.0.sharded.store(sharded, Ordering::Relaxed);
    }

    /// The package of an announced revision.
    pub fn package(&self, revision: &RevisionId) -> Option<Package> {
        self.0.announced(revision).map(|announced| announced.package.clone())
    }

    /// Reads whole blocks that are stored, without waiting for an origin. `into` has the length of `range`; `checksums`, if
    /// given, one entry a block.
    pub fn try_read(
        &self,
        revision: &RevisionId,
        range: BlockRange,
        into: &mut [u8],
        checksums: Option<&mut [u32]>,
    ) -> TryRead {
        let Some(announced) = self.0.announced(revision) else {
            return TryRead::Miss;
        };
        let look = self.0.look(&announced.package.space(), range, into, checksums);
        if look == TryRead::Hit {
            Counters::add(&self.0.counters.hit_bytes, range.bytes());
        }
        look
    }

    /// Reads whole blocks, fetching what is missing. Arguments as for [`Engine::try_read`].
    ///
    /// # Errors
    /// See [`ReadError`]. A fault of the store is none.
    pub async fn read(
        &self,
        revision: &RevisionId,
        range: BlockRange,
        into: &mut [u8],
        mut checksums: Option<&mut [u32]>,
    ) -> Result<(), ReadError> {
        let announced = self
            .0
            .announced(revision)
            .ok_or(ReadError::UnknownRevision(*revision))?;
        let space = announced.package.space();
        if self.0.look(&space, range, into, checksums.as_deref_mut()) == TryRead::Hit {
            Counters::add(&self.0.counters.hit_bytes, range.bytes());
            return Ok(());
        }
        Counters::add(&self.0.counters.miss_bytes, range.bytes());
        for _ in 0..=DAMAGED_BLOCK_ATTEMPTS_MAX {
            let gathered = self.0.gather(*revision, &announced, range).await?;
            if self
                .0
                .assemble(&space, range, &gathered, into, checksums.as_deref_mut())
                == TryRead::Hit
            {
                return Ok(());
            }
        }
        Err(ReadError::Unavailable(
            "the cache cannot keep this block and the origin was asked in vain".to_owned(),
        ))
    }

    /// The state at this moment.
    pub fn report(&self) -> Report {
        let drifts = self
            .0
            .drifts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect();
        Report {
            spaces: self.0.store.spaces(),
            tiers: vec![self.0.store.report()],
            drifts,
        }
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }
}

impl Inner {
    fn announced(&self, revision: &RevisionId) -> Option<Arc<Announced>> {
        self.revisions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(revision)
            .cloned()
    }

    fn look(&self, space: &SpaceId, range: BlockRange, into: &mut [u8], checksums: Option<&mut [u32]>) -> TryRead {
        let Some(stripe) = self.store.stripe(space, range.stripe()) else {
            return TryRead::Miss;
        };
        match stripe.look(range, into, checksums) {
            Look::Hit => return TryRead::Hit,
            Look::Missing => {}
            Look::Damaged(blocks) => {
                Counters::add(&self.counters.damaged_blocks, blocks.len() as u64);
                let stripe_number = range.stripe();
                tracing::warn!(%space, stripe = stripe_number, ?blocks, "stored blocks do not match their checksums; they are fetched anew");
                blocks
                    .into_iter()
                    .for_each(|block| self.store.forget(space, &stripe, block));
            }
            Look::Fault(error) => {
                tracing::warn!(%space, stripe = range.stripe(), %error, "read a stripe; its blocks are fetched anew");
                range
                    .blocks_in_stripe()
                    .for_each(|block| self.store.forget(space, &stripe, block));
            }
        }
        TryRead::Miss
    }

    /// Starts what is missing of `range` and waits for it.
    async fn gather(
        self: &Arc<Self>,
        revision: RevisionId,
        announced: &Announced,
        range: BlockRange,
    ) -> Result<Gathered, ReadError> {
        let damaged = |_| ReadError::Unavailable(format!("the package of revision {revision} is damaged"));
        let extents = announced.package.extents(range).map_err(damaged)?;
        let covered = extents
            .iter()
            .map(|extent| extent.address..extent.address + round_up_to_block(extent.bytes));
        let gaps = inflight::uncovered(range.address()..range.end(), covered);
        let mut passed = Vec::new();
        for unit in self.start(revision, announced, &extents, range)? {
            match unit.arrived().await {
                Arrived::Stored => {}
                Arrived::Passed(buffer) => passed.push((unit, buffer)),
                Arrived::Failed(error) => return Err(error),
            }
        }
        Ok(Gathered { gaps, passed })
    }

    /// Starts fetches for what `range` needs and what should come along; returns the units that have blocks of `range`.
    fn start(
        self: &Arc<Self>,
        revision: RevisionId,
        announced: &Announced,
        extents: &[Extent],
        range: BlockRange,
    ) -> Result<Vec<Arc<Unit>>, ReadError> {
        let space = announced.package.space();
        let mut fetches = Vec::new();
        let mut units = self.in_flight.lock();
        for extent in extents {
            let wanted = self.wanted(&space, extent, range);
            for hole in self.holes(&units, &space, wanted) {
                let origin = announced.origins.get(extent.object.source as usize).cloned().flatten();
                let origin = origin.ok_or_else(|| {
                    ReadError::Unavailable(format!(
                        "the source of {} is no longer part of the Dataset",
                        extent.object.key
                    ))
                });
                let origin = match origin {
                    Ok(origin) => origin,
                    // What only comes along may be missing.
                    Err(_) if hole.start >= range.end() || hole.end <= range.address() => continue,
                    Err(error) => return Err(error),
                };
                let units = cut(hole)
                    .map(|piece| inflight::begin(&mut units, &space, piece))
                    .collect();
                fetches.push(Fetch {
                    engine: self.clone(),
                    revision,
                    space,
                    extent: extent.clone(),
                    origin,
                    units,
                });
            }
        }
        let needed = inflight::overlapping(&units, &space, &(range.address()..range.end()));
        drop(units);
        for fetch in fetches {
            tokio::spawn(fetch.run());
        }
        Ok(needed)
    }

    fn wanted(&self, space: &SpaceId, extent: &Extent, range: BlockRange) -> Range<u64> {
        let end = extent.address + round_up_to_block(extent.bytes);
        let (start, end) = (range.address().max(extent.address), range.end().min(end));
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (*space, extent.address);
        let reach = if self.sharded.load(Ordering::Relaxed) {
            Reach::Stripe
        } else {
            Reach::Space
        };
        let (wanted, note) = plan::wanted(extent, start, end, followed.get(&key).copied(), reach);
        if note.is_some() && self.store.is_full() {
            // What is fetched ahead could not be kept.
            return start..end;
        }
        if let Some(note) = note {
            if followed.len() >= FOLLOWED_READS_MAX && !followed.contains_key(&key) {
                followed.clear();
            }
            followed.insert(key, note);
        }
        wanted
    }

    /// The parts of `wanted` that are neither stored nor on their way.
    fn holes(&self, units: &inflight::Units, space: &SpaceId, wanted: Range<u64>) -> Vec<Range<u64>> {
        let mut taken: Vec<Range<u64>> = BlockRange::covering(wanted.start, wanted.end - wanted.start)
            .filter_map(|piece| Some((piece, self.store.stripe(space, piece.stripe())?)))
            .flat_map(|(piece, stripe)| stripe.present(piece))
            .collect();
        taken.extend(
            inflight::overlapping(units, space, &wanted)
                .iter()
                .map(|unit| unit.range.clone()),
        );
        taken.sort_unstable_by_key(|range| range.start);
        inflight::uncovered(wanted, taken)
    }

    /// Puts a read together from zeros, passed units and the store.
    fn assemble(
        &self,
        space: &SpaceId,
        range: BlockRange,
        gathered: &Gathered,
        into: &mut [u8],
        mut checksums: Option<&mut [u32]>,
    ) -> TryRead {
        let whole = range.address()..range.end();
        let mut outside = gathered.gaps.clone();
        for gap in &gathered.gaps {
            into[at(range, gap.start)..at(range, gap.end)].fill(0);
        }
        for (unit, buffer) in &gathered.passed {
            let part = unit.range.start.max(whole.start)..unit.range.end.min(whole.end);
            let from = (part.start - unit.range.start) as usize..(part.end - unit.range.start) as usize;
            into[at(range, part.start)..at(range, part.end)].copy_from_slice(&buffer[from]);
            outside.push(part);
        }
        outside.sort_unstable_by_key(|part| part.start);
        for part in inflight::uncovered(whole, outside.clone()) {
            let Ok(piece) = BlockRange::new(part.start, part.end - part.start) else {
                return TryRead::Miss;
            };
            let bytes = at(range, part.start)..at(range, part.end);
            let sums = checksums
                .as_deref_mut()
                .map(|sums| &mut sums[bytes.start / BLOCK..bytes.end / BLOCK]);
            if self.look(space, piece, &mut into[bytes], sums) == TryRead::Miss {
                return TryRead::Miss;
            }
        }
        if let Some(sums) = checksums {
            for address in outside.into_iter().flat_map(|part| part.step_by(BLOCK)) {
                let start = at(range, address);
                sums[start / BLOCK] = block_checksum(space, address, &into[start..start + BLOCK]);
            }
        }
        TryRead::Hit
    }

    pub(crate) fn note_drift(&self, revision: RevisionId, key: &str) {
        let mut drifts = self.drifts.lock().unwrap_or_else(PoisonError::into_inner);
        if drifts
            .iter()
            .any(|drift| drift.revision == revision && drift.key == key)
        {
            return;
        }
        if drifts.len() >= DRIFTS_REPORTED_MAX {
            drifts.pop_front();
        }
        let seen_at_unix_seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        drifts.push_back(Drift {
            revision,
            key: key.to_owned(),
            seen_at_unix_seconds,
        });
    }
}

const BLOCK: usize = BLOCK_BYTES as usize;

/// Where an address of a range lies in its buffer.
fn at(range: BlockRange, address: u64) -> usize {
    (address - range.address()) as usize
}

/// A run of blocks in pieces that each lie within a page of the space.
fn cut(run: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    const { assert!(STRIPE_BYTES.is_multiple_of(UNIT_BYTES_MAX)) };
    let mut at = run.start;
    std::iter::from_fn(move || {
        let piece = at..run.end.min((at / UNIT_BYTES_MAX + 1) * UNIT_BYTES_MAX);
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}
