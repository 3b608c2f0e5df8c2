//! The bytes that are cached: stripes in the folder of a tier.
//!
//! ```text
//! TIER/v1/SPACE/STRIPE.data   sparse, offsets are the stripe's
//! TIER/v1/SPACE/STRIPE.side   presence and a checksum per block
//! ```
//!
//! Nothing is synced: after a crash a block counts only if its checksum matches. A fault of the disk is a value that the
//! engine turns into a miss.
//!
//! *Hidden contract*: a stripe is open once at the most, because each instance keeps the presence of its blocks in memory and
//! writes whole words of it.
//!
//! *Lock order*: `wanted`, the `opening` of a stripe, `open`, `usage`. Files are opened and written under the first two only.

#[cfg(feature = "test-support")]
mod any_stripe;
mod evicting;
mod presence;
mod resident;
mod side;
mod stored;
mod stripe;
mod usage;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use penstock_protocol::ids::SpaceId;
use penstock_protocol::side::BLOCKS;
use rustix::fs::statvfs;

use crate::limits::UNIT_BYTES_MAX;
use crate::report::TierReport;
#[cfg(feature = "test-support")]
pub use any_stripe::AnyStripe;
pub use stored::Stored;
pub use stripe::is_in_memory;
pub(crate) use stripe::{Look, Stripe, Waiting};
use usage::Usage;

/// A stripe of a space.
pub(crate) type Key = (SpaceId, u64);

/// One tier of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierConfig {
    /// Name in the CacheRuntime.
    pub name: String,
    /// Its folder; made if it is not there.
    pub path: PathBuf,
    /// Bytes that it may hold. Before it is said it keeps what it has, and takes nothing.
    pub capacity_bytes: Option<u64>,
}

/// EMFILE: this process has too many open files.
const TOO_MANY_FILES: i32 = rustix::io::Errno::MFILE.raw_os_error();

const UNTOLD: u64 = u64::MAX;

/// One tier.
pub(crate) struct Store {
    name: String,
    folder: PathBuf,
    /// [`UNTOLD`] before it is said.
    capacity_bytes: AtomicU64,
    open_stripes_max: usize,
    usage: RwLock<Usage>,
    /// Spaces that may be stored; all while it is not known yet. Held (shared) while a stripe is opened or written, so that
    /// a space that was removed stays so.
    wanted: RwLock<Option<HashSet<SpaceId>>>,
    open: RwLock<HashMap<Key, Arc<Open>>>,
    clock: AtomicU64,
    /// Stripes of which cells were evicted that still take up the disk.
    owing: Mutex<HashMap<Key, Arc<Stripe>>>,
    fault: Mutex<Option<String>>,
    /// Who is told of the cells of a stripe that an earlier process stored, when it is opened for the first time.
    found: Found,
}

/// Called with a space, a stripe, and its cells.
pub(crate) type Found = Box<dyn Fn(&SpaceId, u64, &mut dyn Iterator<Item = Range<u32>>) + Send + Sync>;

/// The place of a stripe that is open or about to be.
#[derive(Default)]
struct Open {
    stripe: OnceLock<Arc<Stripe>>,
    opening: Mutex<()>,
    used_at: AtomicU64,
}

impl Open {
    /// Whether nobody has the stripe or opens it; under the exclusive lock of the map nobody can begin to.
    fn is_idle(self: &Arc<Self>) -> bool {
        let has_users = |stripe: &Arc<Stripe>| Arc::strong_count(stripe) > 1;
        Arc::strong_count(self) == 1 && !self.stripe.get().is_some_and(has_users)
    }
}

/// What is known of a stripe without a look at the disk.
pub(crate) enum Known {
    /// It is open.
    Open(Arc<Stripe>),
    /// It has files.
    Closed,
    /// Nothing of it is stored.
    Absent,
}

/// The store did not take the bytes; they have to be passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotStored;

impl Store {
    /// Adopts what the folder of a tier holds. Looks at names and lengths only, so that it takes seconds for terabytes.
    /// `found` is told of every stripe before anything more is stored in it.
    pub(crate) fn open(tier: TierConfig, open_stripes_max: usize, found: Found) -> io::Result<Self> {
        let TierConfig {
            name,
            path,
            capacity_bytes,
        } = tier;
        let folder = path.join("v1");
        fs::create_dir_all(&folder)?;
        let store = Self {
            name,
            folder,
            capacity_bytes: AtomicU64::new(capacity_bytes.unwrap_or(UNTOLD)),
            open_stripes_max,
            usage: RwLock::default(),
            wanted: RwLock::default(),
            open: RwLock::default(),
            clock: AtomicU64::new(0),
            owing: Mutex::default(),
            fault: Mutex::default(),
            found,
        };
        store.adopt()?;
        Ok(store)
    }

    fn adopt(&self) -> io::Result<()> {
        let mut usage = write(&self.usage);
        for folder in fs::read_dir(&self.folder)? {
            let folder = folder?;
            let space = folder.file_name().to_string_lossy().parse::<SpaceId>();
            let (Ok(space), true) = (space, folder.file_type()?.is_dir()) else {
                tracing::warn!(path = %folder.path().display(), "not a space, left alone");
                continue;
            };
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let name = file.file_name();
                let name = name.to_string_lossy();
                let Some(number) = name.strip_suffix(".data").and_then(|number| number.parse().ok()) else {
                    continue;
                };
                let bytes = file.metadata()?.blocks() * 512;
                usage.set((space, number), bytes);
                usage.estimates.insert((space, number), bytes);
            }
        }
        Ok(())
    }

    /// What is known of a stripe without waiting for the disk.
    pub(crate) fn known(&self, space: &SpaceId, number: u64) -> Known {
        let key = (*space, number);
        let open = read(&self.open).get(&key).and_then(|open| {
            open.used_at.store(self.tick(), Ordering::Relaxed);
            open.stripe.get().cloned()
        });
        match open {
            Some(stripe) => Known::Open(stripe),
            None if read(&self.usage).stripes.contains_key(&key) => Known::Closed,
            None => Known::Absent,
        }
    }

    /// A stripe that has files; `None` when there is none or it cannot be opened. May wait for the disk.
    pub(crate) fn stripe(&self, space: &SpaceId, number: u64) -> Option<Arc<Stripe>> {
        match self.known(space, number) {
            Known::Open(stripe) => return Some(stripe),
            Known::Closed => {}
            Known::Absent => return None,
        }
        let wanted = read(&self.wanted);
        if !is_wanted(&wanted, space) {
            return None;
        }
        match self.open_stripe((*space, number)) {
            Ok(stripe) => Some(stripe),
            Err(error) => {
                tracing::warn!(%space, stripe = number, %error, "open a stripe; its blocks count as missing");
                None
            }
        }
    }

    /// Stores whole blocks with their checksums.
    pub(crate) fn store(
        &self,
        space: &SpaceId,
        range: BlockRange,
        bytes: &[u8],
        checksums: &[u32],
    ) -> Result<(), NotStored> {
        let key = (*space, range.stripe());
        let wanted = read(&self.wanted);
        if !is_wanted(&wanted, space) {
            return Err(NotStored);
        }
        // Reserved before it is written, so that many at the same time stay below the capacity.
        {
            let mut usage = write(&self.usage);
            if usage.total + range.bytes() > self.capacity().unwrap_or(0) {
                return Err(NotStored);
            }
            usage.add(key, range.bytes());
        }
        let stored = self
            .open_stripe(key)
            .and_then(|stripe| stripe.store(range, bytes, checksums));
        let new_bytes = stored.as_ref().map_or(0, |new_blocks| new_blocks * BLOCK_BYTES);
        write(&self.usage).subtract(key, range.bytes() - new_bytes);
        match stored {
            Ok(_) => {
                self.set_fault(None);
                Ok(())
            }
            Err(error) => {
                self.set_fault(Some(sentence(&self.name, &self.folder, &error)));
                Err(NotStored)
            }
        }
    }

    /// Its name in the CacheRuntime.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// It may hold another number of bytes from now on.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        let bytes = bytes.min(UNTOLD - 1);
        let before = self.capacity_bytes.swap(bytes, Ordering::Relaxed);
        if before != bytes {
            let before = Some(before).filter(|before| *before != UNTOLD);
            tracing::info!(tier = self.name, before, bytes, "the tier has another capacity");
        }
    }

    /// Bytes that it may hold; `None` before it is said.
    pub(crate) fn capacity(&self) -> Option<u64> {
        Some(self.capacity_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != UNTOLD)
    }

    /// Whether the last that was to be stored could not be, and no trial since.
    pub(crate) fn is_at_fault(&self) -> bool {
        lock(&self.fault).is_some()
    }

    /// Bytes that it holds.
    pub(crate) fn used(&self) -> u64 {
        read(&self.usage).total
    }

    /// The cells of all stripes of a space are to be told again.
    pub(crate) fn look_again(&self, space: &SpaceId) {
        let mut usage = write(&self.usage);
        let stripes: Vec<Key> = usage.stripes.keys().filter(|(of, _)| of == space).copied().collect();
        usage.untold.extend(stripes);
    }

    /// Stripes whose cells are to be told: an earlier process stored them and this one has not opened them yet, or they are to
    /// be told again.
    pub(crate) fn unknown_stripes(&self) -> Vec<Key> {
        let wanted = read(&self.wanted);
        let usage = read(&self.usage);
        let unknown = usage.estimates.keys().chain(&usage.untold);
        unknown
            .filter(|(space, _)| is_wanted(&wanted, space))
            .copied()
            .collect()
    }

    /// All stripes that have files.
    pub(crate) fn stripes(&self) -> BTreeSet<Key> {
        read(&self.usage).stripes.keys().copied().collect()
    }

    pub(crate) fn spaces(&self) -> Vec<(SpaceId, u64)> {
        let mut spaces = std::collections::BTreeMap::new();
        for ((space, _), bytes) in &read(&self.usage).stripes {
            *spaces.entry(*space).or_default() += bytes;
        }
        spaces.into_iter().collect()
    }

    pub(crate) fn report(&self) -> TierReport {
        TierReport {
            name: self.name.clone(),
            capacity_bytes: self.capacity().unwrap_or(0),
            used_bytes: read(&self.usage).total,
            disk_bytes: statvfs(&self.folder).ok().map(|disk| disk.f_blocks * disk.f_frsize),
            fault: lock(&self.fault).clone(),
        }
    }

    /// Opens a stripe, or waits until another has. The caller holds `wanted`.
    fn open_stripe(&self, key: Key) -> io::Result<Arc<Stripe>> {
        let open = self.place(key);
        let _opening = lock(&open.opening);
        if let Some(stripe) = open.stripe.get() {
            return Ok(stripe.clone());
        }
        let folder = self.folder.join(key.0.to_string());
        let stripe = loop {
            match Stripe::open(&folder, key.0, key.1) {
                // Too many open files (EMFILE): closing others helps, as long as there are any.
                Err(error) if error.raw_os_error() == Some(TOO_MANY_FILES) && close_oldest(&mut write(&self.open)) => {}
                opened => break Arc::new(opened?),
            }
        };
        let mut usage = write(&self.usage);
        let estimate = usage.estimates.remove(&key);
        if let Some(estimate) = estimate {
            // A crash may have lost blocks, or their presence.
            usage.subtract(key, estimate);
            usage.add(key, stripe.present_blocks() * BLOCK_BYTES);
        } else {
            usage.add(key, 0);
        }
        drop(usage);
        if estimate.is_some() {
            stripe.owe_what_is_missing();
            lock(&self.owing).insert(key, stripe.clone());
            (self.found)(&key.0, key.1, &mut stripe.cells(0..BLOCKS));
        }
        Ok(open.stripe.get_or_init(|| stripe).clone())
    }

    /// The place of a stripe in the map; it stays there as long as somebody has it.
    fn place(&self, key: Key) -> Arc<Open> {
        let mut places = write(&self.open);
        if places.len() >= self.open_stripes_max && !places.contains_key(&key) {
            close_oldest(&mut places);
        }
        let open = places.entry(key).or_default();
        open.used_at.store(self.tick(), Ordering::Relaxed);
        open.clone()
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// After a fault: whether the disk takes data again. Nothing else does find out, because a tier at fault is spared.
    pub(crate) fn try_again(&self) {
        if !self.is_at_fault() {
            return;
        }
        let probe = self.folder.join("probe");
        let tried = fs::File::create(&probe).and_then(|mut file| {
            file.write_all(&[0; UNIT_BYTES_MAX as usize])?;
            file.sync_data()
        });
        let _ = fs::remove_file(&probe);
        self.set_fault(tried.err().map(|error| sentence(&self.name, &self.folder, &error)));
    }

    fn set_fault(&self, fault: Option<String>) {
        let mut known = lock(&self.fault);
        if *known != fault {
            match &fault {
                Some(fault) => tracing::warn!(fault, "data is passed through without being cached"),
                None => tracing::info!(tier = self.name, "the tier takes data again"),
            }
            *known = fault;
        }
    }
}

fn is_wanted(wanted: &Option<HashSet<SpaceId>>, space: &SpaceId) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted.contains(space))
}

/// Closes the stripe that was used longest ago among those that nobody has; false when there is none.
fn close_oldest(places: &mut HashMap<Key, Arc<Open>>) -> bool {
    let oldest = places
        .iter()
        .filter(|(_, open)| open.is_idle())
        .min_by_key(|(_, open)| open.used_at.load(Ordering::Relaxed))
        .map(|(key, _)| *key);
    oldest.and_then(|oldest| places.remove(&oldest)).is_some()
}

fn sentence(tier: &str, folder: &Path, error: &io::Error) -> String {
    let folder = folder.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!(
                "the disk of tier {tier} is full ({folder}): new data is passed through; free space there or lower the capacity"
            )
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            format!(
                "the disk of tier {tier} is read-only ({folder}): new data is passed through; look at the node's kernel log"
            )
        }
        _ => format!("tier {tier} cannot be written ({folder}): {error}; new data is passed through"),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
