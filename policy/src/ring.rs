//! A queue of units in the order in which they came, without links: twelve bytes each. It must not know what the order
//! means.
//!
//! A unit has a position that stays while others come and go at the ends. One that is taken out of the middle leaves no
//! hole: the unit at the nearer end takes its place, so of those that are left a single one changes its turn.

use std::collections::VecDeque;

/// Positions are counted modulo this: with the number of a shelf they fill 32 bits.
pub(crate) const POSITIONS: u32 = 1 << 28;

/// Units that are allocated at a time: 3 KiB.
const CHUNK_UNITS: u32 = 256;

/// Bytes of a unit that can be counted; far more than a page.
pub(crate) const UNIT_BYTES_MAX: u32 = (1 << USES_SHIFT) - 1;

/// Most uses that are counted.
pub(crate) const USES_MAX: u32 = 3;

const USES_SHIFT: u32 = 29;
const CONDEMNED: u32 = 1 << 31;

/// One unit of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, packed(4))]
pub(crate) struct Unit {
    key: u64,
    /// Bytes, uses, and whether it is condemned.
    packed: u32,
}

impl Unit {
    pub(crate) fn new(key: u64, bytes: u32, uses: u32) -> Self {
        let packed = bytes.min(UNIT_BYTES_MAX) | uses.min(USES_MAX) << USES_SHIFT;
        Self { key, packed }
    }

    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    pub(crate) fn bytes(&self) -> u32 {
        self.packed & UNIT_BYTES_MAX
    }

    /// How often it was used, as far as its policy counts: 0 to 3.
    pub(crate) fn uses(&self) -> u32 {
        self.packed >> USES_SHIFT & USES_MAX
    }

    /// Whether it was named as a victim and not used since.
    pub(crate) fn is_condemned(&self) -> bool {
        self.packed & CONDEMNED != 0
    }

    /// The same unit with `uses`, not condemned.
    pub(crate) fn with_uses(&self, uses: u32) -> Self {
        Self::new(self.key, self.bytes(), uses)
    }

    /// The same unit of another size.
    pub(crate) fn with_bytes(&self, bytes: u32) -> Self {
        let packed = self.packed & !UNIT_BYTES_MAX | bytes.min(UNIT_BYTES_MAX);
        Self { packed, ..*self }
    }

    pub(crate) fn condemned(&self) -> Self {
        let packed = self.packed | CONDEMNED;
        Self { packed, ..*self }
    }
}

/// Units in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ring {
    chunks: VecDeque<Box<[Unit]>>,
    /// Position of the first unit.
    first: u32,
    len: u32,
    bytes: u64,
}

impl Ring {
    /// Sum of the units' sizes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Position of the unit that came first.
    pub(crate) fn front(&self) -> Option<u32> {
        (self.len > 0).then_some(self.first)
    }

    /// All units in order.
    pub(crate) fn units(&self) -> impl Iterator<Item = Unit> {
        (0..self.len).map(|turn| self.get(self.first.wrapping_add(turn) % POSITIONS))
    }

    pub(crate) fn get(&self, position: u32) -> Unit {
        let (chunk, at) = self.slot(position);
        self.chunks[chunk][at]
    }

    pub(crate) fn set(&mut self, position: u32, unit: Unit) {
        let (chunk, at) = self.slot(position);
        let before = std::mem::replace(&mut self.chunks[chunk][at], unit);
        self.bytes = self.bytes + u64::from(unit.bytes()) - u64::from(before.bytes());
    }

    /// Appends a unit and tells its position.
    pub(crate) fn push(&mut self, unit: Unit) -> u32 {
        let position = self.first.wrapping_add(self.len) % POSITIONS;
        let (chunk, at) = self.slot(position);
        if chunk == self.chunks.len() {
            self.chunks
                .push_back(vec![Unit::default(); CHUNK_UNITS as usize].into());
        }
        self.chunks[chunk][at] = unit;
        self.len += 1;
        self.bytes += u64::from(unit.bytes());
        position
    }

    /// Takes a unit out. If another one takes its place, that one's position before is told.
    pub(crate) fn take(&mut self, position: u32) -> (Unit, Option<u32>) {
        let taken = self.get(position);
        let turn = position.wrapping_sub(self.first) % POSITIONS;
        let from_front = turn < self.len / 2;
        let end = if from_front {
            self.first
        } else {
            self.first.wrapping_add(self.len - 1) % POSITIONS
        };
        let (chunk, at) = self.slot(position);
        self.chunks[chunk][at] = self.get(end);
        self.len -= 1;
        self.bytes -= u64::from(taken.bytes());
        if from_front {
            self.first = (self.first + 1) % POSITIONS;
        }
        self.free_chunks(from_front);
        (taken, (end != position).then_some(end))
    }

    fn slot(&self, position: u32) -> (usize, usize) {
        let first_of_chunks = self.first - self.first % CHUNK_UNITS;
        let at = position.wrapping_sub(first_of_chunks) % POSITIONS;
        ((at / CHUNK_UNITS) as usize, (at % CHUNK_UNITS) as usize)
    }

    fn free_chunks(&mut self, from_front: bool) {
        if from_front && self.first.is_multiple_of(CHUNK_UNITS) {
            self.chunks.pop_front();
        }
        let used = (self.first % CHUNK_UNITS + self.len).div_ceil(CHUNK_UNITS) as usize;
        self.chunks.truncate(used.max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_twelve_bytes_and_keeps_what_it_was_told() {
        assert_eq!(size_of::<Unit>(), 12);
        let unit = Unit::new(u64::MAX, 1 << 20, 2);
        assert_eq!((unit.key(), unit.bytes(), unit.uses()), (u64::MAX, 1 << 20, 2));
        assert!(unit.condemned().with_bytes(5).is_condemned() && !unit.condemned().with_uses(0).is_condemned());
        assert_eq!(Unit::new(1, u32::MAX, 9).bytes(), UNIT_BYTES_MAX);
    }

    #[test]
    fn units_leave_in_the_order_in_which_they_came_across_the_end_of_the_positions() {
        let mut ring = Ring {
            first: POSITIONS - 300,
            ..Ring::default()
        };
        for key in 0..1000 {
            ring.push(Unit::new(key, 2, 0));
        }
        for key in 0..1000 {
            assert_eq!(ring.bytes(), 2 * u64::from(ring.len));
            let (unit, moved) = ring.take(ring.front().unwrap());
            assert_eq!((unit.key(), moved), (key, None));
        }
        assert_eq!((ring.front(), ring.bytes()), (None, 0));
        assert!(ring.chunks.len() <= 1);
    }

    #[test]
    fn the_nearer_end_fills_a_hole() {
        let mut ring = Ring::default();
        let positions: Vec<u32> = (0..10).map(|key| ring.push(Unit::new(key, 1, 0))).collect();
        let (unit, moved) = ring.take(positions[7]);
        assert_eq!((unit.key(), moved), (7, Some(positions[9])));
        assert_eq!(ring.get(positions[7]).key(), 9);
        let (unit, moved) = ring.take(positions[1]);
        assert_eq!((unit.key(), moved), (1, Some(positions[0])));
        assert_eq!(ring.front(), Some(positions[1]));
        assert_eq!(ring.get(positions[1]).key(), 0);
    }
}
