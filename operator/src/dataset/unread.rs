//! Objects of which cache nodes read nothing: what changed at the origin, and what it does not give away. Pure.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::RevisionId;

/// Objects that the origin does not give away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Each with its revision, and the time when it was noticed.
    pub objects: Vec<String>,
    /// What is said of the first of them.
    pub fault: String,
}

/// By key and revision, when it was noticed first and why.
type Noticed<'a> = BTreeMap<(&'a str, &'a [u8]), (u64, &'a str)>;

/// Those of these revisions that changed, each with its revision, and the time when it was noticed.
pub(super) fn changed<'a>(reports: impl Iterator<Item = &'a wire::NodeReport>, ids: &[Vec<u8>]) -> Vec<String> {
    texts(&noticed(reports, ids, |drift| drift.fault.is_empty()))
}

/// Those of these revisions that are there and cannot be read; `None` when there are none.
pub(super) fn unreadable<'a>(
    reports: impl Iterator<Item = &'a wire::NodeReport>,
    ids: &[Vec<u8>],
) -> Option<Unreadable> {
    let noticed = noticed(reports, ids, |drift| !drift.fault.is_empty());
    let (_, fault) = noticed.values().next()?;
    Some(Unreadable {
        objects: texts(&noticed),
        fault: (*fault).to_owned(),
    })
}

fn noticed<'a>(
    reports: impl Iterator<Item = &'a wire::NodeReport>,
    ids: &[Vec<u8>],
    is_meant: fn(&wire::Drift) -> bool,
) -> Noticed<'a> {
    let mut noticed = Noticed::new();
    let drifts = reports.flat_map(|report| &report.drifts);
    for drift in drifts.filter(|drift| ids.contains(&drift.revision) && is_meant(drift)) {
        let this = (drift.seen_at_unix_seconds, drift.fault.as_str());
        let first = noticed.entry((&drift.key, &drift.revision)).or_insert(this);
        *first = this.min(*first);
    }
    noticed
}

fn texts(noticed: &Noticed<'_>) -> Vec<String> {
    let text = |((key, revision), (seconds, _)): (&(&str, &[u8]), &(u64, &str))| {
        let revision = RevisionId::try_from(*revision).map_or_else(|_| String::new(), |id| id.to_string());
        let time = i64::try_from(*seconds)
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok());
        let time = time.unwrap_or_default();
        format!("{key} (revision {}, at {time})", &revision[..12.min(revision.len())])
    };
    noticed.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_796_000_000;

    fn drift(revision: u8, key: &str, after: u64, fault: &str) -> wire::Drift {
        wire::Drift {
            dataset_uid: String::new(),
            revision: vec![revision; 32],
            key: key.into(),
            seen_at_unix_seconds: AT + after,
            fault: fault.into(),
        }
    }

    #[test]
    fn what_nodes_could_not_read_is_said_once_with_the_time_when_it_was_seen_first() {
        let report = |drifts: Vec<wire::Drift>| wire::NodeReport {
            drifts,
            ..Default::default()
        };
        let reports = [
            report(vec![drift(1, "b", 60, ""), drift(1, "cold", 5, "cold is archived")]),
            report(vec![
                drift(1, "b", 1, ""),
                drift(2, "a", 0, ""),
                drift(3, "of another", 0, ""),
            ]),
            report(vec![
                drift(2, "denied", 7, "denied may not be read"),
                drift(1, "cold", 9, "cold is archived"),
            ]),
        ];
        let ids = [vec![1; 32], vec![2; 32]];
        assert_eq!(
            changed(reports.iter(), &ids),
            [
                "a (revision 020202020202, at 2026-11-30T00:53:20Z)",
                "b (revision 010101010101, at 2026-11-30T00:53:21Z)"
            ]
        );
        let unreadable = unreadable(reports.iter(), &ids).unwrap();
        assert_eq!(unreadable.fault, "cold is archived");
        assert_eq!(
            unreadable.objects,
            [
                "cold (revision 010101010101, at 2026-11-30T00:53:25Z)",
                "denied (revision 020202020202, at 2026-11-30T00:53:27Z)"
            ]
        );
        assert_eq!(super::unreadable(reports[1..2].iter(), &ids), None);
    }
}
