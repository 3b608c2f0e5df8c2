//! The engine: reads blocks of revisions, from the store or through it from the origins.
//!
//! *Every way in which a wrong byte could reach a reader, and what stops it*: the wrong version of an object (the origin's
//! If-Match, see the origin), damage or a misplaced block in the store (checksum seeded with the place, at every read), a
//! cut or long body (`fetch` counts), two revisions with one address (a space never gives an address twice).

mod miss;
mod start;
mod walker;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use penstock_protocol::geometry::{BlockRange, PAGE_BYTES};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::{Extent, Package};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::error::{OpenError, ReadError};
use crate::fetch::Source;
use crate::follow::FollowedReads;
use crate::intake::Intake;
use crate::limits::WALK_FETCHES_MAX;
use crate::origin::Origin;
use crate::report::{Counters, Report, SourceReport};
use crate::requests::Requests;
use crate::store::{Known, Stored, TierConfig, Waiting};
use crate::tier::{Tier, TryRead};
use crate::walk::Walks;
pub use miss::Miss;

/// What an engine begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Where it stores.
    pub tier: TierConfig,
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

/// The engine; clones share everything.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    intake: Arc<Intake>,
    /// The requests to each source, by its identity.
    requests: Mutex<HashMap<String, Arc<Requests>>>,
    revisions: RwLock<HashMap<RevisionId, Arc<Announced>>>,
    followed: FollowedReads,
    /// Where what nobody waits for is done.
    runtime: Handle,
    /// Which stripes are this node's; all if it is not said.
    owned: RwLock<Option<Owns>>,
    walks: Walks,
    /// How many more objects may be on their way ahead of readers.
    ahead: Arc<Semaphore>,
}

/// Whether a stripe of a space is this node's.
pub type Owns = Box<dyn Fn(&SpaceId, u64) -> bool + Send + Sync>;

struct Announced {
    id: RevisionId,
    package: Package,
    /// By the number of the source in the package; `None` when the Dataset no longer has it.
    sources: Vec<Option<Source>>,
}

impl Announced {
    /// Where an object is read; `None` when the Dataset no longer has its source.
    fn source_of(&self, extent: &Extent) -> Option<Source> {
        self.sources.get(extent.object.source as usize).cloned().flatten()
    }
}

impl Engine {
    /// Adopts what the folder of the tier holds. Has to be called in a tokio runtime.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(config: EngineConfig) -> Result<Self, OpenError> {
        let path = config.tier.path.clone();
        let counters = Arc::new(Counters::default());
        let tier = Tier::open(config.tier, counters.clone()).map_err(|source| OpenError { path, source })?;
        Ok(Self(Arc::new(Inner {
            intake: Arc::new(Intake::new(tier, counters)),
            requests: Mutex::default(),
            revisions: RwLock::default(),
            followed: FollowedReads::default(),
            runtime: Handle::current(),
            owned: RwLock::default(),
            walks: Walks::default(),
            ahead: Arc::new(Semaphore::new(WALK_FETCHES_MAX)),
        })))
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
            self.0.walks.keep_only(&spaces);
        }
        self.0.intake.tier.keep_only((!keep_other_spaces).then_some(spaces));
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
        let Known::Open(stripe) = self
            .0
            .intake
            .tier
            .store
            .known(&announced.package.space(), range.stripe())
        else {
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
        let files = self.0.intake.tier.store.stripe(&space, stripe)?.files();
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
        Counters::add(&self.0.intake.counters.miss_bytes, range.bytes());
        Ok(Miss::new(self.0.clone(), announced, range))
    }

    /// The state at this moment.
    pub fn report(&self) -> Report {
        Report {
            spaces: self.0.intake.tier.store.spaces(),
            tiers: vec![self.0.intake.tier.report()],
            drifts: self.0.intake.drifts(),
        }
    }

    /// How each source bears what it is asked, by identity.
    pub fn sources(&self) -> Vec<SourceReport> {
        let mut sources: Vec<_> = lock(&self.0.requests).values().map(|source| source.report()).collect();
        sources.sort_unstable_by(|a, b| a.identity.cmp(&b.identity));
        sources
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.0.intake.counters
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

    /// The requests to a source; those under way count when the configuration is replaced.
    fn requests_of(&self, identity: &str) -> Arc<Requests> {
        let known = lock(&self.requests).get(identity).cloned();
        known.unwrap_or_else(|| Arc::new(Requests::new(identity, self.intake.counters.clone())))
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
        let look = self.intake.tier.look(&space, range, into, checksums, waiting);
        if look == Some(TryRead::Hit) {
            self.note_hit(announced, range);
        }
        look
    }

    fn note_hit(self: &Arc<Self>, announced: &Arc<Announced>, range: BlockRange) {
        Counters::add(&self.intake.counters.hit_bytes, range.bytes());
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

    /// Tells those who want to know of the stored cells that a read touches.
    fn note_cells(self: &Arc<Self>, announced: &Arc<Announced>, range: BlockRange) {
        let space = &announced.package.space();
        self.intake.tier.note_read(space, range, |address| {
            self.note_walk(announced, self.walks.hit(space, address, Instant::now()));
        });
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

    /// Whether a stripe is this node's.
    fn owns(&self, space: &SpaceId, stripe: u64) -> bool {
        let owned = self.owned.read().unwrap_or_else(PoisonError::into_inner);
        owned.as_ref().is_none_or(|owns| owns(space, stripe))
    }

    /// Has small objects brought ahead if somebody walks through them.
    fn note_walk(self: &Arc<Self>, announced: &Arc<Announced>, begins: bool) {
        if begins {
            let space = announced.package.space();
            self.runtime
                .spawn(walker::run(Arc::downgrade(self), announced.id, space));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
