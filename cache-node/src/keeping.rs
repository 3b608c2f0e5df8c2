//! Which cells are kept: pure bookkeeping over the policies. It must not know files or origins.
//!
//! ```text
//!                   stored, and the policy admits it                    ┌──────────────┐
//! a missing cell ────────────────────────────────────────────────────► │ kept: policy │ ──victim──► evicted
//!       │  stored, but ahead of its reader,  ┌─────────┐ read, admitted └──────────────┘
//!       └──────────────────────────────────► │ passing │ ───────────────────▲
//!          or not admitted                   └─────────┘ read to its end ─► spent ──► evicted first
//!                                                 └── the oldest, when there are too many ──► evicted
//! ```
//!
//! A policy answers which units of its Dataset are worth keeping and never sees what only passes: bytes that were fetched ahead
//! and wait for their reader, or the rest of a unit that was not admitted. Each space has a policy of its own. Of several that
//! are read and want more than there is, the one that holds most gives: so all get the same. One that nobody reads gives first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use penstock_policy::{Auto, Policy};
use penstock_protocol::geometry::{BLOCK_BYTES, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;

use crate::limits::{PASSING_BYTES_MAX, PASSING_PART, SHARE_IDLE_MAX};

/// Blocks of a stripe, as a power of two.
const STRIPE_BITS: u32 = (STRIPE_BYTES / BLOCK_BYTES).trailing_zeros();

/// Cells of which the last read is remembered: a file that is read in pieces is read once.
const LAST_READ_CELLS: usize = 64;

/// Keys in the queue of what passes that are of no use any more, beside as many as are.
const STALE_KEYS_MAX: usize = 1024;

/// A cell: a stripe of a space, and blocks of it that were stored as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) stripe: u64,
    pub(crate) blocks: Range<u32>,
}

/// All spaces.
pub(crate) struct Keeping {
    /// Bytes that all may hold.
    room: u64,
    spaces: RwLock<HashMap<SpaceId, Arc<Mutex<Share>>>>,
}

/// What is kept of one space.
struct Share {
    policy: Auto,
    /// What the policy may hold, as it was last told.
    capacity: u64,
    /// When somebody read, as of the last look.
    read_at: Instant,
    was_read: bool,
    is_idle: bool,
    passing: Passing,
    /// By a hash of the key.
    last_read: [u64; LAST_READ_CELLS],
}

/// What only passes.
#[derive(Default)]
struct Passing {
    /// Bytes, and whether somebody has read it to its end.
    cells: HashMap<u64, (u32, bool)>,
    /// The oldest first. Those that are kept by now, or gone, stay until they come up.
    waiting: VecDeque<u64>,
    spent: VecDeque<u64>,
    waiting_bytes: u64,
}

/// Whether a missing cell will be kept when it has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Kept,
    Passes,
}

impl Keeping {
    /// Nothing, in so many bytes.
    pub(crate) fn new(room: u64) -> Self {
        Self {
            room,
            spaces: RwLock::default(),
        }
    }

    /// Forgets all other spaces.
    pub(crate) fn keep_only(&self, wanted: &HashSet<SpaceId>) {
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        spaces.retain(|space, _| wanted.contains(space));
    }

    /// A missing cell is read: whether it is worth keeping.
    pub(crate) fn missed(&self, space: &SpaceId, cell: &Cell) -> Admission {
        if self.with(space, |share| share.read(key(cell), bytes(cell))) {
            Admission::Kept
        } else {
            Admission::Passes
        }
    }

    /// A cell that is stored was read; to its end if `is_through`.
    pub(crate) fn hit(&self, space: &SpaceId, cell: &Cell, is_through: bool) {
        self.with(space, |share| share.hit(key(cell), bytes(cell), is_through));
    }

    /// A cell was stored.
    pub(crate) fn stored(&self, space: &SpaceId, cell: &Cell, admission: Admission) {
        self.with(space, |share| match admission {
            Admission::Kept => share.keep(key(cell), bytes(cell)),
            Admission::Passes => share.passing.insert(key(cell), bytes(cell)),
        });
    }

    /// A cell is not stored any more.
    pub(crate) fn removed(&self, space: &SpaceId, cell: &Cell) {
        self.with(space, |share| {
            if !share.passing.remove(key(cell)) {
                share.policy.removed(key(cell));
            }
        });
    }

    /// Whether so many more bytes could be kept without any going.
    pub(crate) fn has_room(&self, space: &SpaceId, bytes: u64) -> bool {
        self.with(space, |share| share.policy.bytes() + bytes <= share.capacity)
    }

    /// The next cell to evict, as a space, a stripe and its first block; `None` when nothing is known that could go. It is to
    /// be told as removed next.
    pub(crate) fn victim(&self) -> Option<(SpaceId, u64, u32)> {
        let shares = self.shares();
        let spent = shares
            .iter()
            .find_map(|(space, share)| Some((space, lock(share).passing.next_spent()?)));
        let (space, key) = match spent {
            Some(spent) => spent,
            None => self.victim_in_use(&shares)?,
        };
        Some((*space, key >> STRIPE_BITS, (key & ((1 << STRIPE_BITS) - 1)) as u32))
    }

    fn victim_in_use<'a>(&self, shares: &'a [(SpaceId, Arc<Mutex<Share>>)]) -> Option<(&'a SpaceId, u64)> {
        let most = |of: fn(&Share) -> u64| shares.iter().max_by_key(|(_, share)| of(&lock(share)));
        if waiting_bytes(shares) > self.passing_max() {
            let (space, share) = most(|share| share.passing.waiting_bytes)?;
            return Some((space, lock(share).passing.oldest()?));
        }
        let held = |share: &Share| share.policy.bytes();
        let idle = shares
            .iter()
            .filter(|(_, share)| lock(share).is_idle && held(&lock(share)) > 0);
        let (space, share) = match idle.max_by_key(|(_, share)| held(&lock(share))) {
            Some(idle) => idle,
            None => most(held)?,
        };
        let mut share = lock(share);
        let victim = share.policy.victim();
        drop(share);
        match victim {
            Some(key) => Some((space, key)),
            None => shares
                .iter()
                .find_map(|(space, share)| Some((space, lock(share).passing.oldest()?))),
        }
    }

    /// Tells each policy what it may hold: what is left when every other that is read has no more than is fair. To be called now
    /// and then, because it also finds out who is read.
    pub(crate) fn resize(&self, now: Instant) {
        let shares = self.shares();
        for (_, share) in &shares {
            lock(share).look(now);
        }
        let room = self.room - self.passing_max();
        let held: Vec<u64> = shares.iter().map(|(_, share)| lock(share).wants()).collect();
        for (at, (_, share)) in shares.iter().enumerate() {
            let others = held.iter().enumerate().filter(|(other, _)| *other != at);
            lock(share).resize(fair_room(room, others.map(|(_, bytes)| *bytes).collect()));
        }
    }

    fn passing_max(&self) -> u64 {
        (self.room / PASSING_PART).min(PASSING_BYTES_MAX)
    }

    fn with<T>(&self, space: &SpaceId, work: impl FnOnce(&mut Share) -> T) -> T {
        let known = self
            .spaces
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(space)
            .cloned();
        let share = known.unwrap_or_else(|| {
            let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Mutex::new(Share::new(self.room)));
            spaces.entry(*space).or_insert_with(new).clone()
        });
        work(&mut lock(&share))
    }

    fn shares(&self) -> Vec<(SpaceId, Arc<Mutex<Share>>)> {
        let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
        spaces.iter().map(|(space, share)| (*space, share.clone())).collect()
    }
}

impl Share {
    fn new(capacity: u64) -> Self {
        Self {
            policy: Auto::new(capacity),
            capacity,
            read_at: Instant::now(),
            was_read: true,
            is_idle: false,
            passing: Passing::default(),
            last_read: [u64::MAX; LAST_READ_CELLS],
        }
    }

    fn look(&mut self, now: Instant) {
        if std::mem::take(&mut self.was_read) {
            self.read_at = now;
            self.is_idle = false;
        } else {
            self.is_idle = now.duration_since(self.read_at) > SHARE_IDLE_MAX;
        }
    }

    /// Bytes that it holds and uses.
    fn wants(&self) -> u64 {
        if self.is_idle { 0 } else { self.policy.bytes() }
    }

    fn resize(&mut self, capacity: u64) {
        self.capacity = capacity;
        self.policy.resize(capacity);
    }

    /// Whether it is kept, or should be.
    fn read(&mut self, key: u64, bytes: u32) -> bool {
        self.last_read[place(key)] = key;
        self.was_read = true;
        self.policy.read(key, bytes)
    }

    fn hit(&mut self, key: u64, bytes: u32, is_through: bool) {
        self.was_read = true;
        let is_new = self.last_read[place(key)] != key;
        if is_new && self.read(key, bytes) {
            // Also of one that the policy does not know: it is stored, so it must be able to go.
            self.keep(key, bytes);
        } else if is_through {
            self.passing.spend(key);
        }
    }

    fn keep(&mut self, key: u64, bytes: u32) {
        self.passing.remove(key);
        self.policy.inserted(key, bytes);
    }
}

impl Passing {
    fn insert(&mut self, key: u64, bytes: u32) {
        self.remove(key);
        self.cells.insert(key, (bytes, false));
        self.waiting_bytes += u64::from(bytes);
        if self.waiting.len() > 2 * self.cells.len() + STALE_KEYS_MAX {
            self.waiting
                .retain(|key| matches!(self.cells.get(key), Some((_, false))));
        }
        self.waiting.push_back(key);
    }

    /// Whether it was there.
    fn remove(&mut self, key: u64) -> bool {
        let removed = self.cells.remove(&key);
        if let Some((bytes, false)) = removed {
            self.waiting_bytes -= u64::from(bytes);
        }
        removed.is_some()
    }

    fn spend(&mut self, key: u64) {
        if let Some((bytes, is_spent @ false)) = self.cells.get_mut(&key) {
            *is_spent = true;
            self.waiting_bytes -= u64::from(*bytes);
            self.spent.push_back(key);
        }
    }

    fn next_spent(&mut self) -> Option<u64> {
        std::iter::from_fn(|| self.spent.pop_front()).find(|key| matches!(self.cells.get(key), Some((_, true))))
    }

    fn oldest(&mut self) -> Option<u64> {
        std::iter::from_fn(|| self.waiting.pop_front()).find(|key| matches!(self.cells.get(key), Some((_, false))))
    }
}

fn waiting_bytes(shares: &[(SpaceId, Arc<Mutex<Share>>)]) -> u64 {
    shares.iter().map(|(_, share)| lock(share).passing.waiting_bytes).sum()
}

/// What one may hold of `room`: as much as all that want more, and what they leave.
fn fair_room(room: u64, mut others: Vec<u64>) -> u64 {
    others.sort_unstable();
    let (mut left, mut count) = (room, others.len() as u64 + 1);
    for bytes in others {
        if bytes >= left / count {
            break;
        }
        left -= bytes;
        count -= 1;
    }
    left / count
}

fn key(cell: &Cell) -> u64 {
    cell.stripe << STRIPE_BITS | u64::from(cell.blocks.start)
}

fn bytes(cell: &Cell) -> u32 {
    (cell.blocks.end - cell.blocks.start) * BLOCK_BYTES as u32
}

fn place(key: u64) -> usize {
    (key ^ key >> 8) as usize % LAST_READ_CELLS
}

fn lock(share: &Mutex<Share>) -> MutexGuard<'_, Share> {
    share.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACES: [SpaceId; 2] = [SpaceId([1; 16]), SpaceId([2; 16])];
    const ROOM: u64 = 1000 << 20;

    /// A cell of 1 MiB.
    fn cell(number: u32) -> Cell {
        let first = number % 64 * 256;
        Cell {
            stripe: u64::from(number / 64),
            blocks: first..first + 256,
        }
    }

    fn number(victim: (SpaceId, u64, u32)) -> (SpaceId, u32) {
        let (space, stripe, first) = victim;
        (space, stripe as u32 * 64 + first / 256)
    }

    /// Evicts so many; how many of each space.
    fn evict(keeping: &Keeping, cells: usize) -> [usize; 2] {
        let mut evicted = [0, 0];
        for _ in 0..cells {
            let (space, number) = number(keeping.victim().unwrap());
            keeping.removed(&space, &cell(number));
            evicted[usize::from(space == SPACES[1])] += 1;
        }
        evicted
    }

    #[test]
    fn what_is_left_of_the_room_is_shared_by_those_that_want_more() {
        for (others, fair) in [
            (vec![], 900),
            (vec![100], 800),
            (vec![600], 450),
            (vec![100, 900], 400),
            (vec![300, 300], 300),
            (vec![900, 900], 300),
            (vec![0, 0, 10], 890),
        ] {
            assert_eq!(fair_room(900, others.clone()), fair, "{others:?}");
        }
    }

    #[test]
    fn the_space_that_holds_most_gives_until_both_hold_the_same() {
        let keeping = Keeping::new(ROOM);
        for number in 0..100 {
            keeping.stored(&SPACES[0], &cell(number), Admission::Kept);
        }
        for number in 0..40 {
            keeping.stored(&SPACES[1], &cell(number), Admission::Kept);
        }
        assert_eq!(evict(&keeping, 60), [60, 0]);
        assert_eq!(evict(&keeping, 40), [20, 20]);
        keeping.keep_only(&HashSet::from([SPACES[1]]));
        assert_eq!(evict(&keeping, 20), [0, 20]);
        assert_eq!(keeping.victim(), None);
    }

    #[test]
    fn a_space_that_nobody_reads_gives_first_and_until_then_keeps_what_it_has() {
        let keeping = Keeping::new(ROOM);
        let now = Instant::now();
        for number in 0..40 {
            keeping.stored(&SPACES[0], &cell(number), Admission::Kept);
        }
        keeping.resize(now);
        let later = now + 2 * SHARE_IDLE_MAX;
        for number in 0..100 {
            keeping.missed(&SPACES[1], &cell(number));
            keeping.stored(&SPACES[1], &cell(number), Admission::Kept);
        }
        keeping.resize(later);
        assert!(keeping.has_room(&SPACES[1], ROOM / 10 * 8), "the other wants nothing");
        assert_eq!(evict(&keeping, 40), [40, 0]);
        assert_eq!(evict(&keeping, 10), [0, 10]);
    }

    #[test]
    fn what_passes_goes_when_it_was_read_to_its_end_or_is_too_much_and_before_what_is_kept() {
        // One cell may pass.
        let keeping = Keeping::new(100 << 20);
        let space = &SPACES[0];
        for number in 0..10 {
            keeping.stored(space, &cell(number), Admission::Kept);
        }
        for number in 20..23 {
            keeping.stored(space, &cell(number), Admission::Passes);
        }
        keeping.with(space, |share| share.passing.spend(key(&cell(21))));
        let gone: Vec<u32> = (0..2)
            .map(|_| {
                let (space, number) = number(keeping.victim().unwrap());
                keeping.removed(&space, &cell(number));
                number
            })
            .collect();
        assert_eq!(gone, [21, 20]);
        assert!(number(keeping.victim().unwrap()).1 < 10, "one may pass");
    }

    #[test]
    fn a_file_that_is_read_in_pieces_is_read_once() {
        let keeping = Keeping::new(ROOM);
        let space = &SPACES[0];
        keeping.missed(space, &cell(1));
        keeping.stored(space, &cell(1), Admission::Passes);
        // The rest of the read that fetched it.
        keeping.hit(space, &cell(1), false);
        let passes = || keeping.with(space, |share| share.passing.cells.len());
        assert_eq!(passes(), 1);
        for number in 100..100 + 4 * LAST_READ_CELLS as u32 {
            keeping.missed(space, &cell(number));
        }
        keeping.hit(space, &cell(1), false);
        assert_eq!(passes(), 0, "a later read is one");
    }

    #[test]
    fn the_queue_of_what_passes_does_not_grow_with_what_has_passed() {
        let mut passing = Passing::default();
        for key in 0..100_000 {
            passing.insert(key, 4096);
            passing.remove(key);
        }
        assert_eq!((passing.waiting_bytes, passing.cells.len()), (0, 0));
        assert!(passing.waiting.len() <= 2 * STALE_KEYS_MAX);
    }
}
