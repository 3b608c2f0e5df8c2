//! A read that waits for an origin, in steps: nothing but what has arrived is held while it waits.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use penstock_buffer::Buffer;
use penstock_protocol::checksum::block_checksum;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, round_up_to_block};
use penstock_protocol::ids::SpaceId;
use tokio::task::spawn_blocking;

use super::{Announced, Inner};
use crate::error::ReadError;
use crate::inflight::{self, Arrived, Unit};
use crate::limits::DAMAGED_BLOCK_ATTEMPTS_MAX;
use crate::store::Waiting;
use crate::tiers::TryRead;

const BLOCK: usize = BLOCK_BYTES as usize;

/// The read. [`Miss::arrive`] and [`Miss::try_read`] take turns until one says that it is over.
pub struct Miss {
    inner: Arc<Inner>,
    announced: Arc<Announced>,
    range: BlockRange,
    /// What has arrived once is kept: a disk may spoil one part while another is fetched anew.
    gathered: Gathered,
    attempts_left: u32,
}

/// The parts of a read that need not come from the store.
#[derive(Default)]
struct Gathered {
    /// Addresses that belong to no object: zeros.
    gaps: Vec<Range<u64>>,
    /// Units that were waited for.
    arrived: Vec<(Arc<Unit>, Arc<Buffer>)>,
}

impl Miss {
    pub(super) fn new(inner: Arc<Inner>, announced: Arc<Announced>, range: BlockRange) -> Self {
        Self {
            inner,
            announced,
            range,
            gathered: Gathered::default(),
            attempts_left: DAMAGED_BLOCK_ATTEMPTS_MAX + 1,
        }
    }

    /// Starts what is missing and waits for it.
    ///
    /// # Errors
    /// See [`ReadError`]; also when it has arrived several times and the store spoils it each time.
    pub async fn arrive(&mut self) -> Result<(), ReadError> {
        self.attempts_left = self.attempts_left.checked_sub(1).ok_or_else(|| {
            ReadError::Unavailable("the cache cannot keep this block and the origin was asked in vain".to_owned())
        })?;
        let begun = Instant::now();
        let gathered = self.inner.gather(&self.announced, self.range, &mut self.gathered).await;
        self.inner
            .intake
            .counters
            .miss_seconds
            .observe(begun.elapsed().as_secs_f64());
        gathered
    }

    /// Puts together what has arrived and what is stored. Arguments as for [`super::Engine::try_read`].
    pub fn try_read(&self, into: &mut [u8], checksums: Option<&mut [u32]>) -> TryRead {
        let space = self.announced.package.space();
        let look = self.inner.assemble(&space, self.range, &self.gathered, into, checksums);
        if look == TryRead::Hit {
            // Of what was fetched ahead, and had not arrived when this read came, no policy has heard yet.
            let ahead = self.gathered.arrived.iter().filter(|(unit, _)| unit.is_ahead);
            for (unit, _) in ahead {
                let start = unit.range.start.max(self.range.address());
                let read = BlockRange::new(start, unit.range.end.min(self.range.end()) - start);
                read.into_iter()
                    .for_each(|read| self.inner.note_cells(&self.announced, read, |_| {}));
            }
        }
        look
    }
}

impl Inner {
    /// Starts what is missing of `range` and waits for it.
    async fn gather(
        self: &Arc<Self>,
        announced: &Arc<Announced>,
        range: BlockRange,
        gathered: &mut Gathered,
    ) -> Result<(), ReadError> {
        // Looking into the package and opening a stripe can wait for the disk; the runtime's threads must not.
        let (inner, announced) = (self.clone(), announced.clone());
        let start = move || {
            let extents = inner.extents(&announced, range)?;
            let covered = extents
                .iter()
                .map(|extent| extent.address..extent.address + round_up_to_block(extent.bytes));
            let gaps = inflight::uncovered(range.address()..range.end(), covered);
            Ok((gaps, inner.start(&announced, &extents, range)?))
        };
        let started = spawn_blocking(start).await;
        let started = started.unwrap_or_else(|_| Err(ReadError::Unavailable("starting the fetch failed".to_owned())));
        let (gaps, units) = started?;
        gathered.gaps = gaps;
        for unit in units {
            match unit.arrived().await {
                Arrived::Here(buffer) => gathered.arrived.push((unit, buffer)),
                Arrived::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Puts a read together from zeros, units that arrived and the store.
    fn assemble(
        &self,
        space: &SpaceId,
        range: BlockRange,
        gathered: &Gathered,
        into: &mut [u8],
        mut checksums: Option<&mut [u32]>,
    ) -> TryRead {
        let whole = range.address()..range.end();
        let mut outside = gathered.gaps.clone();
        for gap in &gathered.gaps {
            into[at(range, gap.start)..at(range, gap.end)].fill(0);
        }
        for (unit, buffer) in &gathered.arrived {
            let part = unit.range.start.max(whole.start)..unit.range.end.min(whole.end);
            let from = (part.start - unit.range.start) as usize..(part.end - unit.range.start) as usize;
            into[at(range, part.start)..at(range, part.end)].copy_from_slice(&buffer[from]);
            outside.push(part);
        }
        outside.sort_unstable_by_key(|part| part.start);
        // All are looked at even when one is missing, so that the next round fetches everything that is.
        let mut complete = true;
        for part in inflight::uncovered(whole, outside.clone()) {
            let Ok(piece) = BlockRange::new(part.start, part.end - part.start) else {
                return TryRead::Miss;
            };
            let bytes = at(range, part.start)..at(range, part.end);
            let sums = checksums
                .as_deref_mut()
                .map(|sums| &mut sums[bytes.start / BLOCK..bytes.end / BLOCK]);
            complete &= self
                .intake
                .tiers
                .look(space, piece, &mut into[bytes], sums, Waiting::Allowed)
                == Some(TryRead::Hit);
        }
        if !complete {
            return TryRead::Miss;
        }
        if let Some(sums) = checksums {
            for address in outside.into_iter().flat_map(|part| part.step_by(BLOCK)) {
                let start = at(range, address);
                sums[start / BLOCK] = block_checksum(space, address, &into[start..start + BLOCK]);
            }
        }
        TryRead::Hit
    }
}

/// Where an address of a range lies in its buffer.
fn at(range: BlockRange, address: u64) -> usize {
    (address - range.address()) as usize
}
