//! The status of a Dataset: computed once, written only when it differs. Never contains `revision`, which is the commit's.

mod exceptions;
mod readiness;
mod sources;

use kube::{Api, Resource, ResourceExt};
use penstock_crds::{Dataset, DatasetStatus, condition};

use crate::apply;
use crate::conditions::{Wanted, merged};
use crate::context::{Context, now};
use crate::dataset::observe::Observed;
use crate::error::Error;

pub(super) async fn write(
    api: &Api<Dataset>,
    dataset: &Dataset,
    observed: &Observed,
    is_due: bool,
    context: &Context,
) -> Result<(), Error> {
    let before = dataset.status.clone().unwrap_or_default();
    let wanted = wanted(dataset, &before, observed, is_due);
    let status = DatasetStatus {
        observed_generation: dataset.metadata.generation,
        conditions: merged(&before.conditions, wanted, dataset.metadata.generation, &now()),
        revision: None,
        runtime: observed
            .runtime
            .as_ref()
            .ok()
            .map(ResourceExt::name_any)
            .or(before.runtime.clone()),
        cache_nodes: if observed.seeds.is_empty() {
            before.cache_nodes.clone()
        } else {
            observed.seeds.clone()
        },
        size: observed
            .revision
            .as_ref()
            .map(|revision| human(revision.bytes.max(0) as u64)),
        last_handled_refresh: observed.handled_refresh.clone(),
        ..cached(&before, observed)
    };
    write_if_changed(api, dataset, observed.version.as_deref(), &before, status, context).await
}

/// While a deletion waits, only that is said anew.
pub(super) async fn write_blocked(
    api: &Api<Dataset>,
    dataset: &Dataset,
    blocked: Wanted,
    context: &Context,
) -> Result<(), Error> {
    let before = dataset.status.clone().unwrap_or_default();
    let mut conditions = merged(&before.conditions, vec![blocked], dataset.metadata.generation, &now());
    let others = before
        .conditions
        .iter()
        .filter(|old| old.type_ != condition::DELETION_BLOCKED)
        .cloned();
    conditions.extend(others);
    let status = DatasetStatus {
        conditions,
        revision: None,
        ..before.clone()
    };
    let version = dataset.resource_version();
    write_if_changed(api, dataset, version.as_deref(), &before, status, context).await
}

async fn write_if_changed(
    api: &Api<Dataset>,
    dataset: &Dataset,
    version: Option<&str>,
    before: &DatasetStatus,
    status: DatasetStatus,
    context: &Context,
) -> Result<(), Error> {
    if status
        == (DatasetStatus {
            revision: None,
            ..before.clone()
        })
    {
        return Ok(());
    }
    let value = serde_json::to_value(&status).map_err(|source| Error::Shape {
        step: "write the status",
        source,
    })?;
    apply::apply_status(api, &dataset.name_any(), version, value).await?;
    let about = dataset.object_ref(&());
    context.tell_news(&about, &before.conditions, &status.conditions).await;
    Ok(())
}

/// The figures of the cache; the old ones until they moved by a percent.
fn cached(before: &DatasetStatus, observed: &Observed) -> DatasetStatus {
    let kept = DatasetStatus {
        cached_bytes: before.cached_bytes,
        cached: before.cached.clone(),
        ..DatasetStatus::default()
    };
    let (Some(bytes), Some(revision)) = (observed.cached_bytes, &observed.revision) else {
        return kept;
    };
    let size = revision.bytes.max(1) as u64;
    // Blocks are counted whole, so small files make more than their size.
    let percent = (bytes.saturating_mul(100) / size).min(100);
    let text = format!("{percent}%");
    if before.cached.as_deref() == Some(&text) {
        return kept;
    }
    let cached_bytes = Some(i64::try_from(bytes).unwrap_or(i64::MAX));
    DatasetStatus {
        cached_bytes,
        cached: Some(text),
        ..DatasetStatus::default()
    }
}

fn wanted(dataset: &Dataset, before: &DatasetStatus, observed: &Observed, is_due: bool) -> Vec<Wanted> {
    let mut wanted = readiness::wanted(dataset, before, observed, is_due);
    wanted.extend(sources::reachable(dataset, before, observed, is_due));
    wanted.extend(exceptions::wanted(dataset, before, observed));
    wanted
}

/// `1.5Gi`, as quantities are written.
fn human(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes}")
    } else {
        format!("{value:.1}{}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use penstock_protocol::control::cache_node::build_failed::Reason;
    use serde_json::json;

    use super::*;
    use crate::builds::{Basis, Failure, State};
    use crate::dataset::decide::tests::{dataset, failed, not_allowed, not_granted, settled};
    use crate::unusable::Unusable;

    /// `Ready=false Reason` and so on, without what is said when all is well.
    fn said(before: &DatasetStatus, observed: &Observed, is_due: bool) -> Vec<String> {
        let text = |wanted: &Wanted| format!("{}={} {}", wanted.kind, wanted.status, wanted.reason);
        let calm = [
            "Ready=true Ready",
            "RuntimeReady=true Serving",
            "SourceReachable=true Listed",
        ];
        let dataset = dataset(json!({}), None);
        wanted(&dataset, before, observed, is_due)
            .iter()
            .map(text)
            .filter(|text| !calm.iter().any(|condition| text == condition))
            .collect()
    }

    fn running(last: Option<Failure>) -> State {
        State::Running {
            basis: Basis::default(),
            last,
        }
    }

    fn status(kind: &'static str, status: bool, reason: &str) -> DatasetStatus {
        DatasetStatus {
            conditions: merged(&[], vec![Wanted::new(kind, status, reason, "before")], None, &now()),
            runtime: Some("pool".into()),
            ..DatasetStatus::default()
        }
    }

    #[test]
    fn a_settled_dataset_says_that_all_is_well() {
        assert_eq!(said(&DatasetStatus::default(), &settled(), false), [""; 0]);
    }

    #[test]
    fn what_is_wrong_or_going_on_is_said() {
        let build = |build| Observed { build, ..settled() };
        let denied = failed(Reason::Denied, Instant::now());
        let last = denied.failure().cloned();
        let other = |build| Observed {
            sources_digest: "other".into(),
            build,
            ..settled()
        };
        let refused = Observed {
            refused: Some("apply the PersistentVolumeClaim: exceeded quota".into()),
            ..settled()
        };
        let lost = Observed {
            lost: vec!["11".repeat(32)],
            patience_left: Duration::from_secs(1),
            ..settled()
        };
        for (what, observed, expected) in [
            ("a refresh", build(running(None)), vec!["Reconciling=true Refreshing"]),
            (
                "a refresh that failed",
                build(denied.clone()),
                vec!["SourceReachable=false AccessDenied"],
            ),
            (
                "its next try",
                build(running(last.clone())),
                vec!["SourceReachable=false AccessDenied"],
            ),
            (
                "cache nodes that failed",
                build(failed(Reason::ParentLost, Instant::now())),
                vec!["Reconciling=true ParentLost"],
            ),
            (
                "a revision of what is not allowed any more",
                Observed {
                    sources: Err(not_allowed()),
                    ..settled()
                },
                vec!["SourceReachable=false NotAllowed"],
            ),
            (
                "a revision of what the identity is not granted for any more",
                Observed {
                    sources: Err(not_granted()),
                    ..settled()
                },
                vec!["SourceReachable=false NotAllowed"],
            ),
            (
                "a new Dataset of what is not allowed",
                Observed {
                    sources: Err(not_allowed()),
                    revision: None,
                    ..settled()
                },
                vec![
                    "Ready=false NotAllowed",
                    "Reconciling=true NotAllowed",
                    "SourceReachable=false NotAllowed",
                ],
            ),
            (
                "an address that a cache node does not reach",
                build(failed(Reason::NotAllowed, Instant::now())),
                vec!["SourceReachable=false NotAllowed"],
            ),
            (
                "a spec that was edited",
                other(running(None)),
                vec!["Ready=false SourcesChanged", "Reconciling=true SourcesChanged"],
            ),
            (
                "an edit that is wrong",
                other(running(last)),
                vec![
                    "Ready=false AccessDenied",
                    "Reconciling=true AccessDenied",
                    "SourceReachable=false AccessDenied",
                ],
            ),
            (
                "what the API server refused",
                refused,
                vec!["Ready=false ApplyFailed", "Reconciling=true ApplyFailed"],
            ),
            (
                "a revision that nobody has",
                lost,
                vec!["Ready=false RevisionLost", "Reconciling=true RevisionLost"],
            ),
        ] {
            let is_due = !matches!(what, "what the API server refused");
            let listed = status(condition::SOURCE_REACHABLE, true, "Listed");
            assert_eq!(said(&listed, &observed, is_due), expected, "{what}");
        }
    }

    #[test]
    fn what_no_cache_node_understands_yet_waits_and_says_so() {
        let outdated = Observed {
            builders: Vec::new(),
            ..settled()
        };
        let first = Observed {
            revision: None,
            ..outdated.clone()
        };
        let denied = status(condition::SOURCE_REACHABLE, false, "AccessDenied");
        let none = DatasetStatus::default();
        assert_eq!(said(&none, &outdated, false), [""; 0], "nothing has to be built");
        assert_eq!(said(&none, &outdated, true), ["Reconciling=true NodesOutdated"]);
        let waits = ["Ready=false NodesOutdated", "Reconciling=true NodesOutdated"];
        assert_eq!(said(&none, &first, true), waits);
        // It says nothing of the sources.
        let kept = ["Reconciling=true NodesOutdated", "SourceReachable=false AccessDenied"];
        assert_eq!(said(&denied, &outdated, true), kept);
    }

    #[test]
    fn a_new_leader_keeps_what_was_said_until_it_knows_better() {
        let serving = status(condition::RUNTIME_READY, true, "Serving");
        let unlinked = |settling| Observed {
            linked_hosts: Vec::new(),
            settling,
            ..settled()
        };
        assert_eq!(said(&serving, &unlinked(true), false), [""; 0]);
        let no_node = [
            "Ready=false NoCacheNode",
            "Reconciling=true NoCacheNode",
            "RuntimeReady=false NoCacheNode",
        ];
        assert_eq!(said(&serving, &unlinked(false), false), no_node);
        let elsewhere = DatasetStatus {
            runtime: Some("another".into()),
            ..serving
        };
        assert_eq!(said(&elsewhere, &unlinked(true), false), no_node);

        let denied = status(condition::SOURCE_REACHABLE, false, "AccessDenied");
        let still = ["SourceReachable=false AccessDenied"];
        assert_eq!(said(&denied, &settled(), true), still, "due, and not looked at yet");
        assert_eq!(said(&denied, &settled(), false), [""; 0], "looked at");

        let refused = status(condition::SOURCE_REACHABLE, false, "NotAllowed");
        assert_eq!(said(&refused, &settled(), true), [""; 0], "it is allowed by now");
    }

    #[test]
    fn a_claim_that_lacks_or_is_not_read_yet_is_a_source_that_is_not_reachable() {
        for (unusable, reason) in [
            (Unusable::NoClaim("data".into()), "ClaimMissing"),
            (Unusable::ClaimLeaving("data".into()), "ClaimMissing"),
            (Unusable::ClaimOfDataset("data".into()), "InvalidSource"),
            (Unusable::NoReader("it starts".into()), "ReaderNotReady"),
        ] {
            let observed = Observed {
                sources: Err(unusable),
                ..settled()
            };
            let listed = status(condition::SOURCE_REACHABLE, true, "Listed");
            assert_eq!(
                said(&listed, &observed, false),
                [format!("SourceReachable=false {reason}")]
            );
            // As soon as it can be read again nobody says that it cannot.
            let before = status(condition::SOURCE_REACHABLE, false, reason);
            let kept = said(&before, &settled(), true);
            assert_eq!(kept.is_empty(), reason != "InvalidSource", "{kept:?}");
        }
    }
}
