//! A ledger as the memory and the locks that processes share.
//!
//! Whoever sits at a seat holds a lock on the byte of that number, on a description of the memory that only its process has:
//! the kernel lets go of it when the last thread of the process has ended, and not before.
#![allow(
    unsafe_code,
    reason = "rustix has no F_OFD_SETLK; read(2) writes into memory that others map too"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use memmap2::MmapRaw;
use rustix::fs::{OFlags, SealFlags};
use rustix::io::Errno;

use crate::memory;

use super::{BUFFER_WORDS, BYTES, Place, SEATS, Seat, WORD_BYTES, WORDS};

/// Its length must stay what it is: who touches memory that was cut off is killed.
const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW);

/// A new ledger.
///
/// # Errors
/// When the process has too many descriptors.
pub fn create() -> io::Result<OwnedFd> {
    let memory = memory::sealable("ledger")?;
    rustix::fs::ftruncate(&memory, BYTES as u64)?;
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}

/// A description of a ledger that this process alone has, with none of the locks of the other one.
///
/// # Errors
/// `InvalidData` when it is no ledger; others when it cannot be opened again.
pub fn reopen(ledger: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // Only memory has seals: what was not made by `create` is not opened.
    let seals = rustix::fs::fcntl_get_seals(ledger).unwrap_or(SealFlags::empty());
    let length = rustix::fs::fstat(ledger)?.st_size;
    if !seals.contains(SEALS) || length != BYTES as i64 {
        let message = "what should be a ledger is none";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    // The memory belongs to csi's user, and everybody who has it may open it: its mode is 0777.
    let path = format!("/proc/self/fd/{}", ledger.as_raw_fd());
    let opened = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    Ok(opened)
}

/// A ledger of a connection that this process serves.
#[derive(Debug)]
pub struct Ledger {
    memory: MmapRaw,
    locks: File,
}

impl Ledger {
    /// Opens it.
    ///
    /// # Errors
    /// When it is none, or cannot be opened again or mapped.
    pub fn open(ledger: BorrowedFd<'_>) -> io::Result<Self> {
        let locks = File::from(reopen(ledger)?);
        // By the other description: a mapping would keep that of the locks.
        let memory = MmapRaw::map_raw(&ledger)?;
        Ok(Self { memory, locks })
    }

    /// A seat, below [`SEATS`].
    pub fn seat(&self, seat: usize) -> Seat<'_> {
        Seat::of(self.words(), seat)
    }

    /// Sits down; `false` when a process that lives sits there. One's own seat can be taken again.
    ///
    /// # Errors
    /// When the kernel has no memory for a lock.
    pub fn try_sit(&self, seat: usize) -> io::Result<bool> {
        match self.lock(seat, libc::F_WRLCK) {
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::AGAIN | Errno::ACCESS)) => Ok(false),
            locked => locked.map(|()| true),
        }
    }

    /// Leaves a seat.
    ///
    /// # Errors
    /// When the kernel has no memory for locks.
    pub fn leave(&self, seat: usize) -> io::Result<()> {
        self.lock(seat, libc::F_UNLCK)
    }

    /// Reads a request into the buffer of a lane, and says how long it is.
    ///
    /// # Errors
    /// Those of read(2) on /dev/fuse.
    pub fn read(&self, queue: BorrowedFd<'_>, seat: usize, lane: usize) -> Result<usize, Errno> {
        let buffer = self.seat(seat).words_of(Place::Buffer(lane));
        assert_eq!(buffer.len(), BUFFER_WORDS);
        let start = buffer.as_ptr().cast_mut().cast();
        // SAFETY: the buffer is that long, mapped as long as `self` lives, and atomic, so that it may change.
        let read = unsafe { libc::read(queue.as_raw_fd(), start, BUFFER_WORDS * WORD_BYTES) };
        usize::try_from(read).map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }

    fn words(&self) -> &[AtomicU64] {
        let start = self.memory.as_mut_ptr().cast_const().cast();
        // SAFETY: the mapping begins with a page, is [`BYTES`] long (`open` looked) and cannot shrink (its seals). Others
        // write to it, which atomics allow.
        unsafe { std::slice::from_raw_parts(start, WORDS) }
    }

    fn lock(&self, seat: usize, kind: libc::c_int) -> io::Result<()> {
        assert!(seat < SEATS, "there is no seat {seat}");
        // SAFETY: a record of integers, for which zeros are values.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        lock.l_start = seat as libc::off_t;
        lock.l_len = 1;
        // SAFETY: the call reads the record, which outlives it; the descriptor is open.
        let result = unsafe { libc::fcntl(self.locks.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::process::Uid;

    use super::*;

    #[test]
    fn a_seat_is_one_description_s_until_it_is_closed() {
        let memory = create().unwrap();
        let (one, other) = (
            Ledger::open(memory.as_fd()).unwrap(),
            Ledger::open(memory.as_fd()).unwrap(),
        );
        assert!(one.try_sit(0).unwrap() && one.try_sit(0).unwrap());
        assert!(!other.try_sit(0).unwrap() && other.try_sit(1).unwrap());
        one.seat(0).set_used(true);
        assert!(other.seat(0).is_used() && !other.seat(1).is_used());
        drop(one);
        assert!(other.try_sit(0).unwrap());
        other.leave(0).unwrap();
        assert!(Ledger::open(memory.as_fd()).unwrap().try_sit(0).unwrap());
    }

    #[test]
    fn a_description_with_locks_that_is_given_away_is_left_by_opening_it_again() {
        let memory = create().unwrap();
        let ledger = Ledger::open(memory.as_fd()).unwrap();
        assert!(ledger.try_sit(0).unwrap());
        let given_away = ledger.locks.try_clone().unwrap();
        let own = reopen(given_away.as_fd()).unwrap();
        drop((ledger, memory));
        assert!(!Ledger::open(own.as_fd()).unwrap().try_sit(0).unwrap());
        drop(given_away);
        assert!(Ledger::open(own.as_fd()).unwrap().try_sit(0).unwrap());
    }

    #[test]
    fn the_mounters_user_may_open_what_root_made() {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test takes another user: run it as root"
        );
        let memory = create().unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                rustix::thread::set_thread_uid(Uid::from_raw(65532)).unwrap();
                Ledger::open(memory.as_fd()).unwrap().try_sit(7).unwrap()
            });
            assert!(thread.join().unwrap());
        });
    }

    #[test]
    fn requests_are_read_into_the_lane() {
        let (memory, (ours, theirs)) = (create().unwrap(), penstock_descriptors::pair().unwrap());
        let ledger = Ledger::open(memory.as_fd()).unwrap();
        let mut request = [7; 48];
        request[..4].copy_from_slice(&48u32.to_ne_bytes());
        penstock_descriptors::send(theirs.as_fd(), &request, &[]).unwrap();
        assert_eq!(ledger.read(ours.as_fd(), 2, 3), Ok(48));
        let mut copied = [0; 48];
        ledger.seat(2).copy_buffer(3, &mut copied);
        assert_eq!(copied, request);
        let found = Ledger::open(memory.as_fd()).unwrap().seat(2).found();
        assert_eq!((found.len(), found[0].place, found[0].queue), (1, Place::Buffer(3), 3));
        assert_eq!(found[0].request, request);
    }

    #[test]
    fn what_can_shrink_or_has_another_length_is_no_ledger() {
        let soft = memory::sealable("soft").unwrap();
        rustix::fs::ftruncate(&soft, BYTES as u64).unwrap();
        let long = memory::sealable("long").unwrap();
        rustix::fs::ftruncate(&long, 2 * BYTES as u64).unwrap();
        rustix::fs::fcntl_add_seals(&long, SEALS).unwrap();
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        for none in [soft, long, pipe] {
            assert_eq!(
                Ledger::open(none.as_fd()).unwrap_err().kind(),
                io::ErrorKind::InvalidData
            );
        }
    }
}
