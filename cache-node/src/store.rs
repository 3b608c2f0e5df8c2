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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use penstock_protocol::ids::SpaceId;

use crate::engine::TierConfig;
use crate::limits::OPEN_STRIPES_MAX;
use crate::report::TierReport;
pub(crate) use stripe::{Look, Stripe};

type Key = (SpaceId, u64);

/// One tier.
pub(crate) struct Store {
    name: String,
    folder: PathBuf,
    capacity_bytes: u64,
    used_bytes: AtomicU64,
    spaces: Mutex<HashMap<SpaceId, u64>>,
    /// Stripes that have files.
    known: RwLock<HashSet<Key>>,
    open: RwLock<HashMap<Key, Open>>,
    clock: AtomicU64,
    fault: Mutex<Option<String>>,
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
            used_bytes: AtomicU64::new(0),
            spaces: Mutex::default(),
            known: RwLock::default(),
            open: RwLock::default(),
            clock: AtomicU64::new(0),
            fault: Mutex::default(),
        };
        store.adopt()?;
        Ok(store)
    }

    fn adopt(&self) -> io::Result<()> {
        for folder in fs::read_dir(&self.folder)? {
            let folder = folder?;
            let Ok(space) = folder.file_name().to_string_lossy().parse::<SpaceId>() else {
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
                self.account(&space, file.metadata()?.blocks() * 512);
                write(&self.known).insert((space, number));
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
        if !read(&self.known).contains(&key) {
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
        if self.is_full() {
            return Err(NotStored);
        }
        let stored = self
            .open_stripe((*space, range.stripe()))
            .and_then(|stripe| stripe.store(range, bytes, checksums));
        match stored {
            Ok(new_blocks) => {
                self.account(space, new_blocks * BLOCK_BYTES);
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
    pub(crate) fn forget(&self, space: &SpaceId, stripe: &Stripe, block: u32) {
        if stripe.forget(block) {
            self.used_bytes.fetch_sub(BLOCK_BYTES, Ordering::Relaxed);
            if let Some(bytes) = lock(&self.spaces).get_mut(space) {
                *bytes = bytes.saturating_sub(BLOCK_BYTES);
            }
        }
    }

    /// Whether nothing more fits.
    pub(crate) fn is_full(&self) -> bool {
        self.used_bytes.load(Ordering::Relaxed) >= self.capacity_bytes
    }

    /// Removes every space that is not in `used`.
    pub(crate) fn keep_only(&self, used: &HashSet<SpaceId>) {
        let gone: HashSet<SpaceId> = read(&self.known)
            .iter()
            .map(|(space, _)| *space)
            .filter(|space| !used.contains(space))
            .collect();
        for space in gone {
            write(&self.known).retain(|(of, _)| *of != space);
            write(&self.open).retain(|(of, _), _| *of != space);
            let folder = self.folder.join(space.to_string());
            if let Err(error) = fs::remove_dir_all(&folder) {
                tracing::warn!(%space, %error, "remove a space that no revision uses; tried again at the next start");
                continue;
            }
            let bytes = lock(&self.spaces).remove(&space).unwrap_or(0);
            self.used_bytes
                .fetch_sub(bytes.min(self.used_bytes.load(Ordering::Relaxed)), Ordering::Relaxed);
            tracing::info!(%space, bytes, "removed a space that no revision uses");
        }
    }

    pub(crate) fn spaces(&self) -> Vec<(SpaceId, u64)> {
        let mut spaces: Vec<_> = lock(&self.spaces)
            .iter()
            .map(|(space, bytes)| (*space, *bytes))
            .collect();
        spaces.sort_unstable();
        spaces
    }

    pub(crate) fn report(&self) -> TierReport {
        let full = self.is_full().then(|| {
            format!(
                "tier {} is full: new data is passed through without being cached; raise spec.tiers capacity or add cache nodes",
                self.name
            )
        });
        TierReport {
            name: self.name.clone(),
            capacity_bytes: self.capacity_bytes,
            used_bytes: self.used_bytes.load(Ordering::Relaxed),
            fault: lock(&self.fault).clone().or(full),
        }
    }

    fn open_stripe(&self, key: Key) -> io::Result<Arc<Stripe>> {
        let mut open = write(&self.open);
        if let Some(open) = open.get(&key) {
            return Ok(open.stripe.clone());
        }
        let stripe = Arc::new(Stripe::open(&self.folder.join(key.0.to_string()), key.0, key.1)?);
        write(&self.known).insert(key);
        if open.len() >= OPEN_STRIPES_MAX {
            // Readers that still hold the oldest go on with it; its state is in its file.
            let oldest = open
                .iter()
                .min_by_key(|(_, open)| open.used_at.load(Ordering::Relaxed))
                .map(|(key, _)| *key);
            oldest.and_then(|oldest| open.remove(&oldest));
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

    fn account(&self, space: &SpaceId, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        *lock(&self.spaces).entry(*space).or_default() += bytes;
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
