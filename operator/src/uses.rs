//! Which revisions pods may still read, as far as cache nodes have reported it. Pure: the time is handed in.
//!
//! ```text
//! reported by a cache node, or within an hour before ─► InUse      the newest within ten minutes before ─► Doubtful
//! nobody was heard for ten minutes yet ───────────────► InUse      never heard of, by one that hears for less than an hour ─► Doubtful
//! all others ─────────────────────────────────────────► Unused
//! ```
//!
//! Nothing of it outlives the process. A new leader has heard nothing yet, so it takes nothing away.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use penstock_protocol::ids::RevisionId;

use crate::limits::{REVISION_GRACE, REVISION_STARTING_MAX};

/// What is known of the use of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A pod mounts it, or it has to be taken to be so.
    InUse,
    /// A pod may mount it of which nobody has heard.
    Doubtful,
    /// No pod mounts it.
    Unused,
}

/// What the cache nodes of one CacheRuntime have reported.
#[derive(Debug, Default)]
pub struct Uses {
    /// When each revision was reported last.
    reported: HashMap<RevisionId, Instant>,
    /// When each was still the newest one of its Dataset, so that pods were started with it.
    newest: HashMap<RevisionId, Instant>,
    /// Since when there is always somebody who reports; `None` while there is nobody.
    heard_since: Option<Instant>,
}

impl Uses {
    /// Somebody reports now.
    pub fn heard(&mut self, now: Instant) {
        self.heard_since.get_or_insert(now);
    }

    /// Nobody does any more.
    pub fn silent(&mut self) {
        self.heard_since = None;
    }

    /// These are in use.
    pub fn reported(&mut self, revisions: impl Iterator<Item = RevisionId>, now: Instant) {
        note(&mut self.reported, revisions, now);
    }

    /// These are the newest ones.
    pub fn newest(&mut self, revisions: impl Iterator<Item = RevisionId>, now: Instant) {
        note(&mut self.newest, revisions, now);
    }

    /// What is known of a revision.
    pub fn standing(&self, revision: &RevisionId, now: Instant) -> Standing {
        let since = |at: &Instant| now.saturating_duration_since(*at);
        let heard_for = self.heard_since.as_ref().map_or(Duration::ZERO, since);
        let (reported, newest) = (
            self.reported.get(revision).map(since),
            self.newest.get(revision).map(since),
        );
        if heard_for < REVISION_STARTING_MAX || reported.is_some_and(|since| since < REVISION_GRACE) {
            return Standing::InUse;
        }
        let is_starting = newest.is_some_and(|since| since < REVISION_STARTING_MAX);
        let is_unknown = reported.is_none() && newest.is_none() && heard_for < REVISION_GRACE;
        if is_starting || is_unknown {
            Standing::Doubtful
        } else {
            Standing::Unused
        }
    }
}

fn note(known: &mut HashMap<RevisionId, Instant>, revisions: impl Iterator<Item = RevisionId>, now: Instant) {
    known.retain(|_, at| now.saturating_duration_since(*at) < REVISION_GRACE);
    known.extend(revisions.map(|revision| (revision, now)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: RevisionId = RevisionId([1; 32]);

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn what_was_reported_stays_for_an_hour_and_what_was_the_newest_for_ten_minutes() {
        let began = Instant::now();
        for (reported, newest, asked, expected) in [
            // Nobody was heard long enough.
            (None, Some(0), 9, Standing::InUse),
            // It may have been reported to the leader before.
            (None, None, 10, Standing::Doubtful),
            (None, None, 59, Standing::Doubtful),
            (None, None, 60, Standing::Unused),
            (Some(100), None, 100, Standing::InUse),
            (Some(100), None, 159, Standing::InUse),
            (Some(100), None, 160, Standing::Unused),
            (None, Some(100), 109, Standing::Doubtful),
            (None, Some(100), 110, Standing::Unused),
            (Some(100), Some(155), 160, Standing::Doubtful),
        ] {
            let mut uses = Uses::default();
            uses.heard(began);
            let at = |minute| began + minutes(minute);
            reported
                .into_iter()
                .for_each(|minute| uses.reported([ONE].into_iter(), at(minute)));
            newest
                .into_iter()
                .for_each(|minute| uses.newest([ONE].into_iter(), at(minute)));
            let standing = uses.standing(&ONE, at(asked));
            assert_eq!(standing, expected, "{reported:?} {newest:?} {asked}");
        }
    }

    #[test]
    fn while_nobody_reports_and_some_time_after_all_is_in_use() {
        let began = Instant::now();
        let at = |minute| began + minutes(minute);
        let mut uses = Uses::default();
        assert_eq!(uses.standing(&ONE, at(600)), Standing::InUse, "nobody ever reported");
        uses.heard(at(0));
        uses.reported([ONE].into_iter(), at(0));
        uses.silent();
        assert_eq!(
            uses.standing(&ONE, at(600)),
            Standing::InUse,
            "all cache nodes are away"
        );
        uses.heard(at(600));
        // A second one.
        uses.heard(at(605));
        assert_eq!(
            uses.standing(&ONE, at(609)),
            Standing::InUse,
            "mounters have not told it yet"
        );
        assert_eq!(uses.standing(&ONE, at(610)), Standing::Unused);
    }

    #[test]
    fn what_is_long_over_is_not_remembered() {
        let began = Instant::now();
        let mut uses = Uses::default();
        for minute in 0..600u64 {
            let id = std::array::from_fn(|byte| minute.to_le_bytes()[byte % 8]);
            uses.reported([RevisionId(id)].into_iter(), began + minutes(minute));
            uses.newest([RevisionId(id)].into_iter(), began + minutes(minute));
        }
        assert_eq!((uses.reported.len(), uses.newest.len()), (60, 60));
    }
}
