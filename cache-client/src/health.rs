//! Whether a member is asked in its turn or avoided: the breaker. Pure: it is told the time.
//!
//! ```text
//! alive ──failed──► resting, 1 s ──wanted after the pause──► probed ──answered──► alive
//!                        ▲                                      │
//!                        └─────── failed: twice the pause ──────┘
//! ```
//!
//! A member that rests or is probed is avoided: asked after all others. The probe is a request of its own, so no read
//! waits for a member that may still be away.

use std::time::{Duration, Instant};

use crate::limits::{CONTROL_MAX, REST_MAX, REST_MIN};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answered, or was never asked.
    #[default]
    Alive,
    /// It did not answer, and is left alone for a while.
    Resting { until: Instant, pause: Duration },
    /// Somebody finds out whether it answers again.
    Probed { pause: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A read would ask it.
    Wanted,
    /// It answered anything, a refusal too.
    Answered,
    /// It could not be reached, did not answer, or spoke nonsense.
    Failed,
}

impl Health {
    /// The state after an event, and whether a probe is to be sent now.
    pub(crate) fn next(self, event: Event, now: Instant) -> (Self, bool) {
        let rest = |pause: Duration| Self::Resting {
            until: now + pause,
            pause,
        };
        match (self, event) {
            (_, Event::Answered) => (Self::Alive, false),
            (Self::Alive, Event::Failed) => (rest(REST_MIN), false),
            (Self::Probed { pause }, Event::Failed) => (rest((2 * pause).min(REST_MAX)), false),
            (Self::Resting { until, pause }, Event::Wanted) if now >= until => (Self::Probed { pause }, true),
            (Self::Resting { until, pause }, Event::Failed) if now >= until => (rest((2 * pause).min(REST_MAX)), false),
            // Many reads fail together; only the first one counts.
            (same, Event::Wanted | Event::Failed) => (same, false),
        }
    }

    pub(crate) fn is_avoided(self) -> bool {
        self != Self::Alive
    }

    /// How long a probe may take. A member that failed for long gets more time: a node that is only starved must not be
    /// given up for ever by clients that have no other.
    pub(crate) fn probe_max(self) -> Duration {
        match self {
            Self::Alive => CONTROL_MAX,
            Self::Resting { pause, .. } | Self::Probed { pause } => CONTROL_MAX.max(pause / 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds events at milliseconds since the beginning; returns the state and how many probes were sent.
    fn after(events: &[(u64, Event)]) -> (Health, usize, Instant) {
        let start = Instant::now();
        let (mut health, mut probes) = (Health::default(), 0);
        for (at, event) in events {
            let (next, probe) = health.next(*event, start + Duration::from_millis(*at));
            health = next;
            probes += usize::from(probe);
        }
        (health, probes, start)
    }

    #[test]
    fn one_probe_is_sent_after_the_pause_and_its_answer_ends_the_rest() {
        use Event::{Answered, Failed, Wanted};
        for (events, avoided, probes) in [
            (&[(0, Wanted)][..], false, 0),
            (&[(0, Failed), (999, Wanted)], true, 0),
            (&[(0, Failed), (1000, Wanted), (1001, Wanted), (5000, Wanted)], true, 1),
            (
                &[(0, Failed), (1000, Wanted), (1100, Answered), (1101, Wanted)],
                false,
                1,
            ),
            (&[(0, Failed), (1000, Wanted), (1800, Failed), (3799, Wanted)], true, 1),
            (&[(0, Failed), (1000, Wanted), (1800, Failed), (3800, Wanted)], true, 2),
        ] {
            let (health, sent, _) = after(events);
            assert_eq!((health.is_avoided(), sent), (avoided, probes), "{events:?}");
        }
    }

    #[test]
    fn reads_that_fail_together_count_once() {
        let (health, _, start) = after(&[(0, Event::Failed), (1, Event::Failed), (900, Event::Failed)]);
        let (until, pause) = (start + REST_MIN, REST_MIN);
        assert_eq!(health, Health::Resting { until, pause });
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_the_probe_gets_more_time() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..7 {
            (health, _) = health.next(Event::Failed, now);
            let Health::Resting { until, pause } = health else {
                panic!("{health:?}")
            };
            pauses.push((pause.as_secs(), health.probe_max().as_millis()));
            now = until;
            (health, _) = health.next(Event::Wanted, now);
        }
        let expected = [
            (1, 700),
            (2, 700),
            (4, 1000),
            (8, 2000),
            (16, 4000),
            (30, 7500),
            (30, 7500),
        ];
        assert_eq!(pauses, expected);
    }
}
