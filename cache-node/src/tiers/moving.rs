//! How cells change tiers. All of it is done by the thread of the tier that gets fuller or emptier, one cell at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use penstock_buffer::Buffer;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;

use super::Tiers;
use crate::keeping::{Admission, Cell, Keeping, Named};
use crate::limits::EVICTIONS_AT_ONCE;
use crate::report::Counters;
use crate::store::{Look, Waiting};

/// How a move ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    /// It is in the other tier.
    There,
    /// It is in neither any more.
    Gone,
    /// The other tier did not take it.
    NoRoom,
}

impl Tiers {
    /// A cell of tier `number` was read: tells the placements, and notes it down for the tier where it should be.
    pub(super) fn note_place(&self, space: &SpaceId, cell: &Cell, number: usize, is_through: bool) {
        if self.tiers.len() == 1 {
            return;
        }
        let (top, named) = (self.top(space, cell), (*space, cell.stripe, cell.blocks.start));
        // Its rule is another one by now.
        if number < top {
            self.tiers[top].evictor.let_come(number, named);
            return;
        }
        if let Some(placement) = &self.tiers[number].placement {
            placement.hit(space, cell, is_through);
        }
        for tier in &self.tiers[top..number] {
            let is_wanted = |placement: &Arc<Keeping>| placement.is_wanted(space, cell);
            if !tier.store.is_at_fault() && tier.placement.as_ref().is_some_and(is_wanted) {
                tier.evictor.let_come(number, named);
                return;
            }
        }
    }

    /// Brings to tier `number` what was noted down for it.
    pub(super) fn bring(&self, number: usize, buffer: &mut Buffer) {
        for (from, named) in self.tiers[number].evictor.coming() {
            if self.move_cell(from, number, named, buffer) == Moved::There {
                let counters = &self.counters;
                let moved = if from > number {
                    &counters.risen_cells
                } else {
                    &counters.sunk_cells
                };
                Counters::add(moved, 1);
            }
            // A full tier gets room for the next one.
            while self.tiers[number].is_too_full() && self.sink_one(number, buffer) {}
        }
    }

    /// Lets sink what tier `number` has too much of, a number of cells at once; true when there is no more to do.
    pub(super) fn sink_some(&self, number: usize, refused_bytes: u64, buffer: &mut Buffer) -> bool {
        for _ in 0..EVICTIONS_AT_ONCE {
            let tier = &self.tiers[number];
            if tier.store.used() <= tier.bound(refused_bytes) || !self.sink_one(number, buffer) {
                return true;
            }
        }
        false
    }

    /// Lets sink what tier `number` wants least; false when there is nothing, or no room below.
    fn sink_one(&self, number: usize, buffer: &mut Buffer) -> bool {
        let Some(placement) = &self.tiers[number].placement else {
            return false;
        };
        let Some((space, stripe, first)) = placement.victim() else {
            return false;
        };
        let named = Cell {
            stripe,
            blocks: first..first,
        };
        placement.removed(&space, &named);
        let below = (number + 1..self.tiers.len()).filter(|below| !self.tiers[*below].store.is_at_fault());
        for below in below {
            match self.move_cell(number, below, (space, stripe, first), buffer) {
                Moved::There => {
                    Counters::add(&self.counters.sunk_cells, 1);
                    return true;
                }
                Moved::Gone => return true,
                Moved::NoRoom => {}
            }
        }
        // It is here still.
        if let Some(blocks) = self.tiers[number].store.cell(&space, stripe, first) {
            placement.stored(&space, &Cell { stripe, blocks }, Admission::Kept);
        }
        false
    }

    /// Moves a cell from one tier to another, checked.
    fn move_cell(&self, from: usize, to: usize, named: Named, buffer: &mut Buffer) -> Moved {
        let (space, number, first) = named;
        let (from, to) = (&self.tiers[from], &self.tiers[to]);
        let Some(stripe) = from.store.stripe(&space, number) else {
            return Moved::Gone;
        };
        let blocks = stripe.cell(first);
        let address = number * STRIPE_BYTES + u64::from(blocks.start) * BLOCK_BYTES;
        // Also of a cell that is not there, which is empty.
        let Ok(range) = BlockRange::new(address, blocks.len() as u64 * BLOCK_BYTES) else {
            return Moved::Gone;
        };
        let bytes = &mut buffer[..range.bytes() as usize];
        let mut checksums = vec![0; blocks.len()];
        match stripe.look(range, bytes, Some(&mut checksums), Waiting::Allowed) {
            Look::Hit => {}
            // Whoever reads it finds that out too, and says so.
            Look::Damaged(_) | Look::Fault(_) => {
                self.evict_damaged(&space, number, std::iter::once(blocks.start));
                return Moved::Gone;
            }
            Look::Missing | Look::WouldWait => return Moved::Gone,
        }
        let _moving = Moving::begin(&self.moving_bytes, range.bytes());
        if to.store.store(&space, range, bytes, &checksums).is_err() {
            to.evictor.wake();
            return Moved::NoRoom;
        }
        let cell = Cell { stripe: number, blocks };
        if let Some(placement) = &to.placement {
            placement.stored(&space, &cell, Admission::Kept);
        }
        if to.is_too_full() {
            to.evictor.wake();
        }
        let evicted = from.store.evict(&space, number, cell.blocks.start);
        from.evictor.owes();
        if evicted.is_some_and(|evicted| !evicted.is_empty()) {
            return Moved::There;
        }
        // Somebody evicted it meanwhile, or it cannot be told: then it must not stay.
        to.store.evict(&space, number, cell.blocks.start);
        to.evictor.owes();
        if let Some(placement) = &to.placement {
            placement.removed(&space, &cell);
        }
        Moved::Gone
    }
}

/// What one move has in two tiers, until it is dropped: no reason to evict anything.
struct Moving<'a>(&'a AtomicU64, u64);

impl<'a> Moving<'a> {
    fn begin(all: &'a AtomicU64, bytes: u64) -> Self {
        all.fetch_add(bytes, Ordering::SeqCst);
        Self(all, bytes)
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::SeqCst);
    }
}
