//! Whether a source is asked at all. Pure: it is told the time.
//!
//! ```text
//! closed ──5 failures in a row, over a second──► open ──a reader, after the pause──► probed ──answered──► closed
//!                                                 ▲                                    │
//!                                                 └── failed: twice the pause, ≤ 10 s ─┘
//! ```
//!
//! A failure is a request that was not answered. A refusal is an answer: who sends one is there.

use std::time::{Duration, Instant};

use crate::limits::{BREAKER_FAILURES, BREAKER_GONE_MIN, BREAKER_PAUSE_MAX, BREAKER_PAUSE_MIN, BREAKER_ROW_MAX};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breaker {
    /// Everything is sent.
    Closed {
        /// Failures since the last answer.
        failures: u32,
        /// When that came, or the first of them began to wait in vain, whichever is later.
        since: Option<Instant>,
    },
    /// Nothing is sent.
    Open {
        since: Instant,
        /// Then one reader's request is sent.
        until: Instant,
        pause: Duration,
    },
    /// One reader's request is on its way; nothing else is sent.
    Probed { since: Instant, pause: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A request would be sent. What nobody waits for is never the probe: it would not be told to anybody.
    Wanted { is_ahead: bool },
    /// Something came back, an error too.
    Answered,
    /// Nothing came back, or nothing more, since then. What nobody waits for does not count: it must not take anything from
    /// readers.
    Failed { is_ahead: bool, silent_since: Instant },
    /// A request ended and nothing is known from it.
    GivenUp,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed {
            failures: 0,
            since: None,
        }
    }
}

impl Breaker {
    /// The state after an event, and whether a request that is wanted may be sent. `jitter` is between 0 and 1: the part of a
    /// pause that is kept.
    pub(super) fn next(self, event: Event, now: Instant, jitter: f64) -> (Self, bool) {
        let open = |since, pause: Duration| Self::Open {
            since,
            until: now + pause.mul_f64(jitter),
            pause,
        };
        match (self, event) {
            (_, Event::Answered) => {
                let (failures, since) = (0, Some(now));
                (Self::Closed { failures, since }, true)
            }
            (
                Self::Closed { failures, since },
                Event::Failed {
                    is_ahead: false,
                    silent_since,
                },
            ) => {
                let (failures, since) = match since {
                    Some(since) if failures > 0 && now < since + BREAKER_ROW_MAX => (failures + 1, since),
                    _ => (1, since.map_or(silent_since, |since| since.max(silent_since))),
                };
                if failures >= BREAKER_FAILURES && now >= since + BREAKER_GONE_MIN {
                    return (open(since, BREAKER_PAUSE_MIN), false);
                }
                let since = Some(since);
                (Self::Closed { failures, since }, true)
            }
            (Self::Closed { .. }, _) => (self, true),
            (Self::Open { since, until, pause }, Event::Wanted { is_ahead: false }) if now >= until => {
                (Self::Probed { since, pause }, true)
            }
            // What was sent before it opened.
            (Self::Open { .. }, _) => (self, false),
            (Self::Probed { since, pause }, Event::Failed { .. }) => {
                (open(since, (2 * pause).min(BREAKER_PAUSE_MAX)), false)
            }
            (Self::Probed { since, pause }, Event::GivenUp) => {
                let until = now;
                (Self::Open { since, until, pause }, false)
            }
            (Self::Probed { .. }, Event::Wanted { .. }) => (self, false),
        }
    }

    /// Since when the source has not answered, if it is taken to be gone.
    pub(super) fn gone_since(&self) -> Option<Instant> {
        match self {
            Self::Closed { .. } => None,
            Self::Open { since, .. } | Self::Probed { since, .. } => Some(*since),
        }
    }

    /// Whether nothing has failed since the last answer.
    pub(super) fn is_well(&self) -> bool {
        matches!(self, Self::Closed { failures: 0, .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Wanted,
        WantedAhead,
        Answered,
        /// After so many milliseconds of silence.
        Failed(u64),
        FailedAhead,
        GivenUp,
    }
    use Step::{Answered, Failed, FailedAhead, GivenUp, Wanted, WantedAhead};

    /// Feeds steps at milliseconds since the beginning; returns the state and which of the wanted requests were sent.
    fn after(steps: &[(u64, Step)]) -> (Breaker, Vec<u64>, Instant) {
        let start = Instant::now();
        let (mut breaker, mut sent) = (Breaker::default(), Vec::new());
        for (at, step) in steps {
            let now = start + Duration::from_millis(*at);
            let failed = |is_ahead, millis| Event::Failed {
                is_ahead,
                silent_since: now - Duration::from_millis(millis),
            };
            let event = match step {
                Wanted => Event::Wanted { is_ahead: false },
                WantedAhead => Event::Wanted { is_ahead: true },
                Answered => Event::Answered,
                Failed(millis) => failed(false, *millis),
                FailedAhead => failed(true, 0),
                GivenUp => Event::GivenUp,
            };
            let (next, may_be_sent) = breaker.next(event, now, 1.0);
            breaker = next;
            if may_be_sent && matches!(event, Event::Wanted { .. }) {
                sent.push(*at);
            }
        }
        (breaker, sent, start)
    }

    /// Open from the first second on.
    const GONE: [(u64, Step); 5] = [
        (0, Failed(0)),
        (0, Failed(0)),
        (0, Failed(0)),
        (0, Failed(0)),
        (1000, Failed(0)),
    ];

    #[test]
    fn it_opens_when_nothing_is_answered_for_a_while() {
        let silent = |at, millis| vec![(at, Failed(millis)); 5];
        for (steps, gone_since) in [
            (vec![], None),
            // A moment in which all connections broke.
            (vec![(0, Failed(0)); 64], None),
            (vec![(0, Failed(0)), (5000, Failed(0))], None),
            (GONE.to_vec(), Some(0)),
            (silent(5000, 4000), Some(1000)),
            // Others were answered meanwhile.
            ([vec![(4500, Answered)], silent(5000, 4000)].concat(), None),
            ([vec![(3500, Answered)], silent(5000, 4000)].concat(), Some(3500)),
            (
                [GONE[..4].to_vec(), vec![(500, Answered), (1000, Failed(0))]].concat(),
                None,
            ),
            // Four failures long ago and one now are no row.
            ([GONE[..4].to_vec(), vec![(180_000, Failed(0))]].concat(), None),
            ([GONE[..4].to_vec(), vec![(1000, FailedAhead); 9]].concat(), None),
            ([GONE[..4].to_vec(), vec![(1000, GivenUp); 9]].concat(), None),
        ] {
            let (breaker, _, start) = after(&steps);
            let expected = gone_since.map(|millis| start + Duration::from_millis(millis));
            assert_eq!(breaker.gone_since(), expected, "{steps:?}");
        }
    }

    #[test]
    fn one_reader_finds_out_whether_the_source_is_back() {
        for (steps, sent) in [
            (&[(1999, Wanted)][..], &[][..]),
            (&[(2000, WantedAhead), (2001, Wanted), (2002, Wanted)], &[2001]),
            (&[(2000, Wanted), (2100, Answered), (2101, WantedAhead)], &[2000, 2101]),
            // What was sent before it opened.
            (&[(1500, Answered), (1501, Wanted)], &[1501]),
            (&[(1500, Failed(900)), (2000, Wanted)], &[2000]),
            // Twice the pause after a probe that failed, none after one of which nothing is known.
            (
                &[(2000, Wanted), (2100, Failed(100)), (4099, Wanted), (4100, Wanted)],
                &[2000, 4100],
            ),
            (&[(2000, Wanted), (2100, GivenUp), (2101, Wanted)], &[2000, 2101]),
        ] {
            let steps = [&GONE[..], steps].concat();
            assert_eq!(after(&steps).1, sent, "{steps:?}");
        }
    }

    #[test]
    fn pauses_grow_up_to_a_bound_and_since_when_is_not_forgotten() {
        let mut steps = GONE.to_vec();
        for at in (1..60).map(|seconds| 1000 * seconds) {
            steps.extend([(at, Wanted), (at, Failed(0))]);
        }
        let (breaker, sent, start) = after(&steps);
        assert_eq!(sent, [2000, 4000, 8000, 16_000, 26_000, 36_000, 46_000, 56_000]);
        assert_eq!(breaker.gone_since(), Some(start));
    }
}
