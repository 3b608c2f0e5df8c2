//! What is bounded is shared fairly by revisions: one may hold as much as is free beside it. One whose readers are slow, or whose
//! origin is stuck, leaves half of all to the others, the next one half of that; those that take turns get the same ("dynamic
//! thresholds", Choudhury and Hahne, IEEE/ACM Transactions on Networking, 1998).
//!
//! *Hidden contract*: a place that is given to somebody who has gone away comes back when it is dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use penstock_protocol::ids::RevisionId;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// All parts of something.
pub(super) struct Shares {
    parts: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: usize,
    /// Those that hold parts, or want to.
    revisions: HashMap<RevisionId, Line>,
}

#[derive(Default)]
struct Line {
    held: usize,
    queue: VecDeque<(usize, oneshot::Sender<Place>)>,
}

/// Some parts, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    shares: Arc<Shares>,
    revision: RevisionId,
    /// None if it was never given.
    parts: usize,
}

impl Shares {
    pub(super) fn new(parts: usize) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { parts, state })
    }

    /// A place of so many parts; `None` when there is none within `patience`.
    pub(super) async fn enter(
        self: &Arc<Self>,
        revision: &RevisionId,
        parts: usize,
        patience: Duration,
    ) -> Option<Place> {
        let (sender, given) = oneshot::channel();
        {
            let mut state = self.lock();
            let line = state.revisions.entry(*revision).or_default();
            line.queue.push_back((parts, sender));
            self.serve(&mut state);
        }
        timeout(patience, given).await.ok()?.ok()
    }

    /// Whether somebody waits.
    pub(super) fn are_waited_for(&self) -> bool {
        let state = self.lock();
        let mut lines = state.revisions.values();
        lines.any(|line| line.queue.iter().any(|(_, sender)| !sender.is_closed()))
    }

    /// How many parts are held, and how many wait.
    pub(super) fn depth(&self) -> (usize, usize) {
        let state = self.lock();
        let waiting = state.revisions.values().flat_map(|line| &line.queue);
        (state.held, waiting.filter(|(_, sender)| !sender.is_closed()).count())
    }

    /// Gives places to whoever may have one.
    fn serve(self: &Arc<Self>, state: &mut State) {
        let State { held, revisions } = state;
        for (revision, line) in revisions.iter_mut() {
            while let Some((parts, sender)) = line.queue.pop_front() {
                if sender.is_closed() {
                    continue;
                }
                if line.held + parts > self.parts - *held {
                    line.queue.push_front((parts, sender));
                    break;
                }
                let place = Place {
                    shares: self.clone(),
                    revision: *revision,
                    parts,
                };
                match sender.send(place) {
                    Ok(()) => {
                        line.held += parts;
                        *held += parts;
                    }
                    // Whoever gives it back would wait for this lock.
                    Err(mut place) => place.parts = 0,
                }
            }
        }
        revisions.retain(|_, line| line.held > 0 || !line.queue.is_empty());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shares {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} of {} parts", self.lock().held, self.parts)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.parts == 0 {
            return;
        }
        let mut state = self.shares.lock();
        state.held -= self.parts;
        if let Some(line) = state.revisions.get_mut(&self.revision) {
            line.held -= self.parts;
        }
        self.shares.serve(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    /// Enters until there is no place.
    async fn fill(shares: &Arc<Shares>, revision: RevisionId, parts: usize) -> Vec<Place> {
        let mut places = Vec::new();
        while let Some(place) = shares.enter(&revision, parts, NOW).await {
            places.push(place);
        }
        places
    }

    #[tokio::test]
    async fn a_revision_leaves_as_much_as_it_has_and_the_next_what_is_left() {
        let shares = Shares::new(16);
        let [one, two, three] = [1, 2, 3].map(|id| RevisionId([id; 32]));
        let of_one = fill(&shares, one, 1).await;
        assert_eq!(of_one.len(), 8);
        let of_two = fill(&shares, two, 2).await;
        assert_eq!(of_two.len(), 2, "four of eight");
        drop(of_one);
        assert_eq!(fill(&shares, two, 2).await.len(), 2, "eight of sixteen");
        let of_three = fill(&shares, three, 1).await;
        assert_eq!(of_three.len(), 6, "of twelve");
        drop((of_two, of_three));
        assert!(shares.lock().revisions.is_empty() && shares.lock().held == 0);
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_of_who_leaves_in_the_order_of_coming() {
        let shares = Shares::new(2);
        let revision = RevisionId([1; 32]);
        let held = shares.enter(&revision, 1, NOW).await.unwrap();
        let gone = shares.enter(&revision, 1, NOW).await;
        assert!(gone.is_none());
        let (waiter, next) = (shares.clone(), shares.clone());
        let patient = Duration::from_secs(60);
        let second = tokio::spawn(async move { waiter.enter(&revision, 1, patient).await });
        tokio::task::yield_now().await;
        let third = tokio::spawn(async move { next.enter(&revision, 1, patient).await });
        tokio::task::yield_now().await;
        assert_eq!(shares.depth(), (1, 2));
        drop(held);
        let second = second.await.unwrap().unwrap();
        assert!(!third.is_finished());
        drop(second);
        assert!(third.await.unwrap().is_some());
        assert_eq!(shares.lock().held, 0);
    }
}
