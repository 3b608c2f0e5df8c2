//! One request to an origin, cut into units as its bytes arrive; repeated from where it broke.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::StreamExt;
use penstock_buffer::Buffer;
use penstock_protocol::checksum::block_checksum;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::Extent;
use rand::Rng;

use crate::engine::{Inner, ReadError};
use crate::inflight::{Arrived, Unit};
use crate::limits::{ORIGIN_ATTEMPTS_MAX, ORIGIN_RETRY_PAUSE, ORIGIN_SILENCE_MAX};
use crate::origin::{Origin, OriginError};
use crate::report::Counters;

/// Units of one extent, next to each other, that one request brings.
pub(crate) struct Fetch {
    pub(crate) engine: Arc<Inner>,
    pub(crate) revision: RevisionId,
    pub(crate) space: SpaceId,
    pub(crate) extent: Extent,
    pub(crate) origin: Arc<dyn Origin>,
    /// In order; those that have ended are taken out.
    pub(crate) units: std::collections::VecDeque<Arc<Unit>>,
}

impl Fetch {
    /// Brings all units, or ends them with the error.
    pub(crate) async fn run(mut self) {
        let mut attempts = 0;
        while !self.units.is_empty() {
            let before = self.units.len();
            // The semaphore is never closed.
            let permit = self.engine.origin_requests.clone().acquire_owned().await;
            let outcome = self.request().await;
            drop(permit);
            let Err(error) = outcome else { continue };
            attempts = if self.units.len() < before { 1 } else { attempts + 1 };
            if !error.may_pass() || attempts >= ORIGIN_ATTEMPTS_MAX {
                return self.fail(&error);
            }
            tracing::debug!(key = self.extent.object.key, %error, attempts, "a request to the origin failed; again");
            let pause = ORIGIN_RETRY_PAUSE * 2u32.pow(attempts - 1);
            let jitter = rand::rng().random_range(0.5..1.0);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
        }
    }

    /// One request for all that is left.
    async fn request(&mut self) -> Result<(), OriginError> {
        let (Some(first), Some(last)) = (self.units.front(), self.units.back()) else {
            return Ok(());
        };
        let start = first.range.start - self.extent.address;
        let end = (last.range.end - self.extent.address).min(self.extent.bytes);
        Counters::add(&self.engine.counters.origin_requests, 1);
        let silence = || {
            OriginError::Unreachable(format!(
                "the origin sent nothing for {} s",
                ORIGIN_SILENCE_MAX.as_secs()
            ))
        };
        let read = self.origin.read(&self.extent.object, self.extent.bytes, start..end);
        let mut body = tokio::time::timeout(ORIGIN_SILENCE_MAX, read)
            .await
            .map_err(|_| silence())??;
        let mut filling = Filling::new(&self.engine);
        loop {
            let piece = tokio::time::timeout(ORIGIN_SILENCE_MAX, body.next())
                .await
                .map_err(|_| silence())?;
            let Some(piece) = piece else { break };
            let piece = piece?;
            Counters::add(&self.engine.counters.origin_bytes, piece.len() as u64);
            let mut piece = &piece[..];
            while !piece.is_empty() {
                let Some(unit) = self.units.front().cloned() else {
                    return Err(OriginError::Other(format!(
                        "the origin sent more than was asked for of {}",
                        self.extent.object.key
                    )));
                };
                let bytes = self.object_bytes(&unit);
                filling.take(&mut piece, bytes);
                if filling.filled == bytes {
                    let buffer = std::mem::replace(&mut filling, Filling::new(&self.engine));
                    self.units.pop_front();
                    self.arrive(unit, buffer).await;
                }
            }
        }
        if self.units.is_empty() {
            return Ok(());
        }
        Err(OriginError::Unreachable(format!(
            "the origin ended early while sending {}",
            self.extent.object.key
        )))
    }

    /// Bytes of the object in a unit; the rest of the last block is zeros.
    fn object_bytes(&self, unit: &Unit) -> usize {
        (unit.range.end.min(self.extent.address + self.extent.bytes) - unit.range.start) as usize
    }

    async fn arrive(&self, unit: Arc<Unit>, filling: Filling) {
        let (engine, space, guard) = (
            self.engine.clone(),
            self.space,
            EndUnit(self.engine.clone(), self.space, unit),
        );
        // Writing to a disk can wait for the disk; the runtime's threads must not.
        let stored = tokio::task::spawn_blocking(move || {
            let arrived = store(&engine, &space, &guard.2, filling);
            guard.end(arrived);
        });
        if stored.await.is_err() {
            tracing::error!("storing a unit panicked; its readers were told");
        }
    }

    fn fail(mut self, error: &OriginError) {
        tracing::warn!(key = self.extent.object.key, revision = %self.revision, %error, "fetch from the origin");
        if let OriginError::Drifted(_) = error {
            self.engine.note_drift(self.revision, &self.extent.object.key);
        }
        let error = ReadError::from(error.clone());
        for unit in std::mem::take(&mut self.units) {
            self.engine
                .in_flight
                .end(&self.space, &unit, Arrived::Failed(error.clone()));
        }
    }
}

impl Drop for Fetch {
    /// Whatever happens to the task, nobody waits for ever.
    fn drop(&mut self) {
        for unit in std::mem::take(&mut self.units) {
            let ended = ReadError::Unavailable("the fetch was given up".to_owned());
            self.engine.in_flight.end(&self.space, &unit, Arrived::Failed(ended));
        }
    }
}

/// Ends its unit even when what should have done so panics.
struct EndUnit(Arc<Inner>, SpaceId, Arc<Unit>);

impl EndUnit {
    fn end(self, arrived: Arrived) {
        self.0.in_flight.end(&self.1, &self.2, arrived);
        // Done: the drop below is for the other ways out.
        std::mem::forget(self);
    }
}

impl Drop for EndUnit {
    fn drop(&mut self) {
        let ended = ReadError::Unavailable("the fetch was given up".to_owned());
        self.0.in_flight.end(&self.1, &self.2, Arrived::Failed(ended));
    }
}

/// The bytes of a unit as they come in.
struct Filling {
    buffer: Buffer,
    filled: usize,
}

impl Filling {
    fn new(engine: &Inner) -> Self {
        Self {
            buffer: engine.buffers.take(),
            filled: 0,
        }
    }

    /// Takes from `piece` what is missing to `bytes`.
    fn take(&mut self, piece: &mut &[u8], bytes: usize) {
        let (taken, rest) = piece.split_at(piece.len().min(bytes - self.filled));
        self.buffer[self.filled..self.filled + taken.len()].copy_from_slice(taken);
        self.filled += taken.len();
        *piece = rest;
    }
}

fn store(engine: &Inner, space: &SpaceId, unit: &Unit, mut filling: Filling) -> Arrived {
    let bytes = (unit.range.end - unit.range.start) as usize;
    filling.buffer[filling.filled..bytes].fill(0);
    let content = &filling.buffer[..bytes];
    let addresses = (unit.range.start..).step_by(BLOCK_BYTES as usize);
    let checksums: Vec<u32> = addresses
        .zip(content.chunks_exact(BLOCK_BYTES as usize))
        .map(|(address, block)| block_checksum(space, address, block))
        .collect();
    // A unit lies within a page, so within a stripe.
    let stored = BlockRange::new(unit.range.start, bytes as u64)
        .is_ok_and(|range| engine.store.store(space, range, content, &checksums).is_ok());
    if stored {
        return Arrived::Stored;
    }
    engine.counters.passed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    Arrived::Passed(Arc::new(filling.buffer))
}
