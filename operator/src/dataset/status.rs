//! The status of a Dataset: computed once, written only when it differs. Never contains `revision`, which is the commit's.

use kube::{Api, ResourceExt};
use penstock_crds::{Dataset, DatasetStatus, condition};
use penstock_protocol::control::cache_node::build_failed::Reason;

use crate::apply;
use crate::builds::State;
use crate::conditions::{Wanted, merged, names};
use crate::context::now;
use crate::dataset::decide::Next;
use crate::dataset::observe::{Claim, Observed};
use crate::error::Error;

pub(super) async fn write(
    api: &Api<Dataset>,
    dataset: &Dataset,
    observed: &Observed,
    next: &Next,
) -> Result<(), Error> {
    let before = dataset.status.clone().unwrap_or_default();
    let wanted = wanted(dataset, observed, next);
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
        last_refresh_time: observed.looked_at.clone(),
        ..cached(&before, observed)
    };
    write_if_changed(api, dataset, &before, status).await
}

/// While a deletion waits, only that is said anew.
pub(super) async fn write_blocked(api: &Api<Dataset>, dataset: &Dataset, blocked: Wanted) -> Result<(), Error> {
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
    write_if_changed(api, dataset, &before, status).await
}

async fn write_if_changed(
    api: &Api<Dataset>,
    dataset: &Dataset,
    before: &DatasetStatus,
    status: DatasetStatus,
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
    apply::apply_status(api, &dataset.name_any(), value).await
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

fn wanted(dataset: &Dataset, observed: &Observed, next: &Next) -> Vec<Wanted> {
    let runtime = runtime_condition(observed);
    let source = source_condition(dataset, observed);
    let blockers = [
        claim_blocker(dataset, observed),
        runtime.clone(),
        source.clone().unwrap_or_else(|| waiting_for_build(observed)),
    ];
    let committed = observed.revision.is_some();
    // What is committed stays mountable while the origin is away; without a revision nothing is.
    let not_ready = blockers
        .iter()
        .find(|blocker| blocker.status == Some(false) && (blocker.kind != condition::SOURCE_REACHABLE || !committed));
    let mut wanted = Vec::new();
    match not_ready {
        None if committed && observed.claim == Claim::Bound => {
            let message = format!("mount the claim {}", dataset.name_any());
            wanted.push(Wanted::new(condition::READY, true, "Ready", message));
        }
        None => {
            let message = if committed {
                "the claim is not bound yet".to_owned()
            } else {
                "the first revision is being built".to_owned()
            };
            wanted.push(Wanted::new(condition::READY, false, "InProgress", message.clone()));
            wanted.push(Wanted::new(condition::RECONCILING, true, "InProgress", message));
        }
        Some(blocker) => {
            wanted.push(Wanted::new(
                condition::READY,
                false,
                blocker.reason,
                blocker.message.clone(),
            ));
            wanted.push(Wanted::new(
                condition::RECONCILING,
                true,
                blocker.reason,
                blocker.message.clone(),
            ));
        }
    }
    if committed
        && matches!(next, Next::Build { .. })
        && wanted.len() == 1
        && !matches!(observed.build, State::Failed { .. })
    {
        let message = "the sources are being looked at".to_owned();
        wanted.push(Wanted::new(condition::RECONCILING, true, "Refreshing", message));
    }
    wanted.push(runtime);
    wanted.extend(source);
    if !observed.drifted.is_empty() {
        let message = format!(
            "changed at the origin before they were cached, reads of them fail: {}; refresh the Dataset and restart the pods that need them",
            names(&observed.drifted)
        );
        wanted.push(Wanted::new(condition::SOURCE_DRIFTED, true, "ObjectsChanged", message));
    }
    wanted
}

fn runtime_condition(observed: &Observed) -> Wanted {
    match &observed.runtime {
        Err(message) => Wanted::new(condition::RUNTIME_READY, false, "NoCacheRuntime", message.clone()),
        Ok(runtime) if observed.linked_hosts.is_empty() => {
            let message = format!("no cache node of the CacheRuntime {} serves yet", runtime.name_any());
            Wanted::new(condition::RUNTIME_READY, false, "NoCacheNode", message)
        }
        Ok(runtime) => {
            let message = format!("the CacheRuntime {} serves", runtime.name_any());
            Wanted::new(condition::RUNTIME_READY, true, "Serving", message)
        }
    }
}

/// `None` while nobody has looked yet.
fn source_condition(dataset: &Dataset, observed: &Observed) -> Option<Wanted> {
    if let Err(unusable) = &observed.sources {
        return Some(Wanted::new(
            condition::SOURCE_REACHABLE,
            false,
            "SecretMissing",
            unusable.to_string(),
        ));
    }
    match &observed.build {
        State::Failed { reason, message, .. } => Some(Wanted::new(
            condition::SOURCE_REACHABLE,
            false,
            reason_text(*reason),
            match reason {
                Reason::Denied => format!("{message}{}", whose_keys(dataset)),
                _ => message.clone(),
            },
        )),
        State::Idle | State::Running | State::Built(_) => observed
            .revision
            .as_ref()
            .map(|_| Wanted::new(condition::SOURCE_REACHABLE, true, "Listed", "every source was listed")),
    }
}

/// Cache nodes know keys, but not where they come from.
fn whose_keys(dataset: &Dataset) -> String {
    let s3 = dataset.spec.sources.iter().filter_map(|source| source.s3.as_ref());
    let mut secrets: Vec<String> = s3
        .filter_map(|s3| Some(s3.credentials_secret_ref.as_ref()?.name.clone()))
        .collect();
    secrets.sort_unstable();
    secrets.dedup();
    if secrets.is_empty() {
        "; no Secret is named: set credentialsSecretRef unless the bucket is public".to_owned()
    } else {
        format!("; the keys are those of the Secret {}", names(&secrets))
    }
}

fn waiting_for_build(observed: &Observed) -> Wanted {
    let message = if observed.build == State::Running {
        "the sources are being listed"
    } else {
        "the sources were not looked at yet"
    };
    Wanted {
        kind: condition::SOURCE_REACHABLE,
        status: None,
        reason: "NotLookedAt",
        message: message.to_owned(),
    }
}

fn claim_blocker(dataset: &Dataset, observed: &Observed) -> Wanted {
    let name = dataset.name_any();
    match observed.claim {
        Claim::Foreign => Wanted::new(
            condition::READY,
            false,
            "ClaimExists",
            format!(
                "a PersistentVolumeClaim {name} that is not ours exists; delete or rename it, or give the Dataset another name"
            ),
        ),
        Claim::Leaving => Wanted::new(
            condition::READY,
            false,
            "ClaimLeaving",
            format!(
                "the PersistentVolumeClaim {name} is being deleted; it is made again when no pod mounts it any more"
            ),
        ),
        Claim::Missing | Claim::Pending | Claim::Bound => {
            Wanted::new(condition::READY, true, "ClaimFine", String::new())
        }
    }
}

fn reason_text(reason: Reason) -> &'static str {
    match reason {
        Reason::Other => "BuildFailed",
        Reason::Unreachable => "Unreachable",
        Reason::Denied => "AccessDenied",
        Reason::NotFound => "NotFound",
        Reason::Empty => "Empty",
        Reason::ParentLost => "ParentLost",
        Reason::Invalid => "InvalidSource",
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
