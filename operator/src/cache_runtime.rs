//! The controller of CacheRuntimes: cache nodes, their ring, and what they are told.

pub mod desired;
pub mod members;
mod status;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use penstock_crds::{CacheRuntime, Dataset};
use penstock_protocol::control::cache_node as wire;

use crate::context::Context;
use crate::error::Error;
use crate::limits::{ERROR_PAUSE, SECRET_LOOK_INTERVAL, WAIT_INTERVAL};
use crate::links::RuntimeKey;
use crate::names::{FINALIZER, runtime_selector};
use crate::{apply, conditions, dataset, sources};
use members::Members;
use status::Observed;

/// Brings one CacheRuntime nearer to its spec.
///
/// # Errors
/// When the API server refuses; it is tried again.
pub async fn reconcile(runtime: Arc<CacheRuntime>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = runtime.namespace().ok_or(Error::Incomplete("namespace"))?;
    let api: Api<CacheRuntime> = Api::namespaced(context.client.clone(), &namespace);
    let users = users(&context, &namespace, &runtime.name_any()).await?;
    if runtime.metadata.deletion_timestamp.is_some() {
        return clean_up(&runtime, &api, &namespace, &users, &context).await;
    }
    if !runtime.finalizers().iter().any(|name| name == FINALIZER) {
        apply::add_finalizer(&api, &runtime).await?;
        return Ok(Action::await_change());
    }
    let stateful_set = apply_children(&runtime, &context).await?;
    let members = Members::of(&runtime, &context.facts.cluster_domain);
    tell(&runtime, &namespace, &members, &users, &context).await?;
    let reports = context.links.pool(&(namespace, runtime.name_any())).reports;
    let observed = Observed {
        stateful_set: Some(stateful_set),
        reports,
        blocked_by: Vec::new(),
    };
    status::write(&api, &runtime, &members, &observed).await?;
    Ok(Action::requeue(SECRET_LOOK_INTERVAL))
}

/// What to do after a failed reconcile.
pub fn error_policy(runtime: Arc<CacheRuntime>, error: &Error, _: Arc<Context>) -> Action {
    if !error.is_conflict() {
        tracing::warn!(runtime = runtime.name_any(), namespace = runtime.namespace(), %error, "reconcile a CacheRuntime");
    }
    Action::requeue(ERROR_PAUSE)
}

/// The Datasets of the namespace that use this CacheRuntime.
async fn users(context: &Context, namespace: &str, runtime: &str) -> Result<Vec<Dataset>, Error> {
    let datasets: Api<Dataset> = Api::namespaced(context.client.clone(), namespace);
    let all = datasets
        .list(&ListParams::default())
        .await
        .map_err(Error::api("list Datasets"))?;
    Ok(all
        .items
        .into_iter()
        .filter(|dataset| dataset::uses(dataset, runtime))
        .collect())
}

async fn apply_children(runtime: &CacheRuntime, context: &Context) -> Result<StatefulSet, Error> {
    let desired::Children {
        service_account,
        service,
        network_policy,
        disruption_budget,
        stateful_set,
    } = desired::children(runtime, &context.facts)?;
    let client = &context.client;
    apply::apply(client, "apply the ServiceAccount", &service_account).await?;
    // The Service gives the pods their names, so it stands before them.
    apply::apply(client, "apply the Service", &service).await?;
    apply::apply(client, "apply the NetworkPolicy", &network_policy).await?;
    apply::apply(client, "apply the PodDisruptionBudget", &disruption_budget).await?;
    apply::apply(client, "apply the StatefulSet", &stateful_set).await
}

/// Tells every cache node the ring and all Datasets. It always names all of them: a cache node drops what it is not told.
async fn tell(
    runtime: &CacheRuntime,
    namespace: &str,
    members: &Members,
    users: &[Dataset],
    context: &Context,
) -> Result<(), Error> {
    let mut datasets = Vec::new();
    for dataset in users {
        let secrets = sources::secrets(&context.client, namespace, &dataset.spec.sources).await?;
        // Without its Secret the cached blocks of a source are still served; that it is missing is said by the Dataset.
        let (sources, _) = sources::wire_sources(&dataset.spec.sources, &secrets);
        datasets.push(wire::Dataset {
            uid: dataset.uid().unwrap_or_default(),
            namespace: namespace.to_owned(),
            name: dataset.name_any(),
            sources,
            revisions: dataset::announced(dataset)
                .iter()
                .map(|id| id.as_bytes().to_vec())
                .collect(),
        });
    }
    datasets.sort_by(|a, b| a.uid.cmp(&b.uid));
    let config = wire::NodeConfig {
        generation: 0,
        ring_epoch: members.epoch as u64,
        members: members.wire(),
        datasets,
    };
    let key: RuntimeKey = (namespace.to_owned(), runtime.name_any());
    context.links.set(&key, &members.hosts, config);
    Ok(())
}

/// Waits for Datasets, then for the cache nodes' end, then lets go.
async fn clean_up(
    runtime: &CacheRuntime,
    api: &Api<CacheRuntime>,
    namespace: &str,
    users: &[Dataset],
    context: &Context,
) -> Result<Action, Error> {
    let name = runtime.name_any();
    let members = Members::of(runtime, &context.facts.cluster_domain);
    if !users.is_empty() {
        let blocked_by: Vec<String> = users.iter().map(|dataset| dataset.name_any()).collect();
        tracing::info!(
            runtime = name,
            datasets = conditions::names(&blocked_by),
            "a deletion waits for Datasets"
        );
        let reports = context.links.pool(&(namespace.to_owned(), name)).reports;
        status::write(
            api,
            runtime,
            &members,
            &Observed {
                stateful_set: None,
                reports,
                blocked_by,
            },
        )
        .await?;
        return Ok(Action::requeue(WAIT_INTERVAL));
    }
    context.links.remove(&(namespace.to_owned(), name.clone()));
    apply::delete(
        &Api::<StatefulSet>::namespaced(context.client.clone(), namespace),
        &name,
    )
    .await?;
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let left = pods
        .list(&ListParams::default().labels(&runtime_selector(&name)))
        .await
        .map_err(Error::api("list cache nodes"))?;
    if !left.items.is_empty() {
        // Their end wakes us: the pods are watched.
        return Ok(Action::requeue(WAIT_INTERVAL));
    }
    apply::remove_finalizer(api, runtime).await?;
    Ok(Action::await_change())
}
