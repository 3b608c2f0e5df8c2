//! Compares in the background what a tier stores with its checksums, so that damage is found while the origin still has the bytes,
//! and a dying disk before its readers meet it. What the kernel did not have in memory it does not have afterwards either.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use std::{io, thread};

use penstock_buffer::{Buffer, BufferPool};
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, STRIPE_BYTES};
use penstock_protocol::side::{self, BLOCKS};

use super::{Damage, Looked, Tiers};
use crate::limits::{SCRUB_BYTES_PER_SECOND, SCRUB_INTERVAL, UNIT_BYTES_MAX};
use crate::report::Counters;
use crate::store::{Key, Known, Waiting};

/// Ends the thread when it is dropped.
pub(super) struct Scrubber {
    _life: SyncSender<()>,
}

/// The end of the thread, which has to be started.
pub(super) struct Ended(Receiver<()>);

impl Scrubber {
    pub(super) fn new() -> (Self, Ended) {
        let (life, ended) = sync_channel(0);
        (Self { _life: life }, Ended(ended))
    }
}

impl Ended {
    /// Starts the thread of a tier.
    pub(super) fn start(self, tiers: Weak<Tiers>, number: usize) -> io::Result<()> {
        let work = move || {
            let mut buffer = BufferPool::new(UNIT_BYTES_MAX as usize, 1).take();
            loop {
                let begun = Instant::now();
                if self.pass(&tiers, number, &mut buffer).is_none() || self.has_within(rest(begun)) {
                    return;
                }
            }
        };
        thread::Builder::new().name("scrub".into()).spawn(work)?;
        Ok(())
    }

    /// Looks at all stripes once; `None` when it is to end. Whoever holds the tiers for long keeps them from being closed.
    fn pass(&self, tiers: &Weak<Tiers>, number: usize, buffer: &mut Buffer) -> Option<()> {
        let stripes: BTreeSet<Key> = tiers.upgrade()?.tiers[number].store.stripes();
        for key in stripes {
            let mut next = 0;
            while next < BLOCKS {
                let opening_bytes = if next == 0 { side::FILE_BYTES } else { 0 };
                let scrubbed = scrub(&*tiers.upgrade()?, number, key, next..BLOCKS, buffer);
                next = scrubbed.next;
                let bytes = scrubbed.compared_bytes + opening_bytes;
                if self.has_within(Duration::from_secs_f64(bytes as f64 / SCRUB_BYTES_PER_SECOND as f64)) {
                    return None;
                }
            }
        }
        Some(())
    }

    /// Whether the end came in that time, which passes otherwise.
    fn has_within(&self, pause: Duration) -> bool {
        self.0.recv_timeout(pause) != Err(RecvTimeoutError::Timeout)
    }
}

/// Until the next pass.
fn rest(begun: Instant) -> Duration {
    SCRUB_INTERVAL.saturating_sub(begun.elapsed())
}

/// How far [`scrub`] came, and what it found.
pub(super) struct Scrubbed {
    /// The block where to go on; the end of those that were asked for when there is no more.
    pub(super) next: u32,
    pub(super) compared_bytes: u64,
    pub(super) damage: Damage,
}

/// Compares the cells that have some of these blocks of a stripe, from the first on, up to the bytes of a page.
pub(super) fn scrub(tiers: &Tiers, number: usize, key: Key, blocks: Range<u32>, buffer: &mut Buffer) -> Scrubbed {
    let (tier, (space, stripe_number)) = (&tiers.tiers[number], key);
    let (until, mut damage) = (blocks.end, Damage::default());
    let was_open = matches!(tier.store.known(&space, stripe_number), Known::Open(_));
    let Some(stripe) = tier.store.stripe(&space, stripe_number) else {
        return Scrubbed {
            next: until,
            compared_bytes: 0,
            damage,
        };
    };
    let (mut next, mut compared_bytes) = (until, 0);
    for blocks in stripe.cells(blocks) {
        let address = stripe_number * STRIPE_BYTES + u64::from(blocks.start) * BLOCK_BYTES;
        let Ok(range) = BlockRange::new(address, blocks.len() as u64 * BLOCK_BYTES) else {
            continue;
        };
        if compared_bytes + range.bytes() > UNIT_BYTES_MAX {
            next = blocks.start;
            break;
        }
        let was_in_memory = stripe.is_in_memory(range);
        let into = &mut buffer[..range.bytes() as usize];
        if !was_in_memory {
            stripe.come_to_memory(range, into);
        }
        // Damage is counted, told, and goes.
        let looked = tiers.look_into(tier, &space, range, into, None, Waiting::Allowed);
        if let Looked::Damaged(found) = looked {
            damage.blocks += found.blocks;
            damage.evicted_bytes += found.evicted_bytes;
        }
        if !was_in_memory {
            stripe.leave_memory(range);
        }
        compared_bytes += range.bytes();
    }
    Counters::add(&tiers.counters.scrubbed_bytes, compared_bytes);
    drop(stripe);
    if !was_open && next == until {
        tier.store.close(key);
    }
    Scrubbed {
        next,
        compared_bytes,
        damage,
    }
}
