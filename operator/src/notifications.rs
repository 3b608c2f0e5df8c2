//! Who tells us that objects have changed, and what is remembered of it until they were listed: in the memory of the leader.
//!
//! A new leader does not know what was told before it, so it begins with a look at all sources of each Dataset that is told of changes.
//! Notifications are hints: they say where to look, never what is there.

pub mod connections;
pub mod door;
pub mod leader;
pub mod marks;
pub mod places;
mod tokens;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use penstock_crds::Dataset;
use tokio::sync::mpsc;

use crate::limits::{NOTIFIED_DELAY, NOTIFIED_PAUSE};
use marks::{Look, Mark, Marks};

/// What is remembered; clones share it.
#[derive(Clone)]
pub struct Notifications(Arc<Shared>);

struct Shared {
    entries: Mutex<HashMap<String, Entry>>,
    changed: mpsc::UnboundedSender<ObjectRef<Dataset>>,
}

#[derive(Default)]
struct Entry {
    marks: Marks,
    /// When the oldest of the marks came.
    since: Option<Instant>,
    /// When a build settled some of them last.
    settled: Option<Instant>,
}

/// What a Dataset was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// What has to be listed.
    pub look: Look,
    /// How long that can wait: more is likely to come.
    pub wait: Duration,
}

impl Notifications {
    /// Nothing yet. `changed` is told which Dataset has news.
    pub fn new(changed: mpsc::UnboundedSender<ObjectRef<Dataset>>) -> Self {
        Self(Arc::new(Shared {
            entries: Mutex::default(),
            changed,
        }))
    }

    /// What the Dataset with this UID, which takes notifications, was told, and the number of the newest of it.
    pub fn told(&self, uid: &str) -> (Option<Told>, u64) {
        let mut entries = self.lock();
        let entry = entries.entry(uid.to_owned()).or_insert_with(Entry::unknown);
        (entry.told(Instant::now()), entry.marks.last())
    }

    /// Remembers what somebody said of a Dataset.
    pub fn mark(&self, dataset: ObjectRef<Dataset>, uid: &str, marks: Vec<Mark>) {
        if marks.is_empty() {
            return;
        }
        let mut entries = self.lock();
        let entry = entries.entry(uid.to_owned()).or_insert_with(Entry::unknown);
        entry.since.get_or_insert_with(Instant::now);
        for mark in marks {
            entry.marks.add(mark);
        }
        drop(entries);
        // The receiver ends with the process.
        let _ = self.0.changed.send(dataset);
    }

    /// A build that began when `number` was the newest has gone well.
    pub fn settle(&self, uid: &str, number: u64) {
        if let Some(entry) = self.lock().get_mut(uid) {
            entry.settle(number, Instant::now());
        }
    }

    /// The Dataset is gone, or takes no notifications any more.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Nobody knows what was told before.
    fn unknown() -> Self {
        let mut entry = Self::default();
        entry.marks.add(Mark::All);
        entry
    }

    fn told(&self, now: Instant) -> Option<Told> {
        let left = |since: Option<Instant>, whole: Duration| {
            since.map_or(Duration::ZERO, |since| {
                whole.saturating_sub(now.saturating_duration_since(since))
            })
        };
        let look = self.marks.look()?;
        let wait = left(self.since, NOTIFIED_DELAY).max(left(self.settled, NOTIFIED_PAUSE));
        Some(Told { look, wait })
    }

    fn settle(&mut self, number: u64, now: Instant) {
        self.marks.settle(number);
        self.since = self.marks.look().map(|_| now);
        self.settled = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(start: &str) -> Mark {
        Mark::Keys {
            path: String::new(),
            start: start.to_owned(),
        }
    }

    #[test]
    fn what_is_told_waits_for_more_and_builds_have_a_pause_between_them() {
        let begin = Instant::now();
        let mut entry = Entry::unknown();
        let told = entry.told(begin).unwrap();
        assert_eq!(
            (told.look, told.wait),
            (Look::All, Duration::ZERO),
            "a new leader looks at once"
        );
        entry.settle(entry.marks.last(), begin);
        assert_eq!(entry.told(begin), None);
        let later = begin + NOTIFIED_PAUSE * 2;
        entry.since = Some(later);
        entry.marks.add(key("a"));
        assert_eq!(entry.told(later).unwrap().wait, NOTIFIED_DELAY);
        assert_eq!(entry.told(later + NOTIFIED_DELAY).unwrap().wait, Duration::ZERO);
        let number = entry.marks.last();
        entry.marks.add(key("b"));
        entry.settle(number, later);
        assert_eq!(
            entry.told(later + NOTIFIED_DELAY).unwrap().wait,
            NOTIFIED_PAUSE - NOTIFIED_DELAY
        );
    }

    #[tokio::test]
    async fn news_wake_the_dataset_and_are_kept_until_they_are_settled() {
        let (changed, mut woken) = mpsc::unbounded_channel();
        let notifications = Notifications::new(changed);
        let dataset = ObjectRef::<Dataset>::new("d").within("n");
        notifications.mark(dataset.clone(), "u", Vec::new());
        let (told, number) = notifications.told("u");
        assert_eq!(told.unwrap().look, Look::All);
        notifications.mark(dataset.clone(), "u", vec![key("a")]);
        assert_eq!(woken.recv().await, Some(dataset));
        notifications.settle("u", number);
        let (told, number) = notifications.told("u");
        assert!(
            matches!(told.unwrap().look, Look::Below(_)),
            "it came after the build began"
        );
        notifications.settle("u", number);
        assert_eq!(notifications.told("u").0, None);
        notifications.forget("u");
        assert_eq!(notifications.told("u").0.unwrap().look, Look::All);
    }
}
