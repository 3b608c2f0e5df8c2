//! Reads that wait for origins hold what has arrived for them, so their number is bounded, and fairly: a revision may hold as many
//! pages as are free beside it. One whose origin is stuck leaves half of all to the others, two leave a third ("dynamic
//! thresholds", Choudhury and Hahne, IEEE/ACM Transactions on Networking, 1998).
//!
//! *Hidden contract*: a place that is given to somebody who has gone away comes back when it is dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use penstock_protocol::ids::RevisionId;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// All of them.
pub(super) struct Waiting {
    pages: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: usize,
    /// Those that hold pages, or want to.
    revisions: HashMap<RevisionId, Line>,
}

#[derive(Default)]
struct Line {
    held: usize,
    queue: VecDeque<(usize, oneshot::Sender<Place>)>,
}

/// The right to wait, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    waiting: Arc<Waiting>,
    revision: RevisionId,
    /// None if it was never given.
    pages: usize,
}

impl Waiting {
    pub(super) fn new(pages: usize) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { pages, state })
    }

    /// A place for a read that holds up to so many pages; `None` when there is none within `patience`.
    pub(super) async fn enter(
        self: &Arc<Self>,
        revision: &RevisionId,
        pages: usize,
        patience: Duration,
    ) -> Option<Place> {
        let (sender, given) = oneshot::channel();
        {
            let mut state = self.lock();
            let line = state.revisions.entry(*revision).or_default();
            line.queue.push_back((pages, sender));
            self.serve(&mut state);
        }
        timeout(patience, given).await.ok()?.ok()
    }

    /// Gives places to whoever may have one.
    fn serve(self: &Arc<Self>, state: &mut State) {
        let State { held, revisions } = state;
        for (revision, line) in revisions.iter_mut() {
            while let Some((pages, _)) = line.queue.front() {
                let is_gone = line.queue.front().is_some_and(|(_, sender)| sender.is_closed());
                if !is_gone && line.held + pages > self.pages - *held {
                    break;
                }
                let Some((pages, sender)) = line.queue.pop_front() else {
                    break;
                };
                let place = Place {
                    waiting: self.clone(),
                    revision: *revision,
                    pages,
                };
                match sender.send(place) {
                    Ok(()) => {
                        line.held += pages;
                        *held += pages;
                    }
                    // Whoever gives it back would wait for this lock.
                    Err(mut place) => place.pages = 0,
                }
            }
        }
        revisions.retain(|_, line| line.held > 0 || !line.queue.is_empty());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} of {} pages", self.lock().held, self.pages)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.pages == 0 {
            return;
        }
        let mut state = self.waiting.lock();
        state.held -= self.pages;
        if let Some(line) = state.revisions.get_mut(&self.revision) {
            line.held -= self.pages;
        }
        self.waiting.serve(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    /// Enters until there is no place.
    async fn fill(waiting: &Arc<Waiting>, revision: RevisionId, pages: usize) -> Vec<Place> {
        let mut places = Vec::new();
        while let Some(place) = waiting.enter(&revision, pages, NOW).await {
            places.push(place);
        }
        places
    }

    #[tokio::test]
    async fn a_revision_leaves_as_much_as_it_has_and_the_next_what_is_left() {
        let waiting = Waiting::new(16);
        let [one, two, three] = [1, 2, 3].map(|id| RevisionId([id; 32]));
        let of_one = fill(&waiting, one, 1).await;
        assert_eq!(of_one.len(), 8);
        let of_two = fill(&waiting, two, 2).await;
        assert_eq!(of_two.len(), 2, "four of eight");
        drop(of_one);
        assert_eq!(
            fill(&waiting, two, 2).await.len(),
            1,
            "six of ten are as many as are left"
        );
        let of_three = fill(&waiting, three, 1).await;
        assert_eq!(of_three.len(), 6, "of twelve");
        drop((of_two, of_three));
        assert!(waiting.lock().revisions.is_empty() && waiting.lock().held == 0);
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_of_who_leaves_in_the_order_of_coming() {
        let waiting = Waiting::new(2);
        let revision = RevisionId([1; 32]);
        let held = waiting.enter(&revision, 1, NOW).await.unwrap();
        let gone = waiting.enter(&revision, 1, NOW).await;
        assert!(gone.is_none());
        let (waiter, next) = (waiting.clone(), waiting.clone());
        let patient = Duration::from_secs(60);
        let second = tokio::spawn(async move { waiter.enter(&revision, 1, patient).await });
        tokio::task::yield_now().await;
        let third = tokio::spawn(async move { next.enter(&revision, 1, patient).await });
        tokio::task::yield_now().await;
        drop(held);
        let second = second.await.unwrap().unwrap();
        assert!(!third.is_finished());
        drop(second);
        assert!(third.await.unwrap().is_some());
        assert_eq!(waiting.lock().held, 0);
    }
}
