//! The requests to one source: who may send one and when, and what the source is known to bear. It must not know what is
//! asked for.
//!
//! [`pace`] says how many at the same time, [`breaker`] whether any at all, [`peers`] which of them are late. They decide and
//! are told the time; here is the queue, the lock and the clock.

mod breaker;
mod pace;
mod peers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::sync::Notify;
use tokio::time::timeout_at;

use self::breaker::Breaker;
use self::pace::{Pace, Turn};
use self::peers::Peers;
use crate::report::{Counters, OriginOutcome, SourceReport};
use penstock_origin::OriginError;

/// The requests to one source, whoever needs them; they survive a new configuration that names the source.
pub(crate) struct Requests {
    identity: String,
    counters: Arc<Counters>,
    state: Mutex<State>,
    /// Whoever holds it is the next that gets a place; the others wait in the order in which they came.
    first_in_queue: tokio::sync::Mutex<()>,
    /// Something happened after which there may be a place, or none for anybody.
    changed: Notify,
}

#[derive(Default)]
struct State {
    under_way: usize,
    pace: Pace,
    breaker: Breaker,
    peers: Peers,
    /// What the last request that was not answered failed with.
    last_failure: String,
}

/// Why a request may not be sent.
#[derive(Debug)]
pub(crate) enum NoPlace {
    /// The source is taken to be gone; a sentence for people.
    Gone(String),
    /// There was none in time.
    Late,
}

enum Entry {
    Place(Place),
    NotBefore(Instant),
    WhenOneEnds,
}

impl Requests {
    pub(crate) fn new(identity: &str, counters: Arc<Counters>) -> Self {
        Self {
            identity: identity.to_owned(),
            counters,
            state: Mutex::default(),
            first_in_queue: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The source for people.
    pub(crate) fn name(&self) -> &str {
        self.identity.split('@').next().unwrap_or_default()
    }

    /// Waits until one more request may be sent, not longer than `until`.
    pub(crate) async fn enter(self: &Arc<Self>, is_ahead: bool, until: Instant) -> Result<Place, NoPlace> {
        let entered = timeout_at(until.into(), async {
            let _first = self.first_in_queue.lock().await;
            loop {
                match self.try_enter(is_ahead)? {
                    Entry::Place(place) => return Ok(place),
                    // Or earlier, when the source is gone.
                    Entry::NotBefore(later) => drop(timeout_at(later.into(), self.changed.notified()).await),
                    Entry::WhenOneEnds => self.changed.notified().await,
                }
            }
        });
        entered.await.unwrap_or(Err(NoPlace::Late))
    }

    fn try_enter(self: &Arc<Self>, is_ahead: bool) -> Result<Entry, NoPlace> {
        let (now, mut state) = (Instant::now(), self.lock());
        let (breaker, may_be_sent) = state.breaker.next(breaker::Event::Wanted { is_ahead }, now, jitter());
        state.breaker = breaker;
        if let (false, Some(since)) = (may_be_sent, breaker.gone_since()) {
            self.counters.origin_outcomes.add(OriginOutcome::Refused);
            return Err(NoPlace::Gone(format!(
                "{} has not answered for {} s ({}); what is not cached cannot be read until it does, which is tried again \
                 every few seconds",
                self.name(),
                (now - since).as_secs(),
                state.last_failure
            )));
        }
        // The probe goes beside what hangs since before.
        if breaker.gone_since().is_none() {
            match state.pace.turn(state.under_way, now) {
                Turn::Now => {}
                Turn::At(later) => return Ok(Entry::NotBefore(later)),
                Turn::WhenOneEnds => return Ok(Entry::WhenOneEnds),
            }
        }
        state.peers.sent();
        Ok(Entry::Place(self.begin(&mut state, is_ahead)))
    }

    /// A place for a second request beside one that is late, if the source bears it.
    pub(crate) fn second(self: &Arc<Self>) -> Option<Place> {
        let mut state = self.lock();
        state.takes_second().then(|| self.begin(&mut state, false))
    }

    /// Whether a request may be given up for another one.
    pub(crate) fn takes_second(&self) -> bool {
        self.lock().takes_second()
    }

    /// After how long without a first byte a request is late; `None` while nothing is known.
    pub(crate) fn late_after(&self) -> Option<Duration> {
        self.lock().peers.late_after()
    }

    pub(crate) fn report(&self) -> SourceReport {
        let state = self.lock();
        SourceReport {
            identity: self.identity.clone(),
            is_gone: state.breaker.gone_since().is_some(),
            requests_max: state.pace.allowed(),
        }
    }

    fn begin(self: &Arc<Self>, state: &mut State, is_ahead: bool) -> Place {
        state.under_way += 1;
        Place {
            requests: self.clone(),
            is_ahead,
            sent_at: None,
            outcome: None,
        }
    }

    fn hear(&self, state: &mut State, event: breaker::Event) {
        let (before, now) = (state.breaker.gone_since(), Instant::now());
        (state.breaker, _) = state.breaker.next(event, now, jitter());
        match (before, state.breaker.gone_since()) {
            (None, Some(_)) => {
                state.pace = state.pace.next(pace::Event::Gone, now, jitter());
                tracing::warn!(
                    source = self.name(),
                    failure = state.last_failure,
                    "an origin does not answer: what is not cached is refused until it does"
                );
            }
            (Some(since), None) => {
                let seconds = (now - since).as_secs();
                tracing::info!(source = self.name(), seconds, "an origin answers again");
            }
            _ => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn takes_second(&mut self) -> bool {
        let now = Instant::now();
        self.breaker.is_well()
            && self.pace.is_calm(now)
            && self.pace.turn(self.under_way, now) == Turn::Now
            && self.peers.takes_second()
    }
}

/// One request under way. It counts until it is dropped.
pub(crate) struct Place {
    requests: Arc<Requests>,
    is_ahead: bool,
    sent_at: Option<Instant>,
    /// What came of it; `None` while nothing did.
    outcome: Option<OriginOutcome>,
}

impl Place {
    /// The request is sent now.
    pub(crate) fn sent(&mut self) {
        self.sent_at = Some(Instant::now());
        Counters::add(&self.requests.counters.origin_requests, 1);
    }

    /// The first byte came.
    pub(crate) fn answered(&mut self) {
        self.outcome = Some(OriginOutcome::Ok);
        let now = Instant::now();
        let sent_at = self.sent_at.unwrap_or(now);
        let mut state = self.requests.lock();
        state.peers.answered(now - sent_at);
        state.pace = state.pace.next(pace::Event::Answered { sent_at }, now, jitter());
        self.requests.hear(&mut state, breaker::Event::Answered);
        drop(state);
        self.requests.changed.notify_one();
    }

    /// It was not answered, or broke off.
    pub(crate) fn failed(&mut self, error: &OriginError) {
        let before = self.outcome.replace(OriginOutcome::of(error));
        let now = Instant::now();
        let sent_at = self.sent_at.unwrap_or(now);
        let mut state = self.requests.lock();
        let event = match error {
            OriginError::Unreachable(text) => {
                state.last_failure.clone_from(text);
                breaker::Event::Failed {
                    is_ahead: self.is_ahead,
                    // A body was coming until now.
                    silent_since: if before.is_some() { now } else { sent_at },
                }
            }
            OriginError::Throttled { text: _, wait } => {
                let wait = *wait;
                let throttled = pace::Event::Throttled { sent_at, wait };
                state.pace = state.pace.next(throttled, now, jitter());
                breaker::Event::Answered
            }
            OriginError::Denied(_) | OriginError::NotFound(_) | OriginError::Drifted(_) | OriginError::Other(_) => {
                breaker::Event::Answered
            }
            // Perhaps nobody was asked.
            OriginError::Invalid(_) | OriginError::NotAllowed(_) => breaker::Event::GivenUp,
        };
        self.requests.hear(&mut state, event);
        drop(state);
        self.requests.changed.notify_one();
    }

    /// Another one is sent in its place.
    pub(crate) fn given_up(&mut self) {
        self.outcome = Some(OriginOutcome::Hedged);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.requests.lock();
        state.under_way -= 1;
        if self.outcome.is_none() {
            self.requests.hear(&mut state, breaker::Event::GivenUp);
        }
        drop(state);
        if self.sent_at.is_some() {
            let outcome = self.outcome.unwrap_or(OriginOutcome::Hedged);
            self.requests.counters.origin_outcomes.add(outcome);
        }
        self.requests.changed.notify_one();
    }
}

/// The part of a pause that is kept, so that nodes that were told the same do not come back together.
fn jitter() -> f64 {
    rand::rng().random_range(0.5..1.0)
}
