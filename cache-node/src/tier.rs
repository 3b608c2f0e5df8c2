//! One tier: what it stores, which of that is kept, and a thread that makes room. It must not know revisions or origins.

mod evictor;

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;

use crate::inflight::Fate;
use crate::keeping::{Admission, Cell, Keeping};
use crate::report::{Counters, TierReport};
use crate::store::{Found, Known, Look, Store, TierConfig, Waiting};
use evictor::Evictor;

/// What a look without waiting found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRead {
    /// All bytes are in the buffer and match their checksums.
    Hit,
    /// Not all of it is stored.
    Miss,
}

/// The tier.
pub(crate) struct Tier {
    /// Its files.
    pub(crate) store: Store,
    keeping: Arc<Keeping>,
    evictor: Evictor,
    counters: Arc<Counters>,
}

impl Tier {
    /// Adopts what the folder of the tier holds.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub(crate) fn open(config: TierConfig, counters: Arc<Counters>) -> io::Result<Arc<Self>> {
        let keeping = Arc::new(Keeping::new(evictor::room(config.capacity_bytes)));
        let store = Store::open(config, found(keeping.clone()))?;
        let (evictor, woken) = Evictor::new();
        let tier = Arc::new(Self {
            store,
            keeping,
            evictor,
            counters,
        });
        woken.start(Arc::downgrade(&tier))?;
        Ok(tier)
    }

    /// Removes every space that is not in `wanted` and takes no more of it; `None` keeps and takes all.
    pub(crate) fn keep_only(&self, wanted: Option<HashSet<SpaceId>>) {
        if let Some(wanted) = &wanted {
            self.keeping.keep_only(wanted);
        }
        self.store.keep_only(wanted);
    }

    /// The state at this moment.
    pub(crate) fn report(&self) -> TierReport {
        let report = self.store.report();
        let dead = (!self.evictor.is_alive()).then(|| {
            format!(
                "tier {} does not evict any more, which is a fault of Penstock: restart the cache node, and report what it logged",
                report.name
            )
        });
        TierReport {
            fault: report.fault.or(dead),
            ..report
        }
    }

    /// `None` when the disk would have to be asked.
    pub(crate) fn look(
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

    /// Tells the policy of the stored cells that a read touches; `each` hears the address of each.
    pub(crate) fn note_read(&self, space: &SpaceId, range: BlockRange, mut each: impl FnMut(u64)) {
        let Known::Open(open) = self.store.known(space, range.stripe()) else {
            return;
        };
        let (stripe, wanted) = (range.stripe(), range.blocks_in_stripe());
        for blocks in open.cells(wanted.clone()) {
            let is_through = blocks.end <= wanted.end;
            each(stripe * STRIPE_BYTES + u64::from(blocks.start) * BLOCK_BYTES);
            self.keeping.hit(space, &Cell { stripe, blocks }, is_through);
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

    /// Stores a unit; false when it could not be.
    pub(crate) fn store_unit(
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

    /// Whether what is brought ahead of its readers would be kept.
    pub(crate) fn has_room_ahead(&self, space: &SpaceId, bytes: u64) -> bool {
        let (capacity, used) = self.store.capacity_and_used();
        self.store.takes(0) && used + bytes <= evictor::room(capacity) && self.keeping.has_room(space, bytes)
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
}

/// Has kept what an earlier process stored.
fn found(keeping: Arc<Keeping>) -> Found {
    Box::new(move |space, stripe, cells| {
        for blocks in cells {
            keeping.stored(space, &Cell { stripe, blocks }, Admission::Kept);
        }
    })
}
