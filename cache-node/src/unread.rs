//! Objects of which somebody read and got nothing, as the node reports them: what changed at the origin, and what it does not give
//! away. Pure; a bounded part of what each space has, so that one Dataset does not push out what is to be said of another.

use std::collections::VecDeque;

use penstock_protocol::ids::{RevisionId, SpaceId};

use crate::limits::{DRIFTS_KEPT_MAX, DRIFTS_REPORTED_MAX, FAULT_AGE_SECONDS_MAX};
use crate::report::Drift;

/// The newest last.
#[derive(Debug, Default)]
pub(crate) struct Unread(VecDeque<Noted>);

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
        let is_it = |noted: &&mut Noted| noted.drift.revision == revision && noted.drift.key == key;
        if let Some(noted) = self.0.iter_mut().find(is_it) {
            noted.seen_again_at = now;
            fault.clone_into(&mut noted.drift.fault);
            return;
        }
        let is_like_it = |noted: &Noted| noted.space == space && noted.drift.fault.is_empty() == fault.is_empty();
        if self.0.iter().filter(|noted| is_like_it(noted)).count() >= DRIFTS_REPORTED_MAX
            && let Some(oldest) = self.0.iter().position(is_like_it)
        {
            self.0.remove(oldest);
        }
        if self.0.len() >= DRIFTS_KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Noted {
            space,
            drift: Drift {
                revision,
                key: key.to_owned(),
                seen_at_unix_seconds: now,
                fault: fault.to_owned(),
            },
            seen_again_at: now,
        });
    }

    /// All that is still so, as far as it is known: a change stays one, but rights can be given and objects restored.
    pub(crate) fn report(&self, now: u64) -> Vec<Drift> {
        let is_so = |noted: &&Noted| {
            noted.drift.fault.is_empty() || now.saturating_sub(noted.seen_again_at) < FAULT_AGE_SECONDS_MAX
        };
        self.0.iter().filter(is_so).map(|noted| noted.drift.clone()).collect()
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
    fn what_one_dataset_has_too_many_of_pushes_out_nothing_of_another() {
        let mut unread = Unread::default();
        unread.note(space(1), revision(1), "other", "", NOW);
        unread.note(space(2), revision(2), "cold", "it is archived", NOW);
        for number in 0..DRIFTS_REPORTED_MAX + 3 {
            unread.note(space(2), revision(2), &number.to_string(), "", NOW);
        }
        let mut expected = vec!["other".to_owned(), "cold".to_owned()];
        expected.extend((3..DRIFTS_REPORTED_MAX + 3).map(|number| number.to_string()));
        assert_eq!(keys(&unread), expected);
        // All together are bounded too.
        for number in 0..=u8::MAX {
            for key in 0..DRIFTS_REPORTED_MAX {
                unread.note(space(number), revision(number), &key.to_string(), "", NOW);
            }
        }
        assert_eq!(keys(&unread).len(), DRIFTS_KEPT_MAX);
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
