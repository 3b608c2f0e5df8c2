//! Which cells are kept: pure bookkeeping over the policies and the rules of Datasets. It must not know files or origins.
//!
//! ```text
//!                   stored, and the policy admits it                    ┌──────────────┐
//! a missing cell ────────────────────────────────────────────────────► │ kept: policy │ ──victim, expired──► evicted
//!       │  stored, but ahead of its reader,  ┌─────────┐ read, admitted └──────────────┘
//!       └──────────────────────────────────► │ passing │ ───────────────────▲
//!          or not admitted                   └─────────┘ read to its end ─► spent ──► evicted first
//!                                                 └── the oldest, when there are too many ──► evicted
//! ```
//!
//! A policy answers which units of its share are worth keeping and never sees what only passes: bytes that were fetched ahead
//! and wait for their reader, or the rest of a unit that was not admitted. Each space has a share for each rule of its Dataset,
//! with a policy of its own; what is pinned is in none. Who gives when there is not enough says `standing`.
//!
//! *Lock order*: `spaces`, then one share.

mod passing;
mod share;
mod standing;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use penstock_protocol::geometry::{BLOCK_BYTES, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;

use crate::limits::{EVICTIONS_AT_ONCE, PASSING_BYTES_MAX, PASSING_PART, UNPROMISED_PART};
use crate::rules::{Classes, Quota, Rule};
use share::{PinnedBytes, Share};
use standing::{Standing, Standings};

/// Blocks of a stripe, as a power of two.
const STRIPE_BITS: u32 = (STRIPE_BYTES / BLOCK_BYTES).trailing_zeros();

/// A cell: a stripe of a space, and blocks of it that were stored as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) stripe: u64,
    pub(crate) blocks: Range<u32>,
}

/// All spaces.
pub(crate) struct Keeping {
    /// Bytes that all may hold.
    room: AtomicU64,
    pinned: Arc<PinnedBytes>,
    spaces: RwLock<HashMap<SpaceId, Arc<Space>>>,
}

/// How the cells of a space are to be kept.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// UID of its Dataset.
    pub(crate) dataset: String,
    /// What the Dataset has of this node.
    pub(crate) quota: Quota,
    /// The first is for everything.
    pub(crate) rules: Vec<Rule>,
    /// Which addresses fall under which.
    pub(crate) classes: Arc<Classes>,
}

/// What is kept of one space.
struct Space {
    terms: Terms,
    /// One for each rule.
    shares: Vec<Arc<Mutex<Share>>>,
}

/// Whether a missing cell will be kept when it has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Kept,
    Passes,
}

/// How a stored cell is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It never goes.
    Pinned,
    /// It goes when something else is worth more.
    Kept,
    /// It was fetched ahead of its reader, or is not worth keeping: it goes first.
    Passing,
}

/// A cell by its space, its stripe and its first block.
pub(crate) type Named = (SpaceId, u64, u32);

impl Keeping {
    /// Nothing, in so many bytes.
    pub(crate) fn new(room: u64) -> Self {
        let keeping = Self {
            room: AtomicU64::new(0),
            pinned: Arc::default(),
            spaces: RwLock::default(),
        };
        keeping.set_room(room);
        keeping
    }

    /// All may hold another number of bytes from now on.
    pub(crate) fn set_room(&self, room: u64) {
        self.room.store(room, Ordering::Relaxed);
        self.pinned.max.store(promised_max(room), Ordering::Relaxed);
    }

    /// Forgets all other spaces.
    pub(crate) fn keep_only(&self, wanted: &HashSet<SpaceId>) {
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        spaces.retain(|space, _| wanted.contains(space));
    }

    /// Keeps a space by other terms from now on. True when its cells have to be told as stored again, all of them: they may be
    /// in the wrong share, or in none.
    pub(crate) fn set_terms(&self, space: &SpaceId, terms: Terms) -> bool {
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        let before = spaces.get(space).cloned();
        let has_same_paths = before.as_ref().is_some_and(|before| {
            let (old, new) = (before.terms.rules.iter(), terms.rules.iter());
            old.map(|rule| &rule.path).eq(new.map(|rule| &rule.path))
        });
        let mut is_new = false;
        let room = self.room.load(Ordering::Relaxed);
        let share = |(at, rule): (usize, &Rule)| {
            let old = before.as_ref().filter(|_| has_same_paths);
            let old = old.map(|old| (&old.terms.rules[at], &old.shares[at]));
            match old.filter(|(old, _)| is_kept_alike(old, rule)) {
                Some((_, share)) => {
                    lock(share).set_ttl(rule.ttl);
                    share.clone()
                }
                None => {
                    is_new = true;
                    Arc::new(Mutex::new(Share::new(rule, room - passing_max(room), &self.pinned)))
                }
            }
        };
        let shares: Vec<_> = terms.rules.iter().enumerate().map(share).collect();
        for (rule, share) in shares.iter().enumerate() {
            // Of an object that falls under another rule now, or is in no revision any more. What is not pinned goes in its time
            // from where it is.
            let rule_of = |key: u64| terms.classes.of_address(address_of(key));
            for (key, bytes) in lock(share).unpin(|key| rule_of(key) == rule) {
                lock(&shares[rule_of(key)]).keep(key, bytes);
            }
        }
        spaces.insert(*space, Arc::new(Space { terms, shares }));
        is_new && before.is_some()
    }

    /// A missing cell is read: whether it is worth keeping.
    pub(crate) fn missed(&self, space: &SpaceId, cell: &Cell) -> Admission {
        if self.with(space, cell, |share| share.read(key(cell), bytes(cell))) {
            Admission::Kept
        } else {
            Admission::Passes
        }
    }

    /// A cell that is stored was read; to its end if `is_through`.
    pub(crate) fn hit(&self, space: &SpaceId, cell: &Cell, is_through: bool) {
        self.with(space, cell, |share| share.hit(key(cell), bytes(cell), is_through));
    }

    /// A cell that is stored elsewhere was read: whether it would be kept here.
    pub(crate) fn is_wanted(&self, space: &SpaceId, cell: &Cell) -> bool {
        self.with(space, cell, |share| share.is_wanted(key(cell), bytes(cell)))
    }

    /// A cell was stored.
    pub(crate) fn stored(&self, space: &SpaceId, cell: &Cell, admission: Admission) {
        self.with(space, cell, |share| match admission {
            Admission::Kept => share.keep(key(cell), bytes(cell)),
            Admission::Passes => share.passing.insert(key(cell), bytes(cell)),
        });
    }

    /// A cell is stored, as was found out.
    pub(crate) fn found(&self, space: &SpaceId, cell: &Cell) {
        self.with(space, cell, |share| share.found(key(cell), bytes(cell)));
    }

    /// A cell is not stored any more. It may be in the share of a rule under which it fell in an earlier revision.
    pub(crate) fn removed(&self, space: &SpaceId, cell: &Cell) {
        let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
        let shares = spaces.get(space).map(|space| space.shares.clone());
        drop(spaces);
        for share in shares.into_iter().flatten() {
            lock(&share).removed(key(cell));
        }
    }

    /// Whether so many more bytes at an address could be kept without any going.
    pub(crate) fn has_room(&self, space: &SpaceId, address: u64, bytes: u64) -> bool {
        self.with_address(space, address, |_, share| share.has_room(bytes))
    }

    /// Whether its Dataset has a limit, which counts also while there is room.
    pub(crate) fn has_limit(&self, space: &SpaceId) -> bool {
        let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
        spaces
            .get(space)
            .is_some_and(|space| space.terms.quota.limit_bytes.is_some())
    }

    /// What the rule of a cell says of tiers is handed to `look`.
    pub(crate) fn tier_of<T>(&self, space: &SpaceId, cell: &Cell, look: impl FnOnce(Option<&str>) -> T) -> T {
        self.with_address(space, address(cell), |rule, _| look(rule.tier.as_deref()))
    }

    /// How a stored cell is held.
    pub(crate) fn hold_of(&self, space: &SpaceId, cell: &Cell) -> Hold {
        self.with(space, cell, |share| share.hold_of(key(cell)))
    }

    /// The rule that counts for an address, as far as it can be done.
    pub(crate) fn rule_of(&self, space: &SpaceId, address: u64) -> Rule {
        self.with_address(space, address, |rule, _| rule.clone())
    }

    /// What the Dataset of a space has of this node, and bytes of the space that are pinned.
    pub(crate) fn promises(&self, space: &SpaceId) -> (Quota, u64) {
        let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
        let known = spaces.get(space).cloned();
        drop(spaces);
        known.map_or_else(Default::default, |space| {
            let pinned = space.shares.iter().map(|share| lock(share).pinned_bytes());
            (space.terms.quota, pinned.sum())
        })
    }

    /// The next cell to evict when there is not enough room; `None` when nothing is known that could go. It is to be told as
    /// removed next.
    pub(crate) fn victim(&self) -> Option<Named> {
        let parts = self.parts();
        let spent = parts
            .iter()
            .find_map(|part| part.named(lock(part.share()).passing.next_spent()));
        spent
            .or_else(|| self.over_limit_of(&parts))
            .or_else(|| self.victim_in_use(&parts))
    }

    /// The same of those that `is_there` says; not all are asked for, so there may be one when none is told.
    pub(crate) fn victim_where(&self, is_there: impl Fn(&Named) -> bool) -> Option<Named> {
        let parts = self.parts();
        standings(&parts).givers().into_iter().find_map(|giver| {
            let part = &parts[giver];
            let victims = std::iter::from_fn(|| part.named(lock(part.share()).victim()));
            victims.take(EVICTIONS_AT_ONCE).find(&is_there)
        })
    }

    /// The next cell to evict although there is room: of a Dataset that holds more than it may. As [`Keeping::victim`].
    pub(crate) fn over_limit(&self) -> Option<Named> {
        self.over_limit_of(&self.parts())
    }

    /// The next cell that nobody has read for as long as its rule says, as of the last [`Keeping::resize`]. As
    /// [`Keeping::victim`].
    pub(crate) fn expired(&self) -> Option<Named> {
        let parts = self.parts();
        let has_ttl = |part: &&Part| part.space.terms.rules[part.rule].ttl.is_some();
        let mut expiring = parts.iter().filter(has_ttl);
        expiring.find_map(|part| part.named(lock(part.share()).next_expired()))
    }

    fn over_limit_of(&self, parts: &[Part]) -> Option<Named> {
        let has_limit = |part: &Part| part.space.terms.quota.limit_bytes.is_some();
        if !parts.iter().any(has_limit) {
            return None;
        }
        let standings = standings(parts);
        if let Some(over) = standings.over_limit() {
            return parts[over].named(lock(parts[over].share()).victim());
        }
        let passing_max = passing_max(self.room.load(Ordering::Relaxed));
        let part = &parts[standings.over_limit_passing(passing_max)?];
        let passing = &mut lock(part.share()).passing;
        part.named(passing.next_spent().or_else(|| passing.oldest()))
    }

    fn victim_in_use(&self, parts: &[Part]) -> Option<Named> {
        let waiting = |part: &&Part| lock(part.share()).passing.waiting_bytes;
        let oldest = |part: &Part| part.named(lock(part.share()).passing.oldest());
        if parts.iter().map(|part| waiting(&part)).sum::<u64>() > passing_max(self.room.load(Ordering::Relaxed)) {
            return parts.iter().max_by_key(waiting).and_then(oldest);
        }
        let giver = standings(parts).givers().first().map(|giver| &parts[*giver]);
        giver
            .and_then(|giver| giver.named(lock(giver.share()).victim()))
            .or_else(|| parts.iter().find_map(oldest))
    }

    /// Tells each policy what it may hold: what is left when every other that is read has no more than is fair. To be called now
    /// and then, because it also finds out who is read, and what has been read by nobody for long.
    pub(crate) fn resize(&self, now: Instant) {
        let parts = self.parts();
        for part in &parts {
            let mut share = lock(part.share());
            share.look(now);
            share.unpin_excess();
        }
        let room = self.room.load(Ordering::Relaxed);
        let room = room - passing_max(room);
        let standings = standings(&parts);
        for (at, part) in parts.iter().enumerate() {
            lock(part.share()).resize(standings.room_of(at, room));
        }
    }

    fn with<T>(&self, space: &SpaceId, cell: &Cell, work: impl FnOnce(&mut Share) -> T) -> T {
        self.with_address(space, address(cell), |_, share| work(share))
    }

    fn with_address<T>(&self, space: &SpaceId, address: u64, work: impl FnOnce(&Rule, &mut Share) -> T) -> T {
        let known = self
            .spaces
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(space)
            .cloned();
        let space = known.unwrap_or_else(|| {
            let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
            let new = || {
                let terms = Terms::unknown(space);
                let room = self.room.load(Ordering::Relaxed);
                let share = Share::new(&terms.rules[0], room - passing_max(room), &self.pinned);
                let shares = vec![Arc::new(Mutex::new(share))];
                Arc::new(Space { terms, shares })
            };
            spaces.entry(*space).or_insert_with(new).clone()
        });
        let rule = space.terms.classes.of_address(address);
        work(&space.terms.rules[rule], &mut lock(&space.shares[rule]))
    }

    /// All shares.
    fn parts(&self) -> Vec<Part> {
        let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
        let of_space = |(id, space): (&SpaceId, &Arc<Space>)| {
            let (id, space) = (*id, space.clone());
            (0..space.shares.len()).map(move |rule| Part {
                id,
                space: space.clone(),
                rule,
            })
        };
        spaces.iter().flat_map(of_space).collect()
    }
}

impl Terms {
    /// Until it is said.
    fn unknown(space: &SpaceId) -> Self {
        Self {
            dataset: space.to_string(),
            quota: Quota::default(),
            rules: vec![Rule::default()],
            classes: Arc::default(),
        }
    }
}

/// A share of a space.
struct Part {
    id: SpaceId,
    space: Arc<Space>,
    rule: usize,
}

impl Part {
    fn share(&self) -> &Mutex<Share> {
        &self.space.shares[self.rule]
    }

    fn named(&self, key: Option<u64>) -> Option<Named> {
        let key = key?;
        Some((self.id, key >> STRIPE_BITS, (key & ((1 << STRIPE_BITS) - 1)) as u32))
    }
}

fn standings(parts: &[Part]) -> Standings {
    let (mut shares, mut quotas) = (Vec::new(), Vec::new());
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    for part in parts {
        let terms = &part.space.terms;
        let dataset = *numbers.entry(&terms.dataset).or_insert_with(|| {
            quotas.push(terms.quota);
            quotas.len() - 1
        });
        let share = lock(part.share());
        shares.push(Standing {
            dataset,
            priority: terms.rules[part.rule].priority,
            held: share.bytes(),
            pinned: share.pinned_bytes(),
            passing: share.passing.bytes,
            is_idle: share.is_idle(),
        });
    }
    Standings::of(shares, quotas)
}

/// Whether a share of one rule is good for the other.
fn is_kept_alike(one: &Rule, other: &Rule) -> bool {
    let what_counts = |rule: &Rule| (rule.pin, rule.eviction, rule.ttl.is_some());
    what_counts(one) == what_counts(other)
}

/// Bytes of a room that Datasets can be promised.
pub(crate) fn promised_max(room: u64) -> u64 {
    room - room / UNPROMISED_PART
}

/// Bytes of a room that may pass at the same time.
fn passing_max(room: u64) -> u64 {
    (room / PASSING_PART).min(PASSING_BYTES_MAX)
}

fn address_of(key: u64) -> u64 {
    key * BLOCK_BYTES
}

fn address(cell: &Cell) -> u64 {
    cell.stripe * STRIPE_BYTES + u64::from(cell.blocks.start) * BLOCK_BYTES
}

fn key(cell: &Cell) -> u64 {
    cell.stripe << STRIPE_BITS | u64::from(cell.blocks.start)
}

fn bytes(cell: &Cell) -> u32 {
    (cell.blocks.end - cell.blocks.start) * BLOCK_BYTES as u32
}

fn lock(share: &Mutex<Share>) -> MutexGuard<'_, Share> {
    share.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::share::LAST_READ_CELLS;
    use super::*;
    use std::time::Duration;

    use crate::limits::SHARE_IDLE_MAX;
    use crate::rules::Eviction;

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

    fn number(victim: Named) -> (SpaceId, u32) {
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
        assert!(
            keeping.has_room(&SPACES[1], 0, ROOM / 10 * 8),
            "the other wants nothing"
        );
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
        keeping.with(space, &cell(21), |share| share.passing.spend(key(&cell(21))));
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
        let passes = || keeping.with(space, &cell(1), |share| share.passing.waiting_bytes >> 20);
        assert_eq!(passes(), 1);
        for number in 100..100 + 4 * LAST_READ_CELLS as u32 {
            keeping.missed(space, &cell(number));
        }
        keeping.hit(space, &cell(1), false);
        assert_eq!(passes(), 0, "a later read is one");
    }

    /// Cells from 100 on fall under the second rule.
    fn terms(dataset: &str, quota: Quota, rule: Rule) -> Terms {
        let second = address(&cell(100))..u64::MAX;
        Terms {
            dataset: dataset.into(),
            quota,
            rules: vec![Rule::default(), rule],
            classes: Arc::new(Classes::of_runs(vec![(second, 1)])),
        }
    }

    fn named(path: &str) -> Rule {
        Rule {
            path: path.into(),
            ..Rule::default()
        }
    }

    #[test]
    fn what_is_pinned_never_goes_and_what_does_not_fit_is_not_pinned() {
        let keeping = Keeping::new(100 << 20);
        let space = &SPACES[0];
        let pin = Rule {
            pin: true,
            ..named("a")
        };
        keeping.set_terms(space, terms("d", Quota::default(), pin));
        // 90 of 100 may be promised.
        for number in (100..195).chain(0..5) {
            keeping.missed(space, &cell(number));
            keeping.stored(space, &cell(number), Admission::Kept);
        }
        let mut gone = Vec::new();
        while let Some(victim) = keeping.victim() {
            let (space, number) = number(victim);
            keeping.removed(&space, &cell(number));
            gone.push(number);
        }
        gone.sort_unstable();
        assert_eq!(gone, [0, 1, 2, 3, 4, 190, 191, 192, 193, 194]);
        // A place among them is free again when one is gone.
        keeping.removed(space, &cell(100));
        keeping.stored(space, &cell(190), Admission::Kept);
        assert_eq!(keeping.victim(), None);
        // Of a room that is smaller only as much is promised.
        keeping.set_room(10 << 20);
        keeping.resize(Instant::now());
        assert_eq!(evict(&keeping, 81), [81, 0]);
        assert_eq!(keeping.victim(), None);
    }

    #[test]
    fn what_nobody_read_for_long_goes_and_what_was_read_stays() {
        let keeping = Keeping::new(ROOM);
        let space = &SPACES[0];
        let hour = Duration::from_secs(3600);
        let rule = Rule {
            ttl: Some(hour),
            ..named("a")
        };
        keeping.set_terms(space, terms("d", Quota::default(), rule));
        let now = Instant::now();
        for number in [0, 100, 101, 102] {
            keeping.stored(space, &cell(number), Admission::Kept);
        }
        keeping.resize(now + hour / 2);
        keeping.hit(space, &cell(101), true);
        let expired = |at: Instant| {
            keeping.resize(at);
            let mut expired: Vec<u32> = std::iter::from_fn(|| keeping.expired())
                .map(|named| number(named).1)
                .collect();
            expired.sort_unstable();
            expired
        };
        assert_eq!(expired(now + hour / 4 * 3), [0; 0]);
        assert_eq!(expired(now + hour + Duration::from_secs(1)), [100, 102]);
        assert_eq!(expired(now + hour * 2), [101]);
    }

    #[test]
    fn a_dataset_gives_what_is_over_its_limit_while_there_is_room_and_keeps_its_guarantee_when_there_is_none() {
        let keeping = Keeping::new(ROOM);
        let quota = |guaranteed_bytes, limit_bytes| Quota {
            guaranteed_bytes,
            limit_bytes,
        };
        keeping.set_terms(&SPACES[0], terms("limited", quota(0, Some(30 << 20)), named("a")));
        keeping.set_terms(&SPACES[1], terms("guaranteed", quota(60 << 20, None), named("a")));
        for number in 80..120 {
            keeping.stored(&SPACES[0], &cell(number), Admission::Kept);
            keeping.stored(&SPACES[1], &cell(number), Admission::Kept);
        }
        let mut over = 0;
        while let Some(victim) = keeping.over_limit() {
            let (space, number) = number(victim);
            assert_eq!(space, SPACES[0]);
            keeping.removed(&space, &cell(number));
            over += 1;
        }
        assert_eq!(over, 10, "of 40");
        // 10 may pass.
        for number in 80..95 {
            keeping.stored(&SPACES[0], &cell(number + 100), Admission::Passes);
        }
        let passed = std::iter::from_fn(|| {
            let (space, number) = number(keeping.over_limit()?);
            keeping.removed(&space, &cell(number));
            Some(number)
        });
        assert_eq!(passed.collect::<Vec<_>>(), [180, 181, 182, 183, 184]);
        assert_eq!(evict(&keeping, 30), [30, 0], "the other is not above its guarantee");
    }

    #[test]
    fn what_fell_under_a_rule_in_an_earlier_revision_only_can_go() {
        for pin in [false, true] {
            let keeping = Keeping::new(ROOM);
            let space = &SPACES[0];
            let rule = Rule {
                pin,
                priority: 10,
                ..named("a")
            };
            keeping.set_terms(space, terms("d", Quota::default(), rule.clone()));
            for number in 95..105 {
                keeping.stored(space, &cell(number), Admission::Kept);
            }
            let mut later = terms("d", Quota::default(), rule);
            later.classes = Arc::default();
            assert!(!keeping.set_terms(space, later));
            let mut gone = Vec::new();
            while let Some(victim) = keeping.victim() {
                let (space, number) = number(victim);
                keeping.removed(&space, &cell(number));
                gone.push(number);
                assert!(gone.len() <= 10, "named again: {gone:?}");
            }
            gone.sort_unstable();
            assert_eq!(gone, Vec::from_iter(95..105));
            assert_eq!(keeping.pinned.held.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn cells_are_told_again_when_they_may_be_in_the_wrong_share() {
        let keeping = Keeping::new(ROOM);
        let space = &SPACES[0];
        let set = |rule| keeping.set_terms(space, terms("d", Quota::default(), rule));
        assert!(!set(named("a")), "there are none");
        assert!(
            !set(Rule {
                priority: 1,
                ..named("a")
            }),
            "the same share"
        );
        assert!(set(Rule {
            pin: true,
            ..named("a")
        }));
        assert!(set(Rule {
            eviction: Eviction::Lfu,
            ..named("a")
        }));
        assert!(set(named("b")));
        keeping.stored(space, &cell(100), Admission::Kept);
        assert!(set(named("c")), "other paths");
        assert_eq!(keeping.victim(), None, "until they are told");
    }
}
