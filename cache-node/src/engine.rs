//! The engine: reads blocks of revisions, from the store or through it from the origins.
//!
//! *Every way in which a wrong byte could reach a reader, and what stops it*: the wrong version of an object (the origin's
//! If-Match, see the origin), damage or a misplaced block in the store (checksum seeded with the place, at every read), a
//! cut or long body (`fetch` counts), two revisions with one address (a space never gives an address twice).

mod entries;
mod found;
mod inspecting;
mod miss;
mod start;
mod terms;
mod walker;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use penstock_protocol::geometry::{BlockRange, PAGE_BYTES};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::{Extent, Package, Scratch};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use crate::error::{OpenError, ReadError};
use crate::fetch::Source;
use crate::follow::FollowedReads;
use crate::intake::Intake;
use crate::limits::{TIERS_MAX, WALK_FETCHES_MAX};
use crate::memory::Budget;
use crate::report::{Counters, Report, SourceReport, Traffic};
use crate::requests::Requests;
use crate::rules::{Refusal, Rules};
use crate::store::{Stored, TierConfig, Waiting};
use crate::tiers::{ReadCell, Tiers, TryRead};
use crate::walk::Walks;
pub use entries::TreeEntry;
pub use found::InspectError;
pub use inspecting::{Explained, ExplainedRange, HeldDataset, Hold, Holdings, Reason, Stated, Verified, Where};
pub use miss::Miss;
use penstock_origin::Origin;
use terms::KnownClasses;

/// What an engine begins with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where it stores, the fastest first; at least one.
    pub tiers: Vec<TierConfig>,
    /// What it may take of memory.
    pub memory: Budget,
    /// Where the names of large packages are while they are looked at.
    pub scratch: Scratch,
}

/// A Dataset as far as reads go.
#[derive(Clone)]
pub struct Dataset {
    /// UID of the object.
    pub uid: String,
    /// For people: namespace and name.
    pub name: String,
    /// Its sources.
    pub origins: Vec<Arc<dyn Origin>>,
    /// The revisions that may be read, the newest first.
    pub revisions: Vec<Package>,
    /// How it is cached.
    pub rules: Rules,
}

/// The engine; clones share everything.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    intake: Arc<Intake>,
    /// The requests to each source, by its identity.
    requests: Mutex<HashMap<String, Arc<Requests>>>,
    revisions: RwLock<HashMap<RevisionId, Arc<Announced>>>,
    /// For people: what each Dataset is called, and its revisions, the newest first.
    named: RwLock<Vec<(String, Vec<RevisionId>)>>,
    scratch: Scratch,
    followed: FollowedReads,
    /// Where what nobody waits for is done.
    runtime: Handle,
    /// Which stripes are this node's; all if it is not said.
    owned: RwLock<Option<Owns>>,
    /// How many nodes hold as much as this one.
    nodes: AtomicU64,
    classes: Mutex<KnownClasses>,
    refusals: Mutex<Vec<Refusal>>,
    /// By the UID of the Dataset.
    traffic: Mutex<BTreeMap<String, Arc<Traffic>>>,
    walks: Walks,
    /// How many more objects may be on their way ahead of readers.
    ahead: Arc<Semaphore>,
    /// Told when a package could not be read.
    package_failed: Arc<Notify>,
}

/// Whether a stripe of a space is this node's.
pub type Owns = Box<dyn Fn(&SpaceId, u64) -> bool + Send + Sync>;

struct Announced {
    id: RevisionId,
    package: Package,
    /// By the number of the source in the package; `None` when the Dataset no longer has it.
    sources: Vec<Option<Source>>,
    traffic: Arc<Traffic>,
}

impl Announced {
    /// Where an object is read; `None` when the Dataset no longer has its source.
    fn source_of(&self, extent: &Extent) -> Option<Source> {
        self.sources.get(extent.object.source as usize).cloned().flatten()
    }
}

impl Engine {
    /// Adopts what the folders of the tiers hold. Has to be called in a tokio runtime.
    ///
    /// # Errors
    /// When a folder cannot be used, or the tiers make no sense.
    pub fn open(config: EngineConfig) -> Result<Self, OpenError> {
        let EngineConfig { tiers, memory, scratch } = config;
        check(&tiers)?;
        let counters = Arc::new(Counters::default());
        let tiers = Tiers::open(tiers, memory.open_stripes(), counters.clone())
            .map_err(|(path, source)| OpenError::Folder { path, source })?;
        Ok(Self(Arc::new(Inner {
            intake: Arc::new(Intake::new(tiers, counters, memory)),
            requests: Mutex::default(),
            revisions: RwLock::default(),
            named: RwLock::default(),
            scratch,
            followed: FollowedReads::default(),
            runtime: Handle::current(),
            owned: RwLock::default(),
            nodes: AtomicU64::new(1),
            classes: Mutex::default(),
            refusals: Mutex::default(),
            traffic: Mutex::default(),
            walks: Walks::default(),
            ahead: Arc::new(Semaphore::new(WALK_FETCHES_MAX)),
            package_failed: Arc::default(),
        })))
    }

    /// Replaces what may be read, and how it is cached. Removes the spaces of other revisions unless `keep_other_spaces`, which
    /// is right while a package that was announced has not been found yet. May take a while: large packages are read through.
    pub fn set_datasets(&self, datasets: &[Dataset], keep_other_spaces: bool) {
        let mut revisions = HashMap::new();
        let mut spaces = HashSet::new();
        let mut requests = HashMap::new();
        let mut traffic = BTreeMap::new();
        for dataset in datasets {
            let of_it = self.0.traffic_of(dataset);
            traffic.insert(dataset.uid.clone(), of_it.clone());
            for package in &dataset.revisions {
                let mut named = |identity: &String| {
                    let is_it = |origin: &&Arc<dyn Origin>| origin.identity() == *identity;
                    let origin = dataset.origins.iter().find(is_it)?.clone();
                    let requests = requests
                        .entry(identity.clone())
                        .or_insert_with(|| self.0.requests_of(identity));
                    let requests = requests.clone();
                    Some(Source { origin, requests })
                };
                let sources = package.sources().iter().map(&mut named).collect();
                spaces.insert(package.space());
                let announced = Announced {
                    id: package.id(),
                    package: package.clone(),
                    sources,
                    traffic: of_it.clone(),
                };
                revisions.insert(package.id(), Arc::new(announced));
            }
        }
        *lock(&self.0.requests) = requests;
        *lock(&self.0.traffic) = traffic;
        let named = datasets.iter().map(|dataset| {
            let revisions = dataset.revisions.iter().map(Package::id);
            (dataset.name.clone(), revisions.collect())
        });
        *self.0.named.write().unwrap_or_else(PoisonError::into_inner) = named.collect();
        *self.0.revisions.write().unwrap_or_else(PoisonError::into_inner) = revisions;
        self.0
            .intake
            .keep_drifts_only(|revision| self.0.announced(revision).is_some());
        if !keep_other_spaces {
            self.0.walks.keep_only(&spaces);
        }
        let tiers = &self.0.intake.tiers;
        tiers.keep_only((!keep_other_spaces).then_some(&spaces));
        let nodes = self.0.nodes.load(Ordering::Relaxed);
        let refusals = terms::set(&mut lock(&self.0.classes), tiers, datasets, nodes, &self.0.scratch);
        *lock(&self.0.refusals) = refusals;
        if datasets
            .iter()
            .flat_map(|dataset| &dataset.revisions)
            .any(Package::has_failed)
        {
            self.0.package_failed.notify_one();
        }
    }

    /// Gives tiers another capacity in bytes, by their names. What was promised to Datasets is looked at with the next
    /// [`Engine::set_datasets`].
    pub fn set_capacities(&self, capacities: &[(String, u64)]) {
        self.0.intake.tiers.set_capacities(capacities);
    }

    /// Says which stripes belong to other nodes, so that nothing is fetched ahead for them here; `None`: none does. `nodes` share
    /// what Datasets may hold.
    pub fn set_owned(&self, owned: Option<Owns>, nodes: u64) {
        self.0.nodes.store(nodes.max(1), Ordering::Relaxed);
        *self.0.owned.write().unwrap_or_else(PoisonError::into_inner) = owned;
    }

    /// What it may take of memory.
    pub fn memory(&self) -> Budget {
        self.0.intake.memory
    }

    /// The package of an announced revision.
    pub fn package(&self, revision: &RevisionId) -> Option<Package> {
        self.0.announced(revision).map(|announced| announced.package.clone())
    }

    /// Told when a package could not be read, so that another copy is needed.
    pub fn package_failed(&self) -> Arc<Notify> {
        self.0.package_failed.clone()
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
        let stored = self.0.intake.tiers.stored(&announced.package.space(), range)?;
        self.0.note_hit(&announced, range);
        Some(stored)
    }

    /// Data and side file of a stripe of each tier that has some of it, read-only, for who reads them beside this engine. May
    /// wait for the disk.
    pub fn stripe_files(&self, revision: &RevisionId, stripe: u64) -> Vec<[File; 2]> {
        let announced = self.0.announced(revision);
        announced.map_or_else(Vec::new, |announced| {
            self.0.intake.tiers.files(&announced.package.space(), stripe)
        })
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
        Counters::add(&announced.traffic.miss_bytes, range.bytes());
        Ok(Miss::new(self.0.clone(), announced, range))
    }

    /// The state at this moment.
    pub fn report(&self) -> Report {
        // A read that had begun may find something in a revision that is gone.
        let mut drifts = self.0.intake.drifts();
        drifts.retain(|drift| self.0.announced(&drift.revision).is_some());
        Report {
            spaces: self.0.intake.tiers.spaces(),
            tiers: self.0.intake.tiers.report(),
            drifts,
            refusals: lock(&self.0.refusals).clone(),
        }
    }

    /// What was read of each Dataset.
    pub fn traffic(&self) -> Vec<Arc<Traffic>> {
        lock(&self.0.traffic).values().cloned().collect()
    }

    /// Bytes that are stored of each Dataset, by its name.
    pub fn held(&self) -> BTreeMap<String, u64> {
        let revisions = self.0.revisions.read().unwrap_or_else(PoisonError::into_inner);
        let of_space = |announced: &Arc<Announced>| (announced.package.space(), announced.traffic.dataset.clone());
        let datasets: HashMap<SpaceId, String> = revisions.values().map(of_space).collect();
        drop(revisions);
        let mut held: BTreeMap<String, u64> = datasets.values().map(|dataset| (dataset.clone(), 0)).collect();
        for (space, bytes) in self.0.intake.tiers.spaces() {
            if let Some(held) = datasets.get(&space).and_then(|dataset| held.get_mut(dataset)) {
                *held += bytes;
            }
        }
        held
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

    /// Goes on counting when the configuration is replaced.
    fn traffic_of(&self, dataset: &Dataset) -> Arc<Traffic> {
        let known = lock(&self.traffic).get(&dataset.uid).cloned();
        known.unwrap_or_else(|| Arc::new(Traffic::of(dataset.name.clone())))
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
        let look = self.intake.tiers.look(&space, range, into, checksums, waiting);
        if look == Some(TryRead::Hit) {
            self.note_hit(announced, range);
        }
        look
    }

    fn note_hit(self: &Arc<Self>, announced: &Arc<Announced>, range: BlockRange) {
        Counters::add(&self.intake.counters.hit_bytes, range.bytes());
        self.note_cells(announced, range, |cell| {
            Counters::add(&announced.traffic.hit_bytes[cell.tier], cell.bytes);
        });
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
    fn note_cells(self: &Arc<Self>, announced: &Arc<Announced>, range: BlockRange, mut each: impl FnMut(&ReadCell)) {
        let space = &announced.package.space();
        self.intake.tiers.note_read(space, range, |cell| {
            each(&cell);
            self.note_walk(announced, self.walks.hit(space, cell.address, Instant::now()));
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
        let damaged = |_| {
            self.package_failed.notify_one();
            ReadError::Unavailable(format!("the package of revision {} is damaged", announced.id))
        };
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

/// Whether the tiers can be used as they are.
fn check(tiers: &[TierConfig]) -> Result<(), OpenError> {
    let nonsense = |text: String| Err(OpenError::Nonsense(text));
    if tiers.is_empty() || tiers.len() > TIERS_MAX {
        return nonsense(format!("{} tiers; give 1 to {TIERS_MAX}", tiers.len()));
    }
    for (number, tier) in tiers.iter().enumerate() {
        if let Some(other) = tiers[..number].iter().find(|other| other.name == tier.name) {
            return nonsense(format!(
                "two tiers are called {:?}; give each a name of its own",
                other.name
            ));
        }
        if let Some(other) = tiers[..number].iter().find(|other| is_same(&other.path, &tier.path)) {
            let path = tier.path.display();
            return nonsense(format!(
                "the tiers {:?} and {:?} have the same folder, {path}; give each a folder of its own",
                other.name, tier.name
            ));
        }
    }
    Ok(())
}

/// Whether two folders are one, by whatever names.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
