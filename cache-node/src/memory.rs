//! How the memory of a cache node is divided among what it does at the same time: pure. Tiers in memory are not part of it, and
//! neither is what the kernel has of files, which it gives back.
//!
//! | part of the budget | for |
//! |---|---|
//! | a quarter | answers that are being put together or sent, 4 MiB each |
//! | a quarter | fetches from origins: the page that is received, and the one that is being stored |
//! | a sixteenth | fetches from the cache nodes of other Datasets, which must not wait for those above: they are waited for by these |
//! | a quarter | pages that have arrived for reads that wait for more |
//! | a sixteenth | presence and checksums of open stripes |
//! | the rest | requests, packages, and what is remembered of what is cached: 24 bytes for each object or page |

use penstock_protocol::frame::READ_BYTES_MAX;
use penstock_protocol::geometry::{BLOCK_BYTES, STRIPE_BYTES};

use crate::limits::{FETCHES_MAX, MEMORY_BYTES_DEFAULT, MEMORY_BYTES_MIN, OPEN_STRIPES_MAX, UNIT_BYTES_MAX};

/// What is divided: bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget(u64);

/// A budget in which not even a few requests have room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a memory budget of {0} bytes is too small: a few reads and fetches at the same time need {MEMORY_BYTES_MIN} bytes; give \
     as much, or {MEMORY_BYTES_DEFAULT} for a busy node"
)]
pub struct TooSmall(u64);

impl Budget {
    /// A budget of so many bytes.
    ///
    /// # Errors
    /// When it is too small.
    pub fn new(bytes: u64) -> Result<Self, TooSmall> {
        if bytes < MEMORY_BYTES_MIN {
            return Err(TooSmall(bytes));
        }
        Ok(Self(bytes))
    }

    /// Answers of the bulk protocol that have a buffer at the same time.
    pub(crate) fn answers(self) -> usize {
        (self.0 / 4 / READ_BYTES_MAX as u64) as usize
    }

    /// KiB of all fetches.
    pub(crate) fn fetches_kib(self) -> usize {
        (self.0 / 4 / 1024) as usize
    }

    /// KiB of all fetches from the cache nodes of other Datasets.
    pub(crate) fn fetches_from_caches_kib(self) -> usize {
        (self.0 / 16 / 1024) as usize
    }

    /// KiB that a fetch takes whose largest unit has so many bytes.
    pub(crate) fn fetch_kib(self, unit_bytes: u64) -> u32 {
        let least = self.fetches_kib() / FETCHES_MAX;
        // One is received while the other is stored.
        let needed = (2 * unit_bytes).div_ceil(1 << 10) as usize;
        needed.max(least) as u32
    }

    /// Pages of reads that wait for origins.
    pub(crate) fn waiting_pages(self) -> usize {
        (self.0 / 4 / UNIT_BYTES_MAX) as usize
    }

    /// Stripes that are kept open in all tiers together.
    pub(crate) fn open_stripes(self) -> usize {
        // A bit and a checksum of each block.
        let bytes = STRIPE_BYTES / BLOCK_BYTES * 33 / 8;
        ((self.0 / 16 / bytes) as usize).min(OPEN_STRIPES_MAX)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self(MEMORY_BYTES_DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_no_more_than_the_whole_and_each_has_room_for_something() {
        for bytes in [MEMORY_BYTES_MIN, 200 << 20, MEMORY_BYTES_DEFAULT, 64 << 30] {
            let budget = Budget::new(bytes).unwrap();
            let answers = budget.answers() as u64 * READ_BYTES_MAX as u64;
            let fetches = (budget.fetches_kib() as u64) << 10;
            let waiting = budget.waiting_pages() as u64 * UNIT_BYTES_MAX;
            let stripes = budget.open_stripes() as u64 * 66 * 1024;
            let from_caches = (budget.fetches_from_caches_kib() as u64) << 10;
            assert!(
                answers + fetches + from_caches + waiting + stripes <= bytes / 8 * 7,
                "{bytes}"
            );
            assert!(budget.answers() >= 4 && budget.open_stripes() >= 32, "{bytes}");
            assert!(
                budget.waiting_pages() >= 2 * (READ_BYTES_MAX as u64 / UNIT_BYTES_MAX) as usize,
                "{bytes}"
            );
            let largest = u64::from(budget.fetch_kib(UNIT_BYTES_MAX));
            assert!(8 * largest <= budget.fetches_kib() as u64, "{bytes}");
            assert!(2 * largest <= budget.fetches_from_caches_kib() as u64, "{bytes}");
        }
        assert_eq!(Budget::default().answers(), 64);
    }

    #[test]
    fn a_budget_smaller_than_a_few_requests_is_refused_with_what_to_do() {
        let refused = Budget::new(1 << 20).unwrap_err().to_string();
        assert!(
            refused.contains("1048576 bytes is too small") && refused.contains("67108864"),
            "{refused}"
        );
    }
}
