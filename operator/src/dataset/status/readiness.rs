//! What Ready, Reconciling and RuntimeReady say: whether what the spec asks for can be mounted, and what goes on meanwhile.

use kube::ResourceExt;
use penstock_crds::{Dataset, DatasetStatus, condition};

use crate::builds::State;
use crate::conditions::Wanted;
use crate::dataset::observe::{Claim, Observed};
use crate::dataset::status::sources::{Trouble, trouble};

pub(super) fn wanted(dataset: &Dataset, before: &DatasetStatus, observed: &Observed, is_due: bool) -> Vec<Wanted> {
    let runtime = runtime_condition(before, observed);
    let mut wanted = Vec::new();
    match blocker(dataset, observed, &runtime) {
        Some((reason, message)) => {
            wanted.push(Wanted::new(condition::READY, false, reason.clone(), message.clone()));
            wanted.push(Wanted::new(condition::RECONCILING, true, reason, message));
        }
        None => {
            let message = format!("mount the claim {}", dataset.name_any());
            wanted.push(Wanted::new(condition::READY, true, "Ready", message));
            let activity = activity(dataset, observed, is_due);
            wanted.extend(activity.map(|(reason, message)| Wanted::new(condition::RECONCILING, true, reason, message)));
        }
    }
    wanted.push(runtime);
    wanted
}

/// Reason and sentence of what keeps the Dataset from being Ready: what the spec asks for now can be mounted.
fn blocker(dataset: &Dataset, observed: &Observed, runtime: &Wanted) -> Option<(String, String)> {
    let because = |reason: &str, message: String| Some((reason.to_owned(), message));
    if let Some(refused) = &observed.refused {
        return because("ApplyFailed", format!("the API server refuses to {refused}"));
    }
    if let Some((reason, message)) = claim_blocker(dataset, observed.claim) {
        return because(reason, message);
    }
    if !runtime.status {
        return because(&runtime.reason, runtime.message.clone());
    }
    let trouble = trouble(dataset, observed).map(|Trouble { reason, message, .. }| (reason, message));
    if observed.revision_is_lost() {
        let what = trouble.map_or(
            "it is built anew, and all is fetched again".to_owned(),
            |(_, message)| message,
        );
        return because(
            "RevisionLost",
            format!("no cache node has the committed revision any more; {what}"),
        );
    }
    // What is committed stays mountable while the origin is away, unless the spec asks for something else by now.
    if observed.revision.is_none() {
        let (reason, message) = trouble.unwrap_or(("InProgress", "the first revision is being built".to_owned()));
        return because(reason, message);
    }
    if observed.sources_changed() {
        let (reason, message) = trouble.unwrap_or(("SourcesChanged", "the new sources are being listed".to_owned()));
        return because(
            reason,
            format!("{message}; the claim still shows what was listed before"),
        );
    }
    match observed.claim {
        Claim::Bound => None,
        _ => because("InProgress", "the claim is not bound yet".to_owned()),
    }
}

/// What goes on while the Dataset is Ready.
fn activity(dataset: &Dataset, observed: &Observed, is_due: bool) -> Option<(&'static str, String)> {
    match &observed.build {
        State::Running { last: None, basis } if basis.is_partial => {
            Some(("Refreshing", "what notifications named is being looked at".to_owned()))
        }
        State::Running { last: None, .. } => Some(("Refreshing", "the sources are being looked at".to_owned())),
        // A source that cannot be reached has a condition of its own.
        _ => trouble(dataset, observed)
            .filter(|trouble| is_due && !trouble.is_of_a_source)
            .map(|Trouble { reason, message, .. }| (reason, message)),
    }
}

/// A new leader that has not tried all links yet goes on saying what the one before said.
fn runtime_condition(before: &DatasetStatus, observed: &Observed) -> Wanted {
    match &observed.runtime {
        Err(message) => Wanted::new(condition::RUNTIME_READY, false, "NoCacheRuntime", message.clone()),
        Ok(runtime) if observed.linked_hosts.is_empty() => {
            let name = runtime.name_any();
            let message = format!("no cache node of the CacheRuntime {name} serves yet");
            Wanted::kept(condition::RUNTIME_READY, &before.conditions)
                .filter(|_| observed.settling && before.runtime == Some(name))
                .unwrap_or_else(|| Wanted::new(condition::RUNTIME_READY, false, "NoCacheNode", message))
        }
        Ok(runtime) => {
            let message = format!("the CacheRuntime {} serves", runtime.name_any());
            Wanted::new(condition::RUNTIME_READY, true, "Serving", message)
        }
    }
}

fn claim_blocker(dataset: &Dataset, claim: Claim) -> Option<(&'static str, String)> {
    let name = dataset.name_any();
    match claim {
        Claim::Foreign => Some((
            "ClaimExists",
            format!(
                "a PersistentVolumeClaim {name} that is not ours exists; delete or rename it, or give the Dataset another name"
            ),
        )),
        Claim::Leaving => Some((
            "ClaimLeaving",
            format!(
                "the PersistentVolumeClaim {name} is being deleted; it is made again when no pod mounts it any more"
            ),
        )),
        Claim::Missing | Claim::Pending | Claim::Bound => None,
    }
}
