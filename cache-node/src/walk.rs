//! Recognises that the small objects of a space are read one after the other, in whatever order, and says which to bring before
//! they are asked for: pure. It must not know origins, stores or clocks other than the time that it is told.
//!
//! A first epoch pays the origin's latency for each small file, which no reader hides who opens one file after the other. In a
//! shuffled order nobody knows which file is next, but all of them are read before the epoch ends.
//!
//! ```text
//! few reads ─64 objects, hardly one twice─► as many ahead as were read ─128─► four times as many ─256─► sixteen times as many
//!     ▲                                                                                                │
//!     └── nobody reads any more, there is no room, one cannot be had, or all are brought ◄─────────────┘
//! ```
//!
//! What is brought lies between the lowest and the highest address that was read, and has a length and an ending like those that
//! were read. Addresses are in the order of the keys, so whoever reads one folder gets that folder, and whoever reads the labels
//! beside images gets the labels.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use penstock_protocol::geometry::STRIPE_BYTES;
use penstock_protocol::ids::SpaceId;

use crate::limits::{
    WALK_CHUNK_BYTES, WALK_FAILURE_PAUSE, WALK_IDLE_MAX, WALK_LAST_READS, WALK_OBJECTS_MAX, WALK_READS,
    WALK_REPEATS_MAX,
};

/// Kinds of objects of one walk; who reads more of them gets those that were read first.
const KINDS_MAX: usize = 64;

/// Of the ending of a key.
const ENDING_CHARS_MAX: usize = 8;

/// The walks of all spaces.
#[derive(Default)]
pub(crate) struct Walks(Mutex<HashMap<SpaceId, Walk>>);

/// What is known of the readers of a space.
struct Walk {
    /// Objects that were read.
    seen: HashSet<u64>,
    /// Objects that were brought and not read.
    brought: HashSet<u64>,
    kinds: HashSet<Kind>,
    /// The objects that were read last: a file is read in several pieces.
    last: VecDeque<u64>,
    repeats: u32,
    brought_count: u64,
    /// From the lowest to behind the highest object that was read.
    span: Range<u64>,
    /// What was brought of it, or was there.
    covered: Range<u64>,
    last_read: Instant,
    not_before: Instant,
    /// Somebody brings.
    is_running: bool,
}

/// What objects of a walk have in common: how their keys end, and their length as a power of two.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    ending: String,
    length: u32,
}

impl Kind {
    pub(crate) fn of(key: &str, bytes: u64) -> Self {
        let name = key.rsplit('/').next().unwrap_or(key);
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        Self {
            ending: ending.chars().take(ENDING_CHARS_MAX).collect(),
            length: bytes.max(1).ilog2(),
        }
    }
}

/// What to do next for a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Bring up to so many of the objects that begin here.
    Bring { addresses: Range<u64>, objects_max: u64 },
    /// Nothing now: whoever runs ends.
    Rest,
}

impl Walks {
    /// A small object that was missing was read. True when somebody should begin to bring others.
    pub(crate) fn missed(&self, space: &SpaceId, object: Range<u64>, kind: Kind, now: Instant) -> bool {
        let mut walks = self.lock();
        let walk = walks.entry(*space).or_insert_with(|| Walk::new(object.start, now));
        walk.missed(object, now);
        if walk.kinds.len() < KINDS_MAX {
            walk.kinds.insert(kind);
        }
        walk.begins(now)
    }

    /// Whether an object is like those that were read.
    pub(crate) fn is_like_them(&self, space: &SpaceId, kind: &Kind) -> bool {
        self.lock().get(space).is_some_and(|walk| walk.kinds.contains(kind))
    }

    /// A cell that was stored was read. True when somebody should begin to bring others.
    pub(crate) fn hit(&self, space: &SpaceId, address: u64, now: Instant) -> bool {
        // On the way of every hit: one that is not noted costs little.
        let Ok(mut walks) = self.0.try_lock() else { return false };
        let Some(walk) = walks.get_mut(space) else { return false };
        walk.hit(address, now);
        walk.begins(now)
    }

    /// What whoever runs does next.
    pub(crate) fn next(&self, space: &SpaceId, now: Instant) -> Next {
        let mut walks = self.lock();
        let Some(walk) = walks.get_mut(space) else {
            return Next::Rest;
        };
        let next = walk.next(now);
        walk.is_running = next != Next::Rest;
        next
    }

    /// These objects of what was to be brought are on their way; all up to `until` if the rest was there.
    pub(crate) fn brought(&self, space: &SpaceId, objects: &[u64], until: Range<u64>) {
        if let Some(walk) = self.lock().get_mut(space) {
            walk.brought(objects, until);
        }
    }

    /// Whoever ran ends, also without having been told to.
    pub(crate) fn ended(&self, space: &SpaceId) {
        if let Some(walk) = self.lock().get_mut(space) {
            walk.is_running = false;
        }
    }

    /// There is no room, or the origin does not give: nobody walks here for a while.
    pub(crate) fn pause(&self, space: &SpaceId, now: Instant) {
        if let Some(walk) = self.lock().get_mut(space) {
            *walk = Walk {
                not_before: now + WALK_FAILURE_PAUSE,
                ..Walk::new(walk.covered.start, now)
            };
        }
    }

    /// Forgets all other spaces.
    pub(crate) fn keep_only(&self, wanted: &HashSet<SpaceId>) {
        self.lock().retain(|space, _| wanted.contains(space));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpaceId, Walk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Walk {
    fn new(address: u64, now: Instant) -> Self {
        let chunk = address / WALK_CHUNK_BYTES * WALK_CHUNK_BYTES;
        Self {
            seen: HashSet::new(),
            brought: HashSet::new(),
            kinds: HashSet::new(),
            last: VecDeque::new(),
            repeats: 0,
            brought_count: 0,
            span: address..address,
            covered: chunk..chunk,
            last_read: now,
            not_before: now,
            is_running: false,
        }
    }

    fn missed(&mut self, object: Range<u64>, now: Instant) {
        // What was read long ago says nothing of who reads now.
        if now.duration_since(self.last_read) > WALK_IDLE_MAX && !self.is_running {
            let not_before = self.not_before;
            *self = Self {
                not_before,
                ..Self::new(object.start, now)
            };
        }
        self.last_read = now;
        self.span = self.span.start.min(object.start)..self.span.end.max(object.end);
        self.note(object.start);
    }

    fn hit(&mut self, address: u64, now: Instant) {
        self.last_read = now;
        if self.brought.remove(&address) || self.seen.contains(&address) {
            self.note(address);
        }
    }

    fn note(&mut self, address: u64) {
        if self.last.contains(&address) {
            return;
        }
        if self.last.len() == WALK_LAST_READS {
            self.last.pop_front();
        }
        self.last.push_back(address);
        if self.seen.len() < WALK_OBJECTS_MAX && !self.seen.insert(address) {
            self.repeats += 1;
        }
    }

    /// How many objects may be brought in all.
    fn budget(&self) -> u64 {
        let reads = self.seen.len() as u64;
        if u64::from(self.repeats) * WALK_REPEATS_MAX > reads {
            return 0;
        }
        match reads {
            _ if reads >= WALK_READS[2] => 16 * reads,
            _ if reads >= WALK_READS[1] => 4 * reads,
            _ if reads >= WALK_READS[0] => reads,
            _ => 0,
        }
    }

    /// Whether somebody should begin; who is told so does.
    fn begins(&mut self, now: Instant) -> bool {
        let begins = !self.is_running
            && now >= self.not_before
            && self.budget() > self.brought_count
            && self.uncovered().is_some();
        self.is_running |= begins;
        begins
    }

    fn next(&self, now: Instant) -> Next {
        let left = self.budget().saturating_sub(self.brought_count);
        let is_idle = now.duration_since(self.last_read) > WALK_IDLE_MAX;
        match self.uncovered() {
            Some(addresses) if left > 0 && !is_idle => Next::Bring {
                addresses,
                objects_max: left,
            },
            _ => Next::Rest,
        }
    }

    /// The next addresses of the span, within a stripe: upwards from where the first read was, then downwards.
    fn uncovered(&self) -> Option<Range<u64>> {
        let Range { start, end } = self.covered;
        if end < self.span.end {
            let stripe_end = (end / STRIPE_BYTES + 1) * STRIPE_BYTES;
            return Some(end..self.span.end.min(end + WALK_CHUNK_BYTES).min(stripe_end));
        }
        if start > self.span.start {
            let stripe_start = (start - 1) / STRIPE_BYTES * STRIPE_BYTES;
            return Some(
                self.span
                    .start
                    .max(start.saturating_sub(WALK_CHUNK_BYTES))
                    .max(stripe_start)..start,
            );
        }
        None
    }

    fn brought(&mut self, objects: &[u64], until: Range<u64>) {
        self.brought_count += objects.len() as u64;
        let room = WALK_OBJECTS_MAX - self.brought.len().min(WALK_OBJECTS_MAX);
        self.brought.extend(objects.iter().take(room));
        if until.start == self.covered.end {
            self.covered.end = until.end;
        } else if until.end == self.covered.start {
            self.covered.start = until.start;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SPACE: SpaceId = SpaceId([1; 16]);
    const OBJECT: u64 = 100 << 10;

    fn object(number: u64) -> Range<u64> {
        number * OBJECT..(number + 1) * OBJECT
    }

    /// Reads objects that are missing; whether somebody is to begin.
    fn read(walks: &Walks, objects: impl IntoIterator<Item = u64>, now: Instant) -> bool {
        let read = objects.into_iter();
        read.fold(false, |begins, number| {
            begins | walks.missed(&SPACE, object(number), Kind::of("a.jpg", OBJECT), now)
        })
    }

    /// Brings all that may be brought; how many objects that is.
    fn bring(walks: &Walks, now: Instant) -> u64 {
        let mut brought = 0;
        while let Next::Bring { addresses, objects_max } = walks.next(&SPACE, now) {
            assert!(addresses.start / STRIPE_BYTES == (addresses.end - 1) / STRIPE_BYTES);
            let within = addresses.start.div_ceil(OBJECT)..addresses.end.div_ceil(OBJECT);
            let objects: Vec<u64> = within
                .map(|number| number * OBJECT)
                .take(objects_max as usize)
                .collect();
            let until = match objects.last() {
                Some(last) if objects.len() as u64 == objects_max => addresses.start..last + OBJECT,
                _ => addresses,
            };
            brought += objects.len() as u64;
            walks.brought(&SPACE, &objects, until);
        }
        brought
    }

    #[test]
    fn the_more_objects_were_read_once_the_more_are_brought_and_in_the_end_all_between_them() {
        let (walks, now) = (Walks::default(), Instant::now());
        // Every seventh of a thousand, from the middle on.
        let mut order = (0..1000).map(|step| (500 + step * 7) % 1000);
        assert!(!read(&walks, order.by_ref().take(63), now));
        assert!(read(&walks, order.by_ref().take(1), now));
        assert_eq!(bring(&walks, now), 64);
        assert!(read(&walks, order.by_ref().take(64), now));
        assert_eq!(bring(&walks, now), 4 * 128 - 64);
        assert!(read(&walks, order.by_ref().take(128), now));
        let brought = bring(&walks, now);
        assert!(brought + 4 * 128 >= 990, "{brought} of all");
        let (all, many) = (Walks::default(), (0..300).map(|step| step * 1000));
        assert!(read(&all, many, now));
        assert_eq!(bring(&all, now), 16 * 300);
        read(&walks, order, now);
        assert!(bring(&walks, now) <= 20, "only the ends were left");
    }

    #[test]
    fn objects_that_are_read_again_and_again_are_no_walk() {
        let (walks, now) = (Walks::default(), Instant::now());
        for round in 0..10 {
            assert!(!read(&walks, 0..63, now), "{round}");
        }
        assert!(!read(&walks, 0..300, now), "it has been mixed so far");
    }

    #[test]
    fn a_file_that_is_read_in_pieces_is_read_once() {
        let (walks, now) = (Walks::default(), Instant::now());
        let pieces = (0..64).flat_map(|number| [number, number, number / 2 * 2, number]);
        assert!(read(&walks, pieces, now));
    }

    #[test]
    fn who_reads_a_folder_gets_the_folder() {
        let (walks, now) = (Walks::default(), Instant::now());
        assert!(read(&walks, (0..300).map(|step| 40_000 + step * 37 % 1000), now));
        let brought = bring(&walks, now);
        assert!((900..=1100).contains(&brought), "{brought}");
    }

    #[test]
    fn what_is_brought_is_like_what_was_read() {
        let (walks, now) = (Walks::default(), Instant::now());
        walks.missed(&SPACE, object(1), Kind::of("a/b.c/1.jpg", 100_000), now);
        for (key, bytes, is_like) in [
            ("x/2.jpg", 70_000, true),
            ("x/2.json", 100_000, false),
            ("x/2.jpg", 1000, false),
            ("x.jpg/2", 100_000, false),
        ] {
            assert_eq!(
                walks.is_like_them(&SPACE, &Kind::of(key, bytes)),
                is_like,
                "{key} {bytes}"
            );
        }
    }

    #[test]
    fn after_a_failure_nobody_walks_for_a_while() {
        let (walks, now) = (Walks::default(), Instant::now());
        assert!(read(&walks, 0..300, now));
        walks.pause(&SPACE, now);
        assert_eq!(walks.next(&SPACE, now), Next::Rest);
        assert!(!read(&walks, 300..600, now));
        assert!(read(&walks, 600..700, now + WALK_FAILURE_PAUSE));
    }

    #[test]
    fn nothing_is_brought_for_readers_who_are_gone_and_others_begin_anew() {
        let (walks, now) = (Walks::default(), Instant::now());
        assert!(read(&walks, 0..300, now));
        let later = now + WALK_IDLE_MAX + Duration::from_millis(1);
        assert_eq!(walks.next(&SPACE, later), Next::Rest);
        assert!(!read(&walks, 5000..5063, later));
        assert!(read(&walks, 5063..5064, later));
    }

    #[test]
    fn hits_on_what_was_brought_are_reads_and_others_are_not() {
        let (walks, now) = (Walks::default(), Instant::now());
        assert!(read(&walks, (0..64).map(|number| number * 10), now));
        assert_eq!(bring(&walks, now), 64);
        // Pages of a large object.
        assert!((0..300).all(|page| !walks.hit(&SPACE, (1 << 40) + (page << 20), now)));
        let begins = (0..64).filter(|number| walks.hit(&SPACE, number * OBJECT, now)).count();
        assert_eq!(begins, 1, "at the 128th");
    }
}
