//! The controller of Datasets: revisions, volumes, and where they stand.

pub mod decide;
pub mod desired;
mod observe;
mod status;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Resource, ResourceExt};
use penstock_crds::{Dataset, Revision, condition};
use penstock_protocol::control::cache_node as wire;
use penstock_protocol::ids::{RevisionId, SpaceId};

use crate::builds::{Basis, Done, Order, State};
use crate::commit::commit;
use crate::context::{Context, now};
use crate::error::Error;
use crate::limits::{BLOCKED_LOOK_INTERVAL, ERROR_PAUSE, OLDER_REVISIONS_MAX, WAIT_INTERVAL};
use crate::names::{FINALIZER, volume};
use crate::{apply, conditions};
use decide::Next;
use observe::{Claim, Observed};

/// Whether a Dataset uses a CacheRuntime of its namespace: by name, or because it was chosen for it.
pub fn uses(dataset: &Dataset, runtime: &str) -> bool {
    let chosen = dataset.status.as_ref().and_then(|status| status.runtime.as_deref());
    dataset.spec.runtime.as_deref().or(chosen) == Some(runtime)
}

/// Ids of the revisions that cache nodes serve, the newest first.
pub fn announced(dataset: &Dataset) -> Vec<RevisionId> {
    let revision = dataset.status.as_ref().and_then(|status| status.revision.as_ref());
    let ids = revision
        .into_iter()
        .flat_map(|revision| std::iter::once(&revision.id).chain(&revision.older));
    ids.filter_map(|id| id.parse().ok()).collect()
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
            if let Some(revision) = revision_to_commit(observed.revision.as_ref(), observed.given_up(), built, basis) {
                observed.version = commit(api, dataset, &revision).await?;
                if !built.unchanged {
                    announce(dataset, &revision, context).await;
                }
                observed.revision = Some(revision);
            }
            context.builds.clear(&uid);
            observed.build = State::Idle;
            observed.looked_at = Some(now());
            observed.handled_refresh.clone_from(&basis.asked_refresh);
            Ok(Action::requeue(WAIT_INTERVAL))
        }
        Next::Build { parent } => {
            let request = wire::BuildRequest {
                dataset: Some(wire::Dataset {
                    uid: uid.clone(),
                    namespace: dataset.namespace().unwrap_or_default(),
                    name: dataset.name_any(),
                    sources: observed.sources.clone().unwrap_or_default(),
                    revisions: Vec::new(),
                    rules: Vec::new(),
                    quota: None,
                }),
                parent: parent.map(|parent| parent.as_bytes().to_vec()).unwrap_or_default(),
            };
            context.builds.start(Order {
                dataset: ObjectRef::from_obj(dataset),
                uid: uid.clone(),
                request,
                basis: Basis {
                    committed: observed.revision.as_ref().map(|revision| revision.id.clone()),
                    sources_digest: observed.sources_digest.clone(),
                    asked_refresh: decide::asked_refresh(dataset),
                },
                hosts: observed.linked_hosts.clone(),
            });
            observed.build = context.builds.state(&uid);
            // Its end wakes us; until then what no watch tells is looked at.
            Ok(Action::requeue(BLOCKED_LOOK_INTERVAL))
        }
        Next::Wait(pause) => Ok(Action::requeue(*pause)),
        Next::Rest => Ok(Action::await_change()),
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

/// What to write after a build; `None` when nothing differs.
fn revision_to_commit(
    before: Option<&Revision>,
    lost: &[String],
    built: &wire::Built,
    basis: &Basis,
) -> Option<Revision> {
    let Basis {
        committed: _,
        sources_digest,
        asked_refresh: _,
    } = basis;
    match before {
        Some(before) if built.unchanged => (before.sources_digest != *sources_digest).then(|| Revision {
            // The spec says it in other words, for example with another Secret.
            sources_digest: sources_digest.clone(),
            ..before.clone()
        }),
        _ => Some(revision(before, lost, built, sources_digest)),
    }
}

fn revision(before: Option<&Revision>, lost: &[String], built: &wire::Built, sources_digest: &str) -> Revision {
    let older = before
        .into_iter()
        .flat_map(|before| std::iter::once(&before.id).chain(&before.older));
    let id = RevisionId::try_from(built.revision.as_slice())
        .map(|id| id.to_string())
        .unwrap_or_default();
    Revision {
        parent: before.map(|before| before.id.clone()),
        older: older
            .filter(|old| **old != id && !lost.contains(old))
            .take(OLDER_REVISIONS_MAX)
            .cloned()
            .collect(),
        id,
        space: SpaceId::try_from(built.space.as_slice())
            .map(|space| space.to_string())
            .unwrap_or_default(),
        files: i64::try_from(built.files).unwrap_or(i64::MAX),
        bytes: i64::try_from(built.bytes).unwrap_or(i64::MAX),
        awkward_keys: i64::try_from(built.awkward_keys).unwrap_or(i64::MAX),
        awkward_examples: built
            .awkward_examples
            .iter()
            .take(8)
            .map(|text| text.chars().take(500).collect())
            .collect(),
        sources_digest: sources_digest.to_owned(),
        created_at: now().0.to_string(),
    }
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
    apply::remove_finalizer(api, dataset).await?;
    Ok(Action::await_change())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_for_the_same_objects_are_written_once() {
        let before = Revision {
            id: "11".into(),
            sources_digest: "old".into(),
            ..Revision::default()
        };
        let unchanged = wire::Built {
            unchanged: true,
            ..wire::Built::default()
        };
        let basis = |digest: &str| Basis {
            sources_digest: digest.into(),
            ..Basis::default()
        };
        let written = revision_to_commit(Some(&before), &[], &unchanged, &basis("new")).unwrap();
        assert_eq!((written.id.as_str(), written.sources_digest.as_str()), ("11", "new"));
        assert_eq!(revision_to_commit(Some(&written), &[], &unchanged, &basis("new")), None);
    }

    #[test]
    fn revisions_that_nobody_has_are_not_announced_any_more() {
        let before = Revision {
            id: "33".into(),
            older: vec!["22".into(), "11".into()],
            ..Revision::default()
        };
        let lost = ["33".to_owned(), "11".to_owned()];
        let basis = Basis::default();
        let written = revision_to_commit(Some(&before), &lost, &wire::Built::default(), &basis).unwrap();
        assert_eq!(written.older, ["22"]);
    }
}
