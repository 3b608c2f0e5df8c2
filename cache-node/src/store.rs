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

mod resident;
mod side;
mod stored;
mod stripe;

use std::collections::{HashMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use penstock_protocol::ids::SpaceId;
use penstock_protocol::side::BLOCKS;

use crate::engine::TierConfig;
use crate::limits::{AHEAD_PART, OPEN_STRIPES_MAX};
use crate::report::TierReport;
pub use stored::Stored;
pub(crate) use stripe::{Look, Stripe, Waiting};

type Key = (SpaceId, u64);

/// EMFILE: this process has too many open files.
const TOO_MANY_FILES: i32 = rustix::io::Errno::MFILE.raw_os_error();

/// One tier.
pub(crate) struct Store {
    name: String,
    folder: PathBuf,
    capacity_bytes: u64,
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

/// Who holds how much. The total is the sum of the stripes, whatever happens to their files.
#[derive(Default)]
struct Usage {
    /// Bytes of every stripe that has files.
    stripes: HashMap<Key, u64>,
    total: u64,
    /// What the files of stripes of an earlier process take, until the stripe is opened and its blocks are counted.
    estimates: HashMap<Key, u64>,
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

    fn remove(&mut self, key: Key) {
        self.set(key, 0);
        self.stripes.remove(&key);
        self.estimates.remove(&key);
    }

    /// Of a stripe that was removed there is nothing to subtract.
    fn subtract(&mut self, key: Key, bytes: u64) {
        if let Some(before) = self.stripes.get(&key).copied() {
            self.set(key, before.saturating_sub(bytes));
        }
    }
}

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
    pub(crate) fn open(tier: TierConfig, found: Found) -> io::Result<Self> {
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
            if usage.total + range.bytes() > self.capacity_bytes {
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

    /// The cell of a block, if it is there.
    pub(crate) fn cell(&self, space: &SpaceId, number: u64, block: u32) -> Option<Range<u32>> {
        let stripe = self.stripe(space, number)?;
        Some(stripe.cell(block)).filter(|cell| !cell.is_empty())
    }

    /// Makes the cell of a block missing; returns its blocks, none if it was missing already, `None` when it cannot be told. What
    /// it took up is given back to the disk by [`Store::punch`].
    pub(crate) fn evict(&self, space: &SpaceId, number: u64, block: u32) -> Option<Range<u32>> {
        let key = (*space, number);
        let Some(stripe) = self.stripe(space, number) else {
            let is_gone = !read(&self.usage).stripes.contains_key(&key);
            return is_gone.then_some(block..block);
        };
        let cell = stripe.evict(block);
        if !cell.is_empty() {
            write(&self.usage).subtract(key, cell.len() as u64 * BLOCK_BYTES);
            lock(&self.owing).entry(key).or_insert(stripe);
        }
        Some(cell)
    }

    /// Opens a stripe that an earlier process stored, so that its cells become known, and closes it if nobody else has it. Done
    /// once, whether it can be opened or not.
    pub(crate) fn look_at(&self, key: Key) {
        let looked = self.stripe(&key.0, key.1).is_some();
        if !looked {
            write(&self.usage).estimates.remove(&key);
            return;
        }
        self.punch();
        let mut places = write(&self.open);
        if places.get(&key).is_some_and(Open::is_idle) {
            places.remove(&key);
        }
    }

    /// Gives the disk what evicted cells took up, and removes stripes of which nothing is left. False when somebody still sends
    /// some of it: then it is to be done again.
    pub(crate) fn punch(&self) -> bool {
        let owing = std::mem::take(&mut *lock(&self.owing));
        let mut is_done = true;
        for (key, stripe) in owing {
            let is_punched = stripe.punch().unwrap_or_else(|error| {
                // The blocks are missing all the same; the next who store there use the place.
                tracing::warn!(space = %key.0, stripe = key.1, %error, "punch holes into a stripe");
                true
            });
            if !is_punched {
                is_done = false;
                lock(&self.owing).entry(key).or_insert(stripe);
            } else if stripe.present_blocks() == 0 && !self.remove_if_empty(key, stripe) {
                // Somebody has it. Looked at again with the next round.
                if let Known::Open(stripe) = self.known(&key.0, key.1) {
                    lock(&self.owing).entry(key).or_insert(stripe);
                }
            }
        }
        is_done
    }

    /// Removes the files of a stripe that has no blocks; false when somebody else has it.
    fn remove_if_empty(&self, key: Key, stripe: Arc<Stripe>) -> bool {
        drop(stripe);
        // Nobody opens or stores meanwhile.
        let _wanted = write(&self.wanted);
        let mut places = write(&self.open);
        let is_empty = |open: &Arc<Open>| open.stripe.get().is_some_and(|stripe| stripe.present_blocks() == 0);
        match places.get(&key) {
            Some(open) if !is_empty(open) => return true,
            Some(open) if !open.is_idle() => return false,
            _ => {}
        }
        places.remove(&key);
        drop(places);
        let folder = self.folder.join(key.0.to_string());
        for ending in ["data", "side"] {
            if let Err(error) = remove_file(&folder.join(format!("{}.{ending}", key.1))) {
                tracing::warn!(space = %key.0, stripe = key.1, %error, "remove a stripe of which nothing is left");
            }
        }
        write(&self.usage).remove(key);
        true
    }

    /// Whether `bytes` more would be kept: otherwise nothing beyond what a reader needs is worth fetching.
    pub(crate) fn takes(&self, bytes: u64) -> bool {
        bytes <= self.capacity_bytes / AHEAD_PART && lock(&self.fault).is_none()
    }

    /// Bytes that it may hold, and holds.
    pub(crate) fn capacity_and_used(&self) -> (u64, u64) {
        (self.capacity_bytes, read(&self.usage).total)
    }

    /// Stripes that an earlier process stored and this one has not opened yet.
    pub(crate) fn unknown_stripes(&self) -> Vec<Key> {
        let wanted = read(&self.wanted);
        let usage = read(&self.usage);
        let unknown = usage.estimates.keys().filter(|(space, _)| is_wanted(&wanted, space));
        unknown.copied().collect()
    }

    /// Removes every space that is not in `wanted` and takes no more of it; `None` keeps and takes all. Waits for what is
    /// being stored.
    pub(crate) fn keep_only(&self, wanted: Option<HashSet<SpaceId>>) {
        if *read(&self.wanted) != wanted {
            write(&self.wanted).clone_from(&wanted);
        }
        let Some(wanted) = wanted else { return };
        let stored = self.spaces().into_iter().map(|(space, _)| space);
        for space in stored.filter(|space| !wanted.contains(space)) {
            write(&self.open).retain(|(of, _), _| *of != space);
            match remove_space(&self.folder.join(space.to_string())) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%space, %error, "remove a space that no revision uses; tried again with the next configuration");
                    continue;
                }
                _ => {}
            }
            let mut usage = write(&self.usage);
            let keys: Vec<Key> = usage.stripes.keys().filter(|(of, _)| *of == space).copied().collect();
            keys.into_iter().for_each(|key| usage.remove(key));
            drop(usage);
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
        TierReport {
            name: self.name.clone(),
            capacity_bytes: self.capacity_bytes,
            used_bytes: read(&self.usage).total,
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
        if places.len() >= OPEN_STRIPES_MAX && !places.contains_key(&key) {
            close_oldest(&mut places);
        }
        let open = places.entry(key).or_default();
        open.used_at.store(self.tick(), Ordering::Relaxed);
        open.clone()
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

fn is_wanted(wanted: &Option<HashSet<SpaceId>>, space: &SpaceId) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted.contains(space))
}

/// Removes the folder of a space. Files are cut before they are unlinked: a mounter that was handed them keeps them open, and
/// what it does not use any more would take up the disk unseen.
fn remove_space(folder: &Path) -> io::Result<()> {
    for file in fs::read_dir(folder)? {
        // What is no file, or is gone by now, is the next line's business.
        let _ = remove_file(&file?.path());
    }
    fs::remove_dir_all(folder)
}

fn remove_file(path: &Path) -> io::Result<()> {
    // What cannot be cut is removed all the same.
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        file.set_len(0)?;
    }
    fs::remove_file(path)
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
mod tests {
    use super::*;

    const SPACE: SpaceId = SpaceId([1; 16]);
    const BLOCK: usize = BLOCK_BYTES as usize;

    fn store_in(folder: &Path, capacity_bytes: u64) -> Store {
        let tier = TierConfig {
            name: "ssd".into(),
            path: folder.into(),
            capacity_bytes,
        };
        Store::open(tier, Box::new(|_, _, _| {})).unwrap()
    }

    /// Stores the first `blocks` blocks of a stripe.
    fn fill(store: &Store, space: SpaceId, stripe: u64, blocks: usize) -> Result<(), NotStored> {
        let range = BlockRange::new(stripe << 26, (blocks * BLOCK) as u64).unwrap();
        store.store(&space, range, &vec![7; blocks * BLOCK], &vec![7; blocks])
    }

    #[test]
    fn a_stripe_that_somebody_has_is_not_opened_twice() {
        let folder = tempfile::tempdir().unwrap();
        let store = store_in(folder.path(), 1 << 40);
        fill(&store, SPACE, 0, 1).unwrap();
        let held = store.stripe(&SPACE, 0).unwrap();
        for number in 1..=OPEN_STRIPES_MAX as u64 + 1 {
            fill(&store, SPACE, number, 1).unwrap();
        }
        assert!(Arc::ptr_eq(&held, &store.stripe(&SPACE, 0).unwrap()));
        assert!(read(&store.open).len() <= OPEN_STRIPES_MAX);
    }

    #[test]
    fn a_removed_space_stays_removed_whatever_is_under_way() {
        let folder = tempfile::tempdir().unwrap();
        let store = store_in(folder.path(), 1 << 40);
        for _ in 0..50 {
            store.keep_only(None);
            fill(&store, SPACE, 0, 1).unwrap();
            let removing = std::sync::Barrier::new(3);
            std::thread::scope(|scope| {
                for number in 0..2 {
                    let (store, removing) = (&store, &removing);
                    scope.spawn(move || {
                        removing.wait();
                        // Until it is refused.
                        (0..).find(|step| fill(store, SPACE, 2 * step + number, 1).is_err())
                    });
                }
                removing.wait();
                store.keep_only(Some(HashSet::new()));
            });
            assert_eq!(store.spaces(), []);
            assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 0, "the folder is back");
        }
    }

    #[test]
    fn a_space_whose_folder_is_gone_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store_in(folder.path(), 1 << 40);
        fill(&store, SPACE, 0, 4).unwrap();
        let held = store.stripe(&SPACE, 0).unwrap();
        fs::remove_dir_all(store.folder.join(SPACE.to_string())).unwrap();
        store.keep_only(Some(HashSet::new()));
        assert_eq!((store.spaces(), store.report().used_bytes), (vec![], 0));
        store.evict(&SPACE, 0, 0);
        drop(held);
        assert!(store.punch());
        assert_eq!(
            (store.spaces(), store.report().used_bytes),
            (vec![], 0),
            "blocks of it were evicted"
        );
    }

    #[test]
    fn a_removed_space_takes_no_disk_even_if_somebody_has_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let store = store_in(folder.path(), 1 << 40);
        fill(&store, SPACE, 0, 4).unwrap();
        let handed_over = store.stripe(&SPACE, 0).unwrap().files().unwrap();
        store.keep_only(Some(HashSet::new()));
        assert_eq!(handed_over.map(|file| file.metadata().unwrap().blocks()), [0, 0]);
    }

    /// Stores cells of these blocks of a stripe.
    fn fill_cells(store: &Store, cells: impl IntoIterator<Item = Range<u64>>) {
        for cell in cells {
            let blocks = (cell.end - cell.start) as usize;
            let range = BlockRange::new(cell.start * BLOCK_BYTES, (blocks * BLOCK) as u64).unwrap();
            store
                .store(&SPACE, range, &vec![7; blocks * BLOCK], &vec![7; blocks])
                .unwrap();
        }
    }

    fn disk_bytes(store: &Store, file: &str) -> u64 {
        fs::metadata(store.folder.join(SPACE.to_string()).join(file))
            .unwrap()
            .blocks()
            * 512
    }

    #[test]
    fn what_was_stored_as_one_is_evicted_as_one_also_after_a_restart() {
        // On a disk, unlike /tmp of many machines.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = store_in(folder.path(), 1 << 40);
        fill_cells(&store, [0..3, 10..37, 3..10, 250..256, 256..300]);
        let before = disk_bytes(&store, "0.data");
        assert_eq!(store.evict(&SPACE, 0, 20), Some(10..37));
        assert_eq!(store.evict(&SPACE, 0, 20), Some(20..20), "it is gone");
        assert!(store.punch());
        assert_eq!(disk_bytes(&store, "0.data"), before - 27 * BLOCK_BYTES);
        drop(store);

        let (found, cells) = std::sync::mpsc::channel();
        let tier = TierConfig {
            name: "ssd".into(),
            path: folder.path().into(),
            capacity_bytes: 1 << 40,
        };
        let tell: Found = Box::new(move |space, stripe, cells| {
            cells.for_each(|cell| found.send((*space, stripe, cell)).unwrap());
        });
        let store = Store::open(tier, tell).unwrap();
        assert_eq!(store.unknown_stripes(), [(SPACE, 0)]);
        // As if the process had ended between an eviction and its hole.
        let data = folder.path().join(format!("v1/{SPACE}/0.data"));
        let data = OpenOptions::new().write(true).open(data).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&data, &[1; 40 * BLOCK], 400 * BLOCK_BYTES).unwrap();
        store.stripe(&SPACE, 0).unwrap();
        assert!(store.punch());
        assert_eq!(disk_bytes(&store, "0.data"), before - 27 * BLOCK_BYTES);
        assert_eq!(store.unknown_stripes(), []);
        let cells: Vec<_> = cells.try_iter().collect();
        assert_eq!(cells, [0..3, 3..10, 250..256, 256..300].map(|cell| (SPACE, 0, cell)));
        assert_eq!(store.spaces(), [(SPACE, 60 * BLOCK_BYTES)]);
    }

    #[test]
    fn the_place_of_a_cell_is_not_given_away_while_it_is_sent_and_not_after_it_was_stored_again() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = store_in(folder.path(), 1 << 40);
        fill_cells(&store, Some(0..20));
        let full = disk_bytes(&store, "0.data");
        let range = BlockRange::new(0, 20 * BLOCK_BYTES).unwrap();
        let sent = store.stripe(&SPACE, 0).unwrap().stored(range).unwrap();
        assert_eq!(store.evict(&SPACE, 0, 5), Some(0..20));
        assert!(!store.punch(), "somebody sends it");
        assert!(
            store.stripe(&SPACE, 0).unwrap().stored(range).is_none(),
            "nobody else begins to"
        );
        assert_eq!(disk_bytes(&store, "0.data"), full);
        fill_cells(&store, Some(5..10));
        drop(sent);
        assert!(store.punch());
        assert_eq!(disk_bytes(&store, "0.data"), 5 * BLOCK_BYTES);
        assert_eq!(store.spaces(), [(SPACE, 5 * BLOCK_BYTES)]);
    }

    #[test]
    fn a_stripe_of_which_nothing_is_left_has_no_files_unless_somebody_reads_it() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = store_in(folder.path(), 1 << 40);
        fill_cells(&store, Some(0..20));
        let files = || fs::read_dir(store.folder.join(SPACE.to_string())).unwrap().count();
        let held = store.stripe(&SPACE, 0).unwrap();
        store.evict(&SPACE, 0, 0);
        assert!(store.punch());
        assert_eq!(files(), 2);
        drop(held);
        fill_cells(&store, Some(0..20));
        store.evict(&SPACE, 0, 0);
        assert!(store.punch());
        assert_eq!((files(), store.spaces()), (0, vec![]));
        assert!(matches!(store.known(&SPACE, 0), Known::Absent));
        fill_cells(&store, Some(3..4));
        assert_eq!(store.spaces(), [(SPACE, BLOCK_BYTES)]);
    }
}
