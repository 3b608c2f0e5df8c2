//! A read that waits for an origin, in steps: nothing but what has arrived is held while it waits.

use std::sync::Arc;

use penstock_protocol::geometry::BlockRange;

use super::{Announced, Gathered, Inner, ReadError, TryRead};
use crate::limits::DAMAGED_BLOCK_ATTEMPTS_MAX;

/// The read. [`Miss::arrive`] and [`Miss::try_read`] take turns until one says that it is over.
pub struct Miss {
    inner: Arc<Inner>,
    announced: Arc<Announced>,
    range: BlockRange,
    /// What has arrived once is kept: a disk may spoil one part while another is fetched anew.
    gathered: Gathered,
    attempts_left: u32,
}

impl Miss {
    pub(super) fn new(inner: Arc<Inner>, announced: Arc<Announced>, range: BlockRange) -> Self {
        Self {
            inner,
            announced,
            range,
            gathered: Gathered::default(),
            attempts_left: DAMAGED_BLOCK_ATTEMPTS_MAX + 1,
        }
    }

    /// Starts what is missing and waits for it.
    ///
    /// # Errors
    /// See [`ReadError`]; also when it has arrived several times and the store spoils it each time.
    pub async fn arrive(&mut self) -> Result<(), ReadError> {
        self.attempts_left = self.attempts_left.checked_sub(1).ok_or_else(|| {
            ReadError::Unavailable("the cache cannot keep this block and the origin was asked in vain".to_owned())
        })?;
        self.inner.gather(&self.announced, self.range, &mut self.gathered).await
    }

    /// Puts together what has arrived and what is stored. Arguments as for [`super::Engine::try_read`].
    pub fn try_read(&self, into: &mut [u8], checksums: Option<&mut [u32]>) -> TryRead {
        let space = self.announced.package.space();
        self.inner.assemble(&space, self.range, &self.gathered, into, checksums)
    }
}
