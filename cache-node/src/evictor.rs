//! Keeps some of a tier free, on a thread of its own, so that what arrives need not wait for what goes; and looks at what an
//! earlier process stored, so that it can go too.

use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use std::{io, thread};

use penstock_protocol::geometry::BLOCK_BYTES;

use crate::engine::Inner;
use crate::keeping::Cell;
use crate::limits::{EVICTIONS_AT_ONCE, EVICTOR_INTERVAL, EVICTOR_PAUSE, FREE_BYTES_MAX, FREE_PART};
use crate::report::Counters;

/// How to reach the evictor's thread, which ends when this is dropped.
pub(crate) struct Evictor(SyncSender<()>);

/// Wakes the thread, which has to be started.
pub(crate) struct Woken(Receiver<()>);

/// Bytes of a tier of this capacity that may be used before cells are evicted.
pub(crate) fn room(capacity: u64) -> u64 {
    capacity - (capacity / FREE_PART).min(FREE_BYTES_MAX)
}

impl Evictor {
    pub(crate) fn new() -> (Self, Woken) {
        let (wake, woken) = sync_channel(1);
        (Self(wake), Woken(woken))
    }

    /// Something was stored.
    pub(crate) fn wake(&self) {
        // It is woken already if the channel is full.
        let _ = self.0.try_send(());
    }
}

impl Woken {
    /// Starts the thread.
    pub(crate) fn start(self, engine: Weak<Inner>) -> io::Result<()> {
        let work = move || {
            let mut pause = EVICTOR_INTERVAL;
            while let Ok(()) | Err(RecvTimeoutError::Timeout) = self.0.recv_timeout(pause) {
                let Some(engine) = engine.upgrade() else { return };
                pause = work(&engine);
            }
        };
        thread::Builder::new().name("evict".into()).spawn(work)?;
        Ok(())
    }
}

/// Evicts until there is room; returns when it is to be called again at the latest.
fn work(engine: &Inner) -> Duration {
    for (space, stripe) in engine.store.unknown_stripes() {
        // To open it is enough: its cells become known.
        drop(engine.store.stripe(&space, stripe));
        make_room(engine);
    }
    if make_room(engine) {
        EVICTOR_INTERVAL
    } else {
        EVICTOR_PAUSE
    }
}

/// False when some of the disk could not be given back yet.
fn make_room(engine: &Inner) -> bool {
    engine.keeping.resize();
    loop {
        let is_done = evict_some(engine);
        if !engine.store.punch() {
            return false;
        }
        if is_done {
            return true;
        }
    }
}

/// Whether there is room, or nothing that could go.
fn evict_some(engine: &Inner) -> bool {
    for _ in 0..EVICTIONS_AT_ONCE {
        let (capacity, used) = engine.store.capacity_and_used();
        if used <= room(capacity) {
            return true;
        }
        let Some((space, stripe, first)) = engine.keeping.victim() else {
            return true;
        };
        let blocks = engine.store.evict(&space, stripe, first);
        Counters::add(&engine.counters.evicted_bytes, blocks.len() as u64 * BLOCK_BYTES);
        // Named by its first block, also when nothing of it is left.
        let blocks = first..blocks.end.max(first);
        engine.keeping.removed(&space, &Cell { stripe, blocks });
    }
    false
}
