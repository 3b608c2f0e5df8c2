//! Which blocks of a stripe are present, and how many send some of them unread. Atomics alone: it must not know files.
//!
//! ```text
//! sender:   counts itself ──fence──► looks at presence: all there? ──► sends ──► counts itself out
//! evictor:  clears presence ──fence──► looks who sends: nobody? ──► punches the hole
//! ```
//!
//! *Guarantee*: one of the two sees the other, whichever fence comes first. So a sender that is not seen has not seen the blocks, and
//! a hole is never punched under one who has.

use std::ops::Range;

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

/// A bit for each block, in words of 64.
pub(super) struct Bits(Vec<AtomicU64>);

/// The presence of the blocks of one stripe.
pub(super) struct Presence {
    blocks: Bits,
    senders: AtomicUsize,
}

impl Presence {
    /// With nobody who sends.
    pub(super) fn new(blocks: Bits) -> Self {
        Self {
            blocks,
            senders: AtomicUsize::new(0),
        }
    }

    /// The blocks that are present.
    pub(super) fn blocks(&self) -> &Bits {
        &self.blocks
    }

    pub(super) fn are_present(&self, mut blocks: Range<u32>) -> bool {
        blocks.all(|block| self.blocks.has(block))
    }

    /// Begins to send blocks if all of them are present. Whoever may send ends it by [`Presence::end_sending`].
    pub(super) fn begin_sending(&self, blocks: Range<u32>) -> bool {
        self.senders.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let may_send = self.are_present(blocks);
        if !may_send {
            self.end_sending();
        }
        may_send
    }

    pub(super) fn end_sending(&self) {
        // What was sent was read before.
        self.senders.fetch_sub(1, Ordering::Release);
    }

    /// Whether nobody sends blocks, or will, that were cleared before this.
    pub(super) fn nobody_sends(&self) -> bool {
        fence(Ordering::SeqCst);
        self.senders.load(Ordering::Acquire) == 0
    }
}

impl Bits {
    pub(super) fn new(words: impl Iterator<Item = u64>) -> Self {
        Self(words.map(AtomicU64::new).collect())
    }

    pub(super) fn has(&self, block: u32) -> bool {
        self.word(block as usize / 64) & (1 << (block % 64)) != 0
    }

    /// Whoever sees a bit set sees what was written before it was.
    pub(super) fn word(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::Acquire)
    }

    /// Whether it was not set before.
    pub(super) fn set(&self, block: u32) -> bool {
        self.0[block as usize / 64].fetch_or(1 << (block % 64), Ordering::AcqRel) & (1 << (block % 64)) == 0
    }

    /// Whether it was set before.
    pub(super) fn clear(&self, block: u32) -> bool {
        self.0[block as usize / 64].fetch_and(!(1 << (block % 64)), Ordering::AcqRel) & (1 << (block % 64)) != 0
    }

    pub(super) fn count(&self) -> u64 {
        let ones = |word: &AtomicU64| u64::from(word.load(Ordering::Relaxed).count_ones());
        self.0.iter().map(ones).sum()
    }
}
