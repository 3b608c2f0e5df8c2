//! The engine: reads blocks of revisions, from the store or through it from the origins.
//!
//! *Every way in which a wrong byte could reach a reader, and what stops it*: the wrong version of an object (the origin's
//! If-Match, see the origin), damage or a misplaced block in the store (checksum seeded with the place, at every read), a
//! cut or long body (`fetch` counts), two revisions with one address (a space never gives an address twice).

mod miss;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use penstock_buffer::{Buffer, BufferPool};
use penstock_protocol::checksum::block_checksum;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, PAGE_BYTES, STRIPE_BYTES, round_up_to_block};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::{Extent, Package};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::evictor::{self, Evictor};
use crate::fetch::{Fetch, Source};
use crate::follow::FollowedReads;
use crate::inflight::{self, Arrived, Fate, InFlight, Unit};
use crate::keeping::{Admission, Cell, Keeping};
use crate::limits::{
    DRIFTS_REPORTED_MAX, ORIGIN_BUFFERS_KEPT, ORIGIN_REQUESTS_MAX, SOURCE_REQUESTS_MAX, UNIT_BYTES_MAX,
    WALK_FETCHES_MAX, WHOLE_OBJECT_BYTES_MAX,
};
use crate::origin::{Origin, OriginError};
use crate::plan::Reach;
use crate::report::{Counters, Drift, Report};
use crate::store::{Found, Known, Look, Store, Stored, Stripe, Waiting};
use crate::walk::{Kind, Walks};
use crate::walker;
pub use miss::Miss;

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
    pub(crate) keeping: Arc<Keeping>,
    pub(crate) evictor: Evictor,
    pub(crate) in_flight: InFlight,
    pub(crate) counters: Counters,
    pub(crate) origin_requests: Arc<Semaphore>,
    /// How many more requests each source may be sent, by its identity.
    requests: Mutex<HashMap<String, Arc<Semaphore>>>,
    pub(crate) buffers: BufferPool,
    revisions: RwLock<HashMap<RevisionId, Arc<Announced>>>,
    followed: FollowedReads,
    /// Where what nobody waits for is done.
    runtime: Handle,
    drifts: Mutex<VecDeque<Drift>>,
    /// Which stripes are this node's; all if it is not said.
    owned: RwLock<Option<Owns>>,
    pub(crate) walks: Walks,
    /// How many more objects may be on their way ahead of readers.
    pub(crate) ahead: Arc<Semaphore>,
}

/// Whether a stripe of a space is this node's.
pub type Owns = Box<dyn Fn(&SpaceId, u64) -> bool + Send + Sync>;

pub(crate) struct Announced {
    id: RevisionId,
    pub(crate) package: Package,
    /// By the number of the source in the package; `None` when the Dataset no longer has it.
    sources: Vec<Option<Source>>,
}

impl Announced {
    /// Where an object is read; `None` when the Dataset no longer has its source.
    fn source_of(&self, extent: &Extent) -> Option<Source> {
        self.sources.get(extent.object.source as usize).cloned().flatten()
    }
}

/// The parts of a read that need not come from the store.
#[derive(Default)]
pub(crate) struct Gathered {
    /// Addresses that belong to no object: zeros.
    gaps: Vec<Range<u64>>,
    /// Units that were waited for.
    arrived: Vec<(Arc<Unit>, Arc<Buffer>)>,
}

impl Engine {
    /// Adopts what the folder of the tier holds. Has to be called in a tokio runtime.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(config: EngineConfig) -> Result<Self, OpenError> {
        let path = config.tier.path.clone();
        let failed = |source| OpenError { path, source };
        let keeping = Arc::new(Keeping::new(evictor::room(config.tier.capacity_bytes)));
        let store = Store::open(config.tier, found(keeping.clone()));
        let (evictor, woken) = Evictor::new();
        let inner = Arc::new(Inner {
            store: match store {
                Ok(store) => store,
                Err(error) => return Err(failed(error)),
            },
            keeping,
            evictor,
            in_flight: InFlight::default(),
            counters: Counters::default(),
            origin_requests: Arc::new(Semaphore::new(ORIGIN_REQUESTS_MAX)),
            requests: Mutex::default(),
            buffers: BufferPool::new(UNIT_BYTES_MAX as usize, ORIGIN_BUFFERS_KEPT),
            revisions: RwLock::default(),
            followed: FollowedReads::default(),
            runtime: Handle::current(),
            drifts: Mutex::default(),
            owned: RwLock::default(),
            walks: Walks::default(),
            ahead: Arc::new(Semaphore::new(WALK_FETCHES_MAX)),
        });
        woken.start(Arc::downgrade(&inner)).map_err(failed)?;
        Ok(Self(inner))
    }

    /// Replaces what may be read. Removes the spaces of other revisions unless `keep_other_spaces`, which is right while a
    /// package that was announced has not been found yet.
    pub fn set_datasets(&self, datasets: &[Dataset], keep_other_spaces: bool) {
        let mut revisions = HashMap::new();
        let mut spaces = HashSet::new();
        let mut requests = HashMap::new();
        for Dataset {
            uid: _,
            origins,
            revisions: packages,
        } in datasets
        {
            for package in packages {
                let mut named = |identity: &String| {
                    let origin = origins.iter().find(|origin| origin.identity() == *identity)?.clone();
                    let requests = requests
                        .entry(identity.clone())
                        .or_insert_with(|| self.0.requests_of(identity));
                    let requests = requests.clone();
                    Some(Source { origin, requests })
                };
                let sources = package.sources().iter().map(&mut named).collect();
                spaces.insert(package.space());
                let id = package.id();
                let package = package.clone();
                revisions.insert(id, Arc::new(Announced { id, package, sources }));
            }
        }
        *lock(&self.0.requests) = requests;
        *self.0.revisions.write().unwrap_or_else(PoisonError::into_inner) = revisions;
        if !keep_other_spaces {
            self.0.keeping.keep_only(&spaces);
            self.0.walks.keep_only(&spaces);
        }
        self.0.store.keep_only((!keep_other_spaces).then_some(spaces));
    }

    /// Says which stripes belong to other nodes, so that nothing is fetched ahead for them here; `None`: none does.
    pub fn set_owned(&self, owned: Option<Owns>) {
        *self.0.owned.write().unwrap_or_else(PoisonError::into_inner) = owned;
    }

    /// The package of an announced revision.
    pub fn package(&self, revision: &RevisionId) -> Option<Package> {
        self.0.announced(revision).map(|announced| announced.package.clone())
    }

    /// The same as [`Engine::try_read`] without waiting for a disk either; `None` when the disk would have to be asked.
    pub fn try_read_now(
        &self,
        revision: &RevisionId,
        range: BlockRange,
        into: &mut [u8],
        checksums: Option<&mut [u32]>,
    ) -> Option<TryRead> {
        match self.0.announced(revision) {
            Some(announced) => self.0.try_read(&announced, range, into, checksums, Waiting::Never),
            None => Some(TryRead::Miss),
        }
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
        let announced = self.0.announced(revision);
        let look =
            announced.and_then(|announced| self.0.try_read(&announced, range, into, checksums, Waiting::Allowed));
        look.unwrap_or(TryRead::Miss)
    }

    /// Whole blocks to pass on unread; `None` unless all are stored and in the kernel's memory. Their bytes are **not**
    /// compared with their checksums here.
    pub fn stored(&self, revision: &RevisionId, range: BlockRange) -> Option<Stored> {
        let announced = self.0.announced(revision)?;
        let Known::Open(stripe) = self.0.store.known(&announced.package.space(), range.stripe()) else {
            return None;
        };
        let stored = stripe.stored(range)?;
        self.0.note_hit(&announced, range);
        Some(stored)
    }

    /// Data and side file of a stripe, read-only, for who reads them beside this engine; `None` when the revision is not known
    /// or nothing of the stripe is stored. May wait for the disk.
    pub fn stripe_files(&self, revision: &RevisionId, stripe: u64) -> Option<[File; 2]> {
        let space = self.0.announced(revision)?.package.space();
        let files = self.0.store.stripe(&space, stripe)?.files();
        let opened =
            files.inspect_err(|error| tracing::warn!(%space, stripe, %error, "open the files of a stripe anew"));
        opened.ok()
    }

    /// Takes note of blocks that were read from such files.
    pub fn note_used(&self, revision: &RevisionId, range: BlockRange) {
        if let Some(announced) = self.0.announced(revision) {
            self.0.note_hit(&announced, range);
        }
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
        if self.try_read(revision, range, into, checksums.as_deref_mut()) == TryRead::Hit {
            return Ok(());
        }
        let mut miss = self.miss(revision, range)?;
        loop {
            miss.arrive().await?;
            if miss.try_read(into, checksums.as_deref_mut()) == TryRead::Hit {
                return Ok(());
            }
        }
    }

    /// A read of which not everything is stored, for a caller that has no buffer while it waits.
    ///
    /// # Errors
    /// When the revision is not known.
    pub fn miss(&self, revision: &RevisionId, range: BlockRange) -> Result<Miss, ReadError> {
        let announced = self.0.announced(revision);
        let announced = announced.ok_or(ReadError::UnknownRevision(*revision))?;
        Counters::add(&self.0.counters.miss_bytes, range.bytes());
        Ok(Miss::new(self.0.clone(), announced, range))
    }

    /// The state at this moment.
    pub fn report(&self) -> Report {
        let drifts = lock(&self.0.drifts).iter().cloned().collect();
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
    pub(crate) fn announced(&self, revision: &RevisionId) -> Option<Arc<Announced>> {
        self.revisions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(revision)
            .cloned()
    }

    /// The requests that a source may be sent; those under way count when the configuration is replaced.
    fn requests_of(&self, identity: &str) -> Arc<Semaphore> {
        let known = lock(&self.requests).get(identity).cloned();
        known.unwrap_or_else(|| Arc::new(Semaphore::new(SOURCE_REQUESTS_MAX)))
    }

    fn try_read(
        self: &Arc<Self>,
        announced: &Arc<Announced>,
        range: BlockRange,
        into: &mut [u8],
        checksums: Option<&mut [u32]>,
        waiting: Waiting,
    ) -> Option<TryRead> {
        let space = announced.package.space();
        let look = self.look(&space, range, into, checksums, waiting);
        if look == Some(TryRead::Hit) {
            self.note_hit(announced, range);
        }
        look
    }

    fn note_hit(self: &Arc<Self>, announced: &Arc<Announced>, range: BlockRange) {
        Counters::add(&self.counters.hit_bytes, range.bytes());
        self.note_cells(announced, range);
        let marked = self.followed.takes_mark(&announced.package.space(), range);
        // Of a long run that was read, only what begins the next window.
        let marked = marked.and_then(|page| {
            let start = range.address().max(page * PAGE_BYTES);
            BlockRange::new(start, range.end().min((page + 1) * PAGE_BYTES) - start).ok()
        });
        if let Some(marked) = marked {
            self.go_on(announced.clone(), marked);
        }
    }

    /// Tells the policy of the stored cells that a read touches.
    fn note_cells(self: &Arc<Self>, announced: &Arc<Announced>, range: BlockRange) {
        let space = &announced.package.space();
        let Known::Open(stripe) = self.store.known(space, range.stripe()) else {
            return;
        };
        let wanted = range.blocks_in_stripe();
        for blocks in stripe.cells(wanted.clone()) {
            let is_through = blocks.end <= wanted.end;
            let stripe = range.stripe();
            let address = stripe * STRIPE_BYTES + u64::from(blocks.start) * BLOCK_BYTES;
            self.keeping.hit(space, &Cell { stripe, blocks }, is_through);
            self.note_walk(announced, self.walks.hit(space, address, Instant::now()));
        }
    }

    /// Makes the cells of these blocks missing.
    fn evict(&self, space: &SpaceId, stripe: u64, blocks: impl Iterator<Item = u32>) {
        for block in blocks {
            // Told before it is done: what is stored there next is another cell.
            if let Some(blocks) = self.store.cell(space, stripe, block) {
                self.keeping.removed(space, &Cell { stripe, blocks });
                self.store.evict(space, stripe, block);
            }
        }
    }

    /// Stores a unit; false when it could not be.
    pub(crate) fn store(
        &self,
        space: &SpaceId,
        range: BlockRange,
        (bytes, checksums): (&[u8], &[u32]),
        fate: Fate,
    ) -> bool {
        let is_stored = self.store.store(space, range, bytes, checksums).is_ok();
        if is_stored {
            let admission = match fate {
                Fate::Kept => Admission::Kept,
                Fate::Passes | Fate::GivenOn => Admission::Passes,
            };
            let (stripe, blocks) = (range.stripe(), range.blocks_in_stripe());
            self.keeping.stored(space, &Cell { stripe, blocks }, admission);
        }
        let (capacity, used) = self.store.capacity_and_used();
        if !is_stored {
            self.evictor.make_room_for(range.bytes());
        } else if used > evictor::room(capacity) {
            self.evictor.wake();
        }
        is_stored
    }

    /// What becomes of a missing run when it has arrived for this read.
    fn fate(&self, space: &SpaceId, piece: &Range<u64>, range: BlockRange) -> Fate {
        let ends = piece.start >= range.end() || piece.end <= range.address();
        let cell = BlockRange::new(piece.start, piece.end - piece.start).map(|piece| Cell {
            stripe: piece.stripe(),
            blocks: piece.blocks_in_stripe(),
        });
        match cell {
            Ok(cell) if !ends => match self.keeping.missed(space, &cell) {
                Admission::Kept => Fate::Kept,
                Admission::Passes if piece.start >= range.address() && piece.end <= range.end() => Fate::GivenOn,
                Admission::Passes => Fate::Passes,
            },
            _ => Fate::Passes,
        }
    }

    /// Starts the next window of a reader that is about to use up this one.
    fn go_on(self: &Arc<Self>, announced: Arc<Announced>, range: BlockRange) {
        let inner = self.clone();
        self.runtime.spawn_blocking(move || {
            // Whoever needs the bytes meets the same error and says so.
            let started = inner.extents(&announced, range);
            let _ = started.and_then(|extents| inner.start(&announced, &extents, range));
        });
    }

    fn extents(&self, announced: &Announced, range: BlockRange) -> Result<Vec<Extent>, ReadError> {
        let damaged = |_| ReadError::Unavailable(format!("the package of revision {} is damaged", announced.id));
        announced.package.extents(range).map_err(damaged)
    }

    /// `None` when the disk would have to be asked.
    fn look(
        &self,
        space: &SpaceId,
        range: BlockRange,
        into: &mut [u8],
        checksums: Option<&mut [u32]>,
        waiting: Waiting,
    ) -> Option<TryRead> {
        let stripe = match (self.store.known(space, range.stripe()), waiting) {
            (Known::Open(stripe), _) => Some(stripe),
            (Known::Absent, _) => None,
            (Known::Closed, Waiting::Never) => return None,
            (Known::Closed, Waiting::Allowed) => self.store.stripe(space, range.stripe()),
        };
        let Some(stripe) = stripe else {
            return Some(TryRead::Miss);
        };
        match stripe.look(range, into, checksums, waiting) {
            Look::Hit => return Some(TryRead::Hit),
            Look::WouldWait => return None,
            Look::Missing => {}
            Look::Damaged(blocks) => {
                Counters::add(&self.counters.damaged_blocks, blocks.len() as u64);
                let stripe_number = range.stripe();
                tracing::warn!(%space, stripe = stripe_number, ?blocks, "stored blocks do not match their checksums; they are fetched anew");
                self.evict(space, stripe_number, blocks.into_iter());
            }
            Look::Fault(error) => {
                tracing::warn!(%space, stripe = range.stripe(), %error, "read a stripe; its blocks are fetched anew");
                self.evict(space, range.stripe(), range.blocks_in_stripe());
            }
        }
        Some(TryRead::Miss)
    }

    /// Starts what is missing of `range` and waits for it.
    async fn gather(
        self: &Arc<Self>,
        announced: &Arc<Announced>,
        range: BlockRange,
        gathered: &mut Gathered,
    ) -> Result<(), ReadError> {
        let extents = self.extents(announced, range)?;
        let covered = extents
            .iter()
            .map(|extent| extent.address..extent.address + round_up_to_block(extent.bytes));
        gathered.gaps = inflight::uncovered(range.address()..range.end(), covered);
        // Opening a stripe can wait for the disk; the runtime's threads must not.
        let (inner, announced) = (self.clone(), announced.clone());
        let started = spawn_blocking(move || inner.start(&announced, &extents, range)).await;
        let units = started.unwrap_or_else(|_| Err(ReadError::Unavailable("starting the fetch failed".to_owned())));
        for unit in units? {
            match unit.arrived().await {
                Arrived::Here(buffer) => gathered.arrived.push((unit, buffer)),
                Arrived::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether a stripe is this node's.
    pub(crate) fn owns(&self, space: &SpaceId, stripe: u64) -> bool {
        let owned = self.owned.read().unwrap_or_else(PoisonError::into_inner);
        owned.as_ref().is_none_or(|owns| owns(space, stripe))
    }

    /// Whether what is brought ahead of its readers would be kept.
    pub(crate) fn has_room_ahead(&self, space: &SpaceId, bytes: u64) -> bool {
        let (capacity, used) = self.store.capacity_and_used();
        self.store.takes(0) && used + bytes <= evictor::room(capacity) && self.keeping.has_room(space, bytes)
    }

    /// Starts a fetch of what is missing of a small object that nobody waits for, to be kept; returns its units. May wait for
    /// the disk.
    pub(crate) fn start_ahead(self: &Arc<Self>, announced: &Announced, extent: &Extent) -> Vec<Arc<Unit>> {
        let space = announced.package.space();
        let Some(source) = announced.source_of(extent) else {
            return Vec::new();
        };
        let wanted = extent.address..extent.address + round_up_to_block(extent.bytes);
        let stripe = self.store.stripe(&space, extent.address / STRIPE_BYTES);
        let mut units = self.in_flight.lock();
        let mut fetches = Vec::new();
        for hole in self.holes(&units, &space, wanted, |_| stripe.clone()) {
            let pieces = cut(hole, 0);
            let begun = pieces
                .map(|piece| inflight::begin(&mut units, &space, piece, Fate::Kept))
                .collect();
            fetches.push(self.fetch(announced, extent, &source, begun, true));
        }
        drop(units);
        let begun = fetches.iter().flat_map(|fetch| fetch.units.iter().cloned()).collect();
        for fetch in fetches {
            self.runtime.spawn(fetch.run());
        }
        begun
    }

    fn fetch(
        self: &Arc<Self>,
        announced: &Announced,
        extent: &Extent,
        source: &Source,
        units: VecDeque<Arc<Unit>>,
        is_ahead: bool,
    ) -> Fetch {
        Fetch {
            engine: self.clone(),
            revision: announced.id,
            space: announced.package.space(),
            extent: extent.clone(),
            source: source.clone(),
            is_ahead,
            units,
        }
    }

    /// Has small objects brought ahead if somebody walks through them.
    fn note_walk(self: &Arc<Self>, announced: &Arc<Announced>, begins: bool) {
        if begins {
            let space = announced.package.space();
            self.runtime
                .spawn(walker::run(Arc::downgrade(self), announced.id, space));
        }
    }

    /// Starts fetches for what `range` needs and what should come along; returns the units that have blocks of `range`.
    fn start(
        self: &Arc<Self>,
        announced: &Arc<Announced>,
        extents: &[Extent],
        range: BlockRange,
    ) -> Result<Vec<Arc<Unit>>, ReadError> {
        let space = announced.package.space();
        // What is wanted ends within the next stripe. Opening one reads files, so it is done before the lock.
        let stripes = [0, 1].map(|next| self.store.stripe(&space, range.stripe() + next));
        self.note_cells(announced, range);
        let is_small = |extent: &&Extent| extent.bytes <= WHOLE_OBJECT_BYTES_MAX;
        for small in extents.iter().filter(is_small) {
            let object = small.address..small.address + round_up_to_block(small.bytes);
            let kind = Kind::of(&small.object.key, small.bytes);
            self.note_walk(announced, self.walks.missed(&space, object, kind, Instant::now()));
        }
        let mut fetches = Vec::new();
        let mut units = self.in_flight.lock();
        for extent in extents {
            let wanted = self.wanted(&space, extent, range);
            let stripe = |number: u64| {
                let opened = stripes.get(number.wrapping_sub(range.stripe()) as usize).cloned();
                // It may have got its first blocks since.
                opened.flatten().or_else(|| self.store.stripe(&space, number))
            };
            for hole in self.holes(&units, &space, wanted, stripe) {
                let Some(source) = announced.source_of(extent) else {
                    // What only comes along may be missing.
                    if hole.start >= range.end() || hole.end <= range.address() {
                        continue;
                    }
                    return Err(ReadError::Unavailable(format!(
                        "the source of {} is no longer part of the Dataset",
                        extent.object.key
                    )));
                };
                let units = cut(hole, range.end())
                    .map(|piece| {
                        let fate = self.fate(&space, &piece, range);
                        inflight::begin(&mut units, &space, piece, fate)
                    })
                    .collect();
                fetches.push(self.fetch(announced, extent, &source, units, false));
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
        let is_shared = self.owned.read().unwrap_or_else(PoisonError::into_inner).is_some();
        let reach = if is_shared { Reach::Stripe } else { Reach::Space };
        let plan = self.followed.plan(space, extent, start, end, reach);
        if !self.store.takes(plan.wanted.end - plan.wanted.start) {
            // What is fetched beyond the read could not be kept.
            return start..end;
        }
        self.followed.follow(space, extent, &plan);
        plan.wanted
    }

    /// The parts of `wanted` that are neither stored nor on their way.
    fn holes(
        &self,
        units: &inflight::Units,
        space: &SpaceId,
        wanted: Range<u64>,
        stripe: impl Fn(u64) -> Option<Arc<Stripe>>,
    ) -> Vec<Range<u64>> {
        let mut taken: Vec<Range<u64>> = BlockRange::covering(wanted.start, wanted.end - wanted.start)
            .filter_map(|piece| Some((piece, stripe(piece.stripe())?)))
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

    /// Puts a read together from zeros, units that arrived and the store.
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
        for (unit, buffer) in &gathered.arrived {
            let part = unit.range.start.max(whole.start)..unit.range.end.min(whole.end);
            let from = (part.start - unit.range.start) as usize..(part.end - unit.range.start) as usize;
            into[at(range, part.start)..at(range, part.end)].copy_from_slice(&buffer[from]);
            outside.push(part);
        }
        outside.sort_unstable_by_key(|part| part.start);
        // All are looked at even when one is missing, so that the next round fetches everything that is.
        let mut complete = true;
        for part in inflight::uncovered(whole, outside.clone()) {
            let Ok(piece) = BlockRange::new(part.start, part.end - part.start) else {
                return TryRead::Miss;
            };
            let bytes = at(range, part.start)..at(range, part.end);
            let sums = checksums
                .as_deref_mut()
                .map(|sums| &mut sums[bytes.start / BLOCK..bytes.end / BLOCK]);
            complete &= self.look(space, piece, &mut into[bytes], sums, Waiting::Allowed) == Some(TryRead::Hit);
        }
        if !complete {
            return TryRead::Miss;
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
        let mut drifts = lock(&self.drifts);
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

/// Has kept what an earlier process stored.
fn found(keeping: Arc<Keeping>) -> Found {
    Box::new(move |space, stripe, cells| {
        for blocks in cells {
            keeping.stored(space, &Cell { stripe, blocks }, Admission::Kept);
        }
    })
}

const BLOCK: usize = BLOCK_BYTES as usize;

/// Where an address of a range lies in its buffer.
fn at(range: BlockRange, address: u64) -> usize {
    (address - range.address()) as usize
}

/// A run of blocks in pieces that each lie within a page of the space. One ends at `needed_until`, so that a reader does not
/// wait for what only comes along.
fn cut(run: Range<u64>, needed_until: u64) -> impl Iterator<Item = Range<u64>> {
    const { assert!(STRIPE_BYTES.is_multiple_of(UNIT_BYTES_MAX)) };
    let mut at = run.start;
    std::iter::from_fn(move || {
        let border = (at / UNIT_BYTES_MAX + 1) * UNIT_BYTES_MAX;
        let until = if (at + 1..border).contains(&needed_until) {
            needed_until
        } else {
            border
        };
        let piece = at..run.end.min(until);
        at = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
