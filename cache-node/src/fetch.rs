//! One request to an origin, cut into units as its bytes arrive; repeated from where it broke.

use std::sync::Arc;

use futures::StreamExt;
use penstock_buffer::Buffer;
use penstock_protocol::checksum::block_checksum;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::Extent;
use rand::Rng;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::error::ReadError;
use crate::inflight::{Arrived, Fate, Unit};
use crate::intake::Intake;
use crate::limits::{ORIGIN_ATTEMPTS_MAX, ORIGIN_RETRY_PAUSE, ORIGIN_SILENCE_MAX};
use crate::origin::{Origin, OriginError};
use crate::report::Counters;

/// An origin, and how many more requests it may be sent.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) origin: Arc<dyn Origin>,
    pub(crate) requests: Arc<Semaphore>,
}

/// Units of one extent, next to each other, that one request brings.
pub(crate) struct Fetch {
    pub(crate) intake: Arc<Intake>,
    pub(crate) revision: RevisionId,
    pub(crate) space: SpaceId,
    pub(crate) extent: Extent,
    pub(crate) source: Source,
    /// Nobody has asked for it yet: what goes wrong is told to who does.
    pub(crate) is_ahead: bool,
    /// In order; those that have ended are taken out.
    pub(crate) units: std::collections::VecDeque<Arc<Unit>>,
}

impl Fetch {
    /// Brings all units, or ends them with the error.
    pub(crate) async fn run(mut self) {
        let mut attempts = 0;
        while !self.units.is_empty() {
            let before = self.units.len();
            // The semaphores are never closed. The source's first: who waits for a stuck source holds nothing of the others.
            let of_source = self.source.requests.clone().acquire_owned().await;
            let of_node = self.intake.requests.clone().acquire_owned().await;
            let outcome = self.request().await;
            drop((of_source, of_node));
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
        Counters::add(&self.intake.counters.origin_requests, 1);
        let silence = || {
            OriginError::Unreachable(format!(
                "the origin sent nothing for {} s",
                ORIGIN_SILENCE_MAX.as_secs()
            ))
        };
        let read = self
            .source
            .origin
            .read(&self.extent.object, self.extent.bytes, start..end);
        let mut body = tokio::time::timeout(ORIGIN_SILENCE_MAX, read)
            .await
            .map_err(|_| silence())??;
        let mut filling = Filling::new(&self.intake);
        let mut storing = Storing::default();
        loop {
            let piece = tokio::time::timeout(ORIGIN_SILENCE_MAX, body.next())
                .await
                .map_err(|_| silence())?;
            let Some(piece) = piece else { break };
            let piece = piece?;
            Counters::add(&self.intake.counters.origin_bytes, piece.len() as u64);
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
                    let buffer = std::mem::replace(&mut filling, Filling::new(&self.intake));
                    self.units.pop_front();
                    storing.begin(self.storing(unit, buffer)).await;
                }
            }
        }
        storing.end().await;
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

    /// Stores a unit and ends it. Writing to a disk can wait for the disk; the runtime's threads must not.
    fn storing(&self, unit: Arc<Unit>, filling: Filling) -> JoinHandle<()> {
        let ending = EndUnit {
            intake: self.intake.clone(),
            space: self.space,
            unit,
            arrived: None,
        };
        tokio::task::spawn_blocking(move || {
            let arrived = store(&ending.intake, &ending.space, &ending.unit, filling);
            ending.end(arrived);
        })
    }

    fn fail(mut self, error: &OriginError) {
        let key = &self.extent.object.key;
        if self.is_ahead {
            tracing::debug!(key, revision = %self.revision, %error, "bring from the origin");
        } else {
            tracing::warn!(key, revision = %self.revision, %error, "fetch from the origin");
            if let OriginError::Drifted(_) = error {
                self.intake.note_drift(self.revision, key);
            }
        }
        let error = ReadError::from(error.clone());
        for unit in std::mem::take(&mut self.units) {
            self.intake
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
            self.intake.in_flight.end(&self.space, &unit, Arrived::Failed(ended));
        }
    }
}

/// A unit that is being stored while the next one is received. Not more than one, so that a slow disk slows the origin down
/// instead of filling the memory.
#[derive(Default)]
struct Storing(Option<JoinHandle<()>>);

impl Storing {
    async fn begin(&mut self, storing: JoinHandle<()>) {
        if let Some(before) = self.0.replace(storing) {
            Self::wait(before).await;
        }
    }

    async fn end(self) {
        if let Some(last) = self.0 {
            Self::wait(last).await;
        }
    }

    async fn wait(storing: JoinHandle<()>) {
        if storing.await.is_err() {
            tracing::error!("storing a unit panicked; its readers were told");
        }
    }
}

/// Ends its unit even when what should have done so panics.
struct EndUnit {
    intake: Arc<Intake>,
    space: SpaceId,
    unit: Arc<Unit>,
    arrived: Option<Arrived>,
}

impl EndUnit {
    fn end(mut self, arrived: Arrived) {
        self.arrived = Some(arrived);
    }
}

impl Drop for EndUnit {
    fn drop(&mut self) {
        let given_up = || Arrived::Failed(ReadError::Unavailable("the fetch was given up".to_owned()));
        let arrived = self.arrived.take().unwrap_or_else(given_up);
        self.intake.in_flight.end(&self.space, &self.unit, arrived);
    }
}

/// The bytes of a unit as they come in.
struct Filling {
    buffer: Buffer,
    filled: usize,
}

impl Filling {
    fn new(intake: &Intake) -> Self {
        Self {
            buffer: intake.buffers.take(),
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

fn store(intake: &Intake, space: &SpaceId, unit: &Unit, mut filling: Filling) -> Arrived {
    let bytes = (unit.range.end - unit.range.start) as usize;
    filling.buffer[filling.filled..bytes].fill(0);
    let content = &filling.buffer[..bytes];
    let addresses = (unit.range.start..).step_by(BLOCK_BYTES as usize);
    let checksums: Vec<u32> = addresses
        .zip(content.chunks_exact(BLOCK_BYTES as usize))
        .map(|(address, block)| block_checksum(space, address, block))
        .collect();
    // A unit lies within a page, so within a stripe.
    let is_stored = unit.fate != Fate::GivenOn
        && BlockRange::new(unit.range.start, bytes as u64)
            .is_ok_and(|range| intake.tiers.store_unit(space, range, (content, &checksums), unit.fate));
    if !is_stored {
        Counters::add(&intake.counters.passed_bytes, bytes as u64);
    }
    Arrived::Here(Arc::new(filling.buffer))
}
