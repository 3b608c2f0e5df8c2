//! How cells change tiers. All of it is done by the thread of the tier that gets fuller or emptier, one cell at a time.

use penstock_buffer::Buffer;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;

use super::Tiers;
use crate::keeping::{Admission, Cell, Named};
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
    /// A cell of tier `number` was read: notes it down for the fastest tier above that wants it.
    pub(super) fn may_rise(&self, space: &SpaceId, cell: &Cell, number: usize) {
        if number == 0 {
            return;
        }
        for tier in &self.tiers[self.top(space, cell).min(number)..number] {
            let is_wanted = |placement: &std::sync::Arc<crate::keeping::Keeping>| placement.is_wanted(space, cell);
            if !tier.store.is_at_fault() && tier.placement.as_ref().is_some_and(is_wanted) {
                tier.evictor.let_rise((*space, cell.stripe, cell.blocks.start));
                return;
            }
        }
    }

    /// Brings up what was noted down for tier `number`.
    pub(super) fn raise(&self, number: usize, buffer: &mut Buffer) {
        for named in self.tiers[number].evictor.rising() {
            for below in number + 1..self.tiers.len() {
                match self.move_cell(below, number, named, buffer) {
                    Moved::There => {
                        Counters::add(&self.counters.risen_cells, 1);
                        break;
                    }
                    Moved::NoRoom => break,
                    Moved::Gone => {}
                }
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
        for below in number + 1..self.tiers.len() {
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
    fn move_cell(&self, from: usize, to: usize, (space, number, first): Named, buffer: &mut Buffer) -> Moved {
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
