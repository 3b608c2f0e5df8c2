//! From the hash of a key to the place of its unit: linear hashing with small buckets. It must not know keys or units; who
//! asks compares.
//!
//! An entry is a place and eight bits of the hash: five bytes, and about one more for the buckets. A table grows and shrinks
//! by one bucket at a time (Litwin, "Linear hashing", VLDB 1980), so that nobody ever waits until millions of entries have
//! moved.

/// Entries of a bucket on average. Fewer, and the bucket's own 40 bytes weigh; more, and a look takes longer: 48 entries are
/// four cache lines.
const BUCKET_ENTRIES: usize = 48;

/// Entries by which a bucket grows: eight are 40 bytes.
const BUCKET_STEP: usize = 8;

#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
struct Entry {
    place: u32,
    tag: u8,
}

/// Places by the hashes of their keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    buckets: Vec<Vec<Entry>>,
    entries: usize,
}

impl Index {
    /// The place for `hash` of which `is_it` is true.
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let bucket = self.buckets.get(bucket_of(hash, self.buckets.len()))?;
        let tag = tag_of(hash);
        let mut places = bucket.iter().filter(|entry| entry.tag == tag).map(|entry| entry.place);
        places.find(|place| is_it(*place))
    }

    /// Adds a place that is not there yet. `hash_at` tells the hash of any other.
    pub(crate) fn insert(&mut self, hash: u64, place: u32, hash_at: impl Fn(u32) -> u64) {
        if self.entries >= self.buckets.len() * BUCKET_ENTRIES {
            self.split(hash_at);
        }
        let at = bucket_of(hash, self.buckets.len());
        push(
            &mut self.buckets[at],
            Entry {
                place,
                tag: tag_of(hash),
            },
        );
        self.entries += 1;
    }

    /// What was at `from` is at `to` now.
    pub(crate) fn moved(&mut self, hash: u64, from: u32, to: u32) {
        let at = bucket_of(hash, self.buckets.len());
        if let Some(entry) = self.buckets[at].iter_mut().find(|entry| entry.place == from) {
            entry.place = to;
        }
    }

    /// Forgets a place.
    pub(crate) fn remove(&mut self, hash: u64, place: u32) {
        let at = bucket_of(hash, self.buckets.len());
        let bucket = &mut self.buckets[at];
        let Some(found) = bucket.iter().position(|entry| entry.place == place) else {
            return;
        };
        bucket.swap_remove(found);
        give_back(bucket);
        self.entries -= 1;
        if self.buckets.len() > 1 && self.entries < self.buckets.len() * BUCKET_ENTRIES / 2 {
            self.join();
        }
    }

    /// One bucket more, with what belongs into it from the one bucket in which that was.
    fn split(&mut self, hash_at: impl Fn(u32) -> u64) {
        let added = self.buckets.len();
        // Not twice as many at once.
        self.buckets.reserve_exact(if added == self.buckets.capacity() {
            added / 8 + 1
        } else {
            0
        });
        self.buckets.push(Vec::new());
        if added == 0 {
            return;
        }
        let mut moving = Vec::new();
        let from = &mut self.buckets[bucket_before(added)];
        from.retain(|entry| {
            let stays = bucket_of(hash_at(entry.place), added + 1) != added;
            if !stays {
                push(&mut moving, *entry);
            }
            stays
        });
        give_back(from);
        self.buckets[added] = moving;
    }

    /// One bucket less; there is another.
    fn join(&mut self) {
        let Some(bucket) = self.buckets.pop() else { return };
        let last = self.buckets.len();
        let into = &mut self.buckets[bucket_before(last)];
        into.reserve_exact(bucket.len());
        into.extend(bucket);
    }
}

fn push(bucket: &mut Vec<Entry>, entry: Entry) {
    if bucket.len() == bucket.capacity() {
        bucket.reserve_exact(BUCKET_STEP);
    }
    bucket.push(entry);
}

fn give_back(bucket: &mut Vec<Entry>) {
    if bucket.capacity() - bucket.len() > 2 * BUCKET_STEP {
        bucket.shrink_to(bucket.len() + BUCKET_STEP);
    }
}

fn tag_of(hash: u64) -> u8 {
    (hash >> 56) as u8
}

/// The low bits of the hash that suffice for `count` buckets, with one less where that bucket is not there yet.
fn bucket_of(hash: u64, count: usize) -> usize {
    let bits = count.next_power_of_two();
    let at = hash as usize & (bits - 1);
    if at < count { at } else { at - bits / 2 }
}

/// Where the entries of a bucket were before it was added.
fn bucket_before(added: usize) -> usize {
    added - (added + 1).next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::hashed;

    #[test]
    fn places_are_found_while_the_index_grows_and_shrinks() {
        let mut index = Index::default();
        let hash_at = |place: u32| hashed(u64::from(place));
        for place in 0..20_000 {
            index.insert(hash_at(place), place, hash_at);
        }
        assert!(index.buckets.len() >= 20_000 / BUCKET_ENTRIES);
        for place in 0..20_000 {
            assert_eq!(index.find(hash_at(place), |found| found == place), Some(place));
        }
        for place in 100..20_000 {
            index.remove(hash_at(place), place);
        }
        assert!(index.buckets.len() <= 5, "{} buckets are left", index.buckets.len());
        for place in 0..200 {
            let found = index.find(hash_at(place), |found| found == place);
            assert_eq!(found, (place < 100).then_some(place));
        }
        (0..100).for_each(|place| index.remove(hash_at(place), place));
        assert_eq!(index.find(hash_at(0), |_| true), None);
    }

    #[test]
    fn a_place_that_moved_is_found_where_it_is() {
        let mut index = Index::default();
        index.insert(hashed(7), 1, |_| hashed(7));
        index.moved(hashed(7), 1, 2);
        assert_eq!(index.find(hashed(7), |_| true), Some(2));
    }
}
