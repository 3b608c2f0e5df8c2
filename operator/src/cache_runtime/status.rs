//! The status of a CacheRuntime: computed once, written only when it differs.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use kube::{Api, Resource, ResourceExt};
use penstock_crds::{CacheRuntime, CacheRuntimeStatus, Tier, condition};

use crate::apply;
use crate::cache_runtime::children::Applied;
use crate::cache_runtime::members::Members;
use crate::conditions::{Wanted, merged, names};
use crate::context::{Context, now};
use crate::error::Error;
use crate::links::Pool;
use crate::names::runtime_selector;

/// What was seen.
pub(super) struct Observed<'a> {
    /// What became of the children, or what the API server refused, as a sentence.
    pub(super) children: Result<&'a Applied, String>,
    pub(super) pool: Pool,
    /// Datasets that keep it from being deleted.
    pub(super) blocked_by: Vec<String>,
}

pub(super) async fn write(
    api: &Api<CacheRuntime>,
    runtime: &CacheRuntime,
    members: &Members,
    observed: &Observed<'_>,
    context: &Context,
) -> Result<(), Error> {
    let before = runtime.status.clone().unwrap_or_default();
    let status = status(runtime, &before, members, observed);
    if status == before {
        return Ok(());
    }
    let value = serde_json::to_value(&status).map_err(|source| Error::Shape {
        step: "write the status",
        source,
    })?;
    let version = runtime.resource_version();
    apply::apply_status(api, &runtime.name_any(), version.as_deref(), value).await?;
    let about = runtime.object_ref(&());
    context.tell_news(&about, &before.conditions, &status.conditions).await;
    Ok(())
}

fn status(
    runtime: &CacheRuntime,
    before: &CacheRuntimeStatus,
    members: &Members,
    observed: &Observed<'_>,
) -> CacheRuntimeStatus {
    let counts = match observed.children {
        Ok(Applied::All(set)) => set.status.clone().unwrap_or_default(),
        Ok(Applied::Taken(_)) => StatefulSetStatus::default(),
        Ok(Applied::Leaving) | Err(_) => StatefulSetStatus {
            replicas: before.replicas,
            ready_replicas: Some(before.ready_replicas),
            ..StatefulSetStatus::default()
        },
    };
    CacheRuntimeStatus {
        observed_generation: runtime.metadata.generation,
        conditions: merged(
            &before.conditions,
            wanted(runtime, before, members, observed),
            runtime.metadata.generation,
            &now(),
        ),
        replicas: counts.replicas,
        ready_replicas: counts.ready_replicas.unwrap_or(0),
        selector: Some(runtime_selector(&runtime.name_any())),
        ring_epoch: members.epoch,
        ring_members: members.count(),
        capacity: capacity(&runtime.spec.tiers),
    }
}

/// As kubectl shows it: its columns take the first of several values only.
fn capacity(tiers: &[Tier]) -> String {
    let capacities: Vec<&str> = tiers.iter().map(|tier| tier.capacity.as_str()).collect();
    capacities.join(" + ")
}

fn wanted(
    runtime: &CacheRuntime,
    before: &CacheRuntimeStatus,
    members: &Members,
    observed: &Observed<'_>,
) -> Vec<Wanted> {
    let mut wanted = match blocker(runtime, members, observed) {
        None => {
            let message = format!("all {} cache nodes serve", members.count());
            vec![Wanted::new(condition::READY, true, "AllNodesReady", message)]
        }
        Some((reason, message)) => vec![
            Wanted::new(condition::READY, false, reason, message.clone()),
            Wanted::new(condition::RECONCILING, true, reason, message),
        ],
    };
    wanted.extend(degraded(before, observed));
    if !observed.blocked_by.is_empty() {
        let message = format!(
            "waits until these Datasets are deleted: {}",
            names(&observed.blocked_by)
        );
        let blocked = Wanted::new(condition::DELETION_BLOCKED, true, "UsedByDatasets", message);
        wanted.push(blocked);
    }
    wanted
}

/// Reason and sentence of what keeps the CacheRuntime from being Ready.
fn blocker(runtime: &CacheRuntime, members: &Members, observed: &Observed<'_>) -> Option<(&'static str, String)> {
    let name = runtime.name_any();
    let set = match &observed.children {
        Err(refused) => return Some(("ApplyFailed", format!("the API server refuses to {refused}"))),
        Ok(Applied::Taken(taken)) => {
            let taken = names(taken);
            return Some((
                "NameTaken",
                format!(
                    "objects that are not ours have the name {name}: {taken}; delete them, or give the CacheRuntime another name"
                ),
            ));
        }
        Ok(Applied::Leaving) => return Some(("Leaving", "its objects are being deleted".to_owned())),
        Ok(Applied::All(set)) => set,
    };
    let (ready, updated, count) = (ready(set), updated(set), members.count());
    let hint = format!(
        "if this lasts: kubectl -n {} describe pods -l {}",
        runtime.namespace().unwrap_or_default(),
        runtime_selector(&name)
    );
    if ready < count {
        Some(("NodesNotReady", format!("{ready} of {count} cache nodes serve; {hint}")))
    } else if updated < count {
        Some((
            "NodesOutdated",
            format!("{updated} of {count} cache nodes are as the spec wants them; {hint}"),
        ))
    } else {
        None
    }
}

fn ready(set: &StatefulSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.ready_replicas)
        .unwrap_or(0)
}

/// How many cache nodes are as the spec wants them; none while the StatefulSet itself was not looked at.
fn updated(set: &StatefulSet) -> i32 {
    let seen = set
        .status
        .as_ref()
        .filter(|status| status.observed_generation == set.metadata.generation);
    seen.and_then(|status| status.updated_replicas).unwrap_or(0)
}

/// Tiers whose disks are full or broken; a new leader goes on saying what the one before said until it knows better.
fn degraded(before: &CacheRuntimeStatus, observed: &Observed<'_>) -> Option<Wanted> {
    let Pool {
        reports,
        settling,
        away: _,
    } = &observed.pool;
    if *settling && reports.is_empty() {
        return Wanted::kept(condition::CACHE_DEGRADED, &before.conditions);
    }
    let faults: Vec<String> = reports
        .iter()
        .flat_map(|(host, report)| report.tiers.iter().map(move |tier| (host, &tier.fault)))
        .filter(|(_, fault)| !fault.is_empty())
        .map(|(host, fault)| format!("{}: {fault}", host.split('.').next().unwrap_or(host)))
        .collect();
    let degraded = Wanted::new(condition::CACHE_DEGRADED, true, "TierFault", names(&faults));
    (!faults.is_empty()).then_some(degraded)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn runtime() -> CacheRuntime {
        serde_json::from_value(json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime",
            "metadata": {"name": "pool", "namespace": "n"},
            "spec": {"replicas": 2, "tiers": []},
        }))
        .unwrap()
    }

    fn set(seen: i64, ready: i32, updated: i32) -> Applied {
        let set = json!({
            "metadata": {"generation": 2},
            "spec": {"serviceName": "s", "selector": {}, "template": {}},
            "status": {"replicas": 2, "observedGeneration": seen, "readyReplicas": ready, "updatedReplicas": updated},
        });
        Applied::All(Box::new(serde_json::from_value(set).unwrap()))
    }

    #[test]
    fn its_capacity_is_that_of_all_tiers() {
        let mut runtime = runtime();
        let tier = |name, capacity| json!({"name": name, "medium": "SSD", "capacity": capacity});
        let tiers = json!([tier("memory", "8Gi"), tier("ssd", "1Ti")]);
        runtime.spec.tiers = serde_json::from_value(tiers).unwrap();
        let members = Members::of(&runtime, "cluster.local");
        let children = set(2, 2, 2);
        let observed = Observed {
            children: Ok(&children),
            pool: Pool::default(),
            blocked_by: Vec::new(),
        };
        let status = status(&runtime, &CacheRuntimeStatus::default(), &members, &observed);
        assert_eq!(status.capacity, "8Gi + 1Ti");
    }

    #[test]
    fn it_is_ready_when_all_nodes_serve_as_the_spec_wants_them() {
        let runtime = runtime();
        let members = Members::of(&runtime, "cluster.local");
        for (children, reason) in [
            (Ok(set(2, 2, 2)), None),
            (Ok(set(2, 1, 2)), Some("NodesNotReady")),
            (Ok(set(2, 2, 1)), Some("NodesOutdated")),
            (Ok(set(1, 2, 2)), Some("NodesOutdated")),
            (Ok(Applied::Taken(vec!["Service pool".into()])), Some("NameTaken")),
            (
                Err("apply the StatefulSet: exceeded quota".to_owned()),
                Some("ApplyFailed"),
            ),
        ] {
            let observed = Observed {
                children: children.as_ref().map_err(Clone::clone),
                pool: Pool::default(),
                blocked_by: Vec::new(),
            };
            let said = blocker(&runtime, &members, &observed);
            assert_eq!(said.as_ref().map(|(reason, _)| *reason), reason, "{said:?}");
        }
    }
}
