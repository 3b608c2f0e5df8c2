//! Stored blocks that go to a socket unread: the kernel sends the pages that it has (sendfile(2)). Whoever receives them
//! compares the checksums, which are those of the blocks as they came in.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES};
use rustix::fs::sendfile;

use super::resident::is_resident;
use super::stripe::Stripe;

/// The blocks. They can be sent even when they are evicted meanwhile: their place in the file is kept until this is dropped.
pub struct Stored {
    sender: Sender,
    range: BlockRange,
    checksums: Vec<u32>,
}

impl Stored {
    /// One a block.
    pub fn checksums(&self) -> &[u32] {
        &self.checksums
    }

    /// Sends from byte `skip` of the range on, as much as the socket takes; returns how much that was.
    ///
    /// # Errors
    /// Those of sendfile(2): the socket's, and the disk's if the kernel has dropped a page since it was asked.
    pub fn send(&self, socket: impl AsFd, skip: usize) -> io::Result<usize> {
        let mut at = self.range.address() % STRIPE_BYTES + skip as u64;
        let left = self.range.bytes() as usize - skip;
        Ok(sendfile(socket, self.sender.file(), Some(&mut at), left)?)
    }
}

impl Stripe {
    /// Blocks that are present and in the kernel's memory, for whoever passes them on unread; `None` also when the kernel
    /// cannot say so.
    pub(crate) fn stored(self: &Arc<Self>, range: BlockRange) -> Option<Stored> {
        let blocks = range.blocks_in_stripe();
        let sender = Sender::of(self, blocks.clone())?;
        let is_here = is_resident(&self.data, range.address() % STRIPE_BYTES, range.bytes()).unwrap_or(false);
        is_here.then(|| Stored {
            sender,
            range,
            checksums: blocks.map(|block| self.side.checksum(block)).collect(),
        })
    }
}

/// One who sends blocks of a stripe unread.
struct Sender(Arc<Stripe>);

impl Sender {
    /// `None` when not all blocks are present.
    fn of(stripe: &Arc<Stripe>, blocks: Range<u32>) -> Option<Self> {
        let may_send = stripe.side.presence().begin_sending(blocks);
        may_send.then(|| Self(stripe.clone()))
    }

    fn file(&self) -> &File {
        &self.0.data
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.side.presence().end_sending();
    }
}
