//! When packages that failed are looked for: at once, and after a pause when it happens again. A disk may give a package whole
//! when its digest is computed and fail a page of it each time somebody looks into it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What failed and was not acted upon.
pub(super) struct Failures {
    failed: Arc<Notify>,
    pause: Duration,
    /// It was told of one.
    is_due: bool,
    not_before: Instant,
}

impl Failures {
    /// Of packages of which `failed` is told; between two answers there is a `pause`.
    pub(super) fn of(failed: Arc<Notify>, pause: Duration) -> Self {
        Self {
            failed,
            pause,
            is_due: false,
            not_before: Instant::now(),
        }
    }

    /// Returns when something is to be done about one. Whoever does not wait to the end may ask again.
    pub(super) async fn next(&mut self) {
        if !self.is_due {
            self.failed.notified().await;
            self.is_due = true;
        }
        if Instant::now() < self.not_before {
            sleep_until(self.not_before).await;
        }
        self.is_due = false;
        self.not_before = Instant::now() + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn the_first_failure_is_answered_at_once_and_the_next_after_a_pause_that_does_not_lose_it() {
        let failed = Arc::new(Notify::new());
        let mut failures = Failures::of(failed.clone(), PAUSE);
        assert_eq!(failures.next().now_or_never(), None, "nothing failed");
        failed.notify_one();
        assert_eq!(failures.next().now_or_never(), Some(()));
        assert_eq!(failures.next().now_or_never(), None, "it was answered");
        failed.notify_one();
        for _ in 0..3 {
            assert_eq!(failures.next().now_or_never(), None, "not before the pause is over");
        }
        failures.not_before = Instant::now();
        assert_eq!(failures.next().now_or_never(), Some(()), "it was not forgotten");
        assert_eq!(failures.next().now_or_never(), None);
    }
}
