//! Keeps some of a tier free, on a thread of its own, so that what arrives need not wait for what goes; and looks at what an
//! earlier process stored, so that it can go too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use penstock_protocol::geometry::BLOCK_BYTES;

use super::Tier;
use crate::keeping::{Admission, Cell};
use crate::limits::{EVICTIONS_AT_ONCE, EVICTOR_INTERVAL, EVICTOR_PAUSE, FREE_BYTES_MAX, FREE_PART};
use crate::report::Counters;

/// How to reach the evictor's thread, which ends when this is dropped.
pub(crate) struct Evictor {
    wake: SyncSender<()>,
    /// The largest unit that found no room since it was last looked.
    refused_bytes: AtomicU64,
    /// Of the thread.
    life: Weak<()>,
}

/// Wakes the thread, which has to be started.
pub(crate) struct Woken {
    woken: Receiver<()>,
    life: Arc<()>,
}

/// Bytes of a tier of this capacity that may be used before cells are evicted.
pub(crate) fn room(capacity: u64) -> u64 {
    capacity - (capacity / FREE_PART).min(FREE_BYTES_MAX)
}

impl Evictor {
    pub(crate) fn new() -> (Self, Woken) {
        let (wake, woken) = sync_channel(1);
        let life = Arc::new(());
        let evictor = Self {
            wake,
            refused_bytes: AtomicU64::new(0),
            life: Arc::downgrade(&life),
        };
        (evictor, Woken { woken, life })
    }

    /// Whether the thread has not panicked.
    pub(crate) fn is_alive(&self) -> bool {
        self.life.strong_count() > 0
    }

    /// A unit found no room.
    pub(crate) fn make_room_for(&self, bytes: u64) {
        self.refused_bytes.fetch_max(bytes, Ordering::Relaxed);
        self.wake();
    }

    /// Something was stored.
    pub(crate) fn wake(&self) {
        // It is woken already if the channel is full.
        let _ = self.wake.try_send(());
    }
}

impl Woken {
    /// Starts the thread.
    pub(crate) fn start(self, tier: Weak<Tier>) -> io::Result<()> {
        let work = move || {
            let Self { woken, life: _life } = self;
            // What an earlier process stored is looked at first.
            let mut pause = Duration::ZERO;
            loop {
                let is_time = match woken.recv_timeout(pause) {
                    Ok(()) => false,
                    Err(RecvTimeoutError::Timeout) => true,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                if is_time {
                    look_at_unknown(&tier);
                }
                let Some(tier) = tier.upgrade() else { return };
                pause = if make_room(&tier) {
                    EVICTOR_INTERVAL
                } else {
                    EVICTOR_PAUSE
                };
            }
        };
        thread::Builder::new().name("evict".into()).spawn(work)?;
        Ok(())
    }
}

/// Looks once at each stripe that an earlier process stored. Whoever holds the tier for long keeps it from being closed.
fn look_at_unknown(tier: &Weak<Tier>) {
    let unknown = tier.upgrade().map(|tier| tier.store.unknown_stripes());
    for key in unknown.into_iter().flatten() {
        let Some(tier) = tier.upgrade() else { return };
        tier.store.look_at(key);
        make_room(&tier);
    }
}

/// False when some of the disk could not be given back yet.
fn make_room(tier: &Tier) -> bool {
    tier.keeping.resize(Instant::now());
    let refused = tier.evictor.refused_bytes.swap(0, Ordering::Relaxed);
    let mut is_punched = true;
    while !evict_some(tier, refused) {
        is_punched = tier.store.punch();
    }
    is_punched & tier.store.punch()
}

/// Whether there is room, also for a unit of so many bytes, or nothing that could go.
fn evict_some(tier: &Tier, refused_bytes: u64) -> bool {
    for _ in 0..EVICTIONS_AT_ONCE {
        let (capacity, used) = tier.store.capacity_and_used();
        if used <= room(capacity).min(capacity.saturating_sub(refused_bytes)) {
            return true;
        }
        let Some((space, stripe, first)) = tier.keeping.victim() else {
            return true;
        };
        // Told before it is done: what is stored there next is another cell. Named by its first block, also when nothing of
        // it is left.
        let named = Cell {
            stripe,
            blocks: first..first,
        };
        tier.keeping.removed(&space, &named);
        match tier.store.evict(&space, stripe, first) {
            Some(blocks) => Counters::add(&tier.counters.evicted_bytes, blocks.len() as u64 * BLOCK_BYTES),
            // The stripe cannot be opened now; the cell is stored all the same.
            None => {
                tier.keeping.stored(&space, &named, Admission::Kept);
                return true;
            }
        }
    }
    false
}
