//! Answers with EIO in place of a mounter that does not come back, so that nobody waits for ever. It knows the two fields
//! of a request that it needs, and nothing of what is asked for.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use penstock_mount::fuse;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

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
    pub(super) fn begin(connection: &OwnedFd) -> io::Result<Self> {
        // A queue of its own, so that its flags are not those of the mounter.
        let queue = fuse::clone(connection).map_err(|error| io::Error::from(error.errno))?;
        rustix::io::ioctl_fionbio(&queue, true)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("refuse".into())
            .spawn(move || refuse(&queue, &stopped))?;
        let refusal = Self {
            stop,
            thread: Some(thread),
        };
        fuse::resend(connection)?;
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

fn refuse(queue: &OwnedFd, stop: &OwnedFd) {
    let mut request = vec![0; REQUEST_BYTES_MAX];
    loop {
        let mut polled = [PollFd::new(queue, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut polled, None) {
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

/// `fuse_in_header` and `fuse_out_header` of include/uapi/linux/fuse.h.
fn answer(queue: &OwnedFd, request: &[u8]) {
    /// FORGET, INTERRUPT and BATCH_FORGET have no answer.
    const SILENT: [u32; 3] = [2, 36, 42];
    let (Some(opcode), Some(unique)) = (request.get(4..8), request.get(8..16)) else {
        return;
    };
    if SILENT.iter().any(|silent| silent.to_ne_bytes() == opcode) {
        return;
    }
    let mut out = [0; 16];
    out[..4].copy_from_slice(&16u32.to_ne_bytes());
    out[4..8].copy_from_slice(&(-Errno::IO.raw_os_error()).to_ne_bytes());
    out[8..].copy_from_slice(unique);
    match rustix::io::write(queue, &out) {
        // ENOENT: whoever asked is gone, or another answer was first.
        Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
        Err(errno) => tracing::error!(%errno, "refuse a FUSE request"),
    }
}
