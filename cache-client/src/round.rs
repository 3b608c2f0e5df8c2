//! Whom one round of a read asks, and when all have said enough. Pure: knows neither connections nor time.
//!
//! The *home* of a stripe are its first [`OWNERS_ASKED_MAX`] owners in hash order: where its blocks were put, whether these
//! nodes answer now or not. A block of an object that drifted may still lie there, so drift is final only when all of
//! them said so.

use std::collections::HashSet;

use crate::limits::OWNERS_ASKED_MAX;

/// Who said during one read that the object drifted. They are not asked again: no node gets such a block later.
#[derive(Default)]
pub(crate) struct Drift {
    said_by: HashSet<String>,
}

impl Drift {
    pub(crate) fn said_by(&mut self, member: &str) {
        self.said_by.insert(member.to_owned());
    }

    /// Whom to ask now. `owners` are in hash order, `alive_first` are the same with those that do not answer last.
    pub(crate) fn round<'a>(&self, owners: &[&'a str], alive_first: &[&'a str]) -> Vec<&'a str> {
        let mut asked: Vec<&str> = alive_first.iter().take(OWNERS_ASKED_MAX).copied().collect();
        if !self.said_by.is_empty() {
            // Only a member that does not answer can know better by now.
            let home = owners.iter().take(OWNERS_ASKED_MAX);
            let missing: Vec<&str> = home.filter(|member| !asked.contains(member)).copied().collect();
            asked.extend(missing);
        }
        asked.retain(|member| !self.said_by.contains(*member));
        asked
    }

    /// Whether nobody is left who could hold the block.
    pub(crate) fn is_final(&self, owners: &[&str]) -> bool {
        let mut home = owners.iter().take(OWNERS_ASKED_MAX);
        !owners.is_empty() && home.all(|member| self.said_by.contains(*member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNERS: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn drift(said_by: &[&str]) -> Drift {
        let mut drift = Drift::default();
        said_by.iter().for_each(|member| drift.said_by(member));
        drift
    }

    #[test]
    fn a_round_asks_those_that_answer_and_after_drift_the_home_too() {
        for (said_by, alive_first, asked) in [
            (&[][..], ["a", "b", "c", "d", "e"], &["a", "b", "c"][..]),
            (&[], ["b", "c", "d", "e", "a"], &["b", "c", "d"]),
            (&["b", "c", "d"], ["b", "c", "d", "e", "a"], &["a"]),
            (&["b"], ["b", "c", "d", "e", "a"], &["c", "d", "a"]),
            (&["b", "c"], ["a", "b", "c", "d", "e"], &["a"]),
            (&["a", "b", "c"], ["a", "b", "c", "d", "e"], &[]),
        ] {
            assert_eq!(drift(said_by).round(&OWNERS, &alive_first), asked, "{said_by:?}");
        }
    }

    #[test]
    fn drift_is_final_when_the_whole_home_said_so() {
        for (said_by, owners, is_final) in [
            (&[][..], &OWNERS[..], false),
            (&["a", "b"], &OWNERS, false),
            (&["b", "c", "d", "e"], &OWNERS, false),
            (&["a", "b", "c"], &OWNERS, true),
            (&["a", "b"], &OWNERS[..2], true),
            (&[], &[], false),
        ] {
            assert_eq!(drift(said_by).is_final(owners), is_final, "{said_by:?} of {owners:?}");
        }
    }
}
