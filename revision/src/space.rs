//! Gives addresses to objects: append-only, block-aligned.
//!
//! *Guarantees*: an extent of at most one page never crosses a stripe, so one cache node holds a small object whole and one
//! request fetches it; an extent crosses devices of the EROFS image only when it is larger than one, and then begins with
//! one, so that a file is one chunk or a run of whole devices.

use penstock_protocol::geometry::{DEVICE_BYTES, PAGE_BYTES, STRIPE_BYTES, round_up_to_block};

use crate::limits::{OBJECT_BYTES_MAX, SPACE_BYTES_MAX};

/// The end of a space that grows.
#[derive(Debug)]
pub(crate) struct Space {
    end: u64,
}

impl Space {
    pub(crate) fn ending_at(end: u64) -> Self {
        Self { end }
    }

    /// Address behind the last extent.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The address of a new extent of `bytes` bytes; `None` when the object is too large or the space full.
    pub(crate) fn append(&mut self, bytes: u64) -> Option<u64> {
        if bytes == 0 || bytes > OBJECT_BYTES_MAX {
            return None;
        }
        let rounded = round_up_to_block(bytes);
        let unit = if rounded <= PAGE_BYTES {
            STRIPE_BYTES
        } else {
            DEVICE_BYTES
        };
        let address = if self.end % unit + rounded > unit {
            self.end.checked_next_multiple_of(unit)?
        } else {
            self.end
        };
        self.end = address.checked_add(rounded).filter(|end| *end <= SPACE_BYTES_MAX)?;
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_extents_stay_within_a_stripe_and_large_ones_within_a_device() {
        for (end, bytes, address) in [
            (0, 1, Some(0)),
            (STRIPE_BYTES - 4096, 4096, Some(STRIPE_BYTES - 4096)),
            (STRIPE_BYTES - 4096, 4097, Some(STRIPE_BYTES)),
            (STRIPE_BYTES - 4096, PAGE_BYTES + 1, Some(STRIPE_BYTES - 4096)),
            (DEVICE_BYTES - 4096, PAGE_BYTES + 1, Some(DEVICE_BYTES)),
            (4096, DEVICE_BYTES, Some(DEVICE_BYTES)),
            (4096, DEVICE_BYTES + 1, Some(DEVICE_BYTES)),
            (0, OBJECT_BYTES_MAX + 1, None),
            (SPACE_BYTES_MAX - 4096, 4097, None),
            (0, 0, None),
            (u64::MAX - 4095, 4096, None),
        ] {
            assert_eq!(
                Space::ending_at(end).append(bytes),
                address,
                "{bytes} bytes behind {end}"
            );
        }
    }
}
