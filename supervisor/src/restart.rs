//! When a worker that has ended is started again. Pure.

use std::time::Duration;

/// A worker that lived as long as this is started again at once.
const LONG_LIFE: Duration = Duration::from_secs(5);
/// The pause after the first one that did not; it doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause. Readers wait meanwhile, who are promised two seconds, and a worker that ends each second is no burden.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// After so many in a row the container ends if nothing is lost with it, so that Kubernetes shows its CrashLoopBackOff.
const GIVE_UP_AFTER: u32 = 5;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start it after a pause.
    Start(Duration),
    /// End the container.
    GiveUp,
}

/// Counts the workers that did not live long.
#[derive(Debug, Default)]
pub struct Restarts {
    short_lives: u32,
}

impl Restarts {
    /// After a worker that lived so long. `keeps_something` tells whether descriptors would be lost with the container.
    pub fn next(&mut self, lived: Duration, keeps_something: bool) -> Next {
        if lived >= LONG_LIFE {
            self.short_lives = 0;
            return Next::Start(Duration::ZERO);
        }
        self.short_lives += 1;
        if self.short_lives >= GIVE_UP_AFTER && !keeps_something {
            return Next::GiveUp;
        }
        // The first one may have been killed by a person, or by a test.
        let doubled = self.short_lives.checked_sub(2).map(|times| 1 << times.min(16));
        Next::Start(doubled.map_or(Duration::ZERO, |factor| (FIRST_PAUSE * factor).min(LONGEST_PAUSE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_short_lives_and_a_long_one_forgives() {
        let mut restarts = Restarts::default();
        let short = Duration::from_millis(10);
        let pauses: Vec<_> = (0..8).map(|_| restarts.next(short, true)).collect();
        let millis = [0, 50, 100, 200, 400, 800, 1000, 1000];
        assert_eq!(pauses, millis.map(|pause| Next::Start(Duration::from_millis(pause))));
        assert_eq!(restarts.next(LONG_LIFE, true), Next::Start(Duration::ZERO));
        assert_eq!(restarts.next(short, true), Next::Start(Duration::ZERO));
    }

    #[test]
    fn a_worker_that_cannot_start_ends_the_container_unless_something_would_be_lost() {
        let mut restarts = Restarts::default();
        let ends: Vec<_> = (0..5)
            .map(|_| restarts.next(Duration::ZERO, false) == Next::GiveUp)
            .collect();
        assert_eq!(ends, [false, false, false, false, true]);
        assert_ne!(restarts.next(Duration::ZERO, true), Next::GiveUp);
    }
}
