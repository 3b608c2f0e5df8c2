//! The bytes that are cached: stripes in the folder of a tier.
//!
//! ```text
//! TIER/v1/SPACE/STRIPE.data   sparse, offsets are the stripe's
//! TIER/v1/SPACE/STRIPE.side   presence and a checksum per block
//! ```
//!
//! Nothing is synced: after a crash a block counts only if its checksum matches. A fault of the disk is a value that the
//! engine turns into a miss.

mod side;
mod stripe;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use penstock_protocol::ids::SpaceId;

use crate::engine::TierConfig;
use crate::limits::OPEN_STRIPES_MAX;
use crate::report::TierReport;
pub(crate) use stripe::{Look, Stripe};

type Key = (SpaceId, u64);

/// EMFILE: this process has too many open files.
const TOO_MANY_FILES: i32 = rustix::io::Errno::MFILE.raw_os_error();

/// One tier.
pub(crate) struct Store {
    name: String,
    folder: PathBuf,
    capacity_bytes: u64,
    usage: RwLock<Usage>,
    open: RwLock<HashMap<Key, Open>>,
    clock: AtomicU64,
    fault: Mutex<Option<String>>,
    /// The last write did not fit.
    full: AtomicBool,
}

/// Who holds how much. The total is the sum of the stripes, whatever happens to their files.
#[derive(Default)]
struct Usage {
    /// Bytes of every stripe that has files.
    stripes: HashMap<Key, u64>,
    total: u64,
    /// What the files of stripes of an earlier process take, until the stripe is opened and its blocks are counted.
    estimates: HashMap<Key, u64>,
    /// Spaces that may be stored; all while it is not known yet.
    wanted: Option<HashSet<SpaceId>>,
}

impl Usage {
    fn set(&mut self, key: Key, bytes: u64) {
        let before = self.stripes.insert(key, bytes).unwrap_or(0);
        self.total = self.total.saturating_sub(before) + bytes;
    }

    fn add(&mut self, key: Key, bytes: u64) {
        let before = self.stripes.get(&key).copied().unwrap_or(0);
        self.set(key, before + bytes);
    }

    fn subtract(&mut self, key: Key, bytes: u64) {
        let before = self.stripes.get(&key).copied().unwrap_or(0);
        self.set(key, before.saturating_sub(bytes));
    }
}

struct Open {
    stripe: Arc<Stripe>,
    used_at: AtomicU64,
}

/// The store did not take the bytes; they have to be passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotStored;

impl Store {
    /// Adopts what the folder of a tier holds. Looks at names and lengths only, so that it takes seconds for terabytes.
    pub(crate) fn open(tier: TierConfig) -> io::Result<Self> {
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
            capacity_bytes,
            usage: RwLock::default(),
            open: RwLock::default(),
            clock: AtomicU64::new(0),
            fault: Mutex::default(),
            full: AtomicBool::new(false),
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

    /// A stripe that has files; `None` when there is none or it cannot be opened.
    pub(crate) fn stripe(&self, space: &SpaceId, number: u64) -> Option<Arc<Stripe>> {
        let key = (*space, number);
        if let Some(open) = read(&self.open).get(&key) {
            open.used_at.store(self.tick(), Ordering::Relaxed);
            return Some(open.stripe.clone());
        }
        if !read(&self.usage).stripes.contains_key(&key) {
            return None;
        }
        match self.open_stripe(key) {
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
        // Reserved before it is written, so that many at the same time stay below the capacity.
        {
            let mut usage = write(&self.usage);
            let wanted = usage.wanted.as_ref().is_none_or(|wanted| wanted.contains(space));
            if !wanted || usage.total + range.bytes() > self.capacity_bytes {
                self.full.store(wanted, Ordering::Relaxed);
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

    /// Forgets a block whose bytes did not match.
    pub(crate) fn forget(&self, space: &SpaceId, number: u64, stripe: &Stripe, block: u32) {
        if stripe.forget(block) {
            write(&self.usage).subtract((*space, number), BLOCK_BYTES);
            self.full.store(false, Ordering::Relaxed);
        }
    }

    /// Whether `bytes` more would be kept: otherwise nothing beyond what a reader needs is worth fetching.
    pub(crate) fn takes(&self, bytes: u64) -> bool {
        read(&self.usage).total.saturating_add(bytes) <= self.capacity_bytes && lock(&self.fault).is_none()
    }

    /// Removes every space that is not in `wanted` and takes no more of it; `None` keeps and takes all.
    pub(crate) fn keep_only(&self, wanted: Option<HashSet<SpaceId>>) {
        let gone: HashSet<SpaceId> = {
            let mut usage = write(&self.usage);
            usage.wanted.clone_from(&wanted);
            let Some(wanted) = wanted else { return };
            usage
                .stripes
                .keys()
                .map(|(space, _)| *space)
                .filter(|space| !wanted.contains(space))
                .collect()
        };
        for space in gone {
            write(&self.open).retain(|(of, _), _| *of != space);
            let folder = self.folder.join(space.to_string());
            if let Err(error) = fs::remove_dir_all(&folder) {
                tracing::warn!(%space, %error, "remove a space that no revision uses; tried again with the next configuration");
                continue;
            }
            let mut usage = write(&self.usage);
            let keys: Vec<Key> = usage.stripes.keys().filter(|(of, _)| *of == space).copied().collect();
            for key in keys {
                usage.set(key, 0);
                usage.stripes.remove(&key);
            }
            drop(usage);
            self.full.store(false, Ordering::Relaxed);
            tracing::info!(%space, "removed a space that no revision uses");
        }
    }

    pub(crate) fn spaces(&self) -> Vec<(SpaceId, u64)> {
        let mut spaces = std::collections::BTreeMap::new();
        for ((space, _), bytes) in &read(&self.usage).stripes {
            *spaces.entry(*space).or_default() += bytes;
        }
        spaces.into_iter().collect()
    }

    pub(crate) fn report(&self) -> TierReport {
        let full = self.full.load(Ordering::Relaxed).then(|| {
            format!(
                "tier {} is full: new data is passed through without being cached; raise spec.tiers capacity or add cache nodes",
                self.name
            )
        });
        TierReport {
            name: self.name.clone(),
            capacity_bytes: self.capacity_bytes,
            used_bytes: read(&self.usage).total,
            fault: lock(&self.fault).clone().or(full),
        }
    }

    fn open_stripe(&self, key: Key) -> io::Result<Arc<Stripe>> {
        let mut open = write(&self.open);
        if let Some(open) = open.get(&key) {
            return Ok(open.stripe.clone());
        }
        let folder = self.folder.join(key.0.to_string());
        let stripe = loop {
            match Stripe::open(&folder, key.0, key.1) {
                // Too many open files (EMFILE): closing others helps, as long as there are any.
                Err(error) if error.raw_os_error() == Some(TOO_MANY_FILES) && close_oldest(&mut open) => {}
                opened => break Arc::new(opened?),
            }
        };
        let mut usage = write(&self.usage);
        if let Some(estimate) = usage.estimates.remove(&key) {
            // A crash may have lost blocks, or their presence.
            usage.subtract(key, estimate);
            usage.add(key, stripe.present_blocks() * BLOCK_BYTES);
        } else {
            usage.add(key, 0);
        }
        drop(usage);
        if open.len() >= OPEN_STRIPES_MAX {
            close_oldest(&mut open);
        }
        open.insert(
            key,
            Open {
                stripe: stripe.clone(),
                used_at: AtomicU64::new(self.tick()),
            },
        );
        Ok(stripe)
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
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

/// Closes the stripe that was used longest ago; false when none is open. Readers that hold it go on; its state is in its
/// files.
fn close_oldest(open: &mut HashMap<Key, Open>) -> bool {
    let oldest = open
        .iter()
        .min_by_key(|(_, open)| open.used_at.load(Ordering::Relaxed))
        .map(|(key, _)| *key);
    oldest.and_then(|oldest| open.remove(&oldest)).is_some()
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
