//! The status of a CacheRuntime: computed once, written only when it differs.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::{Api, ResourceExt};
use penstock_crds::{CacheRuntime, CacheRuntimeStatus, condition};
use penstock_protocol::control::cache_node as wire;

use crate::apply;
use crate::cache_runtime::members::Members;
use crate::conditions::{Wanted, merged, names};
use crate::context::now;
use crate::error::Error;
use crate::names::runtime_selector;

/// What was seen.
pub(super) struct Observed {
    pub(super) stateful_set: Option<StatefulSet>,
    pub(super) reports: BTreeMap<String, wire::NodeReport>,
    /// Datasets that keep it from being deleted.
    pub(super) blocked_by: Vec<String>,
}

pub(super) async fn write(
    api: &Api<CacheRuntime>,
    runtime: &CacheRuntime,
    members: &Members,
    observed: &Observed,
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
    apply::apply_status(api, &runtime.name_any(), runtime.resource_version().as_deref(), value).await
}

fn status(
    runtime: &CacheRuntime,
    before: &CacheRuntimeStatus,
    members: &Members,
    observed: &Observed,
) -> CacheRuntimeStatus {
    let counts = observed.stateful_set.as_ref().and_then(|set| set.status.as_ref());
    let (replicas, ready) = match counts {
        Some(counts) => (counts.replicas, counts.ready_replicas.unwrap_or(0)),
        None if observed.stateful_set.is_some() => (0, 0),
        None => (before.replicas, before.ready_replicas),
    };
    CacheRuntimeStatus {
        observed_generation: runtime.metadata.generation,
        conditions: merged(
            &before.conditions,
            wanted(runtime, ready, members, observed),
            runtime.metadata.generation,
            &now(),
        ),
        replicas,
        ready_replicas: ready,
        selector: Some(runtime_selector(&runtime.name_any())),
        ring_epoch: members.epoch,
        ring_members: members.count(),
    }
}

fn wanted(runtime: &CacheRuntime, ready: i32, members: &Members, observed: &Observed) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let (count, name) = (members.count(), runtime.name_any());
    if ready >= count {
        wanted.push(Wanted::new(
            condition::READY,
            true,
            "AllNodesReady",
            format!("all {count} cache nodes serve"),
        ));
    } else {
        let message = format!(
            "{ready} of {count} cache nodes serve; if this lasts: kubectl -n {} describe pods -l {}",
            runtime.namespace().unwrap_or_default(),
            runtime_selector(&name)
        );
        wanted.push(Wanted::new(condition::READY, false, "NodesNotReady", message.clone()));
        wanted.push(Wanted::new(condition::RECONCILING, true, "NodesNotReady", message));
    }
    let faults: Vec<String> = observed
        .reports
        .iter()
        .flat_map(|(host, report)| report.tiers.iter().map(move |tier| (host, &tier.fault)))
        .filter(|(_, fault)| !fault.is_empty())
        .map(|(host, fault)| format!("{}: {fault}", host.split('.').next().unwrap_or(host)))
        .collect();
    if !faults.is_empty() {
        wanted.push(Wanted::new(
            condition::CACHE_DEGRADED,
            true,
            "TierFault",
            names(&faults),
        ));
    }
    if !observed.blocked_by.is_empty() {
        let message = format!(
            "waits until these Datasets are deleted: {}",
            names(&observed.blocked_by)
        );
        wanted.push(Wanted::new(
            condition::DELETION_BLOCKED,
            true,
            "UsedByDatasets",
            message,
        ));
    }
    wanted
}
