//! Answers with EIO in place of a mounter that does not come back, so that nobody waits for ever. It knows the two fields
//! of a request that it needs, and nothing of what is asked for.
//!
//! What others took is sent again by the kernel; where it cannot, its numbers are read from the ledger again and again: of
//! the dead, and of those that hang. Numbers too many do no harm while nobody serves the connection. The ledger is bytes that
//! mounters wrote, so it is not even mapped here. What this process itself takes needs no ledger: its queue is not shared, so
//! the kernel fails it when this process dies.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use penstock_mount::{fuse, ledger};
use penstock_protocol::connection::Held;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::Kept;
use crate::limits::REFUSAL_INTERVAL;

/// Bytes of the buffer for a request: the kernel asks for at least 8 KiB, and a batch of FORGETs may fill a page more.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// Refuses every request on a connection until it is dropped.
pub(super) struct Refusal {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Refusal {
    /// Begins. What others have read from the connection and not answered is refused too.
    ///
    /// # Errors
    /// When the connection has ended, or no thread can be started.
    pub(super) fn begin(kept: &Arc<Kept>) -> io::Result<Self> {
        let held = kept.connection.held(&kept.descriptors);
        let connection = held.queues.first().ok_or(io::ErrorKind::NotFound)?;
        // A queue of its own, so that its flags are not those of the mounter.
        let queue = fuse::clone(connection).map_err(|error| io::Error::from(error.errno))?;
        rustix::io::ioctl_fionbio(&queue, true)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (stopped, of_others) = (stop.clone(), kept.clone());
        let has_ledger = held.ledger.is_some();
        let thread = std::thread::Builder::new()
            .name("refuse".into())
            .spawn(move || refuse(&queue, &stopped, has_ledger.then_some(&of_others)))?;
        let refusal = Self {
            stop,
            thread: Some(thread),
        };
        if !has_ledger {
            fuse::resend(connection)?;
        }
        Ok(refusal)
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        // An eventfd has room for a number that is written once.
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // Its panic was printed.
            let _ = thread.join();
        }
    }
}

fn refuse(queue: &OwnedFd, stop: &OwnedFd, with_ledger: Option<&Arc<Kept>>) {
    let mut request = vec![0; REQUEST_BYTES_MAX];
    let mut looked: Option<Instant> = None;
    let interval = with_ledger
        .map(|_| Timespec::try_from(REFUSAL_INTERVAL))
        .and_then(Result::ok);
    loop {
        if let Some(kept) = with_ledger
            && looked.is_none_or(|at| at.elapsed() >= REFUSAL_INTERVAL)
        {
            refuse_noted(kept);
            looked = Some(Instant::now());
        }
        let mut polled = [PollFd::new(queue, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut polled, interval.as_ref()) {
            Ok(_) if polled[1].revents().contains(PollFlags::IN) => return,
            // Unmounted or aborted.
            Ok(_) if polled[0].revents().contains(PollFlags::ERR) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return tracing::error!(%errno, "wait for a FUSE request"),
        }
        match rustix::io::read(queue, request.as_mut_slice()) {
            Ok(bytes) => answer(queue, &request[..bytes]),
            // Somebody else took it, or it was interrupted.
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => {}
            Err(Errno::NODEV) => return,
            Err(errno) => return tracing::error!(%errno, "read a FUSE request"),
        }
    }
}

/// Refuses what lies in the ledger. Only the queue that a request was read from takes its answer, and which one that was only
/// the ledger says: all are tried.
fn refuse_noted(kept: &Kept) {
    let Held {
        queues,
        image: _,
        ledger,
    } = kept.connection.held(&kept.descriptors);
    let ledger = ledger.map(|ledger| ledger.as_fd().try_clone_to_owned());
    let mut bytes = vec![0; ledger::BYTES];
    let read = ledger.map(|ledger| File::from(ledger?).read_exact_at(&mut bytes, 0));
    match read {
        Some(Ok(())) => {
            for number in ledger::numbers(&bytes) {
                queues.iter().for_each(|queue| refuse_number(queue, number));
            }
        }
        Some(Err(error)) => tracing::error!(%error, "read a ledger; what mounters took is not refused"),
        None => {}
    }
}

/// `fuse_in_header` of include/uapi/linux/fuse.h.
fn answer(queue: &OwnedFd, request: &[u8]) {
    /// FORGET, INTERRUPT and BATCH_FORGET have no answer.
    const SILENT: [u32; 3] = [2, 36, 42];
    let (Some(opcode), Some(unique)) = (request.get(4..8), request.get(8..).and_then(|rest| rest.first_chunk())) else {
        return;
    };
    if SILENT.iter().all(|silent| silent.to_ne_bytes() != opcode) {
        refuse_number(queue, u64::from_ne_bytes(*unique));
    }
}

/// `fuse_out_header`.
fn refuse_number(queue: &OwnedFd, unique: u64) {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&16u32.to_ne_bytes());
    out[4..8].copy_from_slice(&(-Errno::IO.raw_os_error()).to_ne_bytes());
    out[8..].copy_from_slice(&unique.to_ne_bytes());
    match rustix::io::write(queue, &out) {
        // ENOENT: whoever asked is gone, or another answer was first.
        Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
        Err(errno) => tracing::error!(%errno, "refuse a FUSE request"),
    }
}
