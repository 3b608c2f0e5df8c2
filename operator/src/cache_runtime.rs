//! The controller of CacheRuntimes: cache nodes, their ring, and what they are told.

mod children;
pub mod desired;
pub mod members;
mod status;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use penstock_crds::{CacheRuntime, Dataset};
use penstock_protocol::control::cache_node as wire;

use crate::context::Context;
use crate::error::Error;
use crate::limits::{BLOCKED_LOOK_INTERVAL, ERROR_PAUSE, SECRET_LOOK_INTERVAL};
use crate::links::RuntimeKey;
use crate::names::{FINALIZER, runtime_selector};
use crate::terms::Terms;
use crate::{announced, apply, caching, dataset, sources};
use children::Applied;
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
    let has_finalizer = runtime.finalizers().iter().any(|name| name == FINALIZER);
    let is_leaving = runtime.metadata.deletion_timestamp.is_some();
    if is_leaving && (users.is_empty() || !has_finalizer) {
        return let_go(&runtime, &api, &namespace, has_finalizer, &context).await;
    }
    if !has_finalizer {
        apply::add_finalizer(&api, &runtime).await?;
        return Ok(Action::await_change());
    }
    let members = Members::of(&runtime, &context.facts.cluster_domain);
    let children = children::apply(&runtime, &namespace, &users, &context).await;
    if !matches!(children, Ok(Applied::Taken(_))) {
        tell(&runtime, &namespace, &members, &users, &context).await?;
    }
    let pause = match children {
        Ok(Applied::Taken(_)) => BLOCKED_LOOK_INTERVAL,
        Ok(Applied::All(_) | Applied::Leaving) | Err(_) => SECRET_LOOK_INTERVAL,
    };
    let observed = Observed {
        children: children.as_ref().map_err(Error::sentence),
        pool: context.links.pool(&(namespace, runtime.name_any())),
        blocked_by: users.iter().filter(|_| is_leaving).map(ResourceExt::name_any).collect(),
    };
    status::write(&api, &runtime, &members, &observed, &context).await?;
    children.map(|_| Action::requeue(pause))
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

/// Tells every cache node the ring and all Datasets. It always names all of them: a cache node drops what it is not told.
async fn tell(
    runtime: &CacheRuntime,
    namespace: &str,
    members: &Members,
    users: &[Dataset],
    context: &Context,
) -> Result<(), Error> {
    let terms = Terms::of(runtime, &context.facts.host_paths);
    let mut datasets = Vec::new();
    for dataset in users {
        let former = announced::former_sources(dataset);
        let all: Vec<_> = dataset.spec.sources.iter().chain(&former).cloned().collect();
        let named = sources::named(dataset, namespace, &all, context).await?;
        // Without its Secret, or when it is not allowed, the cached blocks of a source are still served; the Dataset says what is wrong.
        let (sources, _) = sources::wire_sources(&dataset.spec.sources, &named, Some(&terms));
        let (former_sources, _) = sources::wire_sources(&former, &named, Some(&terms));
        datasets.push(wire::Dataset {
            uid: dataset.uid().unwrap_or_default(),
            namespace: namespace.to_owned(),
            name: dataset.name_any(),
            sources,
            revisions: announced::announced(dataset)
                .iter()
                .map(|id| id.as_bytes().to_vec())
                .collect(),
            rules: dataset.spec.cache.as_ref().map_or_else(Vec::new, caching::rules),
            quota: dataset.spec.cache.as_ref().and_then(caching::quota),
            ownership: None,
            former_sources,
        });
    }
    datasets.sort_by(|a, b| a.uid.cmp(&b.uid));
    let origins = runtime.spec.origins.as_ref();
    let config = wire::NodeConfig {
        generation: 0,
        ring_epoch: members.epoch as u64,
        members: members.wire(),
        datasets,
        tiers: desired::capacities(&runtime.spec.tiers),
        cluster_networks: context.cluster.networks(),
        cluster_addresses: origins.map_or_else(Vec::new, |origins| origins.cluster_addresses.clone()),
    };
    let key: RuntimeKey = (namespace.to_owned(), runtime.name_any());
    context.links.set(&key, &members.hosts, config);
    Ok(())
}

/// Nobody uses it any more: waits for the cache nodes' end, then lets go. Until then it goes on as if it was not deleted, for
/// the pods that still read.
async fn let_go(
    runtime: &CacheRuntime,
    api: &Api<CacheRuntime>,
    namespace: &str,
    has_finalizer: bool,
    context: &Context,
) -> Result<Action, Error> {
    if !has_finalizer {
        return Ok(Action::await_change());
    }
    let name = runtime.name_any();
    context.links.remove(&(namespace.to_owned(), name.clone()));
    children::delete_nodes(runtime, namespace, context).await?;
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let left = pods
        .list(&ListParams::default().labels(&runtime_selector(&name)))
        .await
        .map_err(Error::api("list cache nodes"))?;
    if !left.items.is_empty() {
        // Their end wakes us: the pods are watched.
        return Ok(Action::requeue(BLOCKED_LOOK_INTERVAL));
    }
    context.applied.forget(&runtime.uid().unwrap_or_default());
    apply::remove_finalizer(api, runtime).await?;
    Ok(Action::await_change())
}
