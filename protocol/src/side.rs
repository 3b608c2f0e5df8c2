//! The layout of a stripe's side file, which a cache node writes and the mounter of its node reads.
//!
//! ```text
//! 0 header: magic "PSTKSIDE", version u32, 0 u32, space (16), stripe u64    4096 presence, 2 KiB    6144 begins, 2 KiB
//! 8192 checksums, 64 KiB
//! ```
//!
//! Presence has a bit a block in little-endian words of 64, checksums a `u32` a block ([`crate::checksum`]), and *begins* a bit
//! for each block with which a cell begins: what was stored as one is evicted as one. What is written is the data first, then
//! its checksums, then where it begins, then its presence; what is forgotten loses its presence first. A block counts only if
//! its checksum matches. Without any *begins* the cells are the runs of present blocks of a page.

use crate::geometry::{BLOCK_BYTES, STRIPE_BYTES};
use crate::ids::SpaceId;

/// Blocks of a stripe.
pub const BLOCKS: u32 = (STRIPE_BYTES / BLOCK_BYTES) as u32;
/// Offset of the presence.
pub const PRESENCE_AT: u64 = 4096;
/// Offset of where cells begin.
pub const BEGINS_AT: u64 = 6144;
/// Offset of the checksums.
pub const CHECKSUMS_AT: u64 = 8192;
/// Length of the file.
pub const FILE_BYTES: u64 = CHECKSUMS_AT + BLOCKS as u64 * 4;
/// Length of the header.
pub const HEADER_BYTES: usize = 40;
const VERSION: u32 = 1;

/// What the file of this stripe begins with; any other is none of it, or of another version.
pub fn header(space: &SpaceId, stripe: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(b"PSTKSIDE");
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..32].copy_from_slice(space.as_bytes());
    header[32..].copy_from_slice(&stripe.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_what_files_on_disks_have() {
        assert_eq!((BLOCKS, FILE_BYTES), (16384, 73728));
        let header = header(&SpaceId([7; 16]), 0x0102);
        let expected = [&b"PSTKSIDE\x01\0\0\0\0\0\0\0"[..], &[7; 16], &[2, 1, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(header[..], expected);
    }
}
