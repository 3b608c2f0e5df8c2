//! EROFS images: the names of a revision as the kernel's own file system.
//!
//! Directories and inodes lie in the image; the bytes of files lie in extra devices, the pieces of the space. Source of
//! the format: `fs/erofs/erofs_fs.h` of Linux and <https://erofs.docs.kernel.org/en/latest/core_ondisk.html>.

pub mod cursor;
mod layout;
mod pages;
pub mod reader;
mod walk;
pub mod writer;

use penstock_protocol::geometry::{BLOCK_BYTES, DEVICE_BYTES, round_up_to_block};

/// Lengths in bytes of the devices that cover a space which ends at `end`: at least one, each a whole number of blocks.
pub fn device_bytes(end: u64) -> Vec<u64> {
    let end = round_up_to_block(end).max(BLOCK_BYTES);
    let full = (end - 1) / DEVICE_BYTES;
    let mut devices = vec![DEVICE_BYTES; full as usize];
    devices.push(end - full * DEVICE_BYTES);
    devices
}
