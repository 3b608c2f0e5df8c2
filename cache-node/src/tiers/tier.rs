//! One tier: its files, which of the kept cells are worth it, and the thread that makes room in it.

use std::io;
use std::sync::Arc;

use penstock_protocol::ids::SpaceId;

use super::evictor::{self, Evictor, Woken};
use crate::keeping::{Admission, Cell, Keeping};
use crate::report::TierReport;
use crate::store::{Found, Store, TierConfig};

pub(super) struct Tier {
    pub(super) store: Store,
    /// Which of the cells that are kept are worth this tier; `None` in the slowest, which has the rest.
    pub(super) placement: Option<Arc<Keeping>>,
    pub(super) evictor: Evictor,
}

impl Tier {
    /// Adopts what the folder holds. The thread has to be started.
    pub(super) fn open(config: TierConfig, keeping: Arc<Keeping>, has_slower: bool) -> io::Result<(Self, Woken)> {
        let placement = has_slower.then(|| Arc::new(Keeping::new(evictor::room(config.capacity_bytes))));
        let store = Store::open(config, found(keeping, placement.clone()))?;
        let (evictor, woken) = Evictor::new();
        let tier = Self {
            store,
            placement,
            evictor,
        };
        Ok((tier, woken))
    }

    /// Bytes that may be used before some have to go. One that takes no more has what it has.
    pub(super) fn room(&self) -> u64 {
        let (capacity, used) = self.store.capacity_and_used();
        let room = evictor::room(capacity);
        if self.store.is_at_fault() { room.min(used) } else { room }
    }

    pub(super) fn used(&self) -> u64 {
        self.store.capacity_and_used().1
    }

    pub(super) fn is_too_full(&self) -> bool {
        let (capacity, used) = self.store.capacity_and_used();
        used > evictor::room(capacity)
    }

    /// Whether a cell that arrives is worth this tier.
    pub(super) fn wants(&self, space: &SpaceId, cell: &Cell) -> bool {
        let missed = |placement: &Arc<Keeping>| placement.missed(space, cell) == Admission::Kept;
        !self.store.is_at_fault() && self.placement.as_ref().is_none_or(missed)
    }

    pub(super) fn report(&self) -> TierReport {
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
}

/// Has kept what an earlier process stored.
fn found(keeping: Arc<Keeping>, placement: Option<Arc<Keeping>>) -> Found {
    Box::new(move |space, stripe, cells| {
        for blocks in cells {
            let cell = Cell { stripe, blocks };
            keeping.stored(space, &cell, Admission::Kept);
            if let Some(placement) = &placement {
                placement.stored(space, &cell, Admission::Kept);
            }
        }
    })
}
