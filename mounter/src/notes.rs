//! What a session has read from the kernel and not answered, noted in the connection's ledger, where the kernel cannot send it
//! again: whoever comes next, or serves beside it, finds it there.
//!
//! ```text
//! read(2) ─► buffer of the lane ─answered on that thread─► cleared
//!                    │ becomes a task
//!                    └─► record, then the buffer is cleared ─answered─► cleared
//! process dies ─► its seat is free ─► a successor sits down there and goes on, or one beside it answers and leaves the seat
//! ```
//!
//! Must not know what requests mean.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use penstock_mount::ledger::{Found, LANES, Ledger, Place, READ_BYTES, RECORDS, SEATS};
use rustix::io::Errno;

/// The notes of one session.
pub struct Notes {
    ledger: Ledger,
    own: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What a predecessor left in the own seat, and nobody works at yet.
    left: Vec<Found>,
    /// Records of the own seat that are free.
    free: Vec<usize>,
    /// Seats of dead processes, with how much of them is unanswered.
    adopted: BTreeMap<usize, usize>,
}

/// A request that is noted. Whoever answers it says so; one that is dropped instead stays noted.
#[must_use]
pub(crate) struct Note {
    notes: Arc<Notes>,
    seat: usize,
    place: Place,
}

impl Notes {
    /// Sits down at a ledger, where a predecessor sat if one did.
    ///
    /// # Errors
    /// When it is no ledger, or living processes sit at all seats: they serve the connection.
    pub fn begin(ledger: BorrowedFd<'_>) -> io::Result<Arc<Self>> {
        let ledger = Ledger::open(ledger)?;
        for own in 0..SEATS {
            if !ledger.try_sit(own)? {
                continue;
            }
            let seat = ledger.seat(own);
            seat.set_used(true);
            let left = seat.found();
            let is_free = |record: &usize| !left.iter().any(|found| found.place == Place::Record(*record));
            let state = State {
                free: (0..RECORDS).filter(is_free).collect(),
                left,
                adopted: BTreeMap::new(),
            };
            return Ok(Arc::new(Self {
                ledger,
                own,
                state: Mutex::new(state),
            }));
        }
        Err(io::Error::other("others sit at all seats of the ledger"))
    }

    /// Waits for a request on a queue, and reads it into the lane of that queue. Only one thread may do so.
    pub(crate) fn receive(
        self: &Arc<Self>,
        queue: BorrowedFd<'_>,
        lane: usize,
        request: &mut [u8],
    ) -> Result<(usize, Note), Errno> {
        let length = self.ledger.read(queue, self.own, lane)?.min(request.len());
        // What is looked at is ours alone: others may write to the ledger.
        self.ledger.seat(self.own).copy_buffer(lane, &mut request[..length]);
        Ok((length, self.note(self.own, Place::Buffer(lane))))
    }

    /// What a predecessor left in this lane. Its thread answers that before it reads the next request.
    pub(crate) fn take_left_in(self: &Arc<Self>, lane: usize) -> Option<(Found, Note)> {
        self.take_left(|found| found.place == Place::Buffer(lane)).pop()
    }

    /// What a predecessor left in records.
    pub(crate) fn take_left_in_records(self: &Arc<Self>) -> Vec<(Found, Note)> {
        self.take_left(|found| matches!(found.place, Place::Record(_)))
    }

    fn take_left(self: &Arc<Self>, is_wanted: impl Fn(&Found) -> bool) -> Vec<(Found, Note)> {
        let mut state = self.state();
        let taken = state.left.extract_if(.., |found| is_wanted(found));
        let taken = taken.map(|found| (self.note(self.own, found.place), found));
        taken.map(|(note, found)| (found, note)).collect()
    }

    /// What other processes left that have died since this was asked last.
    pub(crate) fn adopt(self: &Arc<Self>) -> Vec<(Found, Note)> {
        let mut adopted = Vec::new();
        for seat in (0..SEATS).filter(|seat| *seat != self.own) {
            let found = self.adopt_seat(seat).unwrap_or_else(|error| {
                tracing::error!(seat, %error, "look for what a mounter left");
                Vec::new()
            });
            adopted.extend(found.into_iter().map(|found| {
                let note = self.note(seat, found.place);
                (found, note)
            }));
        }
        adopted
    }

    fn adopt_seat(&self, seat: usize) -> io::Result<Vec<Found>> {
        let mut state = self.state();
        // One's own lock would be granted again.
        if state.adopted.contains_key(&seat) || !self.ledger.seat(seat).is_used() || !self.ledger.try_sit(seat)? {
            return Ok(Vec::new());
        }
        let found = self.ledger.seat(seat).found();
        match found.len() {
            0 => self.leave(seat),
            unanswered => drop(state.adopted.insert(seat, unanswered)),
        }
        Ok(found)
    }

    fn leave(&self, seat: usize) {
        self.ledger.seat(seat).set_used(false);
        if let Err(error) = self.ledger.leave(seat) {
            // Nobody can sit there while this process lives.
            tracing::error!(seat, %error, "leave a seat of a ledger");
        }
    }

    fn note(self: &Arc<Self>, seat: usize, place: Place) -> Note {
        Note {
            notes: self.clone(),
            seat,
            place,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Note {
    /// Makes room in the lane for the next request: this READ is noted elsewhere from now on. Where it lies already in nobody's
    /// way it stays. `Err` when there is no room, so that it has to be answered first.
    pub(crate) fn set_aside(self, request: &[u8]) -> Result<Self, Self> {
        let Self { notes, seat, place } = &self;
        let Place::Buffer(queue) = *place else { return Ok(self) };
        if *seat != notes.own {
            return Ok(self);
        }
        let Some(request) = request.first_chunk::<READ_BYTES>() else {
            return Err(self);
        };
        let Some(record) = notes.state().free.pop() else {
            return Err(self);
        };
        let seat = notes.ledger.seat(notes.own);
        seat.note(record, queue, request);
        seat.clear(*place);
        Ok(notes.note(notes.own, Place::Record(record)))
    }

    /// The kernel has the answer, or wants none.
    pub(crate) fn answered(self) {
        let Self { notes, seat, place } = self;
        notes.ledger.seat(seat).clear(place);
        if seat == notes.own {
            if let Place::Record(record) = place {
                notes.state().free.push(record);
            }
            return;
        }
        let mut state = notes.state();
        let Some(unanswered) = state.adopted.get_mut(&seat) else {
            return;
        };
        *unanswered -= 1;
        if *unanswered == 0 {
            state.adopted.remove(&seat);
            notes.leave(seat);
        }
    }
}

// Each descriptor of a connection has a lane.
const _: () = assert!(LANES >= crate::limits::SESSION_THREADS_MAX);
// Who has a permit finds a record.
const _: () = assert!(RECORDS >= crate::limits::MISSES_IN_FLIGHT_MAX);
