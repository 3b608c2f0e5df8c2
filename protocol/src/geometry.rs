//! The geometry of a space: blocks, pages, stripes and devices, all in bytes, all powers of two.

use std::ops::Range;

/// The unit of presence and of checksum, and the block size of the EROFS images.
pub const BLOCK_BYTES: u64 = 4096;
/// What is fetched and stored as one lies within it.
pub const PAGE_BYTES: u64 = 1 << 20;
/// The unit of placement on cache nodes.
pub const STRIPE_BYTES: u64 = 64 << 20;
/// The part of a space that one EROFS extra device covers. EROFS addresses a device by 32-bit block numbers of which
/// the last is the null address, and stores the device's length in 32 bits too; half of that range (8 TiB) has no
/// special cases.
pub const DEVICE_BYTES: u64 = 1 << 43;

/// `bytes` rounded up to whole blocks, in bytes.
pub const fn round_up_to_block(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// A run of whole blocks that lies within one stripe of a space. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockRange {
    address: u64,
    bytes: u32,
}

/// Why two numbers are no [`BlockRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {address} with length {bytes} is not a run of whole 4096-byte blocks within one 64 MiB stripe")]
pub struct NotABlockRange {
    /// Address in the space, in bytes.
    pub address: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl BlockRange {
    /// The range of `bytes` bytes at `address`.
    ///
    /// # Errors
    /// When it is empty, not aligned to blocks, or crosses the border of a stripe.
    pub fn new(address: u64, bytes: u64) -> Result<Self, NotABlockRange> {
        let refused = NotABlockRange { address, bytes };
        let aligned = address.is_multiple_of(BLOCK_BYTES) && bytes.is_multiple_of(BLOCK_BYTES);
        if !aligned || bytes == 0 || bytes > STRIPE_BYTES {
            return Err(refused);
        }
        let end = address.checked_add(bytes).ok_or(refused)?;
        if (end - 1) / STRIPE_BYTES != address / STRIPE_BYTES {
            return Err(refused);
        }
        Ok(Self {
            address,
            bytes: u32::try_from(bytes).map_err(|_| refused)?,
        })
    }

    /// The ranges, one a stripe, that cover the bytes `address..address + bytes`, widened to whole blocks.
    pub fn covering(address: u64, bytes: u64) -> impl Iterator<Item = BlockRange> {
        let mut at = address - address % BLOCK_BYTES;
        let end = address
            .saturating_add(bytes)
            .checked_next_multiple_of(BLOCK_BYTES)
            .unwrap_or(u64::MAX - u64::MAX % BLOCK_BYTES);
        std::iter::from_fn(move || {
            if bytes == 0 || at >= end {
                return None;
            }
            let stripe_end = (at / STRIPE_BYTES + 1) * STRIPE_BYTES;
            let upto = end.min(stripe_end);
            let range = BlockRange {
                address: at,
                bytes: (upto - at) as u32,
            };
            at = upto;
            Some(range)
        })
    }

    /// Address of the first byte in the space.
    pub fn address(self) -> u64 {
        self.address
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.bytes)
    }

    /// Address behind the last byte.
    pub fn end(self) -> u64 {
        self.address + self.bytes()
    }

    /// Number of the stripe that holds the range.
    pub fn stripe(self) -> u64 {
        self.address / STRIPE_BYTES
    }

    /// Blocks of the range as numbers within its stripe (0 to 16383).
    pub fn blocks_in_stripe(self) -> Range<u32> {
        let first = (self.address % STRIPE_BYTES / BLOCK_BYTES) as u32;
        first..first + self.block_count() as u32
    }

    /// How many blocks the range has.
    pub fn block_count(self) -> usize {
        (self.bytes() / BLOCK_BYTES) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_whole_blocks_within_one_stripe() {
        for (address, bytes, fine) in [
            (0, 4096, true),
            (STRIPE_BYTES - 4096, 4096, true),
            (0, STRIPE_BYTES, true),
            (STRIPE_BYTES - 4096, 8192, false),
            (0, 0, false),
            (1, 4096, false),
            (0, 4097, false),
            (u64::MAX - 4095, 4096, false),
            (u64::MAX - 4095, 8192, false),
        ] {
            assert_eq!(BlockRange::new(address, bytes).is_ok(), fine, "{address} {bytes}");
        }
    }

    #[test]
    fn covering_splits_at_stripes_and_widens_to_blocks() {
        let ranges: Vec<_> = BlockRange::covering(STRIPE_BYTES - 1, 4098)
            .map(|r| (r.address(), r.bytes()))
            .collect();
        assert_eq!(ranges, [(STRIPE_BYTES - 4096, 4096), (STRIPE_BYTES, 8192)]);
        assert_eq!(BlockRange::covering(7, 0).count(), 0);
    }
}
