//! Objects of which somebody read and got nothing, as the node reports them: what changed at the origin, and what it does not give
//! away. Pure; a bounded part of what each space has, so that one Dataset does not push out what is to be said of another. What is
//! there stays as long as it is so, and what there are too many of is not taken: a report that changes wakes the operator.

use penstock_protocol::ids::{RevisionId, SpaceId};

use crate::limits::{
    DRIFT_FAULT_BYTES_MAX, DRIFT_KEY_BYTES_MAX, DRIFTS_KEPT_MAX, DRIFTS_REPORTED_MAX, FAULT_AGE_SECONDS_MAX,
};
use crate::report::Drift;

/// The newest last.
#[derive(Debug, Default)]
pub(crate) struct Unread(Vec<Noted>);

#[derive(Debug)]
struct Noted {
    space: SpaceId,
    drift: Drift,
    /// Seconds since 1970.
    seen_again_at: u64,
}

impl Unread {
    /// A read of an object of this space failed. `fault` is a sentence, or "" when it changed or is gone.
    pub(crate) fn note(&mut self, space: SpaceId, revision: RevisionId, key: &str, fault: &str, now: u64) {
        let (key, fault) = (key_shown(key), cut(fault, DRIFT_FAULT_BYTES_MAX));
        let is_it = |noted: &&mut Noted| noted.drift.revision == revision && noted.drift.key == key;
        if let Some(noted) = self.0.iter_mut().find(is_it) {
            noted.seen_again_at = now;
            noted.drift.fault = fault;
            return;
        }
        let is_like_it = |noted: &Noted| noted.space == space && noted.drift.fault.is_empty() == fault.is_empty();
        let has_place = if self.0.iter().filter(|noted| is_like_it(noted)).count() >= DRIFTS_REPORTED_MAX {
            self.make_place(is_like_it, revision, fault.is_empty(), now)
        } else {
            self.0.len() < DRIFTS_KEPT_MAX || self.make_place(|_| true, revision, fault.is_empty(), now)
        };
        if !has_place {
            return;
        }
        self.0.push(Noted {
            space,
            drift: Drift {
                revision,
                key,
                seen_at_unix_seconds: now,
                fault,
            },
            seen_again_at: now,
        });
    }

    /// Removes one of some: what is not so any more, or, for a revision of which nothing is there, one of which there are several.
    fn make_place(
        &mut self,
        is_meant: impl Fn(&Noted) -> bool,
        revision: RevisionId,
        has_changed: bool,
        now: u64,
    ) -> bool {
        let like = |revision: RevisionId, has_changed: bool| {
            let is_like_it =
                |noted: &&Noted| noted.drift.revision == revision && noted.drift.fault.is_empty() == has_changed;
            self.0.iter().filter(is_like_it).count()
        };
        let over = self.0.iter().position(|noted| is_meant(noted) && !noted.is_so(now));
        let one_of_several = || {
            let is_one = |noted: &Noted| like(noted.drift.revision, noted.drift.fault.is_empty()) > 1;
            let find = || self.0.iter().position(|noted| is_meant(noted) && is_one(noted));
            // Looked at first: a walk over refused objects comes here with each of them.
            (like(revision, has_changed) == 0).then(find).flatten()
        };
        let place = over.or_else(one_of_several);
        if let Some(place) = place {
            self.0.remove(place);
        }
        place.is_some()
    }

    /// Forgets what is of other revisions: nobody reads them any more.
    pub(crate) fn keep_only(&mut self, is_wanted: impl Fn(&RevisionId) -> bool) {
        self.0.retain(|noted| is_wanted(&noted.drift.revision));
    }

    /// All that is still so, as far as it is known: a change stays one, but rights can be given and objects restored.
    pub(crate) fn report(&self, now: u64) -> Vec<Drift> {
        let so = self.0.iter().filter(|noted| noted.is_so(now));
        so.map(|noted| noted.drift.clone()).collect()
    }
}

impl Noted {
    fn is_so(&self, now: u64) -> bool {
        self.drift.fault.is_empty() || now.saturating_sub(self.seen_again_at) < FAULT_AGE_SECONDS_MAX
    }
}

/// What a report has of a key.
pub(crate) fn key_shown(key: &str) -> String {
    cut(key, DRIFT_KEY_BYTES_MAX)
}

fn cut(text: &str, bytes_max: usize) -> String {
    match text.len() <= bytes_max {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(bytes_max - '…'.len_utf8())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn space(number: u8) -> SpaceId {
        SpaceId([number; 16])
    }

    fn revision(number: u8) -> RevisionId {
        RevisionId([number; 32])
    }

    fn keys(unread: &Unread) -> Vec<String> {
        unread.report(NOW).into_iter().map(|drift| drift.key).collect()
    }

    #[test]
    fn what_there_are_too_many_of_pushes_out_nothing_and_changes_no_report() {
        let mut unread = Unread::default();
        unread.note(space(1), revision(1), "other", "", NOW);
        unread.note(space(2), revision(2), "cold", "it is archived", NOW);
        for number in 0..DRIFTS_REPORTED_MAX + 3 {
            unread.note(space(2), revision(2), &number.to_string(), "", NOW + number as u64);
        }
        let mut expected = vec!["other".to_owned(), "cold".to_owned()];
        expected.extend((0..DRIFTS_REPORTED_MAX).map(|number| number.to_string()));
        assert_eq!(keys(&unread), expected);
        // All together are bounded too.
        for number in 3..=u8::MAX {
            for key in 0..DRIFTS_REPORTED_MAX {
                unread.note(space(number), revision(number), &key.to_string(), "", NOW);
            }
        }
        assert_eq!(unread.0.len(), DRIFTS_KEPT_MAX);
        let of = |number: u8| unread.0.iter().filter(|noted| noted.space == space(number)).count();
        assert!((1..=u8::MAX).all(|number| of(number) > 0), "of each one is there");
        let before = unread.report(NOW);
        for number in 1..=u8::MAX {
            unread.note(space(number), revision(number), "another", "", NOW + 1);
        }
        assert_eq!(unread.report(NOW), before);
    }

    #[test]
    fn a_walk_over_many_refused_objects_changes_the_report_once_and_again_when_that_is_over() {
        let mut unread = Unread::default();
        let refuse = |unread: &mut Unread, from: u64, at: u64| {
            for number in from..from + 1000 {
                unread.note(space(1), revision(1), &number.to_string(), "it may not be read", at);
            }
            unread.report(at)
        };
        let first = refuse(&mut unread, 0, NOW);
        assert_eq!(first.len(), DRIFTS_REPORTED_MAX);
        assert_eq!(refuse(&mut unread, 1000, NOW + 1), first);
        let later = refuse(&mut unread, 2000, NOW + FAULT_AGE_SECONDS_MAX);
        let keys: Vec<&str> = later.iter().map(|drift| drift.key.as_str()).collect();
        assert_eq!((keys.len(), keys[0]), (DRIFTS_REPORTED_MAX, "2000"));
    }

    #[test]
    fn a_revision_of_which_nothing_is_said_yet_gets_a_place_and_one_that_is_gone_has_none() {
        let mut unread = Unread::default();
        for number in 0..2 * DRIFTS_REPORTED_MAX {
            unread.note(space(1), revision(1), &number.to_string(), "", NOW);
        }
        for key in ["new", "newer"] {
            unread.note(space(1), revision(2), key, "", NOW);
        }
        let mut expected: Vec<String> = (1..DRIFTS_REPORTED_MAX).map(|number| number.to_string()).collect();
        expected.push("new".to_owned());
        assert_eq!(keys(&unread), expected);
        unread.keep_only(|kept| *kept == revision(2));
        assert_eq!(keys(&unread), ["new"]);
    }

    #[test]
    fn of_long_keys_and_faults_the_beginning_is_kept() {
        let mut unread = Unread::default();
        let (key, fault) = ("é".repeat(2000), "a".repeat(DRIFT_FAULT_BYTES_MAX + 1));
        for _ in 0..2 {
            unread.note(space(1), revision(1), &key, &fault, NOW);
        }
        let [Drift { key, fault, .. }] = &unread.report(NOW)[..] else {
            panic!("one object is there once")
        };
        assert_eq!(*key, format!("{}…", "é".repeat((DRIFT_KEY_BYTES_MAX - 3) / 2)));
        assert_eq!(*fault, format!("{}…", "a".repeat(DRIFT_FAULT_BYTES_MAX - 3)));
        let whole = "k".repeat(DRIFT_KEY_BYTES_MAX);
        assert_eq!(key_shown(&whole), whole);
    }

    #[test]
    fn an_object_is_there_once_with_the_time_when_it_was_seen_first() {
        let mut unread = Unread::default();
        unread.note(space(1), revision(1), "key", "", NOW);
        unread.note(space(1), revision(1), "key", "", NOW + 9);
        unread.note(space(1), revision(2), "key", "", NOW + 10);
        let times: Vec<u64> = unread
            .report(NOW)
            .iter()
            .map(|drift| drift.seen_at_unix_seconds)
            .collect();
        assert_eq!(times, [NOW, NOW + 10]);
    }

    #[test]
    fn a_fault_that_nobody_met_for_long_is_over_and_a_change_is_not() {
        let mut unread = Unread::default();
        unread.note(space(1), revision(1), "cold", "it is archived", NOW);
        unread.note(space(1), revision(1), "changed", "", NOW);
        let faults = |unread: &Unread, at| {
            let drifts = unread.report(at).into_iter();
            drifts.map(|drift| drift.fault).collect::<Vec<_>>()
        };
        let later = NOW + FAULT_AGE_SECONDS_MAX;
        assert_eq!(faults(&unread, later - 1), ["it is archived", ""]);
        assert_eq!(faults(&unread, later), [""]);
        unread.note(space(1), revision(1), "cold", "it may not be read", later);
        assert_eq!(faults(&unread, later + 1), ["it may not be read", ""]);
    }
}
