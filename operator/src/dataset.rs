//! The controller of Datasets: revisions, volumes, and where they stand.

pub mod decide;
pub mod desired;
mod observe;
mod older;
mod readers;
mod revision;
mod status;
mod unread;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use penstock_crds::{Dataset, Revision, Source, condition};
use penstock_protocol::control::cache_node as wire;
use penstock_sources::wire_ownership;

use crate::builds::{Basis, Done, Order, State};
use crate::commit::commit;
use crate::context::{Context, now};
use crate::error::Error;
use crate::limits::{BLOCKED_LOOK_INTERVAL, ERROR_PAUSE, WAIT_INTERVAL};
use crate::names::{FINALIZER, volume};
use crate::notifications::marks::Look;
use crate::{apply, conditions, others};
use decide::Next;
use observe::{Claim, Observed};

/// Whether a Dataset uses a CacheRuntime of its namespace: by name, or because it was chosen for it.
pub fn uses(dataset: &Dataset, runtime: &str) -> bool {
    let chosen = dataset.status.as_ref().and_then(|status| status.runtime.as_deref());
    dataset.spec.runtime.as_deref().or(chosen) == Some(runtime)
}

/// Brings one Dataset nearer to its spec.
///
/// # Errors
/// When the API server refuses; it is tried again.
pub async fn reconcile(dataset: Arc<Dataset>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = dataset.namespace().ok_or(Error::Incomplete("namespace"))?;
    let api: Api<Dataset> = Api::namespaced(context.client.clone(), &namespace);
    if dataset.metadata.deletion_timestamp.is_some() {
        return clean_up(&dataset, &api, &namespace, &context).await;
    }
    if !dataset.finalizers().iter().any(|name| name == FINALIZER) {
        apply::add_finalizer(&api, &dataset).await?;
        return Ok(Action::await_change());
    }
    let mut observed = observe::observe(&dataset, &namespace, &context).await?;
    if decide::is_moot(&dataset, &observed, now().0) {
        context.builds.clear(&dataset.uid().unwrap_or_default());
        observed.build = State::Idle;
    }
    let next = decide::next(&dataset, &observed, now().0);
    let done = step(&dataset, &api, &namespace, &next, &mut observed, &context).await;
    if let Err(error) = &done {
        if error.is_conflict() {
            return done;
        }
        observed.refused = Some(error.sentence());
    }
    // Also what the API server refused has to be seen.
    let is_due = decide::is_due(&dataset, &observed, now().0);
    status::write(&api, &dataset, &observed, is_due, &context).await?;
    done
}

/// What to do after a failed reconcile.
pub fn error_policy(dataset: Arc<Dataset>, error: &Error, _: Arc<Context>) -> Action {
    if !error.is_conflict() {
        tracing::warn!(dataset = dataset.name_any(), namespace = dataset.namespace(), %error, "reconcile a Dataset");
    }
    Action::requeue(ERROR_PAUSE)
}

async fn step(
    dataset: &Dataset,
    api: &Api<Dataset>,
    namespace: &str,
    next: &Next,
    observed: &mut Observed,
    context: &Context,
) -> Result<Action, Error> {
    readers::apply(dataset, namespace, observed, context).await?;
    let action = act(dataset, api, next, observed, context).await?;
    apply_volume(dataset, namespace, observed, context).await?;
    Ok(action)
}

async fn act(
    dataset: &Dataset,
    api: &Api<Dataset>,
    next: &Next,
    observed: &mut Observed,
    context: &Context,
) -> Result<Action, Error> {
    let uid = dataset.uid().unwrap_or_default();
    match next {
        Next::Commit(done) => {
            let Done { built, basis } = done.as_ref();
            // What changes nothing needs no room.
            let Some(older) = observed.older().or(built.unchanged.then(Vec::new)) else {
                return Ok(Action::requeue(WAIT_INTERVAL));
            };
            if let Some(revision) = revision::to_commit(observed.revision.as_ref(), &older, built, basis) {
                observed.version = commit(api, dataset, &revision).await?;
                if !built.unchanged {
                    announce(dataset, &revision, context).await;
                }
                observed.revision = Some(revision);
            }
            context.builds.clear(&uid);
            observed.build = State::Idle;
            context.notifications.settle(&uid, basis.told_number);
            observed.handled_refresh.clone_from(&basis.asked_refresh);
            Ok(Action::requeue(WAIT_INTERVAL))
        }
        Next::Build { parent, look } => {
            // A reader of a claim may have turned out to be somebody else's since this was decided.
            let Ok(sources) = observed.sources.clone() else {
                return Ok(Action::requeue(WAIT_INTERVAL));
            };
            let request = wire::BuildRequest {
                dataset: Some(asked(dataset, sources)),
                parent: parent.map(|parent| parent.as_bytes().to_vec()).unwrap_or_default(),
                dirty: match look {
                    Look::All => Vec::new(),
                    Look::Below(dirty) => dirty.clone(),
                },
            };
            context.builds.start(Order {
                dataset: ObjectRef::from_obj(dataset),
                uid: uid.clone(),
                request,
                basis: Basis {
                    committed: observed.revision.as_ref().map(|revision| revision.id.clone()),
                    sources_digest: observed.sources_digest.clone(),
                    sources: dataset.spec.sources.iter().map(Source::origin_only).collect(),
                    other_revisions: observed.other_revisions.clone(),
                    asked_refresh: decide::asked_refresh(dataset),
                    began: Some(now()),
                    told_number: observed.told_number,
                    is_partial: matches!(look, Look::Below(_)),
                },
                builders: observed.builders.clone(),
                hosts: observed.linked_hosts.clone(),
            });
            observed.build = context.builds.state(&uid);
            // Its end wakes us; until then what no watch tells is looked at.
            Ok(Action::requeue(BLOCKED_LOOK_INTERVAL))
        }
        Next::Forget(left) => {
            if let Some(before) = &observed.revision {
                let revision = revision::with_older(before, left);
                observed.version = commit(api, dataset, &revision).await?;
                observed.revision = Some(revision);
            }
            Ok(Action::requeue(WAIT_INTERVAL))
        }
        Next::Wait(pause) => Ok(Action::requeue(*pause)),
        Next::Rest => Ok(Action::await_change()),
    }
}

/// What a cache node is asked to build.
fn asked(dataset: &Dataset, sources: Vec<wire::Source>) -> wire::Dataset {
    wire::Dataset {
        uid: dataset.uid().unwrap_or_default(),
        namespace: dataset.namespace().unwrap_or_default(),
        name: dataset.name_any(),
        sources,
        ownership: dataset.spec.ownership.as_ref().map(wire_ownership),
        ..wire::Dataset::default()
    }
}

async fn announce(dataset: &Dataset, revision: &Revision, context: &Context) {
    let id = &revision.id[..12.min(revision.id.len())];
    let note = format!("revision {id} has {} files", revision.files);
    let about = dataset.object_ref(&());
    context
        .event(&about, EventType::Normal, "RevisionCommitted", note)
        .await;
}

/// Volume and claim, once there is something to mount; a claim that is not ours is left alone.
async fn apply_volume(
    dataset: &Dataset,
    namespace: &str,
    observed: &mut Observed,
    context: &Context,
) -> Result<(), Error> {
    let Some(revision) = &observed.revision else {
        return Ok(());
    };
    if observed.claim.is_in_the_way() {
        return Ok(());
    }
    let (wanted_volume, wanted_claim) = desired::volume_and_claim(dataset, namespace, revision.bytes)?;
    let volumes: Api<PersistentVolume> = Api::all(context.client.clone());
    if observed.volume_is_stale {
        apply::forget_claim(&volumes, &volume(&dataset.uid().unwrap_or_default())).await?;
    }
    if !observed.volume_exists {
        apply::apply_with(&volumes, "apply the PersistentVolume", &wanted_volume).await?;
    }
    if observed.claim == Claim::Missing {
        apply::apply(&context.client, "apply the PersistentVolumeClaim", &wanted_claim).await?;
        observed.claim = Claim::Pending;
    }
    Ok(())
}

/// Claim, then volume, then the finalizer; says which pods it waits for.
async fn clean_up(dataset: &Dataset, api: &Api<Dataset>, namespace: &str, context: &Context) -> Result<Action, Error> {
    if !dataset.finalizers().iter().any(|name| name == FINALIZER) {
        return Ok(Action::await_change());
    }
    let datasets: Api<Dataset> = Api::all(context.client.clone());
    let all = datasets.list(&ListParams::default()).await;
    let takers = others::takers(dataset, all.map_err(Error::api("list Datasets"))?.items.iter());
    if !takers.is_empty() {
        let message = format!(
            "waits until these Datasets no longer take files of it: {}",
            conditions::names(&takers)
        );
        let blocked = conditions::Wanted::new(condition::DELETION_BLOCKED, true, "TakenFrom", message);
        status::write_blocked(api, dataset, blocked, context).await?;
        // Their change wakes us; that their namespace is not allowed any more is a change of this one.
        return Ok(Action::requeue(BLOCKED_LOOK_INTERVAL));
    }
    let (name, uid) = (dataset.name_any(), dataset.uid().unwrap_or_default());
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), namespace);
    let claim = claims.get_opt(&name).await.map_err(Error::api("get the claim"))?;
    if let Some(claim) = claim.filter(|claim| observe::is_ours(claim, &uid)) {
        if claim.metadata.deletion_timestamp.is_none() {
            apply::delete(&claims, &name).await?;
        }
        let pods = observe::pods_using(&context.client, namespace, &name).await?;
        if !pods.is_empty() {
            let message = format!(
                "waits until these pods no longer mount it: {}",
                conditions::names(&pods)
            );
            let blocked = conditions::Wanted::new(condition::DELETION_BLOCKED, true, "MountedByPods", message);
            status::write_blocked(api, dataset, blocked, context).await?;
        }
        // The claim's end wakes us.
        return Ok(Action::requeue(BLOCKED_LOOK_INTERVAL));
    }
    apply::delete(&Api::<PersistentVolume>::all(context.client.clone()), &volume(&uid)).await?;
    context.builds.clear(&uid);
    context.notifications.forget(&uid);
    context.applied.forget(&uid);
    apply::remove_finalizer(api, dataset).await?;
    Ok(Action::await_change())
}

#[cfg(test)]
mod tests;
