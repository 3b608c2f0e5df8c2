//! The thread of a tier: makes room in it, so that what arrives need not wait for what goes; moves cells up into it and down from
//! it; and looks at what an earlier process stored, so that it can go too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use penstock_buffer::{Buffer, BufferPool};

use super::Tiers;
use crate::keeping::{Admission, Cell, Named};
use crate::limits::{
    COMING_CELLS_MAX, EVICTIONS_AT_ONCE, EVICTOR_INTERVAL, EVICTOR_PAUSE, FREE_BYTES_MAX, FREE_PART, RESIZE_INTERVAL,
    UNIT_BYTES_MAX,
};
use crate::report::Cause;

/// How to reach the thread, which ends when this is dropped.
pub(super) struct Evictor {
    wake: SyncSender<()>,
    /// The largest unit that found no room since it was last looked.
    refused_bytes: AtomicU64,
    /// When the policies were told last what they may hold.
    resized_at: Mutex<Option<Instant>>,
    /// What is to be brought here, each with the number of the tier that has it.
    coming: Mutex<Vec<(usize, Named)>>,
    /// Of the thread.
    life: Weak<()>,
}

/// Wakes the thread, which has to be started.
pub(super) struct Woken {
    woken: Receiver<()>,
    life: Arc<()>,
}

/// Bytes of a tier of this capacity that may be used before cells have to go.
pub(super) fn room(capacity: u64) -> u64 {
    capacity - (capacity / FREE_PART).min(FREE_BYTES_MAX)
}

impl Evictor {
    pub(super) fn new() -> (Self, Woken) {
        let (wake, woken) = sync_channel(1);
        let life = Arc::new(());
        let evictor = Self {
            wake,
            refused_bytes: AtomicU64::new(0),
            resized_at: Mutex::default(),
            coming: Mutex::default(),
            life: Arc::downgrade(&life),
        };
        (evictor, Woken { woken, life })
    }

    /// Whether the thread has not panicked.
    pub(super) fn is_alive(&self) -> bool {
        self.life.strong_count() > 0
    }

    /// A unit found no room.
    pub(super) fn make_room_for(&self, bytes: u64) {
        self.refused_bytes.fetch_max(bytes, Ordering::Relaxed);
        self.wake();
    }

    /// Something was evicted that still takes up the disk.
    pub(super) fn owes(&self) {
        self.wake();
    }

    /// Something is to be done.
    pub(super) fn wake(&self) {
        // It is woken already if the channel is full.
        let _ = self.wake.try_send(());
    }

    /// A cell of another tier is wanted here. Of too many the rest is forgotten: it is noted down with a later read.
    pub(super) fn let_come(&self, from: usize, cell: Named) {
        let mut coming = self.lock();
        if coming.len() < COMING_CELLS_MAX {
            coming.push((from, cell));
            drop(coming);
            self.wake();
        }
    }

    pub(super) fn coming(&self) -> Vec<(usize, Named)> {
        std::mem::take(&mut self.lock())
    }

    fn is_time_to_resize(&self) -> bool {
        let mut resized_at = self.resized_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = resized_at.is_none_or(|at| at.elapsed() >= RESIZE_INTERVAL);
        if is_time {
            *resized_at = Some(Instant::now());
        }
        is_time
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(usize, Named)>> {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Woken {
    /// Starts the thread of a tier.
    pub(super) fn start(self, tiers: Weak<Tiers>, number: usize) -> io::Result<()> {
        let work = move || {
            let Self { woken, life: _life } = self;
            let mut buffer = BufferPool::new(UNIT_BYTES_MAX as usize, 1).take();
            // What an earlier process stored is looked at first.
            let (mut pause, mut looked_at) = (Duration::ZERO, None);
            loop {
                if let Err(RecvTimeoutError::Disconnected) = woken.recv_timeout(pause) {
                    return;
                }
                // Also while it is woken again and again.
                if looked_at.is_none_or(|at: Instant| at.elapsed() >= EVICTOR_INTERVAL) {
                    look_at_unknown(&tiers, number, &mut buffer);
                    looked_at = Some(Instant::now());
                }
                let Some(tiers) = tiers.upgrade() else { return };
                pause = if make_room(&tiers, number, &mut buffer) {
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

/// Looks whether a broken disk is well again, and once at each stripe whose cells are not known. Whoever holds the tiers for long
/// keeps them from being closed.
fn look_at_unknown(tiers: &Weak<Tiers>, number: usize, buffer: &mut Buffer) {
    let store = |tiers: &Arc<Tiers>| {
        tiers.tiers[number].store.try_again();
        tiers.tiers[number].store.unknown_stripes()
    };
    let unknown = tiers.upgrade().as_ref().map(store);
    let mut tried_at = Instant::now();
    for key in unknown.into_iter().flatten() {
        let Some(tiers) = tiers.upgrade() else { return };
        tiers.tiers[number].store.look_at(key);
        if tried_at.elapsed() >= EVICTOR_INTERVAL {
            tiers.tiers[number].store.try_again();
            tried_at = Instant::now();
        }
        make_room(&tiers, number, buffer);
    }
}

/// False when some of the disk could not be given back yet.
fn make_room(tiers: &Tiers, number: usize, buffer: &mut Buffer) -> bool {
    let tier = &tiers.tiers[number];
    if tier.evictor.is_time_to_resize() {
        // A tier may have become broken, or well.
        tiers.set_rooms();
        tiers.keeping.resize(Instant::now());
        if let Some(placement) = &tier.placement {
            placement.resize(Instant::now());
        }
    }
    let refused = tier.evictor.refused_bytes.swap(0, Ordering::Relaxed);
    let mut is_punched = true;
    while !evict_some(tiers, refused) {
        is_punched = tier.store.punch();
    }
    tiers.bring(number, buffer);
    while !tiers.sink_some(number, refused, buffer) {
        is_punched = tier.store.punch();
    }
    while !evict_some_here(tiers, number, refused) {
        is_punched = tier.store.punch();
    }
    is_punched & tier.store.punch()
}

/// Evicts a number of cells at once; true when there is no more to do.
fn evict_some(tiers: &Tiers, refused_bytes: u64) -> bool {
    let mut freed_bytes = 0;
    for _ in 0..EVICTIONS_AT_ONCE {
        let Some((victim, cause)) = next_to_go(tiers, refused_bytes) else {
            return true;
        };
        match evict_cell(tiers, victim, cause) {
            Some(bytes) => freed_bytes += bytes,
            None => return true,
        }
    }
    // Whatever the bookkeeping says, what is not there cannot go.
    freed_bytes == 0
}

/// How many bytes it had; `None` when the stripe cannot be opened now.
fn evict_cell(tiers: &Tiers, (space, stripe, first): Named, cause: Cause) -> Option<u64> {
    // Told before it is done: what is stored there next is another cell. Named by its first block, also when nothing of it is
    // left.
    let named = Cell {
        stripe,
        blocks: first..first,
    };
    tiers.forget(&space, &named);
    match tiers.evict(&space, stripe, first) {
        Some(bytes) => {
            tiers.counters.evicted(cause, bytes);
            Some(bytes)
        }
        // The cell is stored all the same.
        None => {
            tiers.keeping.stored(&space, &named, Admission::Kept);
            None
        }
    }
}

/// The same in a tier that has too much though all together have not: what it has may not be in faster ones, or it became smaller.
fn evict_some_here(tiers: &Tiers, number: usize, refused_bytes: u64) -> bool {
    let (tier, is_slowest) = (&tiers.tiers[number], number + 1 == tiers.tiers.len());
    for _ in 0..EVICTIONS_AT_ONCE {
        // What a faster one has too much of sinks as soon as there is room.
        let has_room = match tier.store.capacity() {
            Some(capacity) if !is_slowest => tier.store.used() <= capacity,
            _ => tier.store.used() <= tier.bound(refused_bytes),
        };
        if has_room {
            return true;
        }
        let is_here = |(space, stripe, first): &Named| tier.store.cell(space, *stripe, *first).is_some();
        let Some(victim) = tiers.keeping.victim_where(is_here) else {
            return true;
        };
        if evict_cell(tiers, victim, Cause::Room).is_none() {
            return true;
        }
    }
    false
}

fn next_to_go(tiers: &Tiers, refused_bytes: u64) -> Option<(Named, Cause)> {
    if let Some(expired) = tiers.keeping.expired() {
        return Some((expired, Cause::Expired));
    }
    if let Some(over) = tiers.keeping.over_limit() {
        return Some((over, Cause::Limit));
    }
    if !tiers.are_too_full(refused_bytes) {
        return None;
    }
    let victim = if tiers.healthy().count() == tiers.tiers.len() {
        tiers.keeping.victim()
    } else {
        // What a broken tier has makes no room in the others, and can be read.
        let is_healthy = |(space, stripe, first): &Named| {
            let mut healthy = tiers.healthy();
            healthy.any(|tier| tier.store.cell(space, *stripe, *first).is_some())
        };
        tiers.keeping.victim_where(is_healthy)
    };
    victim.map(|victim| (victim, Cause::Room))
}
