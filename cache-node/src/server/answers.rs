//! The buffers in which answers are put together: bounded in all, and for each connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use penstock_buffer::{Buffer, BufferPool};
use penstock_protocol::frame::READ_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::{BUFFER_WAIT_MAX, CONNECTION_ANSWERS_PART};

/// All buffers.
pub(super) struct Answers {
    buffers: BufferPool,
    permits: Arc<Semaphore>,
    count: usize,
    waiting: AtomicUsize,
}

/// A buffer, until it is dropped.
pub(super) struct Answer {
    pub(super) buffer: Buffer,
    _of_all: OwnedSemaphorePermit,
    _of_connection: OwnedSemaphorePermit,
}

impl Answers {
    /// So many.
    pub(super) fn new(count: usize) -> Self {
        Self {
            buffers: BufferPool::new(READ_BYTES_MAX as usize, count / 4),
            permits: Arc::new(Semaphore::new(count)),
            count,
            waiting: AtomicUsize::new(0),
        }
    }

    /// How many one connection may have.
    pub(super) fn of_connection(&self) -> usize {
        (self.count / CONNECTION_ANSWERS_PART).max(1)
    }

    /// Whether somebody waits because all are in use.
    pub(super) fn are_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// A buffer for a connection that has these permits; `None` when there is none in time.
    pub(super) async fn take(&self, of_connection: &Arc<Semaphore>) -> Option<Answer> {
        let taking = async {
            // Neither is ever closed.
            let of_connection = of_connection.clone().acquire_owned().await.ok()?;
            let _waits = match self.permits.clone().try_acquire_owned() {
                Ok(of_all) => return Some((of_connection, of_all)),
                Err(_) => Waits::begin(&self.waiting),
            };
            Some((of_connection, self.permits.clone().acquire_owned().await.ok()?))
        };
        let (_of_connection, _of_all) = timeout(BUFFER_WAIT_MAX, taking).await.ok()??;
        Some(Answer {
            buffer: self.buffers.take(),
            _of_all,
            _of_connection,
        })
    }
}

/// Somebody waits, until it is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
