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

use crate::builds::{Done, State};
use crate::conditions::names;
use crate::dataset::observe::Observed;
use crate::limits::{SECRET_LOOK_INTERVAL, WAIT_INTERVAL};

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Ask a cache node for a revision that goes on with `parent`.
    Build {
        /// The committed revision, if its addresses can be kept.
        parent: Option<RevisionId>,
    },
    /// Write what was built.
    Commit(Box<Done>),
    /// Look again after this long; something else may wake us before.
    Wait(Duration),
    /// Nothing to do until something changes.
    Rest,
}

/// The CacheRuntime for a Dataset that names `wanted`, of those in its namespace.
///
/// # Errors
/// A sentence for people when there is none to choose.
pub fn choose_runtime(wanted: Option<&str>, runtimes: Vec<CacheRuntime>) -> Result<CacheRuntime, String> {
    let all: Vec<String> = runtimes.iter().map(ResourceExt::name_any).collect();
    match wanted {
        Some(wanted) => runtimes.into_iter().find(|runtime| runtime.name_any() == wanted).ok_or_else(|| {
            format!("the CacheRuntime {wanted} does not exist in this namespace; create it, or set spec.runtime to one of: {}", names(&all))
        }),
        None if runtimes.len() > 1 => {
            Err(format!("there are several CacheRuntimes in this namespace; set spec.runtime to one of: {}", names(&all)))
        }
        None => runtimes.into_iter().next().ok_or_else(|| {
            "there is no CacheRuntime in this namespace; create one (kubectl explain cacheruntime.spec)".to_owned()
        }),
    }
}

/// The value of the annotation that asks for a look at the sources.
pub fn asked_refresh(dataset: &Dataset) -> Option<String> {
    dataset
        .annotations()
        .get(REFRESH_ANNOTATION)
        .map(|value| value.chars().take(1024).collect())
}

/// The next step for `dataset` at `now`.
pub(super) fn next(dataset: &Dataset, observed: &Observed, now: Timestamp) -> Next {
    match &observed.build {
        State::Built(done) if goes_on_with(done, observed) => return Next::Commit(done.clone()),
        State::Running => return Next::Rest,
        State::Idle | State::Built(_) | State::Failed { .. } => {}
    }
    if observed.runtime.is_err() || observed.linked_hosts.is_empty() {
        // A new CacheRuntime or link wakes us.
        return Next::Wait(WAIT_INTERVAL);
    }
    if observed.sources.is_err() {
        // Secrets are not watched.
        return Next::Wait(WAIT_INTERVAL);
    }
    let due_in = due_in(dataset, observed, now);
    if !due_in.is_zero() {
        return if due_in == Duration::MAX {
            Next::Rest
        } else {
            Next::Wait(due_in)
        };
    }
    let pause = observed.build.pause_left();
    if !pause.is_zero() {
        return Next::Wait(pause.max(Duration::from_millis(100)));
    }
    let parent_lost = matches!(
        observed.build,
        State::Failed {
            reason: Reason::ParentLost,
            ..
        }
    );
    let parent = observed
        .revision
        .as_ref()
        .and_then(|revision| revision.id.parse().ok())
        .filter(|_| !parent_lost);
    Next::Build { parent }
}

/// Whether what was built goes on with the revision that is committed now. Otherwise somebody else (an operator that led
/// meanwhile) has given addresses of the space to other objects, and it has to be built anew.
fn goes_on_with(done: &Done, observed: &Observed) -> bool {
    done.basis.committed.as_ref() == observed.revision.as_ref().map(|revision| &revision.id)
}

/// How long until the sources have to be looked at; zero is now, `MAX` is never by itself.
fn due_in(dataset: &Dataset, observed: &Observed, now: Timestamp) -> Duration {
    let Some(revision) = &observed.revision else {
        return Duration::ZERO;
    };
    let other_sources = revision.sources_digest != observed.sources_digest;
    let asked = asked_refresh(dataset);
    if other_sources || asked.is_some() && asked != observed.handled_refresh {
        return Duration::ZERO;
    }
    let Some(refresh) = &dataset.spec.refresh else {
        return Duration::MAX;
    };
    let Some(looked_at) = &observed.looked_at else {
        return Duration::ZERO;
    };
    let since = Duration::try_from(now.duration_since(looked_at.0)).unwrap_or_default();
    Duration::from_secs(u64::from(refresh.interval_seconds.unsigned_abs()))
        .saturating_sub(since)
        .min(SECRET_LOOK_INTERVAL * 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builds::Basis;
    use crate::dataset::observe::Claim;
    use penstock_crds::Revision;
    use penstock_protocol::control::cache_node as wire;
    use serde_json::{Value, json};
    use std::time::Instant;

    fn dataset(spec: Value, annotation: Option<&str>) -> Dataset {
        let annotations = annotation
            .map(|value| json!({"penstock.io/refresh": value}))
            .unwrap_or(json!({}));
        let mut dataset = json!({"apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "metadata": {"name": "d", "annotations": annotations}, "spec": {"sources": []}});
        dataset["spec"]
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        serde_json::from_value(dataset).unwrap()
    }

    fn runtime(name: &str) -> CacheRuntime {
        serde_json::from_value(json!({"apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime", "metadata": {"name": name}, "spec": {"replicas": 1, "tiers": []}})).unwrap()
    }

    fn settled() -> Observed {
        Observed {
            runtime: Ok(runtime("pool")),
            linked_hosts: vec!["pool-0".into()],
            seeds: Vec::new(),
            sources: Ok(Vec::new()),
            sources_digest: "same".into(),
            build: State::Idle,
            revision: Some(Revision {
                id: "11".repeat(32),
                sources_digest: "same".into(),
                ..Revision::default()
            }),
            claim: Claim::Bound,
            volume_exists: true,
            volume_is_stale: false,
            cached_bytes: None,
            drifted: Vec::new(),
            looked_at: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                Timestamp::from_second(1000).unwrap(),
            )),
            handled_refresh: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_settled_dataset_rests() {
        assert_eq!(next(&dataset(json!({}), None), &settled(), at(9999)), Next::Rest);
    }

    #[test]
    fn a_revision_is_built_when_there_is_a_reason() {
        let parent = Some(RevisionId([0x11; 32]));
        let plain = dataset(json!({}), None);
        let no_revision = Observed {
            revision: None,
            ..settled()
        };
        assert_eq!(next(&plain, &no_revision, at(1)), Next::Build { parent: None });
        let other_sources = Observed {
            sources_digest: "other".into(),
            ..settled()
        };
        assert_eq!(next(&plain, &other_sources, at(1)), Next::Build { parent });
        let asked = dataset(json!({}), Some("now"));
        assert_eq!(next(&asked, &settled(), at(1)), Next::Build { parent });
        let handled = Observed {
            handled_refresh: Some("now".into()),
            ..settled()
        };
        assert_eq!(next(&asked, &handled, at(1)), Next::Rest);
        let every_minute = dataset(json!({"refresh": {"intervalSeconds": 60}}), None);
        assert_eq!(next(&every_minute, &settled(), at(1060)), Next::Build { parent });
        assert_eq!(
            next(&every_minute, &settled(), at(1020)),
            Next::Wait(Duration::from_secs(40))
        );
    }

    #[test]
    fn what_was_built_is_committed_only_on_top_of_what_it_began_with() {
        let done = |committed: Option<&str>| {
            Box::new(Done {
                built: wire::Built::default(),
                basis: Basis {
                    committed: committed.map(Into::into),
                    ..Basis::default()
                },
            })
        };
        let (plain, current) = (dataset(json!({}), Some("now")), "11".repeat(32));
        let built = |done| Observed {
            build: State::Built(done),
            ..settled()
        };
        let (fresh, stale) = (done(Some(&current)), done(Some("22")));
        assert_eq!(next(&plain, &built(fresh.clone()), at(1)), Next::Commit(fresh));
        let parent = Some(RevisionId([0x11; 32]));
        assert_eq!(next(&plain, &built(stale), at(1)), Next::Build { parent });
        assert_eq!(next(&plain, &built(done(None)), at(1)), Next::Build { parent });
    }

    #[test]
    fn a_failed_build_waits_and_a_lost_parent_begins_anew() {
        let failed = |reason, at| State::Failed {
            reason,
            message: String::new(),
            at,
            failures: 3,
        };
        let now = Instant::now();
        let waiting = Observed {
            revision: None,
            build: failed(Reason::Denied, now),
            ..settled()
        };
        assert!(
            matches!(next(&dataset(json!({}), None), &waiting, at(1)), Next::Wait(pause) if pause <= Duration::from_secs(8))
        );
        let Some(long_ago) = now.checked_sub(Duration::from_secs(60)) else {
            return;
        };
        let lost = Observed {
            sources_digest: "other".into(),
            build: failed(Reason::ParentLost, long_ago),
            ..settled()
        };
        assert_eq!(
            next(&dataset(json!({}), None), &lost, at(1)),
            Next::Build { parent: None }
        );
    }

    #[test]
    fn nothing_is_built_without_a_cache_node_or_a_secret() {
        let plain = dataset(json!({}), None);
        let no_node = Observed {
            linked_hosts: Vec::new(),
            revision: None,
            ..settled()
        };
        assert_eq!(next(&plain, &no_node, at(1)), Next::Wait(WAIT_INTERVAL));
        let no_secret = Observed {
            sources: Err(crate::sources::Unusable::NoSecret("s".into())),
            revision: None,
            ..settled()
        };
        assert_eq!(next(&plain, &no_secret, at(1)), Next::Wait(WAIT_INTERVAL));
    }

    #[test]
    fn a_runtime_is_chosen_by_name_or_because_it_is_the_only_one() {
        let choose = |wanted, names: &[&str]| {
            choose_runtime(wanted, names.iter().map(|name| runtime(name)).collect()).map(|runtime| runtime.name_any())
        };
        assert_eq!(choose(None, &["a"]), Ok("a".into()));
        assert_eq!(choose(Some("b"), &["a", "b"]), Ok("b".into()));
        assert!(choose(None, &["a", "b"]).unwrap_err().contains("a, b"));
        assert!(
            choose(Some("c"), &["a"])
                .unwrap_err()
                .contains("CacheRuntime c does not exist")
        );
        assert!(choose(None, &[]).unwrap_err().contains("no CacheRuntime"));
    }
}
