//! Conditions: set, kept, dropped. Only a change of status moves the transition time.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a condition should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its type.
    pub kind: &'static str,
    /// `Some(true)` is True, `None` is Unknown.
    pub status: Option<bool>,
    /// CamelCase, part of the API.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
}

impl Wanted {
    /// A condition.
    pub fn new(kind: &'static str, status: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            status: Some(status),
            reason,
            message: message.into(),
        }
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
                let status = match status {
                    Some(true) => "True",
                    Some(false) => "False",
                    None => "Unknown",
                };
                let old = before.iter().find(|old| old.type_ == kind && old.status == status);
                Condition {
                    type_: kind.to_owned(),
                    status: status.to_owned(),
                    reason: reason.to_owned(),
                    // The API server refuses longer ones.
                    message: message.chars().take(2000).collect(),
                    observed_generation: generation,
                    last_transition_time: old.map_or_else(|| now.clone(), |old| old.last_transition_time.clone()),
                }
            },
        )
        .collect()
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
