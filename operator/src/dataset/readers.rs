//! The readers of a Dataset's volumes: made when a source needs them, gone when none does, and what keeps one from running.
//!
//! The Service of a reader is the first of it that is made and the last that goes: by it the rest is found, wherever a process before
//! this one has ended. The Secret cannot be looked for, because nobody may list Secrets.

mod desired;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use penstock_crds::{CacheRuntime, Dataset};

use crate::children::{self, Child, is_ours};
use crate::context::Context;
use crate::dataset::observe::Observed;
use crate::error::Error;
use crate::host_paths::HostPaths;
use crate::limits::READER_TOKEN_BYTES;
use crate::names::{READER_LABEL, readers_selector};
use crate::unusable::Unusable;
use crate::volumes::{Known, Reading, State, TokenSecret, Volume, Volumes};
use desired::{Children, Mounted, Reader};

/// A reader that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveReader {
    /// Its name.
    pub name: String,
    /// Whether its pod serves.
    pub is_ready: bool,
    /// What the Deployment says is wrong; empty when it says nothing.
    pub fault: String,
}

/// Looks at the readers that there are. From the API server's memory: it is asked for each Dataset, and most have none.
pub(super) async fn look(dataset: &Dataset, namespace: &str, context: &Context) -> Result<Vec<LiveReader>, Error> {
    let of_dataset = ListParams::default()
        .labels(&readers_selector(&dataset.name_any()))
        .match_any();
    let services: Api<Service> = Api::namespaced(context.client.clone(), namespace);
    let services = services.list(&of_dataset).await.map_err(Error::api("list readers"))?;
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), namespace);
    let deployments = deployments.list(&of_dataset).await;
    let deployments = deployments.map_err(Error::api("list readers"))?;
    let uid = dataset.uid().unwrap_or_default();
    let begun = services.items.iter().filter(|service| is_ours(*service, &uid));
    let mut readers: BTreeMap<String, LiveReader> = begun.map(begun_reader).collect();
    // One whose Service somebody has deleted is one, too.
    let made = deployments.items.iter().filter(|made| is_ours(*made, &uid));
    readers.extend(made.map(|made| (made.name_any(), live(made))));
    Ok(readers.into_values().collect())
}

/// Why the next revision has to wait for a reader of a volume in the spec.
pub(super) async fn trouble(
    dataset: &Dataset,
    namespace: &str,
    volumes: &Volumes,
    readers: &[LiveReader],
    context: &Context,
) -> Result<Option<Unusable>, Error> {
    let Some((volume, reader)) = first_that_does_not_run(dataset, volumes, readers) else {
        return Ok(None);
    };
    let why = match readers.iter().find(|live| live.name == reader) {
        Some(live) if !live.fault.is_empty() => live.fault.clone(),
        Some(_) => pod_trouble(namespace, reader, context).await?,
        None => "it is being made".to_owned(),
    };
    Ok(Some(Unusable::NoReader(format!(
        "the reader of {volume} does not run ({why}); kubectl -n {namespace} describe pods -l {READER_LABEL}={reader} shows more"
    ))))
}

/// Makes the readers that sources need, and deletes the others.
pub(super) async fn apply(
    dataset: &Dataset,
    namespace: &str,
    observed: &mut Observed,
    context: &Context,
) -> Result<(), Error> {
    // Also without a CacheRuntime: a claim that is deleted waits for its reader.
    let uid = dataset.uid().unwrap_or_default();
    for name in unneeded(&observed.volumes, &observed.readers) {
        delete(&name, namespace, &uid, context).await?;
    }
    // Only the cache nodes of a CacheRuntime may connect, so without one nobody is let in.
    let Ok(runtime) = observed.runtime.clone() else {
        return Ok(());
    };
    let host_paths = HostPaths::of(&runtime, &context.facts.host_paths);
    let volumes = observed.volumes.clone();
    for (reading, known) in &volumes {
        if !is_needed(known) {
            continue;
        }
        let mounted = match &reading.volume {
            Volume::Claim(name) => Mounted::Claim(name.clone()),
            // What is not allowed was not looked for.
            Volume::Folder(path) => match host_paths.holding(path) {
                Ok(held) => Mounted::HostPath(held),
                Err(_) => continue,
            },
        };
        let reader = Reader {
            dataset,
            namespace,
            name: &known.reader,
            reading,
            mounted,
        };
        let taken = make(&reader, known.secret.as_ref(), &runtime, context).await?;
        let mut of_spec = dataset.spec.sources.iter().filter_map(Reading::of);
        let is_of_spec = of_spec.any(|of_spec| of_spec == *reading);
        // One that only older revisions need holds up nothing new.
        if !taken.is_empty() && is_of_spec {
            observed.sources = Err(Unusable::NoReader(format!(
                "the reader of {} cannot be made, because {} is somebody else's; delete it",
                reading.volume,
                taken.join(" and ")
            )));
        }
    }
    Ok(())
}

/// Volumes that can be mounted. A claim that is being deleted is let go, or it would never end.
fn is_needed(known: &Known) -> bool {
    matches!(known.state, State::There(_) | State::OfNodes)
}

/// Names of the readers that no source needs, neither of the spec nor of an older revision.
fn unneeded(volumes: &Volumes, readers: &[LiveReader]) -> Vec<String> {
    let needed: BTreeSet<&str> = volumes
        .values()
        .filter(|known| is_needed(known))
        .map(|known| known.reader.as_str())
        .collect();
    let names = readers.iter().map(|live| &live.name);
    names.filter(|name| !needed.contains(name.as_str())).cloned().collect()
}

/// Volume and reader.
fn first_that_does_not_run<'a>(
    dataset: &Dataset,
    volumes: &'a Volumes,
    readers: &[LiveReader],
) -> Option<(Volume, &'a str)> {
    let of_spec = dataset.spec.sources.iter().filter_map(Reading::of);
    let mut named = of_spec.filter_map(|reading| {
        let known = volumes.get(&reading)?;
        Some((reading.volume, known.reader.as_str()))
    });
    named.find(|(_, reader)| !readers.iter().any(|live| live.name == *reader && live.is_ready))
}

/// Makes a reader, or what lacks of it; names what is somebody else's, and touches nothing then.
async fn make(
    reader: &Reader<'_>,
    found: Option<&TokenSecret>,
    runtime: &CacheRuntime,
    context: &Context,
) -> Result<Vec<String>, Error> {
    let desired = |secret_uid: &str| desired::children(reader, secret_uid, runtime, &context.facts);
    let Children {
        owner_uid,
        network_policy,
        service,
        deployment,
    } = desired("")?;
    let network_policy = Child::look(network_policy, reader.namespace, context).await?;
    let service = Child::look(service, reader.namespace, context).await?;
    let deployment = Child::look(deployment, reader.namespace, context).await?;
    let is_unusable = |secret: &&TokenSecret| !secret.owners.contains(&owner_uid) || secret.token.is_empty();
    let taken = [
        network_policy.taken(&owner_uid),
        service.taken(&owner_uid),
        deployment.taken(&owner_uid),
        found.filter(is_unusable).map(|_| format!("Secret {}", reader.name)),
    ];
    let taken: Vec<String> = taken.into_iter().flatten().collect();
    if taken.is_empty() {
        service.apply("apply the Service of a reader", context).await?;
        network_policy
            .apply("apply the NetworkPolicy of a reader", context)
            .await?;
        let secret_uid = match found {
            Some(secret) => secret.uid.clone(),
            None => make_secret(reader, context).await?,
        };
        let deployment = deployment.wanted(desired(&secret_uid)?.deployment);
        deployment.apply("apply the Deployment of a reader", context).await?;
    }
    Ok(taken)
}

/// Makes the Secret and says its UID. It is made once, so that no running pod has another token.
async fn make_secret(reader: &Reader<'_>, context: &Context) -> Result<String, Error> {
    let token = rand::random::<[u8; READER_TOKEN_BYTES]>();
    let token = token.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    let secret = desired::secret(reader, &token)?;
    let api: Api<Secret> = Api::namespaced(context.client.clone(), reader.namespace);
    let made = api.create(&PostParams::default(), &secret).await;
    let made = made.map_err(Error::api("create the Secret of a reader"))?;
    Ok(made.uid().unwrap_or_default())
}

/// Deletes what there is of a reader of the Dataset with this UID, and nothing of anybody else.
async fn delete(name: &str, namespace: &str, uid: &str, context: &Context) -> Result<(), Error> {
    children::delete::<Deployment>(name, namespace, uid, context).await?;
    children::delete::<Secret>(name, namespace, uid, context).await?;
    children::delete::<NetworkPolicy>(name, namespace, uid, context).await?;
    children::delete::<Service>(name, namespace, uid, context).await
}

/// One that has no pod yet.
fn begun_reader(service: &Service) -> (String, LiveReader) {
    let name = service.name_any();
    let reader = LiveReader {
        name: name.clone(),
        is_ready: false,
        fault: String::new(),
    };
    (name, reader)
}

fn live(deployment: &Deployment) -> LiveReader {
    let status = deployment.status.clone().unwrap_or_default();
    let is_current = status.observed_generation == deployment.metadata.generation;
    let conditions = status.conditions.unwrap_or_default();
    let says = |kind: &str, value: &str| {
        let condition = conditions
            .iter()
            .find(|condition| condition.type_ == kind && condition.status == value);
        condition.and_then(|condition| condition.message.clone())
    };
    LiveReader {
        name: deployment.name_any(),
        is_ready: is_current && status.ready_replicas.unwrap_or(0) > 0,
        // That it makes no progress says less than its pod.
        fault: says("ReplicaFailure", "True").unwrap_or_default(),
    }
}

/// What the pod of a reader waits for.
async fn pod_trouble(namespace: &str, reader: &str, context: &Context) -> Result<String, Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let of_reader = ListParams::default().labels(&format!("{READER_LABEL}={reader}"));
    let pods = pods
        .list(&of_reader)
        .await
        .map_err(Error::api("list the pods of a reader"))?;
    let said = pods.items.iter().find_map(waits_for);
    Ok(said.unwrap_or_else(|| "0 of 1 ready".to_owned()))
}

fn waits_for(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions
        .into_iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .and_then(|condition| condition.message.clone());
    let waiting = || {
        let state = status.container_statuses.iter().flatten().next()?.state.as_ref()?;
        let waiting = state.waiting.as_ref()?;
        let reason = waiting.reason.clone().unwrap_or_default();
        Some(match &waiting.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason,
        })
    };
    unscheduled.or_else(waiting)
}

#[cfg(test)]
mod tests;
