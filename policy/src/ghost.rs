//! Which units were seen not long ago and are not stored: fingerprints of 16 bits in two generations. It must not know why
//! they are not stored.
//!
//! A generation ends when so many bytes went into it; then the one before is forgotten. So the ghost remembers between one
//! and two generations, and nothing in it is ever moved or removed. One look in 3,000 finds a key that never was there.

use crate::hash::hashed;

/// Fingerprints that lie together: half a cache line.
const BUCKET: usize = 16;

/// Slots for every three fingerprints that are expected: with fewer more than two of a hundred do not fit their bucket.
const SLOTS_FOR_THREE: u64 = 4;

/// A table is never smaller than this, so that a cache that has seen nothing yet remembers something.
const SLOTS_MIN: u64 = 64;

/// Keys that were seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ghost {
    /// A fingerprint is not zero.
    young: Vec<u16>,
    old: Vec<u16>,
    young_bytes: u64,
    young_units: u64,
}

impl Ghost {
    /// Remembers a unit. A generation ends with `generation_bytes`; `units_expected` is how many they are as far as is known.
    pub(crate) fn remember(&mut self, key: u64, bytes: u32, generation_bytes: u64, units_expected: u64) {
        let is_full = self.young_units * SLOTS_FOR_THREE >= self.young.len() as u64 * 3;
        if self.young_bytes >= generation_bytes || is_full || self.young.is_empty() {
            let slots = (units_expected.max(self.young_units) * SLOTS_FOR_THREE / 3).max(SLOTS_MIN);
            let fresh = vec![0; slots.next_multiple_of(BUCKET as u64) as usize];
            self.old = std::mem::replace(&mut self.young, fresh);
            (self.young_bytes, self.young_units) = (0, 0);
        }
        let hash = hashed(key);
        let print = print_of(hash);
        let bucket = bucket_of(&self.young, hash);
        let (first, count) = (bucket.start, bucket.len());
        let bucket = &mut self.young[bucket];
        if bucket.contains(&print) {
            return;
        }
        let at = bucket.iter().position(|slot| *slot == 0);
        // A full bucket forgets one of its own.
        self.young[first + at.unwrap_or(hash as usize % count)] = print;
        self.young_bytes += u64::from(bytes);
        self.young_units += 1;
    }

    /// Whether a unit was remembered not long ago.
    pub(crate) fn knows(&self, key: u64) -> bool {
        let hash = hashed(key);
        let print = print_of(hash);
        let mut tables = [&self.young, &self.old].into_iter().filter(|table| !table.is_empty());
        tables.any(|table| table[bucket_of(table, hash)].contains(&print))
    }
}

fn print_of(hash: u64) -> u16 {
    ((hash >> 32) as u16).max(1)
}

fn bucket_of(table: &[u16], hash: u64) -> std::ops::Range<usize> {
    let buckets = (table.len() / BUCKET) as u64;
    // The high half would be the fingerprint again.
    let first = (((hash & 0xffff_ffff) * buckets) >> 32) as usize * BUCKET;
    first..first + BUCKET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ghost_remembers_between_one_and_two_generations() {
        let mut ghost = Ghost::default();
        for key in 0..10_000 {
            ghost.remember(key, 10, 10_000, 1000);
            let known = |from: u64| (from..key).filter(|key| ghost.knows(*key)).count() as u64;
            if key % 997 == 0 {
                let last = key.min(990);
                assert!(
                    known(key - last) * 100 >= last * 96,
                    "{} of {last} at {key}",
                    known(key - last)
                );
            }
        }
        let false_ones = (0..7900).chain(20_000..100_000).filter(|key| ghost.knows(*key)).count();
        assert!(false_ones < 60, "{false_ones} were never seen, or long ago");
    }

    #[test]
    fn more_units_than_were_expected_end_a_generation_early() {
        let mut ghost = Ghost::default();
        (0..100_000).for_each(|key| ghost.remember(key, 1, u64::MAX, 10));
        assert!(ghost.young.len() < 200_000);
        assert!((99_990..100_000).all(|key| ghost.knows(key)));
    }
}
