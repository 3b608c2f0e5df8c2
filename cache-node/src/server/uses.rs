//! Which revisions somebody uses: a mounter says that it serves them, or somebody reads them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use penstock_protocol::ids::RevisionId;

use crate::limits::USE_VALID;
use crate::server::node::Node;

impl Node {
    /// Somebody says that a revision is in use; of one that is not announced here nothing is remembered.
    pub(super) fn told_use(&self, revision: &RevisionId) {
        if self.engine().package(revision).is_some() {
            self.note_use(revision);
        }
    }

    /// Somebody reads an announced revision.
    pub(super) fn note_use(&self, revision: &RevisionId) {
        self.uses().note(revision, Instant::now());
    }

    /// Revisions that are in use.
    pub(super) fn in_use(&self) -> Vec<RevisionId> {
        self.uses().within(USE_VALID, Instant::now())
    }
}

/// When each revision was last used. Those of a process that ended are told to the next one within a minute.
pub(super) struct Uses {
    began: Instant,
    /// Milliseconds from then until each was last used.
    last: RwLock<HashMap<RevisionId, AtomicU64>>,
}

impl Uses {
    /// None yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            last: RwLock::default(),
        }
    }

    /// A revision that this node knows is in use.
    fn note(&self, revision: &RevisionId, now: Instant) {
        let at = now.saturating_duration_since(self.began).as_millis() as u64;
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = last.get(revision) {
            known.fetch_max(at, Ordering::Relaxed);
            return;
        }
        drop(last);
        let mut last = self.last.write().unwrap_or_else(PoisonError::into_inner);
        last.entry(*revision).or_default().fetch_max(at, Ordering::Relaxed);
    }

    /// Those that were used within `valid`, sorted; the others are forgotten.
    fn within(&self, valid: Duration, now: Instant) -> Vec<RevisionId> {
        let now = now.saturating_duration_since(self.began).as_millis() as u64;
        let since = now.saturating_sub(valid.as_millis() as u64);
        let mut last = self.last.write().unwrap_or_else(PoisonError::into_inner);
        last.retain(|_, at| *at.get_mut() >= since);
        let mut used: Vec<RevisionId> = last.keys().copied().collect();
        used.sort_unstable();
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_known_for_a_while_and_then_forgotten() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let (one, two) = (RevisionId([1; 32]), RevisionId([2; 32]));
        let valid = Duration::from_secs(300);
        let uses = Uses::new(began);
        uses.note(&two, at(0));
        uses.note(&one, at(100));
        assert_eq!(
            uses.within(valid, at(300)),
            [one, two],
            "sorted, so that a report is the same"
        );
        // Two threads may come in any order.
        uses.note(&one, at(250));
        uses.note(&one, at(200));
        assert_eq!(uses.within(valid, at(301)), [one]);
        assert_eq!(uses.within(valid, at(550)), [one]);
        assert_eq!(uses.within(valid, at(551)), []);
        uses.note(&two, at(600));
        assert_eq!(uses.within(valid, at(600)), [two]);
    }
}
