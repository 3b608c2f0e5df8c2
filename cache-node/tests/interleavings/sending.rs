//! A hole is never punched under a sender who has seen the blocks as present.

use std::sync::Arc;

use loom::cell::Cell;
use loom::thread;

use crate::presence::{Bits, Presence};
use crate::sync::in_all_orders;

/// The blocks that are sent and evicted.
const CELL: std::ops::Range<u32> = 3..5;

/// A stripe of 64 blocks: its presence, and the place of the cell in the file, of which loom sees to it that nobody reads while
/// another writes.
struct Stripe {
    presence: Presence,
    place: Cell<u8>,
}

const STORED: u8 = 7;
const HOLE: u8 = 0;

impl Stripe {
    fn with_cell() -> Arc<Self> {
        let presence = Presence::new(Bits::new(std::iter::once(0)));
        let place = Cell::new(STORED);
        for block in CELL {
            presence.blocks().set(block);
        }
        Arc::new(Self { presence, place })
    }

    /// What was sent, if the blocks were there.
    fn send(&self) -> Option<u8> {
        if !self.presence.begin_sending(CELL) {
            return None;
        }
        let sent = self.place.get();
        self.presence.end_sending();
        Some(sent)
    }

    fn evict(&self) {
        for block in CELL {
            self.presence.blocks().clear(block);
        }
    }

    /// False when somebody sends.
    fn punch(&self) -> bool {
        let may_punch = self.presence.nobody_sends();
        if may_punch {
            self.place.set(HOLE);
        }
        may_punch
    }
}

#[allow(
    unsafe_code,
    reason = "loom itself looks whether somebody writes the place while another is there"
)]
// SAFETY: it panics then, and runs one thread at a time.
unsafe impl Sync for Stripe {}

#[test]
fn a_hole_is_not_punched_under_a_sender_that_has_seen_the_blocks() {
    in_all_orders(|| {
        let stripe = Stripe::with_cell();
        let senders = [(); 2].map(|()| {
            let stripe = stripe.clone();
            thread::spawn(move || stripe.send())
        });
        stripe.evict();
        let is_punched = stripe.punch();
        for sender in senders {
            assert!(matches!(sender.join().unwrap(), None | Some(STORED)));
        }
        // Nobody sends any more.
        assert!(is_punched || stripe.punch());
        assert_eq!((stripe.send(), stripe.place.get()), (None, HOLE));
    });
}

#[test]
fn whoever_evicts_and_whoever_punches_may_be_two() {
    in_all_orders(|| {
        let stripe = Stripe::with_cell();
        let owed = Arc::new(loom::sync::Mutex::new(false));
        let evictor = {
            let (stripe, owed) = (stripe.clone(), owed.clone());
            thread::spawn(move || {
                let mut owed = owed.lock().unwrap();
                stripe.evict();
                *owed = true;
            })
        };
        let sender = {
            let stripe = stripe.clone();
            thread::spawn(move || stripe.send())
        };
        let owed = owed.lock().unwrap();
        if *owed {
            stripe.punch();
        }
        drop(owed);
        evictor.join().unwrap();
        assert!(matches!(sender.join().unwrap(), None | Some(STORED)));
    });
}

#[test]
fn whoever_sees_a_block_as_present_sees_what_was_stored() {
    in_all_orders(|| {
        let stripe = Stripe::with_cell();
        stripe.evict();
        assert!(stripe.punch());
        let storing = {
            let stripe = stripe.clone();
            thread::spawn(move || {
                stripe.place.set(STORED);
                for block in CELL {
                    stripe.presence.blocks().set(block);
                }
            })
        };
        assert!(matches!(stripe.send(), None | Some(STORED)));
        storing.join().unwrap();
    });
}
