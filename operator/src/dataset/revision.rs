//! What is committed of a revision.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use penstock_crds::{FormerSource, Revision, Source, Unversioned};
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::{RevisionId, SpaceId};

use crate::builds::Basis;
use crate::context::now;
use crate::limits::FORMER_SOURCES_MAX;

/// What to write after a build, with the `older` revisions that stay; `None` when nothing differs.
pub(super) fn to_commit(
    before: Option<&Revision>,
    older: &[String],
    built: &wire::Built,
    basis: &Basis,
) -> Option<Revision> {
    let Basis {
        committed: _,
        sources_digest,
        sources,
        other_revisions,
        asked_refresh: _,
        began,
        told_number: _,
        is_partial: _,
    } = basis;
    // A look at a part says nothing of the rest.
    let observed_at = if built.partial {
        before.and_then(|before| before.observed_at.clone())
    } else {
        began.clone()
    };
    match before {
        Some(before) if built.unchanged => {
            // It is as old as this look now. The spec may say it in other words, for example with another Secret, or another
            // Dataset has changed elsewhere.
            let after = Revision {
                sources_digest: sources_digest.clone(),
                sources: sources.clone(),
                other_revisions: other_revisions.clone(),
                observed_at,
                ..before.clone()
            };
            (after != *before).then_some(after)
        }
        _ => Some(revision(before, older, built, basis, observed_at)),
    }
}

/// The same revision when of its older ones only these are left.
pub(super) fn with_older(before: &Revision, older: &[String]) -> Revision {
    let needed: Vec<String> = std::iter::once(&before.id).chain(older).cloned().collect();
    Revision {
        former_sources: former(Some(before), &needed, &before.sources),
        older: older.to_vec(),
        ..before.clone()
    }
}

fn revision(
    before: Option<&Revision>,
    older: &[String],
    built: &wire::Built,
    basis: &Basis,
    observed_at: Option<Time>,
) -> Revision {
    let id = RevisionId::try_from(built.revision.as_slice())
        .map(|id| id.to_string())
        .unwrap_or_default();
    // A listing may come back to what was there before.
    let older: Vec<String> = older.iter().filter(|old| **old != id).cloned().collect();
    Revision {
        sources: basis.sources.clone(),
        former_sources: former(before, &older, &basis.sources),
        parent: before.map(|before| before.id.clone()),
        older,
        id,
        space: SpaceId::try_from(built.space.as_slice())
            .map(|space| space.to_string())
            .unwrap_or_default(),
        files: i64::try_from(built.files).unwrap_or(i64::MAX),
        bytes: i64::try_from(built.bytes).unwrap_or(i64::MAX),
        awkward_keys: i64::try_from(built.awkward_keys).unwrap_or(i64::MAX),
        case_twins: i64::try_from(built.case_twins).unwrap_or(i64::MAX),
        awkward_examples: built
            .awkward_examples
            .iter()
            .take(8)
            .map(|text| text.chars().take(500).collect())
            .collect(),
        unversioned: built.unversioned.iter().take(16).map(unversioned).collect(),
        other_revisions: basis.other_revisions.clone(),
        sources_digest: basis.sources_digest.clone(),
        created_at: now().0.to_string(),
        observed_at,
    }
}

fn unversioned(built: &wire::Unversioned) -> Unversioned {
    let wire::Unversioned { source, files, example } = built;
    Unversioned {
        source: source.chars().take(1100).collect(),
        files: i64::try_from(*files).unwrap_or(i64::MAX),
        example: example.chars().take(500).collect(),
    }
}

/// The sources of `older` revisions that are not among `sources`, the newest first.
fn former(before: Option<&Revision>, older: &[String], sources: &[Source]) -> Vec<FormerSource> {
    let Some(before) = before else {
        return Vec::new();
    };
    let last = before.sources.iter().map(|source| FormerSource {
        revision: before.id.clone(),
        source: source.clone(),
    });
    let order: Vec<&String> = std::iter::once(&before.id).chain(&before.older).collect();
    // The newest that had it may go before those that are older.
    let newest_with = |revision: &String| {
        let since = order.iter().position(|other| *other == revision)?;
        order[since..].iter().find(|revision| older.contains(**revision))
    };
    let mut former: Vec<FormerSource> = Vec::new();
    for FormerSource { revision, source } in last.chain(before.former_sources.iter().cloned()) {
        let is_known = sources.contains(&source) || former.iter().any(|other| other.source == source);
        if let Some(revision) = newest_with(&revision).filter(|_| !is_known) {
            let revision = (*revision).clone();
            former.push(FormerSource { revision, source });
        }
    }
    former.truncate(FORMER_SOURCES_MAX);
    former
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::dataset::older::older;
    use crate::uses::Standing;

    #[test]
    fn other_words_for_the_same_objects_are_written_once() {
        let before = Revision {
            id: "11".into(),
            sources_digest: "old".into(),
            ..Revision::default()
        };
        let unchanged = wire::Built {
            unchanged: true,
            ..wire::Built::default()
        };
        let basis = |digest: &str| Basis {
            sources_digest: digest.into(),
            sources: sources(&["a"]),
            ..Basis::default()
        };
        let written = to_commit(Some(&before), &[], &unchanged, &basis("new")).unwrap();
        assert_eq!((written.id.as_str(), written.sources_digest.as_str()), ("11", "new"));
        assert_eq!(written.sources, sources(&["a"]));
        assert_eq!(to_commit(Some(&written), &[], &unchanged, &basis("new")), None);
        // Another Dataset has changed where this one does not look.
        let moved = Basis {
            other_revisions: vec!["22".into()],
            ..basis("new")
        };
        let followed = to_commit(Some(&written), &[], &unchanged, &moved).unwrap();
        assert_eq!(followed.other_revisions, ["22"]);
        assert_eq!(to_commit(Some(&followed), &[], &unchanged, &moved), None);
    }

    #[test]
    fn a_revision_is_as_old_as_the_newest_look_at_all_sources_that_made_it_or_found_it_right() {
        let time = |second| Some(Time(Timestamp::from_second(second).unwrap()));
        let mut revision = None;
        for (what, began, partial, unchanged, observed_at, is_written) in [
            ("the first one", 10, false, false, 10, true),
            ("found right", 20, false, true, 20, true),
            ("a part was found right", 30, true, true, 20, false),
            ("a part has changed", 40, true, false, 20, true),
            ("all of it was looked at", 50, false, false, 50, true),
        ] {
            let built = wire::Built {
                revision: vec![began as u8; 32],
                partial,
                unchanged,
                ..wire::Built::default()
            };
            let basis = Basis {
                began: time(began),
                is_partial: partial,
                ..Basis::default()
            };
            let written = to_commit(revision.as_ref(), &[], &built, &basis);
            assert_eq!(written.is_some(), is_written, "{what}");
            revision = written.or(revision);
            assert_eq!(revision.as_ref().unwrap().observed_at, time(observed_at), "{what}");
        }
    }

    #[test]
    fn revisions_that_nobody_has_are_not_announced_any_more() {
        let before = Revision {
            id: "33".into(),
            older: vec!["22".into(), "11".into()],
            ..Revision::default()
        };
        let lost = ["33".to_owned(), "11".to_owned()];
        let basis = Basis::default();
        let written = to_commit(Some(&before), &all_but(&before, &lost), &wire::Built::default(), &basis).unwrap();
        assert_eq!(written.older, ["22"]);
    }

    #[test]
    fn files_without_a_version_are_committed_with_their_source() {
        let built = wire::Built {
            unversioned: vec![wire::Unversioned {
                source: "http://a/".into(),
                files: 3,
                example: "é".repeat(600),
            }],
            ..wire::Built::default()
        };
        let written = to_commit(None, &[], &built, &Basis::default()).unwrap();
        let expected = Unversioned {
            source: "http://a/".into(),
            files: 3,
            example: "é".repeat(500),
        };
        assert_eq!(written.unversioned, [expected]);
    }

    fn all_but(before: &Revision, lost: &[String]) -> Vec<String> {
        older(Some(before), lost, |_| Standing::InUse).unwrap()
    }

    fn sources(buckets: &[&str]) -> Vec<Source> {
        let source = |bucket: &&str| serde_json::from_value(json!({"s3": {"bucket": bucket}})).unwrap();
        buckets.iter().map(source).collect()
    }

    #[test]
    fn a_source_that_is_taken_away_is_told_as_long_as_a_revision_needs_it() {
        let mut revision = None;
        let mut history = Vec::new();
        for (number, buckets) in (1u8..).zip([&["a", "b"][..], &["b"], &["b", "c"], &["b", "a"]]) {
            let built = wire::Built {
                revision: vec![number; 32],
                ..Default::default()
            };
            let basis = Basis {
                sources_digest: number.to_string(),
                sources: sources(buckets),
                ..Basis::default()
            };
            let older = revision.as_ref().map(|before| all_but(before, &[])).unwrap_or_default();
            revision = to_commit(revision.as_ref(), &older, &built, &basis);
            let former = &revision.as_ref().unwrap().former_sources;
            let former = former.iter().map(|former| {
                let bucket = &former.source.s3.as_ref().unwrap().bucket;
                format!("{bucket} {}", &former.revision[..2])
            });
            history.push(former.collect::<Vec<_>>().join(", "));
        }
        assert_eq!(history, ["", "a 01", "a 01", "c 03"]);
        let last = revision.unwrap();
        // The third revision, which had c, is lost, or all but the last.
        let built = wire::Built {
            revision: vec![5; 32],
            ..Default::default()
        };
        let basis = Basis {
            sources: sources(&["b"]),
            ..Basis::default()
        };
        for (lost, expected) in [
            // Those before it may have c too.
            (vec![hex(3)], vec![hex(4), hex(2)]),
            (vec![hex(3), hex(2), hex(1)], vec![hex(4)]),
        ] {
            let next = to_commit(Some(&last), &all_but(&last, &lost), &built, &basis).unwrap();
            let former = next.former_sources.into_iter().map(|former| former.revision);
            assert_eq!(former.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_source_goes_with_the_last_revision_that_needs_it_also_when_nothing_else_is_committed() {
        let former = |number: u8, bucket: &str| FormerSource {
            revision: hex(number),
            source: sources(&[bucket]).remove(0),
        };
        let before = Revision {
            id: hex(4),
            older: vec![hex(3), hex(2), hex(1)],
            sources: sources(&["b"]),
            former_sources: vec![former(3, "c"), former(1, "a")],
            ..Revision::default()
        };
        let after = with_older(&before, &[hex(3), hex(2)]);
        let expected = Revision {
            older: vec![hex(3), hex(2)],
            former_sources: vec![former(3, "c")],
            ..before.clone()
        };
        assert_eq!(after, expected);
        assert_eq!(with_older(&before, &before.older), before);
        // A pod mounts the oldest, and those between go, which is no reason to forget what it reads.
        let kept = with_older(&before, &[hex(1)]);
        assert_eq!(kept.former_sources, [former(1, "c"), former(1, "a")]);
        assert_eq!(with_older(&kept, &[hex(1)]), kept);
    }

    fn hex(byte: u8) -> String {
        format!("{byte:02x}").repeat(32)
    }
}
