//! Conditions: set, kept, dropped. Only a change of status moves the transition time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use penstock_crds::condition;

/// Reasons of Ready that no other condition says and no waiting mends.
const READY_NEWS: [&str; 4] = ["ApplyFailed", "ClaimExists", "NameTaken", "RevisionLost"];

/// What a condition should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its type.
    pub kind: &'static str,
    /// True or False.
    pub status: bool,
    /// CamelCase, part of the API.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
}

impl Wanted {
    /// A condition.
    pub fn new(kind: &'static str, status: bool, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            status,
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// What `before` says of `kind`, again.
    pub fn kept(kind: &'static str, before: &[Condition]) -> Option<Self> {
        let old = before.iter().find(|old| old.type_ == kind)?;
        Some(Self::new(kind, old.status == "True", &old.reason, &old.message))
    }
}

/// The conditions of `before`, as `wanted` says now; those that are not wanted any more are dropped.
pub fn merged(before: &[Condition], wanted: Vec<Wanted>, generation: Option<i64>, now: &Time) -> Vec<Condition> {
    wanted
        .into_iter()
        .map(
            |Wanted {
                 kind,
                 status,
                 reason,
                 message,
             }| {
                let status = if status { "True" } else { "False" };
                let old = before.iter().find(|old| old.type_ == kind && old.status == status);
                Condition {
                    type_: kind.to_owned(),
                    status: status.to_owned(),
                    reason,
                    // The API server refuses longer ones.
                    message: message.chars().take(2000).collect(),
                    observed_generation: generation,
                    last_transition_time: old.map_or_else(|| now.clone(), |old| old.last_transition_time.clone()),
                }
            },
        )
        .collect()
}

/// What `after` says that `before` did not, and a person has to do something about: worth an event.
pub fn news<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<&'a Condition> {
    let same = |a: &Condition, b: &Condition| (&a.type_, &a.status, &a.reason) == (&b.type_, &b.status, &b.reason);
    let needs_somebody = |new: &Condition| match (new.type_.as_str(), new.status.as_str()) {
        // A pod that starts; one that cannot has events of its own.
        (condition::SOURCE_REACHABLE, "False") => new.reason != "ReaderNotReady",
        (condition::DELETION_BLOCKED | condition::NOTIFICATIONS_UNHEARD | condition::REVISIONS_IN_USE, "True") => true,
        (condition::READY, "False") => READY_NEWS.contains(&new.reason.as_str()),
        _ => false,
    };
    let is_new = |new: &Condition| !before.iter().any(|old| same(old, new));
    after.iter().filter(|new| needs_somebody(new) && is_new(new)).collect()
}

/// `a, b, c and 4 more`.
pub fn names(all: &[String]) -> String {
    let shown = all.len().min(crate::limits::NAMES_SHOWN_MAX);
    let list = all[..shown].join(", ");
    if all.len() > shown {
        format!("{list} and {} more", all.len() - shown)
    } else {
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_news_once() {
        let now = crate::context::now();
        let conditions = |reachable: &str, ready: &str| {
            let wanted = vec![
                Wanted::new(condition::SOURCE_REACHABLE, reachable == "Listed", reachable, "a"),
                Wanted::new(condition::READY, ready == "Ready", ready, "b"),
            ];
            merged(&[], wanted, Some(1), &now)
        };
        let (fine, denied, taken) = (
            conditions("Listed", "Ready"),
            conditions("AccessDenied", "Ready"),
            conditions("Listed", "ClaimExists"),
        );
        let mut unheard = fine.clone();
        let nobody = Wanted::new(condition::NOTIFICATIONS_UNHEARD, true, "NobodyListens", "c");
        unheard.extend(merged(&[], vec![nobody], Some(1), &now));
        for (before, after, expected) in [
            (&fine, &fine, None),
            (&fine, &denied, Some("AccessDenied")),
            (&denied, &denied, None),
            (&denied, &conditions("Empty", "Ready"), Some("Empty")),
            (&fine, &conditions("ReaderNotReady", "Ready"), None),
            (&denied, &fine, None),
            (&fine, &taken, Some("ClaimExists")),
            (&taken, &taken, None),
            (&fine, &conditions("Listed", "InProgress"), None),
            (&fine, &unheard, Some("NobodyListens")),
            (&unheard, &unheard, None),
            (&unheard, &fine, None),
        ] {
            let news = news(before, after);
            let reasons: Vec<&str> = news.iter().map(|new| new.reason.as_str()).collect();
            assert_eq!(reasons, Vec::from_iter(expected), "{before:?} {after:?}");
        }
    }
}
