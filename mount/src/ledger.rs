//! The ledger of a FUSE connection: memory of its mounters, in which a request lies from the moment they read it until its
//! answer is written. For kernels that cannot send it again (before Linux 6.9).
//!
//! ```text
//! page 0: which seats were used │ seat │ seat │ ...      a seat belongs to one process at a time, by a lock (`shared`)
//!                               │
//!                               └─ buffer │ buffer │ ... │ record │ record │ ...
//!                                  one lane for each queue, where read(2) puts a request
//!                                                          reads that became tasks, so that their lane is free for the next
//! ```
//!
//! *Guarantees*: a request that was read and not answered lies in a buffer or in a record, at whatever instruction its
//! process is killed. A record is whole when its number (`unique`) is there. A buffer may be half written while its process
//! lives, and never afterwards: the kernel ends a read(2) that has begun before it ends the process. What was answered may
//! lie here still; a second answer is refused by the kernel, which uses no number twice.
//!
//! Here are places and words alone. Whoever shares the memory may write anything into it, so nothing of it is an index, a
//! length or a promise before it was checked.

mod shared;

use std::sync::atomic::{AtomicU64, Ordering};

pub use shared::{Ledger, create, reopen};

/// Processes that sit at a ledger at the same time, and dead ones whose requests somebody works at. Two mounters in an upgrade
/// and what each of them may have found is half of it. When all are taken, living mounters serve the connection.
pub const SEATS: usize = 8;
/// Queues of a connection: itself and its clones.
pub const LANES: usize = 4;
/// Reads of one process that are tasks at the same time.
pub const RECORDS: usize = 64;
/// Bytes of the memory. Huge pages, which cannot be had at any time, have other lengths.
pub const BYTES: usize = WORDS * WORD_BYTES;
/// Bytes of a READ: `fuse_in_header` and `fuse_read_in` of include/uapi/linux/fuse.h.
pub const READ_BYTES: usize = 80;

const WORD_BYTES: usize = 8;
/// A page, so that the header of a request is never at the border of two.
const FRONT_WORDS: usize = 4096 / WORD_BYTES;
/// Twice what the kernel asks for at least (`FUSE_MIN_READ_BUFFER`).
const BUFFER_WORDS: usize = (16 << 10) / WORD_BYTES;
/// Two cache lines.
const RECORD_WORDS: usize = 16;
const SEAT_WORDS: usize = LANES * BUFFER_WORDS + RECORDS * RECORD_WORDS;
const WORDS: usize = FRONT_WORDS + SEATS * SEAT_WORDS;

/// The word of a request with its number.
const UNIQUE: usize = 1;
/// The word of a record, behind the request, with the queue.
const QUEUE: usize = READ_BYTES / WORD_BYTES;

/// Where in a seat a request lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the buffer of this lane.
    Buffer(usize),
    /// In this record.
    Record(usize),
}

/// A request that may be unanswered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub place: Place,
    /// The queue from which it was read, and on which the kernel takes its answer. Below [`LANES`].
    pub queue: usize,
    /// Its bytes, as far as they can be there.
    pub request: Vec<u8>,
}

/// A seat.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a> {
    used: &'a AtomicU64,
    words: &'a [AtomicU64],
}

impl Place {
    fn all() -> impl Iterator<Item = Self> {
        let buffers = (0..LANES).map(Self::Buffer);
        buffers.chain((0..RECORDS).map(Self::Record))
    }

    /// Its words in a seat.
    fn words(self) -> std::ops::Range<usize> {
        let (start, words) = match self {
            Self::Buffer(lane) => (lane * BUFFER_WORDS, BUFFER_WORDS),
            Self::Record(record) => (LANES * BUFFER_WORDS + record * RECORD_WORDS, RECORD_WORDS),
        };
        start..start + words
    }
}

/// The first word of a seat.
fn seat_start(seat: usize) -> usize {
    FRONT_WORDS + seat * SEAT_WORDS
}

impl<'a> Seat<'a> {
    /// A seat of a ledger, which is [`BYTES`] long.
    fn of(ledger: &'a [AtomicU64], seat: usize) -> Self {
        assert!(seat < SEATS, "there is no seat {seat}");
        Self {
            used: &ledger[seat],
            words: &ledger[seat_start(seat)..][..SEAT_WORDS],
        }
    }

    /// Whether somebody sat here and did not say that nothing is left. Asking costs no memory where nobody did.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire) != 0
    }

    /// Says so, before the first request is read.
    pub fn set_used(&self, used: bool) {
        self.used.store(used.into(), Ordering::Release);
    }

    /// Writes a READ down that was read from this queue. Nobody else may use that record now.
    pub fn note(&self, record: usize, queue: usize, request: &[u8; READ_BYTES]) {
        let words = self.words_of(Place::Record(record));
        words[UNIQUE].store(0, Ordering::Release);
        let mut unique = 0;
        for (at, bytes) in request.as_chunks().0.iter().enumerate() {
            match at {
                UNIQUE => unique = u64::from_ne_bytes(*bytes),
                _ => words[at].store(u64::from_ne_bytes(*bytes), Ordering::Relaxed),
            }
        }
        words[QUEUE].store(queue as u64, Ordering::Relaxed);
        // From now on it is there, as a whole.
        words[UNIQUE].store(unique, Ordering::Release);
    }

    /// What lies there is answered, or lies elsewhere too.
    pub fn clear(&self, place: Place) {
        self.words_of(place)[UNIQUE].store(0, Ordering::Release);
    }

    /// The first bytes of a lane's buffer.
    pub fn copy_buffer(&self, lane: usize, into: &mut [u8]) {
        copy(self.words_of(Place::Buffer(lane)), into);
    }

    /// Everything that may be unanswered.
    pub fn found(&self) -> Vec<Found> {
        Place::all().filter_map(|place| self.found_at(place)).collect()
    }

    fn found_at(&self, place: Place) -> Option<Found> {
        let words = self.words_of(place);
        if words[UNIQUE].load(Ordering::Acquire) == 0 {
            return None;
        }
        let (queue, most) = match place {
            Place::Buffer(lane) => (lane, BUFFER_WORDS * WORD_BYTES),
            Place::Record(_) => (words[QUEUE].load(Ordering::Relaxed) as usize, READ_BYTES),
        };
        // The length is the first field of the header, four bytes.
        let mut length = [0; 4];
        copy(words, &mut length);
        let mut request = vec![0; most.min(u32::from_ne_bytes(length) as usize)];
        copy(words, &mut request);
        (queue < LANES).then_some(Found { place, queue, request })
    }

    fn words_of(&self, place: Place) -> &'a [AtomicU64] {
        &self.words[place.words()]
    }
}

fn copy(words: &[AtomicU64], into: &mut [u8]) {
    for (word, bytes) in words.iter().zip(into.chunks_mut(WORD_BYTES)) {
        let word = word.load(Ordering::Relaxed).to_ne_bytes();
        bytes.copy_from_slice(&word[..bytes.len()]);
    }
}

/// The numbers of all requests in the bytes of a ledger that may be unanswered, whoever sits there. While their processes live
/// this may be a number too many: for whoever only refuses, on a connection that nobody serves.
pub fn numbers(ledger: &[u8]) -> impl Iterator<Item = u64> {
    /// INTERRUPT has the number of what it interrupts, and this bit (`FUSE_INT_REQ_BIT`). It has no answer.
    const INTERRUPT: u64 = 1;
    let places = (0..SEATS).flat_map(|seat| Place::all().map(move |place| seat_start(seat) + place.words().start));
    let numbers = places.filter_map(|start| {
        let bytes = ledger.get((start + UNIQUE) * WORD_BYTES..)?;
        Some(u64::from_ne_bytes(*bytes.first_chunk()?))
    });
    numbers.filter(|number| *number != 0 && number & INTERRUPT == 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn memory() -> Vec<AtomicU64> {
        std::iter::repeat_with(AtomicU64::default).take(WORDS).collect()
    }

    fn bytes_of(memory: &[AtomicU64]) -> Vec<u8> {
        let mut bytes = vec![0; BYTES];
        copy(memory, &mut bytes);
        bytes
    }

    fn read(unique: u64) -> [u8; READ_BYTES] {
        let mut request: [u8; READ_BYTES] = std::array::from_fn(|at| at as u8);
        request[..4].copy_from_slice(&(READ_BYTES as u32).to_ne_bytes());
        request[8..16].copy_from_slice(&unique.to_ne_bytes());
        request
    }

    #[test]
    fn seats_lie_beside_each_other_and_buffers_begin_with_a_page() {
        let mut taken = vec![false; WORDS];
        for seat in 0..SEATS {
            for place in Place::all() {
                for word in place.words() {
                    assert!(
                        !std::mem::replace(&mut taken[seat_start(seat) + word], true),
                        "{place:?}"
                    );
                }
            }
            for lane in 0..LANES {
                let start = (seat_start(seat) + Place::Buffer(lane).words().start) * WORD_BYTES;
                assert_eq!(start % 4096, 0);
            }
        }
        assert!(taken[FRONT_WORDS..].iter().all(|taken| *taken));
        assert_ne!(BYTES % (2 << 20), 0, "it could be a huge page");
    }

    #[test]
    fn what_is_noted_is_found_until_it_is_answered() {
        let memory = memory();
        let seat = Seat::of(&memory, 3);
        seat.note(5, 2, &read(100));
        seat.note(6, 1, &read(102));
        let found = seat.found();
        assert_eq!(
            found,
            [(5, 2, 100), (6, 1, 102)].map(|(record, queue, unique)| Found {
                place: Place::Record(record),
                queue,
                request: read(unique).to_vec(),
            })
        );
        assert_eq!(numbers(&bytes_of(&memory)).collect::<Vec<_>>(), [100, 102]);
        seat.clear(Place::Record(5));
        assert_eq!(seat.found(), found[1..]);
        assert!(Seat::of(&memory, 2).found().is_empty());
    }

    /// As a process that is killed there would leave it.
    #[test]
    fn a_record_is_there_as_a_whole_or_not_at_all() {
        let memory = memory();
        let seat = Seat::of(&memory, 0);
        seat.note(0, 1, &read(7));
        seat.clear(Place::Record(0));
        assert!(seat.found().is_empty());
        // The bytes of an older one lie there still.
        assert!(
            bytes_of(&memory)[seat_start(0) * WORD_BYTES..]
                .iter()
                .any(|byte| *byte != 0)
        );
        seat.note(0, 3, &read(9));
        assert_eq!(seat.found()[0].request, read(9));
        assert_eq!(seat.found()[0].queue, 3);
    }

    proptest! {
        #[test]
        fn whatever_is_written_there_nothing_is_read_beyond_it(
            words in prop::collection::vec((0..WORDS, prop_oneof![any::<u64>(), 0..100u64]), 0..200),
            used in any::<u64>(),
        ) {
            let memory = memory();
            for (at, word) in words {
                memory[at].store(word, Ordering::Relaxed);
                // Where lengths, numbers and queues are, too.
                let start = seat_start(at % SEATS) + Place::all().nth(at % (LANES + RECORDS)).unwrap().words().start;
                for at in [start, start + UNIQUE, start + QUEUE] {
                    memory[at].store(word, Ordering::Relaxed);
                }
            }
            memory[0].store(used, Ordering::Relaxed);
            for seat in 0..SEATS {
                let seat = Seat::of(&memory, seat);
                let _ = seat.is_used();
                for found in seat.found() {
                    prop_assert!(found.queue < LANES && found.request.len() <= BUFFER_WORDS * WORD_BYTES);
                    seat.clear(found.place);
                }
            }
            let bytes = bytes_of(&memory);
            for cut in [0, 1, 8, 4096, BYTES - 1, BYTES] {
                prop_assert!(numbers(&bytes[..cut]).all(|number| number != 0));
            }
        }
    }
}
