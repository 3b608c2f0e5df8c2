//! What to do next with a Dataset: pure.
//!
//! ```text
//!  no revision, other sources,      ┌────────┐ built   ┌────────┐
//!  refresh due or asked for ───────►│ Build  ├────────►│ Commit │
//!         ▲                         └───┬────┘         └────────┘
//!         └── pause, growing ◄──failed──┘
//! ```

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use penstock_crds::{CacheRuntime, Dataset, REFRESH_ANNOTATION};
use penstock_protocol::control::cache_node::build_failed::Reason;
use penstock_protocol::ids::RevisionId;

use crate::builds::{Done, Failure, State};
use crate::conditions::names;
use crate::dataset::observe::Observed;
use crate::limits::{BLOCKED_LOOK_INTERVAL, REVISION_STARTING_MAX, SECRET_LOOK_INTERVAL, WAIT_INTERVAL};
use crate::notifications::Told;
use crate::notifications::marks::Look;

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Ask a cache node for a revision that goes on with `parent`.
    Build {
        /// The committed revision, if its addresses can be kept.
        parent: Option<RevisionId>,
        /// What has to be listed.
        look: Look,
    },
    /// Write what was built.
    Commit(Box<Done>),
    /// Write that of the older revisions only these are left.
    Forget(Vec<String>),
    /// Look again after this long; something else may wake us before.
    Wait(Duration),
    /// Nothing to do until something changes.
    Rest,
}

/// The CacheRuntime for a Dataset that names `wanted`, of those in its namespace; without a name the one that it uses already
/// (`chosen`), so that a second CacheRuntime changes nothing.
///
/// # Errors
/// A sentence for people when there is none to choose.
pub fn choose_runtime(
    wanted: Option<&str>,
    chosen: Option<&str>,
    runtimes: Vec<CacheRuntime>,
) -> Result<CacheRuntime, String> {
    let all: Vec<String> = runtimes.iter().map(ResourceExt::name_any).collect();
    let is_there = |name: &str| all.iter().any(|there| there == name);
    let name = match wanted.or(chosen.filter(|chosen| is_there(chosen))) {
        Some(name) if is_there(name) => name.to_owned(),
        Some(name) if all.is_empty() => {
            return Err(format!(
                "the CacheRuntime {name} does not exist in this namespace; create it"
            ));
        }
        Some(name) => {
            let all = names(&all);
            return Err(format!(
                "the CacheRuntime {name} does not exist in this namespace; create it, or set spec.runtime to one of: {all}"
            ));
        }
        None if all.len() > 1 => {
            let all = names(&all);
            return Err(format!(
                "there are several CacheRuntimes in this namespace; set spec.runtime to one of: {all}"
            ));
        }
        None => all.first().cloned().unwrap_or_default(),
    };
    runtimes
        .into_iter()
        .find(|runtime| runtime.name_any() == name)
        .ok_or_else(|| {
            "there is no CacheRuntime in this namespace; create one (kubectl explain cacheruntime.spec)".to_owned()
        })
}

/// The value of the annotation that asks for a look at the sources.
pub fn asked_refresh(dataset: &Dataset) -> Option<String> {
    dataset
        .annotations()
        .get(REFRESH_ANNOTATION)
        .map(|value| value.chars().take(1024).collect())
}

/// Whether the build under way, or what the last one came to, is of no use any more: it is about other sources than the spec
/// names now, or about such as are not allowed any more, it failed and nobody asks for another, or there is no room for its revision and
/// cache nodes will not keep the package until there is.
pub(super) fn is_moot(dataset: &Dataset, observed: &Observed, now: Timestamp) -> bool {
    let basis = match &observed.build {
        State::Idle => return false,
        State::Running { basis, .. } => basis,
        State::Built(done) => &done.basis,
        State::Failed(failure) => &failure.basis,
    };
    let has_no_room =
        matches!(&observed.build, State::Built(done) if !done.built.unchanged) && observed.older().is_none();
    let has_failed = matches!(observed.build, State::Failed(_));
    basis.sources_digest != observed.sources_digest
        || observed.is_forbidden()
        || has_no_room
        || has_failed && !is_due(dataset, observed, now)
}

/// Whether the sources have to be looked at now.
pub(super) fn is_due(dataset: &Dataset, observed: &Observed, now: Timestamp) -> bool {
    due(dataset, observed, now).0.is_zero()
}

/// The next step for `dataset` at `now`, after what is moot was thrown away.
pub(super) fn next(dataset: &Dataset, observed: &Observed, now: Timestamp) -> Next {
    // Claims of others are not watched, so nobody tells when one goes.
    let look = if observed.claim.is_in_the_way() {
        BLOCKED_LOOK_INTERVAL
    } else if !observed.volumes.is_empty() {
        SECRET_LOOK_INTERVAL
    } else if observed.has_revisions_of_pods() {
        // That the last use of one is long ago nobody tells either.
        REVISION_STARTING_MAX
    } else {
        return next_of_revision(dataset, observed, now);
    };
    let next = next_of_revision(dataset, observed, now);
    if let (Next::Rest | Next::Wait(_), Some(left)) = (&next, observed.without_unused()) {
        return Next::Forget(left);
    }
    match next {
        Next::Rest => Next::Wait(look),
        Next::Wait(pause) => Next::Wait(pause.min(look)),
        next => next,
    }
}

fn next_of_revision(dataset: &Dataset, observed: &Observed, now: Timestamp) -> Next {
    match &observed.build {
        State::Built(done) if goes_on_with(done, observed) => return Next::Commit(done.clone()),
        State::Running { .. } => return Next::Rest,
        State::Idle | State::Built(_) | State::Failed(_) => {}
    }
    if observed.runtime.is_err() || observed.linked_hosts.is_empty() {
        // A new CacheRuntime or link wakes us.
        return Next::Wait(WAIT_INTERVAL);
    }
    if observed.is_not_allowed() {
        // An edit of the CacheRuntime or of the Dataset wakes us.
        return Next::Rest;
    }
    if observed.sources.is_err() {
        // Secrets are not watched.
        return Next::Wait(WAIT_INTERVAL);
    }
    let (due_in, look) = due(dataset, observed, now);
    if due_in == Duration::MAX {
        return Next::Rest;
    }
    let failure = observed.build.failure();
    let parent_lost = failure.is_some_and(|failure| failure.reason == Some(Reason::ParentLost));
    let parent_lost = parent_lost || observed.revision_is_lost();
    // A new space loses the cache, so it is not begun before all who may have the parent were asked.
    let patience = if parent_lost {
        observed.patience_left
    } else {
        Duration::ZERO
    };
    let pause = failure.map(Failure::pause_left).unwrap_or_default();
    let wait = due_in.max(patience).max(pause);
    if !wait.is_zero() {
        return Next::Wait(wait.max(Duration::from_millis(100)));
    }
    if observed.nodes_are_outdated() {
        // The link to a newer one wakes us.
        return Next::Wait(WAIT_INTERVAL);
    }
    if observed.older().is_none() {
        // Reports of cache nodes wake us; that an hour has passed nobody tells.
        return Next::Wait(BLOCKED_LOOK_INTERVAL);
    }
    let parent = observed
        .revision
        .as_ref()
        .and_then(|revision| revision.id.parse().ok())
        .filter(|_| !parent_lost);
    // What is not listed is taken over from the parent. A part may fail where the whole does not, as when a policy allows to list the
    // prefix of the source alone, so what failed in part is tried as a whole.
    let failed_in_part = failure.is_some_and(|failure| failure.basis.is_partial);
    let look = if parent.is_some() && !failed_in_part {
        look
    } else {
        Look::All
    };
    Next::Build { parent, look }
}

/// Whether what was built goes on with the revision that is committed now. Otherwise somebody else (an operator that led
/// meanwhile) has given addresses of the space to other objects, and it has to be built anew.
fn goes_on_with(done: &Done, observed: &Observed) -> bool {
    done.basis.committed.as_ref() == observed.revision.as_ref().map(|revision| &revision.id)
}

/// How long until the sources have to be looked at, and at what of them; zero is now, `MAX` is never by itself.
fn due(dataset: &Dataset, observed: &Observed, now: Timestamp) -> (Duration, Look) {
    if observed.revision.is_none() || observed.sources_changed() || observed.revision_is_lost() {
        return (Duration::ZERO, Look::All);
    }
    let refresh = dataset.spec.refresh.clone().unwrap_or_default();
    if refresh.is_immutable() {
        return (Duration::MAX, Look::All);
    }
    let asked = asked_refresh(dataset);
    if observed.others_moved() || asked.is_some() && asked != observed.handled_refresh {
        return (Duration::ZERO, Look::All);
    }
    let by_interval = refresh.interval_seconds.map_or(Duration::MAX, |seconds| {
        let interval = Duration::from_secs(u64::from(seconds.unsigned_abs()));
        let Some(looked_at) = observed.looked_at() else {
            return Duration::ZERO;
        };
        let since = Duration::try_from(now.duration_since(looked_at.0)).unwrap_or_default();
        interval.saturating_sub(since).min(SECRET_LOOK_INTERVAL * 60)
    });
    match &observed.told {
        // A look at everything is one at what was named, too.
        Some(Told { look, wait }) if !by_interval.is_zero() && *wait < by_interval => (*wait, look.clone()),
        _ => (by_interval, Look::All),
    }
}

#[cfg(test)]
pub(super) mod tests;
