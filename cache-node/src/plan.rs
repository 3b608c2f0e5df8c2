//! How much to fetch when a read misses: pure.
//!
//! A small object is fetched whole. In a large one a read that goes on where the one before ended gets a window that doubles
//! each time; any other read gets an aligned piece.

use penstock_protocol::geometry::{PAGE_BYTES, STRIPE_BYTES, round_up_to_block};
use penstock_revision::Extent;

use crate::limits::{
    RANDOM_READ_BYTES, SEQUENTIAL_SLACK_BYTES, SEQUENTIAL_WINDOW_BYTES_MAX, SEQUENTIAL_WINDOW_BYTES_MIN,
    WHOLE_OBJECT_BYTES_MAX,
};

/// What is known of one reader of a large object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Followed {
    /// Address where the next read is expected.
    pub(crate) next: u64,
    /// Address up to which was fetched ahead.
    pub(crate) ahead_until: u64,
    /// The last window, in bytes; 0 while nothing says that the reader goes on.
    pub(crate) window: u64,
}

impl Followed {
    /// Whether a read from `start` is this reader's. Hits are not seen, so it may be anywhere up to what was fetched ahead.
    pub(crate) fn expects(&self, start: u64) -> bool {
        let slack = if self.window == 0 {
            RANDOM_READ_BYTES
        } else {
            SEQUENTIAL_SLACK_BYTES
        };
        let until = self.next.max(self.ahead_until).saturating_add(slack);
        (self.next.saturating_sub(slack)..=until).contains(&start)
    }

    /// Number of the page whose first read should begin the next window, if there is a window: the first that lies wholly in
    /// the second half of this one.
    pub(crate) fn marked_page(&self) -> Option<u64> {
        (self.window > 0).then(|| self.ahead_until.saturating_sub(self.window / 2).div_ceil(PAGE_BYTES))
    }
}

/// Whether neighbouring stripes belong to this node too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All stripes do.
    Space,
    /// The next stripe may be another node's: never fetch beyond the border.
    Stripe,
}

/// The run of bytes, whole blocks, that should be fetched for a read of `start..end` within `extent`, and what to
/// remember of it. `followed` is what was remembered of the reader that expects it.
pub(crate) fn wanted(
    extent: &Extent,
    start: u64,
    end: u64,
    followed: Option<Followed>,
    reach: Reach,
) -> (std::ops::Range<u64>, Option<Followed>) {
    let extent_end = extent.address + round_up_to_block(extent.bytes);
    if extent.bytes <= WHOLE_OBJECT_BYTES_MAX {
        return (extent.address..extent_end, None);
    }
    let border = match reach {
        Reach::Space => extent_end,
        Reach::Stripe => extent_end.min((start / STRIPE_BYTES + 1) * STRIPE_BYTES),
    };
    let goes_on = match followed {
        Some(_) => true,
        // The stripe before may have been another node's.
        None => start == extent.address || (reach == Reach::Stripe && start.is_multiple_of(STRIPE_BYTES)),
    };
    if !goes_on {
        let aligned = start / RANDOM_READ_BYTES * RANDOM_READ_BYTES;
        let until = end.next_multiple_of(RANDOM_READ_BYTES);
        let note = Followed {
            next: end,
            ahead_until: 0,
            window: 0,
        };
        return (aligned.max(extent.address)..until.min(border).max(end), Some(note));
    }
    let before = followed.unwrap_or_default();
    let left_ahead = before.ahead_until.saturating_sub(end);
    if before.window > 0 && left_ahead > before.window / 2 {
        // Enough is on its way.
        let note = Followed {
            next: before.next.max(end),
            ..before
        };
        return (start..end, Some(note));
    }
    let window = (before.window * 2).clamp(SEQUENTIAL_WINDOW_BYTES_MIN, SEQUENTIAL_WINDOW_BYTES_MAX);
    let until = (before.ahead_until.max(end) + window).next_multiple_of(PAGE_BYTES);
    // No request of its own for a short rest.
    let until = if until + SEQUENTIAL_WINDOW_BYTES_MIN > border {
        border.max(end)
    } else {
        until
    };
    (
        start..until,
        Some(Followed {
            next: before.next.max(end),
            ahead_until: until,
            window,
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_revision::{ObjectVersion, Version};

    const MIB: u64 = 1 << 20;

    fn extent(address: u64, bytes: u64) -> Extent {
        let object = ObjectVersion {
            source: 0,
            key: String::new(),
            version: Version::None,
        };
        Extent { address, bytes, object }
    }

    #[test]
    fn a_small_object_is_fetched_whole() {
        let small = extent(8192, 100_000);
        assert_eq!(
            wanted(&small, 12288, 16384, None, Reach::Stripe),
            (8192..8192 + 102_400, None)
        );
    }

    #[test]
    fn a_random_read_of_a_large_object_fetches_an_aligned_piece() {
        let large = extent(0, 1 << 30);
        let (range, note) = wanted(&large, 500 * MIB + 8192, 500 * MIB + 12288, None, Reach::Space);
        assert_eq!(range, 500 * MIB..500 * MIB + RANDOM_READ_BYTES);
        let note = note.unwrap();
        assert!(note.expects(500 * MIB + 12288) && !note.expects(100 * MIB));
        assert_eq!(note.marked_page(), None);
    }

    #[test]
    fn windows_of_a_sequential_read_double_and_stay_ahead() {
        let large = extent(0, 1 << 30);
        let (mut note, mut ahead, mut at) = (None, 0, 0);
        while at < 200 * MIB {
            let (range, next) = wanted(&large, at, at + MIB, note, Reach::Space);
            assert!(range.start == at && range.end >= at + MIB);
            ahead = ahead.max(range.end);
            assert!(
                ahead <= at + MIB + 2 * SEQUENTIAL_WINDOW_BYTES_MAX,
                "{ahead} is too far ahead of {at}"
            );
            at += MIB;
            assert!(ahead >= at);
            note = next;
        }
        assert_eq!(note.unwrap().window, SEQUENTIAL_WINDOW_BYTES_MAX);
        assert!(ahead > at + 4 * MIB);
    }

    #[test]
    fn a_window_ends_with_the_object_and_with_the_stripe_of_the_node() {
        let large = extent(0, 100 * MIB + 5);
        let note = Some(Followed {
            next: 63 * MIB,
            ahead_until: 63 * MIB,
            window: 16 * MIB,
        });
        assert_eq!(
            wanted(&large, 63 * MIB, 63 * MIB + 4096, note, Reach::Stripe).0,
            63 * MIB..64 * MIB
        );
        assert!(wanted(&large, 63 * MIB, 63 * MIB + 4096, note, Reach::Space).0.end > 64 * MIB);
        let note = Some(Followed {
            next: 99 * MIB,
            ahead_until: 99 * MIB,
            window: 16 * MIB,
        });
        assert_eq!(
            wanted(&large, 99 * MIB, 100 * MIB, note, Reach::Space).0,
            99 * MIB..100 * MIB + 4096
        );
    }
}
