//! Readers of a space that answer at once, later, never, or with a failure.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use penstock_mounter::{ReadFailure, SpaceReader, TryRead};
use penstock_protocol::geometry::BlockRange;
use tokio::sync::Semaphore;

use crate::fake_node::content;

/// Everything is at hand.
pub struct AtHand;

/// Nothing is at hand, everything can be had.
pub struct Fetched;

/// Fails while told so.
pub struct Failing(pub AtomicBool);

/// Holds reads of the space from an address on until permits are added; the rest is at hand.
pub struct Holding {
    pub from: u64,
    pub held: AtomicUsize,
    pub permits: Semaphore,
}

impl Holding {
    pub fn from(from: u64) -> Self {
        Self {
            from,
            held: AtomicUsize::new(0),
            permits: Semaphore::new(0),
        }
    }

    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl SpaceReader for AtHand {
    fn try_read(&self, range: BlockRange, into: &mut [u8]) -> TryRead {
        into.copy_from_slice(&content(range.address(), into.len()));
        TryRead::Hit
    }

    async fn read(&self, _: BlockRange, _: &mut [u8]) -> Result<(), ReadFailure> {
        Err(ReadFailure::Unavailable("everything is at hand".to_owned()))
    }
}

#[async_trait]
impl SpaceReader for Fetched {
    fn try_read(&self, _: BlockRange, _: &mut [u8]) -> TryRead {
        TryRead::Miss
    }

    async fn read(&self, range: BlockRange, into: &mut [u8]) -> Result<(), ReadFailure> {
        into.copy_from_slice(&content(range.address(), into.len()));
        Ok(())
    }
}

#[async_trait]
impl SpaceReader for Failing {
    fn try_read(&self, _: BlockRange, _: &mut [u8]) -> TryRead {
        TryRead::Miss
    }

    async fn read(&self, range: BlockRange, into: &mut [u8]) -> Result<(), ReadFailure> {
        if self.0.load(Ordering::SeqCst) {
            return Err(ReadFailure::Drifted("told to fail".to_owned()));
        }
        Fetched.read(range, into).await
    }
}

#[async_trait]
impl SpaceReader for Holding {
    fn try_read(&self, range: BlockRange, into: &mut [u8]) -> TryRead {
        if range.end() > self.from {
            return TryRead::Miss;
        }
        AtHand.try_read(range, into)
    }

    async fn read(&self, range: BlockRange, into: &mut [u8]) -> Result<(), ReadFailure> {
        self.held.fetch_add(1, Ordering::SeqCst);
        let permit = self.permits.acquire().await;
        permit
            .map_err(|_| ReadFailure::Unavailable("closed".to_owned()))?
            .forget();
        Fetched.read(range, into).await
    }
}
