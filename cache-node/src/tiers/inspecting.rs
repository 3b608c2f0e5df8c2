//! What is stored of a range, for who wants to know it, to evict it, or to have it compared. No policy hears of that as a read.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use penstock_buffer::Buffer;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange, STRIPE_BYTES};
use penstock_protocol::ids::SpaceId;

use super::scrubber::scrub;
use super::tier::Tier;
use super::{Damage, Tiers};
use crate::inflight::uncovered;
use crate::keeping::{Cell, Hold};
use crate::report::Cause;
use crate::rules::{Quota, Rule};
use crate::store::{Key, Known};

/// A part of a range that is stored: of one cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) addresses: Range<u64>,
    /// The number of the tier.
    pub(crate) tier: usize,
    pub(crate) hold: Hold,
}

impl Tiers {
    /// Has a stripe open in all tiers while something is done with it, and leaves it as it was. May wait for the disk.
    pub(crate) fn with_open<T>(&self, key: Key, work: impl FnOnce() -> T) -> T {
        let is_closed = |tier: &&Tier| !matches!(tier.store.known(&key.0, key.1), Known::Open(_));
        let were_closed: Vec<&Tier> = self.tiers.iter().filter(is_closed).collect();
        let stripes = self.stripes(&key.0, key.1);
        let done = work();
        drop(stripes);
        for tier in were_closed {
            tier.store.close(key);
        }
        done
    }

    /// What is stored of a range, sorted, each address once. May wait for the disk.
    pub(crate) fn places(&self, space: &SpaceId, range: BlockRange) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        // Down and up again: what moves is in the one that it comes from or in the one that it goes to.
        let down = 0..self.tiers.len();
        let up = (0..self.tiers.len() - 1).rev();
        for tier in down.chain(up) {
            let Some(stripe) = self.tiers[tier].store.stripe(space, range.stripe()) else {
                continue;
            };
            let taken: Vec<Range<u64>> = places.iter().map(|place| place.addresses.clone()).collect();
            for blocks in stripe.cells(range.blocks_in_stripe()) {
                let address = |block: u32| range.stripe() * STRIPE_BYTES + u64::from(block) * BLOCK_BYTES;
                let part = address(blocks.start).max(range.address())..address(blocks.end).min(range.end());
                let before = taken.partition_point(|taken| taken.end <= part.start);
                let parts = uncovered(part, taken[before..].iter().cloned());
                let cell = Cell {
                    stripe: range.stripe(),
                    blocks,
                };
                let hold = self.keeping.hold_of(space, &cell);
                places.extend(parts.into_iter().map(|addresses| Place { addresses, tier, hold }));
            }
            places.sort_unstable_by_key(|place| place.addresses.start);
        }
        places
    }

    /// Makes missing what was stored as one with something of a range; returns its bytes, and how many of them were pinned.
    pub(crate) fn evict_range(&self, space: &SpaceId, range: BlockRange) -> (u64, u64) {
        let (mut evicted, mut pinned) = (0, 0);
        for place in self.places(space, range) {
            let block = (place.addresses.start % STRIPE_BYTES / BLOCK_BYTES) as u32;
            let bytes = self.evict_told(space, range.stripe(), block, Cause::Asked);
            evicted += bytes;
            if place.hold == Hold::Pinned {
                pinned += bytes;
            }
        }
        (evicted, pinned)
    }

    /// Compares what is stored of some blocks of a stripe with its checksums, as the scrubber does. `tell` hears how many more
    /// bytes were compared, of the damage that was found, and says whether to go on; false when it did not.
    pub(crate) fn verify(
        &self,
        key: Key,
        blocks: Range<u32>,
        buffer: &mut Buffer,
        mut tell: impl FnMut(u64, Damage) -> bool,
    ) -> bool {
        for number in 0..self.tiers.len() {
            let mut next = blocks.start;
            while next < blocks.end {
                let scrubbed = scrub(self, number, key, next..blocks.end, buffer);
                next = scrubbed.next;
                if !tell(scrubbed.compared_bytes, scrubbed.damage) {
                    return false;
                }
            }
        }
        true
    }

    /// All stripes of which any tier has files.
    pub(crate) fn stripe_keys(&self) -> BTreeSet<Key> {
        self.tiers.iter().flat_map(|tier| tier.store.stripes()).collect()
    }

    /// Bytes that each tier has of each space.
    pub(crate) fn spaces_by_tier(&self) -> Vec<HashMap<SpaceId, u64>> {
        let of_tier = |tier: &Tier| tier.store.spaces().into_iter().collect();
        self.tiers.iter().map(of_tier).collect()
    }

    /// Whether any tier takes data.
    pub(crate) fn any_takes(&self) -> bool {
        self.healthy()
            .any(|tier| tier.store.capacity().is_some_and(|bytes| bytes > 0))
    }

    /// Whether so many more bytes at an address would be kept without any going.
    pub(crate) fn has_room(&self, space: &SpaceId, address: u64, bytes: u64) -> bool {
        self.keeping.has_room(space, address, bytes)
    }

    /// The rule that counts for an address, as far as it can be done.
    pub(crate) fn rule_of(&self, space: &SpaceId, address: u64) -> Rule {
        self.keeping.rule_of(space, address)
    }

    /// What the Dataset of a space has of this node, and bytes of the space that are pinned.
    pub(crate) fn promises(&self, space: &SpaceId) -> (Quota, u64) {
        self.keeping.promises(space)
    }
}
