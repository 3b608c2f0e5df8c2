//! One tier: its files, which of the kept cells are worth it, and the thread that makes room in it.

use std::io;
use std::sync::Arc;

use penstock_protocol::ids::SpaceId;

use super::evictor::{self, Evictor, Woken};
use super::scrubber::{Ended, Scrubber};
use crate::keeping::{Admission, Cell, Keeping};
use crate::report::TierReport;
use crate::store::{Found, Store, TierConfig};

pub(super) struct Tier {
    pub(super) store: Store,
    /// Which of the cells that are kept are worth this tier; `None` in the slowest, which has the rest.
    pub(super) placement: Option<Arc<Keeping>>,
    pub(super) evictor: Evictor,
    _scrubber: Scrubber,
}

impl Tier {
    /// Adopts what the folder holds. The threads have to be started.
    pub(super) fn open(
        config: TierConfig,
        open_stripes_max: usize,
        keeping: Arc<Keeping>,
        has_slower: bool,
    ) -> io::Result<(Self, Woken, Ended)> {
        let placement = has_slower.then(|| Arc::new(Keeping::new(0)));
        let store = Store::open(config, open_stripes_max, found(keeping, placement.clone()))?;
        let ((evictor, woken), (scrubber, ended)) = (Evictor::new(), Scrubber::new());
        let tier = Self {
            store,
            placement,
            evictor,
            _scrubber: scrubber,
        };
        Ok((tier, woken, ended))
    }

    /// Bytes that may be used before some have to go.
    pub(super) fn room(&self) -> u64 {
        self.bound(0)
    }

    /// The same when a unit of so many bytes is to find room. A tier that takes no more has what it has.
    pub(super) fn bound(&self, refused_bytes: u64) -> u64 {
        let Some(capacity) = self.store.capacity() else {
            return self.store.used();
        };
        let bound = evictor::room(capacity).min(capacity.saturating_sub(refused_bytes));
        if self.store.is_at_fault() {
            bound.min(self.store.used())
        } else {
            bound
        }
    }

    pub(super) fn is_too_full(&self) -> bool {
        self.store.used() > self.room()
    }

    /// What it may promise, broken or not.
    pub(super) fn promised_room(&self) -> u64 {
        self.store.capacity().map_or_else(|| self.store.used(), evictor::room)
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
            keeping.found(space, &cell);
            if let Some(placement) = &placement {
                placement.found(space, &cell);
            }
        }
    })
}
