//! The checksum of a block: CRC32C over the block, seeded with where the block belongs.
//!
//! The seed makes a block that was written or sent to the wrong place as visible as one with a flipped bit.

use crate::geometry::BLOCK_BYTES;
use crate::ids::SpaceId;

/// The checksum of `block` (one whole block; the end of an object is padded with zeros) at `address` of `space`.
pub fn block_checksum(space: &SpaceId, address: u64, block: &[u8]) -> u32 {
    debug_assert_eq!(block.len() as u64, BLOCK_BYTES);
    crc32c::crc32c_append(place(space, address), block)
}

/// The first block of `bytes` (whole blocks at `address`) whose checksum differs from its entry in `checksums`, as an
/// index; `None` when all match.
pub fn first_mismatch(space: &SpaceId, address: u64, bytes: &[u8], checksums: &[u32]) -> Option<usize> {
    let blocks = bytes.chunks_exact(BLOCK_BYTES as usize);
    debug_assert_eq!(blocks.len(), checksums.len());
    (address..)
        .step_by(BLOCK_BYTES as usize)
        .zip(blocks)
        .zip(checksums)
        .position(|((address, block), expected)| block_checksum(space, address, block) != *expected)
}

fn place(space: &SpaceId, address: u64) -> u32 {
    let mut place = [0; 24];
    place[..16].copy_from_slice(space.as_bytes());
    place[16..].copy_from_slice(&address.to_le_bytes());
    crc32c::crc32c(&place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_depends_on_bytes_and_place() {
        let (a, b) = (SpaceId([1; 16]), SpaceId([2; 16]));
        let zeros = [0; 4096];
        let mut flipped = zeros;
        flipped[4095] = 1;
        let sums = [(a, 0, &zeros), (a, 4096, &zeros), (b, 0, &zeros), (a, 0, &flipped)]
            .map(|(s, at, x)| block_checksum(&s, at, x));
        for (i, sum) in sums.iter().enumerate() {
            assert!(!sums[..i].contains(sum), "{sums:?}");
        }
    }

    #[test]
    fn the_first_wrong_block_is_found() {
        let space = SpaceId([7; 16]);
        let bytes = vec![5; 3 * 4096];
        let mut sums: Vec<u32> = (0..3)
            .map(|i| block_checksum(&space, 8192 + i * 4096, &bytes[..4096]))
            .collect();
        assert_eq!(first_mismatch(&space, 8192, &bytes, &sums), None);
        sums[1] ^= 1;
        assert_eq!(first_mismatch(&space, 8192, &bytes, &sums), Some(1));
    }
}
