//! Applies the children of a CacheRuntime. Does not know what they are: [`desired`] does.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt;
use penstock_crds::{CacheRuntime, Dataset};

use crate::cache_runtime::desired;
use crate::children::{self, Child};
use crate::context::Context;
use crate::error::Error;

/// What became of the children.
pub(super) enum Applied {
    /// All are as they should be.
    All(Box<StatefulSet>),
    /// Objects of somebody else have their names, so nothing was touched.
    Taken(Vec<String>),
    /// Kubernetes itself deletes them already (`kubectl delete --cascade=foreground`); to make them again would be a fight.
    Leaving,
}

/// Brings all children nearer to what is desired.
pub(super) async fn apply(
    runtime: &CacheRuntime,
    namespace: &str,
    users: &[Dataset],
    context: &Context,
) -> Result<Applied, Error> {
    if runtime.finalizers().iter().any(|name| name == "foregroundDeletion") {
        return Ok(Applied::Leaving);
    }
    let desired::Children {
        service_account,
        service,
        network_policy,
        disruption_budget,
        stateful_set,
    } = desired::children(runtime, users, &context.facts)?;
    let service_account = Child::look(service_account, namespace, context).await?;
    let service = Child::look(service, namespace, context).await?;
    let network_policy = Child::look(network_policy, namespace, context).await?;
    let disruption_budget = Child::look(disruption_budget, namespace, context).await?;
    let stateful_set = Child::look(stateful_set, namespace, context).await?;

    let uid = runtime.uid().unwrap_or_default();
    let taken = [
        service_account.taken(&uid),
        service.taken(&uid),
        network_policy.taken(&uid),
        disruption_budget.taken(&uid),
        stateful_set.taken(&uid),
    ];
    let taken: Vec<String> = taken.into_iter().flatten().collect();
    if !taken.is_empty() {
        return Ok(Applied::Taken(taken));
    }
    service_account.apply("apply the ServiceAccount", context).await?;
    // The Service gives the pods their names, so it stands before them.
    service.apply("apply the Service", context).await?;
    network_policy.apply("apply the NetworkPolicy", context).await?;
    disruption_budget
        .apply("apply the PodDisruptionBudget", context)
        .await?;
    let stateful_set = stateful_set.apply("apply the StatefulSet", context).await?;
    Ok(Applied::All(Box::new(stateful_set)))
}

/// Deletes the cache nodes, unless a StatefulSet of that name is somebody else's.
pub(super) async fn delete_nodes(runtime: &CacheRuntime, namespace: &str, context: &Context) -> Result<(), Error> {
    let uid = runtime.uid().unwrap_or_default();
    children::delete::<StatefulSet>(&runtime.name_any(), namespace, &uid, context).await
}
