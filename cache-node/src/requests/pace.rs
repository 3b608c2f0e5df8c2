//! How many requests a source may be sent at the same time, and until when none at all. Pure: it is told the time.
//!
//! As TCP does it with what was lost: half as many when the source asks to slow down, one more after each round of answers.
//! What was sent before the last cut knows nothing of it, so it neither cuts again nor proves that more can be borne.

use std::time::{Duration, Instant};

use crate::limits::{HEDGE_CALM_MIN, RETRY_AFTER_MAX, SOURCE_REQUESTS_MAX, THROTTLED_PAUSE_MAX, THROTTLED_PAUSE_MIN};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    /// Whole ones count; at least one.
    allowed: f64,
    /// When it was cut last.
    cut_at: Option<Instant>,
    /// Nothing is sent before.
    paused_until: Option<Instant>,
    /// The pause after the next cut.
    pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Event {
    /// The first byte of what was asked for came.
    Answered { sent_at: Instant },
    /// The source asks to slow down, and perhaps says for how long.
    Throttled { sent_at: Instant, wait: Option<Duration> },
    /// It does not answer any more: when it is back, it is not to be run over.
    Gone,
}

/// When one more request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    At(Instant),
    WhenOneEnds,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            allowed: SOURCE_REQUESTS_MAX as f64,
            cut_at: None,
            paused_until: None,
            pause: THROTTLED_PAUSE_MIN,
        }
    }
}

impl Pace {
    /// The state after an event. `jitter` is between 0 and 1: the part of a pause that is kept.
    pub(super) fn next(self, event: Event, now: Instant, jitter: f64) -> Self {
        let is_news = |sent_at| self.cut_at.is_none_or(|cut_at| sent_at > cut_at);
        match event {
            Event::Answered { sent_at } if is_news(sent_at) => Self {
                allowed: (self.allowed + 1.0 / self.allowed).min(SOURCE_REQUESTS_MAX as f64),
                pause: THROTTLED_PAUSE_MIN,
                ..self
            },
            Event::Answered { .. } => self,
            Event::Throttled { sent_at, wait } => {
                let (after, pause) = if is_news(sent_at) {
                    (self.cut(now), self.pause.mul_f64(jitter))
                } else {
                    (self, Duration::ZERO)
                };
                let until = now + wait.unwrap_or_default().min(RETRY_AFTER_MAX) + pause;
                Self {
                    paused_until: self.paused_until.max(Some(until)),
                    ..after
                }
            }
            Event::Gone => Self {
                allowed: 1.0,
                cut_at: Some(now),
                ..self
            },
        }
    }

    fn cut(self, now: Instant) -> Self {
        Self {
            allowed: (self.allowed / 2.0).max(1.0),
            cut_at: Some(now),
            pause: (2 * self.pause).min(THROTTLED_PAUSE_MAX),
            ..self
        }
    }

    /// When one more may be sent beside those under way.
    pub(super) fn turn(&self, under_way: usize, now: Instant) -> Turn {
        match self.paused_until {
            Some(until) if now < until => Turn::At(until),
            _ if under_way < self.allowed() => Turn::Now,
            _ => Turn::WhenOneEnds,
        }
    }

    /// Requests at the same time.
    pub(super) fn allowed(&self) -> usize {
        self.allowed as usize
    }

    /// Whether the source has borne all that it was sent for a while.
    pub(super) fn is_calm(&self, now: Instant) -> bool {
        self.cut_at.is_none_or(|cut_at| now >= cut_at + HEDGE_CALM_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        /// Answers to requests that were sent at this millisecond.
        Answers(usize, u64),
        Throttled(u64),
        ThrottledFor(u64, u64),
        Gone,
    }
    use Step::{Answers, Gone, Throttled, ThrottledFor};

    /// Feeds steps at milliseconds since the beginning, with half of each pause.
    fn after(steps: &[(u64, Step)]) -> (Pace, Instant) {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut pace = Pace::default();
        for (now, step) in steps {
            let (count, event) = match *step {
                Answers(count, sent) => (count, Event::Answered { sent_at: at(sent) }),
                Throttled(sent) => {
                    let (sent_at, wait) = (at(sent), None);
                    (1, Event::Throttled { sent_at, wait })
                }
                ThrottledFor(sent, millis) => {
                    let (sent_at, wait) = (at(sent), Some(Duration::from_millis(millis)));
                    (1, Event::Throttled { sent_at, wait })
                }
                Gone => (1, Event::Gone),
            };
            for _ in 0..count {
                pace = pace.next(event, at(*now), 0.5);
            }
        }
        (pace, start)
    }

    #[test]
    fn half_as_many_are_allowed_once_a_round_trip_and_one_more_for_each_round_of_answers() {
        for (steps, allowed) in [
            (&[][..], 64),
            (&[(10, Throttled(1))], 32),
            (&[(10, Throttled(1)), (11, Throttled(2)), (12, Throttled(9))], 32),
            (&[(10, Throttled(1)), (100, Throttled(90))], 16),
            (&[(10, Throttled(1)), (100, Answers(1000, 5))], 32),
            (&[(10, Throttled(1)), (100, Answers(33, 90))], 33),
            (&[(10, Throttled(1)), (100, Answers(5000, 90))], 64),
            (&[(10, Gone)], 1),
            (&[(10, Gone), (20, Throttled(15))], 1),
            (&[(10, Gone), (20, Answers(1, 15))], 2),
        ] {
            assert_eq!(after(steps).0.allowed(), allowed);
        }
    }

    #[test]
    fn a_source_that_goes_on_asking_gets_longer_pauses_and_what_it_says_counts_within_bounds() {
        for (steps, paused_until) in [
            (&[(10, Throttled(1))][..], 60),
            // The second one says nothing new, and is no reason to go on earlier.
            (&[(10, ThrottledFor(1, 5000)), (20, Throttled(2))], 5060),
            (&[(10, Throttled(1)), (20, ThrottledFor(2, 5000))], 5020),
            (&[(10, Throttled(1)), (100, Throttled(90))], 200),
            (&[(10, Throttled(1)), (99, Answers(1, 90)), (100, Throttled(95))], 150),
            (&[(10, ThrottledFor(1, 3_600_000))], 30_060),
        ] {
            let (pace, start) = after(steps);
            let until = start + Duration::from_millis(paused_until);
            assert_eq!(pace.paused_until, Some(until));
            assert_eq!(pace.turn(0, until - Duration::from_millis(1)), Turn::At(until));
            assert_eq!(pace.turn(0, until), Turn::Now);
        }
        let often: Vec<(u64, Step)> = (1..20).map(|n| (n * 10_000, Throttled(n * 10_000 - 1))).collect();
        let (pace, start) = after(&often);
        let longest = start + Duration::from_millis(190_000) + THROTTLED_PAUSE_MAX / 2;
        assert_eq!((pace.allowed(), pace.paused_until), (1, Some(longest)));
    }

    #[test]
    fn those_under_way_are_waited_for_and_a_cut_is_forgotten_after_a_while() {
        let (pace, start) = after(&[(0, Gone)]);
        assert_eq!(pace.turn(1, start), Turn::WhenOneEnds);
        assert_eq!(Pace::default().turn(63, start), Turn::Now);
        assert_eq!(Pace::default().turn(64, start), Turn::WhenOneEnds);
        assert!(Pace::default().is_calm(start));
        assert!(!pace.is_calm(start + HEDGE_CALM_MIN / 2) && pace.is_calm(start + HEDGE_CALM_MIN));
    }
}
