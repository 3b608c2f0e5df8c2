//! When a request is late beside others of its source, and whether a second one may be sent for it. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::{
    HEDGE_AFTER_MIN, HEDGE_LATENESS, HEDGE_PEERS_MAX, HEDGE_PEERS_MIN, HEDGE_REQUESTS, HEDGES_SAVED_MAX,
};

#[derive(Default)]
pub(super) struct Peers {
    /// How long the last answers took to their first byte.
    took: VecDeque<Duration>,
    /// Requests that no second one was paid with.
    saved: u32,
}

impl Peers {
    /// A request is sent that is not a second one.
    pub(super) fn sent(&mut self) {
        self.saved = (self.saved + 1).min(HEDGE_REQUESTS * HEDGES_SAVED_MAX);
    }

    /// The first byte of an answer came.
    pub(super) fn answered(&mut self, took: Duration) {
        if self.took.len() == HEDGE_PEERS_MAX {
            self.took.pop_front();
        }
        self.took.push_back(took);
    }

    /// After how long without a first byte a request is late; `None` while too little is known.
    pub(super) fn late_after(&self) -> Option<Duration> {
        if self.took.len() < HEDGE_PEERS_MIN {
            return None;
        }
        let mut took: Vec<Duration> = self.took.iter().copied().collect();
        let (_, percentile_95, _) = took.select_nth_unstable(self.took.len() * 95 / 100);
        Some((*percentile_95 * HEDGE_LATENESS).max(HEDGE_AFTER_MIN))
    }

    /// Takes what a second request costs, if it is there.
    pub(super) fn takes_second(&mut self) -> bool {
        let left = self.saved.checked_sub(HEDGE_REQUESTS);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_far_slower_than_nearly_all_of_the_last_peers() {
        let millis = Duration::from_millis;
        for (took, late_after) in [
            (vec![40; 31], None),
            (vec![40; 32], Some(millis(120))),
            // Not worth a second request.
            (vec![1; 100], Some(HEDGE_AFTER_MIN)),
            // A few slow ones are what is to be hedged; many are how the source is.
            ([vec![40; 96], vec![5000; 4]].concat(), Some(millis(120))),
            ([vec![40; 90], vec![5000; 10]].concat(), Some(millis(15_000))),
            // What was long ago does not count.
            ([vec![5000; 500], vec![40; 128]].concat(), Some(millis(120))),
        ] {
            let mut peers = Peers::default();
            took.iter().for_each(|took| peers.answered(millis(*took)));
            assert_eq!(peers.late_after(), late_after, "{} answers", took.len());
        }
    }

    #[test]
    fn second_requests_are_one_in_fifty_and_few_are_saved_up() {
        for (sent, seconds) in [(0, 0), (49, 0), (50, 1), (100, 2), (1_000_000, HEDGES_SAVED_MAX)] {
            let mut peers = Peers::default();
            (0..sent).for_each(|_| peers.sent());
            let taken = (0..1000).filter(|_| peers.takes_second()).count();
            assert_eq!(taken, seconds as usize, "after {sent}");
        }
    }
}
