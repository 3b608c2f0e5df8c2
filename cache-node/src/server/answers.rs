//! The buffers in which answers are put together: bounded in all, and for each connection.

use std::sync::Arc;

use penstock_buffer::{Buffer, BufferPool};
use penstock_protocol::frame::READ_BYTES_MAX;
use penstock_protocol::ids::RevisionId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::shares::{Place, Shares};
use crate::limits::{BUFFER_WAIT_MAX, CONNECTION_ANSWERS_PART};

/// All buffers.
pub(super) struct Answers {
    buffers: BufferPool,
    shares: Arc<Shares>,
    count: usize,
}

/// A buffer, until it is dropped.
pub(super) struct Answer {
    pub(super) buffer: Buffer,
    _of_all: Place,
    _of_connection: OwnedSemaphorePermit,
    _used: Arc<()>,
}

/// What one connection may have, and has.
pub(super) struct Allowance {
    permits: Arc<Semaphore>,
    used: Arc<()>,
}

impl Allowance {
    pub(super) fn new(of: &Answers) -> Self {
        Self {
            permits: Arc::new(Semaphore::new((of.count / CONNECTION_ANSWERS_PART).max(1))),
            used: Arc::default(),
        }
    }

    /// Whether it has any.
    pub(super) fn is_used(&self) -> bool {
        Arc::strong_count(&self.used) > 1
    }
}

impl Answers {
    /// So many.
    pub(super) fn new(count: usize) -> Self {
        Self {
            buffers: BufferPool::new(READ_BYTES_MAX as usize, count / 4),
            shares: Shares::new(count),
            count,
        }
    }

    /// How many are used, and how many reads wait for one.
    pub(super) fn depth(&self) -> (usize, usize) {
        self.shares.depth()
    }

    /// Whether somebody waits for one.
    pub(super) fn are_waited_for(&self) -> bool {
        self.shares.are_waited_for()
    }

    /// A buffer for a read of a revision, for a connection that may have one; `None` when there is none in time.
    pub(super) async fn take(&self, revision: &RevisionId, allowance: &Allowance) -> Option<Answer> {
        let entering = async {
            // Never closed.
            let of_connection = allowance.permits.clone().acquire_owned().await.ok()?;
            Some((of_connection, self.shares.enter(revision, 1, BUFFER_WAIT_MAX).await?))
        };
        let (_of_connection, _of_all) = timeout(BUFFER_WAIT_MAX, entering).await.ok()??;
        Some(Answer {
            buffer: self.buffers.take(),
            _of_all,
            _of_connection,
            _used: allowance.used.clone(),
        })
    }
}
