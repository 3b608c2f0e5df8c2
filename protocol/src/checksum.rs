//! The checksum of a block: CRC32C over the block, seeded with where the block belongs.
//!
//! The seed makes a block that was written or sent to the wrong place as visible as one with a flipped bit.

use crc_fast::{CrcAlgorithm, Digest};

use crate::geometry::BLOCK_BYTES;
use crate::ids::SpaceId;

/// The checksum of `block` (one whole block; the end of an object is padded with zeros) at `address` of `space`.
pub fn block_checksum(space: &SpaceId, address: u64, block: &[u8]) -> u32 {
    debug_assert_eq!(block.len() as u64, BLOCK_BYTES);
    continued(place(space, address), block)
}

/// CRC32C (CRC-32/ISCSI of RFC 3720).
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The CRC32C of what `before` is that of, with `bytes` behind it.
fn continued(before: u32, bytes: &[u8]) -> u32 {
    // The state of an unfinished one is not yet inverted.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, (!before).into());
    digest.update(bytes);
    digest.finalize() as u32
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
    crc32c(&place)
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
    fn it_is_the_crc32c_of_the_standard_in_one_piece_or_two() {
        // RFC 3720, B.4.
        let counting: Vec<u8> = (0..32).collect();
        let sums = [&[0; 32][..], &[0xff; 32], &counting].map(crc32c);
        assert_eq!(sums, [0x8a91_36aa, 0x62a8_ab43, 0x46dd_794e]);
        let long: Vec<u8> = (0..5000u32).map(|at| (at * at) as u8).collect();
        for cut in [0, 1, 15, 24, 904, 4999, 5000] {
            let (before, behind) = long.split_at(cut);
            assert_eq!(continued(crc32c(before), behind), crc32c(&long), "cut at {cut}");
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
