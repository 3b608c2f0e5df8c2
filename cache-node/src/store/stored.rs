//! Stored blocks that go to a socket unread: the kernel sends the pages that it has (sendfile(2)). Whoever receives them
//! compares the checksums, which are those of the blocks as they came in.

use std::io;
use std::os::fd::AsFd;

use penstock_protocol::geometry::{BlockRange, STRIPE_BYTES};
use rustix::fs::sendfile;

use super::stripe::Sender;

/// The blocks. They can be sent even when they are evicted meanwhile: their place in the file is kept until this is dropped.
pub struct Stored {
    pub(super) sender: Sender,
    pub(super) range: BlockRange,
    pub(super) checksums: Vec<u32>,
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
