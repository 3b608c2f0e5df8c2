//! All tiers of a node as one cache: where blocks are, which are kept, and who moves and evicts them. It must not know revisions
//! or origins.
//!
//! ```text
//!  arrives ──► the fastest tier that its rule allows and whose placement wants it      read below, wanted above ──► rises
//!                 │ too full: what its placement wants least                                        ▲
//!                 └──► sinks to the next tier with room ────────────────────────────────────────────┘
//!  all tiers together too full, or a rule says so: what `keeping` says is evicted, wherever it is
//! ```
//!
//! So two questions are apart: whether a cell is worth keeping at all, which is one question for all tiers together, and which
//! of the kept are worth a faster tier. Each is answered by the same bookkeeping ([`Keeping`]); the slowest tier needs no second.
//!
//! A cell is in one tier. While it moves it is in two: it is stored in the new one, then evicted from the old one. Whoever finds
//! then that it was gone already takes it out of the new one too, because somebody evicted it meanwhile; and whoever evicts a
//! cell looks through the tiers down and up again, so that it meets any move once.

mod evictor;
mod inspecting;
mod moving;
mod scrubber;
mod tier;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;

use crate::inflight::{self, Fate};
use crate::keeping::{Admission, Cell, Keeping, Terms};
use crate::limits::AHEAD_PART;
use crate::report::{Cause, Counters, TierReport};
use crate::store::{Known, Look, Stored, Stripe, TierConfig, Waiting};
pub(crate) use inspecting::Place;
use tier::Tier;

/// What a look without waiting for an origin found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRead {
    /// All bytes are in the buffer and match their checksums.
    Hit,
    /// Not all of it is stored.
    Miss,
}

/// What a look into one tier found.
enum Looked {
    Hit,
    Miss,
    /// Not without asking the disk.
    WouldWait,
    /// Some of it does not match its checksums, or cannot be read, and is gone by now.
    Damaged(Damage),
}

/// Stored blocks that did not match their checksums, or could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) blocks: u64,
    /// With all that was stored as one with them.
    pub(crate) evicted_bytes: u64,
}

/// The tiers.
pub(crate) struct Tiers {
    /// The fastest first; at least one.
    tiers: Vec<Tier>,
    keeping: Arc<Keeping>,
    counters: Arc<Counters>,
    /// Bytes that are in two tiers at this moment.
    moving_bytes: AtomicU64,
}

/// A stored cell that was read.
pub(crate) struct ReadCell {
    /// Address of its first byte.
    pub(crate) address: u64,
    /// How many of its bytes were read.
    pub(crate) bytes: u64,
    /// The number of its tier.
    pub(crate) tier: usize,
}

impl Tiers {
    /// Adopts what the folders of the tiers hold, the fastest first; keeps up to so many stripes open in all.
    ///
    /// # Errors
    /// When a folder cannot be used; which.
    pub(crate) fn open(
        configs: Vec<TierConfig>,
        open_stripes_max: usize,
        counters: Arc<Counters>,
    ) -> Result<Arc<Self>, (PathBuf, io::Error)> {
        let of_each = open_stripes_max / configs.len().max(1);
        let keeping = Arc::new(Keeping::new(0));
        let (mut tiers, mut threads) = (Vec::new(), Vec::new());
        let last = configs.len().saturating_sub(1);
        for (number, config) in configs.into_iter().enumerate() {
            let path = config.path.clone();
            let (tier, woken, ended) =
                Tier::open(config, of_each, keeping.clone(), number < last).map_err(|error| (path.clone(), error))?;
            tiers.push(tier);
            threads.push((woken, ended, path));
        }
        let tiers = Arc::new(Self {
            tiers,
            keeping,
            counters,
            moving_bytes: AtomicU64::new(0),
        });
        tiers.set_rooms();
        for (number, (woken, ended, path)) in threads.into_iter().enumerate() {
            let started = woken
                .start(Arc::downgrade(&tiers), number)
                .and_then(|()| ended.start(Arc::downgrade(&tiers), number));
            started.map_err(|error| (path, error))?;
        }
        Ok(tiers)
    }

    /// Gives tiers another capacity, by their names.
    pub(crate) fn set_capacities(&self, capacities: &[(String, u64)]) {
        for tier in &self.tiers {
            let wanted = capacities.iter().find(|(name, _)| name == tier.store.name());
            if let Some((_, bytes)) = wanted {
                tier.store.set_capacity(*bytes);
            }
        }
        self.set_rooms();
        self.tiers.iter().for_each(|tier| tier.evictor.wake());
    }

    fn set_rooms(&self) {
        self.keeping.set_room(self.room());
        for tier in &self.tiers {
            if let Some(placement) = &tier.placement {
                placement.set_room(tier.room());
            }
        }
    }

    /// Bytes that may be held before something is evicted.
    pub(crate) fn room(&self) -> u64 {
        self.tiers.iter().map(Tier::room).sum()
    }

    /// The same, of which Datasets may be promised a part: a tier that is broken now will be well again.
    pub(crate) fn promised_room(&self) -> u64 {
        self.tiers.iter().map(Tier::promised_room).sum()
    }

    /// The tiers that take data.
    fn healthy(&self) -> impl Iterator<Item = &Tier> {
        self.tiers.iter().filter(|tier| !tier.store.is_at_fault())
    }

    /// Whether they have too much together, when the largest unit that found no room in any is to find some in one.
    fn are_too_full(&self, refused_bytes: u64) -> bool {
        let moving_before = self.moving_bytes.load(Ordering::SeqCst);
        let used: u64 = self.healthy().map(|tier| tier.store.used()).sum();
        let moving = self.moving_bytes.load(Ordering::SeqCst).max(moving_before);
        let room: u64 = self.healthy().map(Tier::room).sum();
        let capacity = |tier: &Tier| tier.store.capacity().unwrap_or(tier.store.used());
        let capacity: u64 = self.healthy().map(capacity).sum();
        let bound = room.min(capacity.saturating_sub(refused_bytes));
        used.saturating_sub(moving) > bound
    }

    /// Bytes that they hold.
    pub(crate) fn used(&self) -> u64 {
        self.tiers.iter().map(|tier| tier.store.used()).sum()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.tiers.len()
    }

    /// Names, the fastest first.
    pub(crate) fn names(&self) -> Vec<String> {
        self.tiers.iter().map(|tier| tier.store.name().to_owned()).collect()
    }

    /// Keeps a space by these terms.
    pub(crate) fn set_terms(&self, space: &SpaceId, terms: Terms) {
        if self.keeping.set_terms(space, terms) {
            for tier in &self.tiers {
                tier.store.look_again(space);
                tier.evictor.wake();
            }
        }
    }

    /// Removes every space that is not in `wanted` and takes no more of it; `None` keeps and takes all.
    pub(crate) fn keep_only(&self, wanted: Option<&HashSet<SpaceId>>) {
        let placements = self.tiers.iter().filter_map(|tier| tier.placement.as_ref());
        if let Some(wanted) = wanted {
            self.keeping.keep_only(wanted);
            placements.for_each(|placement| placement.keep_only(wanted));
        }
        for tier in &self.tiers {
            tier.store.keep_only(wanted.cloned());
        }
    }

    /// The state of each at this moment.
    pub(crate) fn report(&self) -> Vec<TierReport> {
        self.tiers.iter().map(Tier::report).collect()
    }

    /// Bytes that are stored of each space.
    pub(crate) fn spaces(&self) -> Vec<(SpaceId, u64)> {
        let mut spaces = std::collections::BTreeMap::new();
        for (space, bytes) in self.tiers.iter().flat_map(|tier| tier.store.spaces()) {
            *spaces.entry(space).or_default() += bytes;
        }
        spaces.into_iter().collect()
    }

    /// `None` when a disk would have to be asked.
    pub(crate) fn look(
        &self,
        space: &SpaceId,
        range: BlockRange,
        into: &mut [u8],
        mut checksums: Option<&mut [u32]>,
        waiting: Waiting,
    ) -> Option<TryRead> {
        let mut is_unknown = false;
        for tier in &self.tiers {
            match self.look_into(tier, space, range, into, checksums.as_deref_mut(), waiting) {
                Looked::Hit => return Some(TryRead::Hit),
                Looked::Miss | Looked::Damaged(_) => {}
                Looked::WouldWait => is_unknown = true,
            }
        }
        let is_apart = self.tiers.len() > 1 && self.parts(space, range).count() > 1;
        match waiting {
            Waiting::Never if is_unknown || is_apart => None,
            Waiting::Allowed if is_apart => Some(self.look_apart(space, range, into, checksums)),
            Waiting::Never | Waiting::Allowed => Some(TryRead::Miss),
        }
    }

    /// Whole blocks to pass on unread; `None` unless all are in one tier and in the kernel's memory.
    pub(crate) fn stored(&self, space: &SpaceId, range: BlockRange) -> Option<Stored> {
        self.tiers.iter().find_map(|tier| {
            let Known::Open(stripe) = tier.store.known(space, range.stripe()) else {
                return None;
            };
            stripe.stored(range)
        })
    }

    /// The stripe of each tier that has some of it. May wait for the disk.
    pub(crate) fn stripes(&self, space: &SpaceId, number: u64) -> Vec<Arc<Stripe>> {
        let stripes = self.tiers.iter().map(|tier| tier.store.stripe(space, number));
        stripes.flatten().collect()
    }

    /// Data and side file of a stripe of each tier that has some of it, read-only. May wait for the disk.
    pub(crate) fn files(&self, space: &SpaceId, number: u64) -> Vec<[File; 2]> {
        let opened = self.stripes(space, number).into_iter().map(|stripe| {
            let files = stripe.files();
            files
                .inspect_err(|error| tracing::warn!(%space, stripe = number, %error, "open the files of a stripe anew"))
        });
        opened.flatten().collect()
    }

    /// Tells the policies of the stored cells that a read touches, which may have them rise; `each` hears of each.
    pub(crate) fn note_read(&self, space: &SpaceId, range: BlockRange, mut each: impl FnMut(ReadCell)) {
        let (stripe, wanted) = (range.stripe(), range.blocks_in_stripe());
        for (number, tier) in self.tiers.iter().enumerate() {
            let Known::Open(open) = tier.store.known(space, stripe) else {
                continue;
            };
            for blocks in open.cells(wanted.clone()) {
                let read = wanted.start.max(blocks.start)..wanted.end.min(blocks.end);
                let is_through = blocks.end <= wanted.end;
                each(ReadCell {
                    address: stripe * STRIPE_BYTES + u64::from(blocks.start) * BLOCK_BYTES,
                    bytes: read.len() as u64 * BLOCK_BYTES,
                    tier: number,
                });
                let cell = Cell { stripe, blocks };
                self.keeping.hit(space, &cell, is_through);
                self.note_place(space, &cell, number, is_through);
            }
        }
    }

    /// What becomes of a missing run when it has arrived for this read.
    pub(crate) fn fate(&self, space: &SpaceId, piece: &Range<u64>, range: BlockRange) -> Fate {
        let is_needed = piece.start < range.end() && piece.end > range.address();
        let cell = BlockRange::new(piece.start, piece.end - piece.start).map(|piece| Cell {
            stripe: piece.stripe(),
            blocks: piece.blocks_in_stripe(),
        });
        match cell {
            Ok(cell) if is_needed => match self.keeping.missed(space, &cell) {
                Admission::Kept => Fate::Kept,
                Admission::Passes if piece.start >= range.address() && piece.end <= range.end() => Fate::GivenOn,
                Admission::Passes => Fate::Passes,
            },
            _ => Fate::Passes,
        }
    }

    /// Stores a unit; false when no tier took it.
    pub(crate) fn store_unit(
        &self,
        space: &SpaceId,
        range: BlockRange,
        (bytes, checksums): (&[u8], &[u32]),
        fate: Fate,
    ) -> bool {
        let admission = match fate {
            Fate::Kept => Admission::Kept,
            Fate::Passes | Fate::GivenOn => Admission::Passes,
        };
        let (stripe, blocks) = (range.stripe(), range.blocks_in_stripe());
        let cell = Cell { stripe, blocks };
        let top = self.top(space, &cell);
        let enters = (top..self.tiers.len())
            .find(|number| admission == Admission::Passes || self.tiers[*number].wants(space, &cell))
            .unwrap_or(top);
        // A tier that is full leaves it to the others, and one that is broken to all others.
        let mut order: Vec<usize> = (enters..self.tiers.len()).chain(top..enters).collect();
        order.sort_by_key(|number| self.tiers[*number].store.is_at_fault());
        let mut is_stored = false;
        for tier in order.into_iter().map(|number| &self.tiers[number]) {
            is_stored = tier.store.store(space, range, bytes, checksums).is_ok();
            if is_stored {
                self.keeping.stored(space, &cell, admission);
                if let Some(placement) = &tier.placement {
                    placement.stored(space, &cell, admission);
                }
                let passes_a_limit = admission == Admission::Passes && self.keeping.has_limit(space);
                if tier.is_too_full() || passes_a_limit {
                    tier.evictor.wake();
                }
                break;
            }
            tier.evictor.wake();
        }
        if !is_stored {
            self.tiers[enters].evictor.make_room_for(range.bytes());
        }
        is_stored
    }

    /// Whether what is brought ahead of its readers would be kept.
    pub(crate) fn has_room_ahead(&self, space: &SpaceId, address: u64, bytes: u64) -> bool {
        self.takes(0) && self.used() + bytes <= self.room() && self.keeping.has_room(space, address, bytes)
    }

    /// Whether so many more bytes would be kept: otherwise nothing beyond what a reader needs is worth fetching.
    pub(crate) fn takes(&self, bytes: u64) -> bool {
        let capacities = self.healthy().filter_map(|tier| tier.store.capacity());
        capacities
            .reduce(|all, one| all + one)
            .is_some_and(|all| bytes <= all / AHEAD_PART)
    }

    /// Makes the cells of these blocks missing, because they are damaged; returns how many bytes they had.
    fn evict_damaged(&self, space: &SpaceId, stripe: u64, blocks: impl Iterator<Item = u32>) -> u64 {
        blocks
            .map(|block| self.evict_told(space, stripe, block, Cause::Damaged))
            .sum()
    }

    /// Makes the cell of a block missing and tells all bookkeeping of it; returns how many bytes it had.
    fn evict_told(&self, space: &SpaceId, stripe: u64, block: u32, cause: Cause) -> u64 {
        let cell = self.tiers.iter().find_map(|tier| tier.store.cell(space, stripe, block));
        let Some(blocks) = cell else { return 0 };
        // Told before it is done: what is stored there next is another cell.
        self.forget(space, &Cell { stripe, blocks });
        let evicted = self.evict(space, stripe, block).unwrap_or(0);
        self.counters.evicted(cause, evicted);
        evicted
    }

    /// Tells all bookkeeping that a cell is not stored any more.
    fn forget(&self, space: &SpaceId, cell: &Cell) {
        self.keeping.removed(space, cell);
        for placement in self.tiers.iter().filter_map(|tier| tier.placement.as_ref()) {
            placement.removed(space, cell);
        }
    }

    /// Makes the cell of a block missing in all tiers; returns how many bytes it had, `None` when a tier cannot tell.
    fn evict(&self, space: &SpaceId, stripe: u64, block: u32) -> Option<u64> {
        let down = 0..self.tiers.len();
        let up = (0..self.tiers.len() - 1).rev();
        let (mut evicted, mut is_told) = (0, true);
        for tier in down.chain(up).map(|number| &self.tiers[number]) {
            match tier.store.evict(space, stripe, block) {
                Some(blocks) if blocks.is_empty() => {}
                Some(blocks) => {
                    evicted += blocks.len() as u64 * BLOCK_BYTES;
                    tier.evictor.owes();
                }
                None => is_told = false,
            }
        }
        is_told.then_some(evicted)
    }

    /// The number of the fastest tier that a cell may be in.
    fn top(&self, space: &SpaceId, cell: &Cell) -> usize {
        if self.tiers.len() == 1 {
            return 0;
        }
        self.keeping.tier_of(space, cell, |name| {
            let named = |tier: &Tier| name == Some(tier.store.name());
            self.tiers.iter().position(named).unwrap_or(0)
        })
    }

    fn look_into(
        &self,
        tier: &Tier,
        space: &SpaceId,
        range: BlockRange,
        into: &mut [u8],
        checksums: Option<&mut [u32]>,
        waiting: Waiting,
    ) -> Looked {
        let number = range.stripe();
        let stripe = match (tier.store.known(space, number), waiting) {
            (Known::Open(stripe), _) => Some(stripe),
            (Known::Absent, _) => None,
            (Known::Closed, Waiting::Never) => return Looked::WouldWait,
            (Known::Closed, Waiting::Allowed) => tier.store.stripe(space, number),
        };
        let Some(stripe) = stripe else {
            return Looked::Miss;
        };
        match stripe.look(range, into, checksums, waiting) {
            Look::Hit => Looked::Hit,
            Look::WouldWait => Looked::WouldWait,
            Look::Missing => Looked::Miss,
            Look::Damaged(damaged) => {
                let blocks = damaged.len() as u64;
                Counters::add(&self.counters.damaged_blocks, blocks);
                let tier = tier.store.name();
                tracing::warn!(%space, stripe = number, blocks = ?damaged, tier, "stored blocks do not match their checksums; they are fetched anew");
                let evicted_bytes = self.evict_damaged(space, number, damaged.into_iter());
                Looked::Damaged(Damage { blocks, evicted_bytes })
            }
            Look::Fault(error) => {
                let tier = tier.store.name();
                tracing::warn!(%space, stripe = number, tier, %error, "read a stripe; its blocks are fetched anew");
                let evicted_bytes = self.evict_damaged(space, number, range.blocks_in_stripe());
                let blocks = range.block_count() as u64;
                Looked::Damaged(Damage { blocks, evicted_bytes })
            }
        }
    }

    /// Reads what is in several tiers from each.
    fn look_apart(
        &self,
        space: &SpaceId,
        range: BlockRange,
        into: &mut [u8],
        mut checksums: Option<&mut [u32]>,
    ) -> TryRead {
        let block = BLOCK_BYTES as usize;
        let mut taken = Vec::new();
        for (tier, part) in self.parts(space, range) {
            for part in inflight::uncovered(part, taken.clone()) {
                let Ok(piece) = BlockRange::new(part.start, part.end - part.start) else {
                    continue;
                };
                let at = (part.start - range.address()) as usize..(part.end - range.address()) as usize;
                let sums = checksums
                    .as_deref_mut()
                    .map(|sums| &mut sums[at.start / block..at.end / block]);
                let looked = self.look_into(tier, space, piece, &mut into[at], sums, Waiting::Allowed);
                if matches!(looked, Looked::Hit) {
                    taken.push(part);
                }
            }
            taken.sort_unstable_by_key(|part| part.start);
        }
        if inflight::uncovered(range.address()..range.end(), taken).is_empty() {
            TryRead::Hit
        } else {
            TryRead::Miss
        }
    }

    /// The parts of a range that are present, by their tiers.
    fn parts(&self, space: &SpaceId, range: BlockRange) -> impl Iterator<Item = (&Tier, Range<u64>)> {
        self.tiers.iter().flat_map(move |tier| {
            let stripe = match tier.store.known(space, range.stripe()) {
                Known::Open(stripe) => Some(stripe),
                Known::Closed | Known::Absent => None,
            };
            let present = stripe.map(|stripe| stripe.present(range));
            present.into_iter().flatten().map(move |part| (tier, part))
        })
    }
}
