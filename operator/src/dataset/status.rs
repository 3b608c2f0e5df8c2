//! The status of a Dataset: computed once, written only when it differs. Never contains `revision`, which is the commit's.

mod exceptions;

use kube::{Api, Resource, ResourceExt};
use penstock_crds::{Dataset, DatasetStatus, condition};
use penstock_protocol::control::cache_node::build_failed::Reason;

use crate::apply;
use crate::builds::{Failure, State};
use crate::conditions::{Wanted, merged, names};
use crate::context::{Context, now};
use crate::dataset::observe::{Claim, Observed};
use crate::error::Error;
use crate::others::NotTaken;
use crate::unusable::Unusable;

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
    let runtime = runtime_condition(before, observed);
    let mut wanted = Vec::new();
    match blocker(dataset, observed, &runtime) {
        Some((reason, message)) => {
            wanted.push(Wanted::new(condition::READY, false, reason.clone(), message.clone()));
            wanted.push(Wanted::new(condition::RECONCILING, true, reason, message));
        }
        None => {
            let message = format!("mount the claim {}", dataset.name_any());
            wanted.push(Wanted::new(condition::READY, true, "Ready", message));
            let activity = activity(observed);
            wanted.extend(activity.map(|(reason, message)| Wanted::new(condition::RECONCILING, true, reason, message)));
        }
    }
    wanted.push(runtime);
    wanted.extend(source_condition(dataset, before, observed, is_due));
    wanted.extend(exceptions::wanted(dataset, before, observed));
    wanted
}

/// Reason and sentence of what keeps the Dataset from being Ready: what the spec asks for now can be mounted.
fn blocker(dataset: &Dataset, observed: &Observed, runtime: &Wanted) -> Option<(String, String)> {
    let because = |reason: &str, message: String| Some((reason.to_owned(), message));
    if let Some(refused) = &observed.refused {
        return because("ApplyFailed", format!("the API server refuses to {refused}"));
    }
    if let Some((reason, message)) = claim_blocker(dataset, observed.claim) {
        return because(reason, message);
    }
    if !runtime.status {
        return because(&runtime.reason, runtime.message.clone());
    }
    let trouble = trouble(dataset, observed);
    if observed.revision_is_lost() {
        let what = trouble.map_or(
            "it is built anew, and all is fetched again".to_owned(),
            |(_, message)| message,
        );
        return because(
            "RevisionLost",
            format!("no cache node has the committed revision any more; {what}"),
        );
    }
    // What is committed stays mountable while the origin is away, unless the spec asks for something else by now.
    if observed.revision.is_none() {
        let (reason, message) = trouble.unwrap_or(("InProgress", "the first revision is being built".to_owned()));
        return because(reason, message);
    }
    if observed.sources_changed() {
        let (reason, message) = trouble.unwrap_or(("SourcesChanged", "the new sources are being listed".to_owned()));
        return because(
            reason,
            format!("{message}; the claim still shows what was listed before"),
        );
    }
    match observed.claim {
        Claim::Bound => None,
        _ => because("InProgress", "the claim is not bound yet".to_owned()),
    }
}

/// What goes on while the Dataset is Ready.
fn activity(observed: &Observed) -> Option<(&'static str, String)> {
    match &observed.build {
        State::Running { last: None, basis } if basis.is_partial => {
            Some(("Refreshing", "what notifications named is being looked at".to_owned()))
        }
        State::Running { last: None, .. } => Some(("Refreshing", "the sources are being looked at".to_owned())),
        // A source that cannot be reached has a condition of its own.
        build => build
            .failure()
            .filter(|failure| !failure.is_of_a_source())
            .map(|failure| (reason_text(failure.reason), failure.message.clone())),
    }
}

/// What keeps the next revision from being built.
fn trouble(dataset: &Dataset, observed: &Observed) -> Option<(&'static str, String)> {
    if let Err(unusable) = &observed.sources {
        let reason = match unusable {
            Unusable::Keys(_) => "SecretMissing",
            Unusable::NotAllowed { .. } | Unusable::FolderNotAllowed { .. } | Unusable::NotGranted { .. } => {
                reason_text(Some(Reason::NotAllowed))
            }
            Unusable::NotTaken(NotTaken::NotBuilt(_)) => "DatasetNotReady",
            Unusable::NotTaken(_) => "DatasetNotAvailable",
            Unusable::NoClaim(_) | Unusable::ClaimLeaving(_) => "ClaimMissing",
            Unusable::NoReader(_) => "ReaderNotReady",
            Unusable::ClaimOfDataset(_) => reason_text(Some(Reason::Invalid)),
        };
        return Some((reason, unusable.to_string()));
    }
    let Failure { reason, message, .. } = observed.build.failure()?;
    let whose_keys = match reason {
        // A volume has no keys.
        Some(Reason::Denied) if !is_about_a_volume(message) => whose_keys(dataset),
        _ => String::new(),
    };
    Some((reason_text(*reason), format!("{message}{whose_keys}")))
}

/// A new leader that has not tried all links yet goes on saying what the one before said.
fn runtime_condition(before: &DatasetStatus, observed: &Observed) -> Wanted {
    match &observed.runtime {
        Err(message) => Wanted::new(condition::RUNTIME_READY, false, "NoCacheRuntime", message.clone()),
        Ok(runtime) if observed.linked_hosts.is_empty() => {
            let name = runtime.name_any();
            let message = format!("no cache node of the CacheRuntime {name} serves yet");
            Wanted::kept(condition::RUNTIME_READY, &before.conditions)
                .filter(|_| observed.settling && before.runtime == Some(name))
                .unwrap_or_else(|| Wanted::new(condition::RUNTIME_READY, false, "NoCacheNode", message))
        }
        Ok(runtime) => {
            let message = format!("the CacheRuntime {} serves", runtime.name_any());
            Wanted::new(condition::RUNTIME_READY, true, "Serving", message)
        }
    }
}

/// `None` while nobody has looked at these sources. What was said of them stays while they are looked at again.
fn source_condition(dataset: &Dataset, before: &DatasetStatus, observed: &Observed, is_due: bool) -> Option<Wanted> {
    let of_a_source = observed.build.failure().is_none_or(Failure::is_of_a_source);
    if let Some((reason, message)) = trouble(dataset, observed).filter(|_| of_a_source || observed.sources.is_err()) {
        return Some(Wanted::new(condition::SOURCE_REACHABLE, false, reason, message));
    }
    if !is_due {
        return Some(Wanted::new(
            condition::SOURCE_REACHABLE,
            true,
            "Listed",
            "every source was listed",
        ));
    }
    let same_sources = before.observed_generation == dataset.metadata.generation
        || observed.revision.is_some() && !observed.sources_changed();
    Wanted::kept(condition::SOURCE_REACHABLE, &before.conditions)
        .filter(|kept| same_sources && !MENDED_BY_LOOKING.contains(&kept.reason.as_str()))
}

/// What is known to be over as soon as the sources can be told to a cache node again.
const MENDED_BY_LOOKING: [&str; 6] = [
    "NotAllowed",
    "SecretMissing",
    "ClaimMissing",
    "ReaderNotReady",
    "DatasetNotReady",
    "DatasetNotAvailable",
];

fn is_about_a_volume(message: &str) -> bool {
    ["claim://", "/", "the reader of the "]
        .iter()
        .any(|words| message.starts_with(words))
}

/// Cache nodes know keys, but not where they come from.
fn whose_keys(dataset: &Dataset) -> String {
    let secrets = dataset.spec.sources.iter().filter_map(|source| source.secret());
    let mut secrets: Vec<String> = secrets.map(|secret| secret.name.clone()).collect();
    secrets.sort_unstable();
    secrets.dedup();
    if secrets.is_empty() {
        "; no Secret is named: set credentialsSecretRef unless the bucket is public".to_owned()
    } else {
        format!("; the keys are those of the Secret {}", names(&secrets))
    }
}

fn claim_blocker(dataset: &Dataset, claim: Claim) -> Option<(&'static str, String)> {
    let name = dataset.name_any();
    match claim {
        Claim::Foreign => Some((
            "ClaimExists",
            format!(
                "a PersistentVolumeClaim {name} that is not ours exists; delete or rename it, or give the Dataset another name"
            ),
        )),
        Claim::Leaving => Some((
            "ClaimLeaving",
            format!(
                "the PersistentVolumeClaim {name} is being deleted; it is made again when no pod mounts it any more"
            ),
        )),
        Claim::Missing | Claim::Pending | Claim::Bound => None,
    }
}

fn reason_text(reason: Option<Reason>) -> &'static str {
    match reason {
        None | Some(Reason::Other) => "BuildFailed",
        Some(Reason::Unreachable) => "Unreachable",
        Some(Reason::Denied) => "AccessDenied",
        Some(Reason::NotFound) => "NotFound",
        Some(Reason::Empty) => "Empty",
        Some(Reason::ParentLost) => "ParentLost",
        Some(Reason::Invalid) => "InvalidSource",
        Some(Reason::NotAllowed) => "NotAllowed",
    }
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

    use serde_json::json;

    use super::*;
    use crate::builds::Basis;
    use crate::dataset::decide::tests::{dataset, failed, not_allowed, not_granted, settled};

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

    #[test]
    fn who_may_not_read_a_claim_is_not_told_of_keys() {
        let denied = |text: &str| {
            let mut build = failed(Reason::Denied, Instant::now());
            if let State::Failed(failure) = &mut build {
                failure.message = text.to_owned();
            }
            let observed = Observed { build, ..settled() };
            trouble(&dataset(json!({}), None), &observed)
                .map(|(_, message)| message)
                .unwrap_or_default()
        };
        let of_claim = "claim://vision/data/2024 may not be read by user 1000 and group 100; set uid";
        assert_eq!(denied(of_claim), of_claim);
        assert!(denied("s3://b/ refuses access").contains("no Secret is named"));
    }
}
