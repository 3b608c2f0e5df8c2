//! A run of units from an origin: asked for, cut into units as its bytes arrive, repeated from where it broke.
//!
//! ```text
//! waits for a place ──► sent ──first byte──► received ──► units end
//!   ▲   │               │ late: a second one, and whoever answers first goes on
//!   │   └ source gone, or 90 s without a unit: the rest fails
//!   └── slow down: no attempt; not answered, broke off: one of four; stalled: at once
//! ```

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::select_ok;
use penstock_buffer::Buffer;
use penstock_protocol::checksum::block_checksum;
use penstock_protocol::geometry::{BLOCK_BYTES, BlockRange};
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::Extent;
use rand::Rng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{timeout, timeout_at};

use crate::error::ReadError;
use crate::inflight::{Arrived, Fate, Unit};
use crate::intake::Intake;
use crate::limits::{
    BODY_STALL_MAX, ORIGIN_ATTEMPTS_MAX, ORIGIN_PATIENCE, ORIGIN_RETRY_PAUSE, ORIGIN_SILENCE_MAX, SMALL_UNIT_BYTES_MAX,
};
use crate::report::Counters;
use crate::requests::{NoPlace, Place, Requests};
use penstock_origin::{Body, Origin, OriginError};

/// An origin, and the requests to it.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) origin: Arc<dyn Origin>,
    pub(crate) requests: Arc<Requests>,
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

/// A request among those of its source and among those of the node.
struct Places {
    of_source: Place,
    _of_node: OwnedSemaphorePermit,
}

/// Why a request did not bring everything.
enum Broken {
    Failed(OriginError),
    /// Its body pauses for longer than it should, and asking anew is paid for.
    Stalls,
}

impl From<OriginError> for Broken {
    fn from(error: OriginError) -> Self {
        Self::Failed(error)
    }
}

impl Fetch {
    /// Brings all units, or ends them with the error.
    pub(crate) async fn run(mut self) {
        let (mut attempts, mut until, mut last) = (0, Instant::now() + ORIGIN_PATIENCE, None);
        while !self.units.is_empty() {
            let places = match self.enter(until).await {
                Ok(places) => places,
                Err(NoPlace::Gone(sentence)) => return self.refuse(sentence),
                Err(NoPlace::Late) => {
                    let error = last.unwrap_or_else(|| self.late());
                    return self.fail(&error);
                }
            };
            let before = self.units.len();
            let outcome = self.request(places).await;
            if self.units.len() < before {
                (attempts, until) = (0, Instant::now() + ORIGIN_PATIENCE);
            }
            let error = match outcome {
                Ok(()) | Err(Broken::Stalls) => continue,
                Err(Broken::Failed(error)) => error,
            };
            let key = &self.extent.object.key;
            tracing::debug!(key, %error, attempts, "a request to the origin failed");
            if let OriginError::Throttled { .. } = error {
                // The pause is that of the source.
                last = Some(error);
                continue;
            }
            attempts += 1;
            if !error.may_pass() || attempts >= ORIGIN_ATTEMPTS_MAX {
                return self.fail(&error);
            }
            last = Some(error);
            let pause = ORIGIN_RETRY_PAUSE * 2u32.pow(attempts - 1);
            let jitter = rand::rng().random_range(0.5..1.0);
            tokio::time::sleep(pause.mul_f64(jitter)).await;
        }
    }

    /// The source's place first: who waits for a stuck source holds nothing of the others.
    async fn enter(&self, until: Instant) -> Result<Places, NoPlace> {
        let of_source = self.source.requests.enter(self.is_ahead, until).await?;
        // Before the request begins to count as one that is not answered.
        if let Some(meter) = self.source.origin.meter()
            && !meter.turn(until).await
        {
            return Err(NoPlace::Late);
        }
        // The semaphore is never closed.
        let fetches = self.fetches();
        let of_node = timeout_at(until.into(), fetches.acquire_many_owned(self.memory_kib())).await;
        let Ok(Ok(of_node)) = of_node else {
            return Err(NoPlace::Late);
        };
        Ok(Places {
            of_source,
            _of_node: of_node,
        })
    }

    /// What bounds it. A fetch from a cache may wait for one from an origin on this very node, so it must not hold its room.
    fn fetches(&self) -> Arc<Semaphore> {
        let intake = &self.intake;
        let is_from_cache = self.source.origin.is_a_cache();
        (if is_from_cache {
            &intake.fetches_from_caches
        } else {
            &intake.fetches
        })
        .clone()
    }

    /// What its buffers take at the most.
    fn memory_kib(&self) -> u32 {
        let bytes = self.units.iter().map(|unit| unit.range.end - unit.range.start);
        self.intake.memory.fetch_kib(bytes.max().unwrap_or(0))
    }

    /// Places for a second request, if both the source and the node have them now.
    fn second(&self) -> Option<Places> {
        let fetches = self.fetches();
        let of_node = fetches.try_acquire_many_owned(self.memory_kib()).ok()?;
        if self.source.origin.meter().is_some_and(|meter| !meter.takes_turn()) {
            return None;
        }
        let of_source = self.source.requests.second()?;
        Some(Places {
            of_source,
            _of_node: of_node,
        })
    }

    /// One request for all that is left.
    async fn request(&mut self, places: Places) -> Result<(), Broken> {
        let (Some(first), Some(last)) = (self.units.front(), self.units.back()) else {
            return Ok(());
        };
        let start = first.range.start - self.extent.address;
        let end = (last.range.end - self.extent.address).min(self.extent.bytes);
        let (mut places, body) = self.answer(places, start..end).await?;
        let received = self.receive(body).await;
        match &received {
            Ok(()) => {}
            Err(Broken::Failed(error)) => places.of_source.failed(error),
            Err(Broken::Stalls) => places.of_source.given_up(),
        }
        received
    }

    /// The body that begins first: that of the request, or of a second one when the first is late and somebody waits.
    async fn answer(&self, places: Places, range: Range<u64>) -> Result<(Places, Body), OriginError> {
        let mut first = pin!(self.ask(places, range.clone()));
        let late_after = self.source.requests.late_after().filter(|_| !self.is_ahead);
        if let Some(late_after) = late_after {
            if let Ok(answer) = timeout(late_after, &mut first).await {
                return answer;
            }
            if let Some(places) = self.second() {
                let second = pin!(self.ask(places, range));
                // The other one is dropped before its body is read.
                return select_ok([first, second]).await.map(|(answer, _)| answer);
            }
        }
        first.await
    }

    /// One request up to its first byte.
    async fn ask(&self, mut places: Places, range: Range<u64>) -> Result<(Places, Body), OriginError> {
        places.of_source.sent();
        let (extent, origin) = (&self.extent, &self.source.origin);
        let read = origin.read(&extent.object, extent.bytes, range);
        let answer = timeout(self.silence_max(), read).await;
        match answer.unwrap_or_else(|_| Err(self.silence())) {
            Ok(body) => {
                places.of_source.answered();
                Ok((places, body))
            }
            Err(error) => {
                places.of_source.failed(&error);
                Err(error)
            }
        }
    }

    /// Cuts a body into units.
    async fn receive(&mut self, mut body: Body) -> Result<(), Broken> {
        let mut filling = None;
        let mut storing = Storing::default();
        while let Some(piece) = self.piece(&mut body).await? {
            let bytes = piece.len();
            Counters::add(&self.intake.counters.origin_bytes, bytes as u64);
            let mut piece = &piece[..];
            while !piece.is_empty() {
                let Some(unit) = self.units.front().cloned() else {
                    let key = &self.extent.object.key;
                    let more = format!("the origin sent more than was asked for of {key}");
                    return Err(OriginError::Other(more).into());
                };
                let wanted = self.object_bytes(&unit);
                let mut part = filling.take().unwrap_or_else(|| Filling::new(&self.intake, &unit));
                part.take(&mut piece, wanted);
                if part.filled < wanted {
                    filling = Some(part);
                } else {
                    self.units.pop_front();
                    storing.begin(self.storing(unit, part)).await;
                }
            }
            // The origin is not late while nobody takes from it.
            if let Some(meter) = self.source.origin.meter() {
                meter.taken(bytes).await;
            }
        }
        storing.end().await;
        if self.units.is_empty() {
            return Ok(());
        }
        let key = &self.extent.object.key;
        Err(OriginError::Unreachable(format!("the origin ended early while sending {key}")).into())
    }

    /// The next bytes of a body; `None` at its end.
    async fn piece(&self, body: &mut Body) -> Result<Option<Bytes>, Broken> {
        let piece = match timeout(BODY_STALL_MAX, body.next()).await {
            Ok(piece) => piece,
            Err(_) if !self.is_ahead && self.source.requests.takes_second() => return Err(Broken::Stalls),
            Err(_) => {
                let rest = timeout(self.silence_max() - BODY_STALL_MAX, body.next()).await;
                rest.map_err(|_| self.silence())?
            }
        };
        Ok(piece.transpose()?)
    }

    /// Patience with a source that sends nothing. Cache nodes may rightly wait for their origin themselves, and whether they are
    /// there at all their client finds out.
    fn silence_max(&self) -> Duration {
        if self.source.origin.is_a_cache() {
            ORIGIN_PATIENCE
        } else {
            ORIGIN_SILENCE_MAX
        }
    }

    fn silence(&self) -> OriginError {
        OriginError::Unreachable(format!(
            "{} sent nothing for {} s; check the network from the cache nodes",
            self.source.requests.name(),
            self.silence_max().as_secs()
        ))
    }

    fn late(&self) -> OriginError {
        OriginError::Other(format!(
            "other requests to {}, or the limits of the source, took all of {} s",
            self.source.requests.name(),
            ORIGIN_PATIENCE.as_secs()
        ))
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

    fn fail(&mut self, error: &OriginError) {
        let key = &self.extent.object.key;
        if self.is_ahead {
            tracing::debug!(key, revision = %self.revision, %error, "bring from the origin");
        } else {
            tracing::warn!(key, revision = %self.revision, %error, "fetch from the origin");
            let note = |fault| self.intake.note_unread(self.space, self.revision, key, fault);
            match error {
                OriginError::Drifted(_) => note(""),
                OriginError::Denied(fault) | OriginError::Invalid(fault) => note(fault),
                _ => {}
            }
        }
        self.end(&ReadError::from(error.clone()));
    }

    /// That the source is gone was said when it was noticed.
    fn refuse(&mut self, sentence: String) {
        self.end(&ReadError::Unavailable(sentence));
    }

    fn end(&mut self, error: &ReadError) {
        for unit in std::mem::take(&mut self.units) {
            let failed = Arrived::Failed(error.clone());
            self.intake.in_flight.end(&self.space, &unit, failed);
        }
    }
}

impl Drop for Fetch {
    /// Whatever happens to the task, nobody waits for ever.
    fn drop(&mut self) {
        self.end(&ReadError::Unavailable("the fetch was given up".to_owned()));
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
    fn new(intake: &Intake, unit: &Unit) -> Self {
        let bytes = unit.range.end - unit.range.start;
        let buffer = if bytes <= SMALL_UNIT_BYTES_MAX {
            Buffer::alone(bytes as usize)
        } else {
            intake.buffers.take()
        };
        Self { buffer, filled: 0 }
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
