//! The readers of a Dataset's volumes: made when a source needs them, gone when none does, and what keeps one from running.

mod desired;

use std::collections::BTreeSet;
use std::fmt::Write;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use penstock_crds::Dataset;

use crate::apply;
use crate::children::{Child, is_ours};
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
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), namespace);
    let of_dataset = ListParams::default()
        .labels(&readers_selector(&dataset.name_any()))
        .match_any();
    let found = api.list(&of_dataset).await.map_err(Error::api("list readers"))?;
    let uid = dataset.uid().unwrap_or_default();
    let ours = found.items.iter().filter(|found| is_ours(*found, &uid));
    Ok(ours.map(live).collect())
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
    for name in unneeded(&observed.volumes, &observed.readers) {
        delete(&name, namespace, context).await?;
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
        let Some(secret) = secret(&reader, known.secret.as_ref(), context).await? else {
            continue;
        };
        let taken = children(
            desired::children(&reader, &secret, &runtime, &context.facts)?,
            namespace,
            context,
        )
        .await?;
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

/// UID of the Secret; makes it if there is none. It is made once, so that no running pod has another token. None when it is
/// somebody else's, or has no token.
async fn secret(reader: &Reader<'_>, found: Option<&TokenSecret>, context: &Context) -> Result<Option<String>, Error> {
    if let Some(TokenSecret { uid, token, owners }) = found {
        let dataset_uid = reader.dataset.uid().unwrap_or_default();
        let is_usable = owners.contains(&dataset_uid) && !token.is_empty();
        return Ok(is_usable.then(|| uid.clone()));
    }
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
    Ok(Some(made.uid().unwrap_or_default()))
}

/// Applies them; names what is somebody else's, and touches nothing then.
async fn children(children: Children, namespace: &str, context: &Context) -> Result<Vec<String>, Error> {
    let Children {
        owner_uid,
        network_policy,
        service,
        deployment,
    } = children;
    let network_policy = Child::look(network_policy, namespace, context).await?;
    let service = Child::look(service, namespace, context).await?;
    let deployment = Child::look(deployment, namespace, context).await?;
    let taken = [
        network_policy.taken(&owner_uid),
        service.taken(&owner_uid),
        deployment.taken(&owner_uid),
    ];
    let taken: Vec<String> = taken.into_iter().flatten().collect();
    if taken.is_empty() {
        network_policy
            .apply("apply the NetworkPolicy of a reader", context)
            .await?;
        service.apply("apply the Service of a reader", context).await?;
        deployment.apply("apply the Deployment of a reader", context).await?;
    }
    Ok(taken)
}

/// The Deployment is the last to go: by it the others are found.
async fn delete(name: &str, namespace: &str, context: &Context) -> Result<(), Error> {
    let client = &context.client;
    apply::delete(&Api::<Service>::namespaced(client.clone(), namespace), name).await?;
    apply::delete(&Api::<Secret>::namespaced(client.clone(), namespace), name).await?;
    apply::delete(&Api::<NetworkPolicy>::namespaced(client.clone(), namespace), name).await?;
    apply::delete(&Api::<Deployment>::namespaced(client.clone(), namespace), name).await
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
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::dataset::decide::tests::dataset;
    use crate::volumes::tests::{known, reading};

    fn live_reader(name: &str, is_ready: bool) -> LiveReader {
        LiveReader {
            name: name.into(),
            is_ready,
            fault: String::new(),
        }
    }

    fn named(state: State, reader: &str) -> Known {
        Known {
            reader: reader.into(),
            ..known(state, Some("t"))
        }
    }

    #[test]
    fn a_reader_goes_when_no_source_names_its_claim_or_the_claim_goes() {
        let there = || State::There("c".into());
        let volumes = Volumes::from([
            (reading("a", 1), named(there(), "reader-a")),
            (reading("b", 1), named(State::Leaving, "reader-b")),
            (reading("c", 1), named(State::Missing, "reader-c")),
        ]);
        let live = ["reader-a", "reader-b", "reader-c", "reader-of-before"].map(|name| live_reader(name, true));
        assert_eq!(unneeded(&volumes, &live), ["reader-b", "reader-c", "reader-of-before"]);
    }

    #[test]
    fn only_a_reader_of_the_spec_that_does_not_run_is_waited_for() {
        let spec = json!({"sources": [
            {"path": "s", "s3": {"bucket": "b"}},
            {"path": "a", "claim": {"name": "a", "uid": 1, "gid": 100}},
            {"path": "b", "claim": {"name": "b", "uid": 1, "gid": 100}},
        ]});
        let dataset = dataset(spec, None);
        let there = || State::There("c".into());
        let volumes = Volumes::from([
            (reading("a", 1), named(there(), "reader-a")),
            (reading("b", 1), named(there(), "reader-b")),
            (reading("former", 1), named(there(), "reader-former")),
        ]);
        for (ready, expected) in [
            (
                &[("reader-a", true), ("reader-b", true), ("reader-former", false)][..],
                None,
            ),
            (
                &[("reader-a", true), ("reader-b", false)],
                Some((Volume::Claim("b".into()), "reader-b")),
            ),
            (&[("reader-b", true)], Some((Volume::Claim("a".into()), "reader-a"))),
        ] {
            let live: Vec<LiveReader> = ready
                .iter()
                .map(|(name, is_ready)| live_reader(name, *is_ready))
                .collect();
            assert_eq!(
                first_that_does_not_run(&dataset, &volumes, &live),
                expected,
                "{ready:?}"
            );
        }
    }

    #[test]
    fn a_deployment_is_ready_when_its_newest_form_is() {
        let deployment = |status: Value| -> Deployment {
            let deployment = json!({
                "metadata": {"name": "reader-a", "generation": 2},
                "spec": {"selector": {}, "template": {}},
                "status": status,
            });
            serde_json::from_value(deployment).unwrap()
        };
        let failure = json!({"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"});
        for (status, is_ready, fault) in [
            (json!({}), false, ""),
            (json!({"observedGeneration": 2, "readyReplicas": 1}), true, ""),
            (json!({"observedGeneration": 1, "readyReplicas": 1}), false, ""),
            (
                json!({"observedGeneration": 2, "conditions": [failure]}),
                false,
                "exceeded quota",
            ),
        ] {
            let expected = LiveReader {
                fault: fault.into(),
                ..live_reader("reader-a", is_ready)
            };
            assert_eq!(live(&deployment(status.clone())), expected, "{status}");
        }
    }

    #[test]
    fn what_a_pod_waits_for_is_said() {
        let pod = |status: Value| -> Pod { serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap() };
        let unbound = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "unbound claims"}]});
        let pulling = json!({"containerStatuses": [{
            "name": "reader", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}},
        }]});
        for (status, expected) in [
            (unbound, Some("unbound claims")),
            (pulling, Some("ErrImagePull: no such image")),
            (json!({}), None),
        ] {
            assert_eq!(waits_for(&pod(status)).as_deref(), expected);
        }
    }
}
