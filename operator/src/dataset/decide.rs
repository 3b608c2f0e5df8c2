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
use crate::limits::{BLOCKED_LOOK_INTERVAL, SECRET_LOOK_INTERVAL, WAIT_INTERVAL};

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
/// names now, or about such as are not allowed any more, or it failed and nobody asks for another.
pub(super) fn is_moot(dataset: &Dataset, observed: &Observed, now: Timestamp) -> bool {
    let basis = match &observed.build {
        State::Idle => return false,
        State::Running { basis, .. } => basis,
        State::Built(done) => &done.basis,
        State::Failed(failure) => &failure.basis,
    };
    let has_failed = matches!(observed.build, State::Failed(_));
    basis.sources_digest != observed.sources_digest
        || observed.is_forbidden()
        || has_failed && !is_due(dataset, observed, now)
}

/// Whether the sources have to be looked at now.
pub(super) fn is_due(dataset: &Dataset, observed: &Observed, now: Timestamp) -> bool {
    due_in(dataset, observed, now).is_zero()
}

/// The next step for `dataset` at `now`, after what is moot was thrown away.
pub(super) fn next(dataset: &Dataset, observed: &Observed, now: Timestamp) -> Next {
    // Claims of others are not watched, so nobody tells when one goes.
    let look = if observed.claim.is_in_the_way() {
        BLOCKED_LOOK_INTERVAL
    } else if !observed.volumes.is_empty() {
        SECRET_LOOK_INTERVAL
    } else {
        return next_of_revision(dataset, observed, now);
    };
    match next_of_revision(dataset, observed, now) {
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
    let due_in = due_in(dataset, observed, now);
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
    let asked = asked_refresh(dataset);
    if observed.revision.is_none()
        || observed.sources_changed()
        || observed.others_moved()
        || observed.revision_is_lost()
        || asked.is_some() && asked != observed.handled_refresh
    {
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
pub(super) mod tests {
    use super::*;
    use crate::builds::Basis;
    use crate::dataset::observe::Claim;
    use crate::sources::Unusable;
    use crate::volumes::{self, Volumes};
    use penstock_crds::Revision;
    use penstock_protocol::control::cache_node as wire;
    use serde_json::{Value, json};
    use std::time::Instant;

    pub(in crate::dataset) fn dataset(spec: Value, annotation: Option<&str>) -> Dataset {
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

    pub(in crate::dataset) fn settled() -> Observed {
        Observed {
            runtime: Ok(runtime("pool")),
            linked_hosts: vec!["pool-0".into()],
            settling: false,
            seeds: Vec::new(),
            sources: Ok(Vec::new()),
            other_revisions: Vec::new(),
            sources_digest: "same".into(),
            volumes: Volumes::new(),
            readers: Vec::new(),
            build: State::Idle,
            revision: Some(Revision {
                id: "11".repeat(32),
                sources_digest: "same".into(),
                ..Revision::default()
            }),
            lost: Vec::new(),
            patience_left: Duration::ZERO,
            claim: Claim::Bound,
            volume_exists: true,
            volume_is_stale: false,
            cached_bytes: None,
            drifted: Vec::new(),
            refusals: Vec::new(),
            looked_at: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                Timestamp::from_second(1000).unwrap(),
            )),
            handled_refresh: None,
            refused: None,
            version: None,
        }
    }

    pub(in crate::dataset) fn failed(reason: Reason, at: Instant) -> State {
        State::Failed(Failure {
            reason: Some(reason),
            message: String::new(),
            basis: Basis {
                sources_digest: "same".into(),
                ..Basis::default()
            },
            at,
            failures: 3,
        })
    }

    pub(in crate::dataset) fn not_allowed() -> Unusable {
        Unusable::NotAllowed {
            path: "raw".into(),
            place: "s3://secret".into(),
            runtime: "pool".into(),
        }
    }

    pub(in crate::dataset) fn not_granted() -> Unusable {
        Unusable::NotGranted {
            path: "raw".into(),
            runtime: "pool".into(),
            why: penstock_sources::NotGranted::Authorities,
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
    fn a_newer_revision_of_another_dataset_is_followed_at_once() {
        let plain = dataset(json!({}), None);
        let moved = Observed {
            other_revisions: vec!["22".into()],
            ..settled()
        };
        let build = Next::Build {
            parent: Some(RevisionId([0x11; 32])),
        };
        assert_eq!(next(&plain, &moved, at(1)), build);
        // It went away: what is committed stays.
        let gone = Observed {
            sources: Err(crate::others::NotTaken::Missing("d".into()).into()),
            revision: moved.revision.clone().map(|revision| Revision {
                other_revisions: vec!["22".into()],
                ..revision
            }),
            ..settled()
        };
        assert!(!gone.others_moved());
        assert!(matches!(next(&plain, &gone, at(1)), Next::Wait(_)));
    }

    #[test]
    fn a_claim_in_the_way_is_looked_at_again_because_nobody_tells_when_it_goes() {
        let (never, hourly) = (
            dataset(json!({}), None),
            dataset(json!({"refresh": {"intervalSeconds": 3600}}), None),
        );
        let running = State::Running {
            basis: Basis::default(),
            last: None,
        };
        let (look, soon) = (Next::Wait(BLOCKED_LOOK_INTERVAL), Next::Wait(Duration::from_secs(5)));
        let build = Next::Build {
            parent: Some(RevisionId([0x11; 32])),
        };
        for (what, dataset, second, build, claim, expected) in [
            ("settled", &never, 1000, State::Idle, Claim::Foreign, look.clone()),
            ("ours, leaving", &never, 1000, State::Idle, Claim::Leaving, look.clone()),
            ("ours, not bound", &never, 1000, State::Idle, Claim::Pending, Next::Rest),
            ("a build", &never, 1000, running, Claim::Foreign, look.clone()),
            ("due in an hour", &hourly, 1000, State::Idle, Claim::Foreign, look),
            ("due in 5 s", &hourly, 4595, State::Idle, Claim::Foreign, soon),
            ("due", &hourly, 4600, State::Idle, Claim::Foreign, build),
        ] {
            let observed = Observed {
                claim,
                build,
                ..settled()
            };
            assert_eq!(next(dataset, &observed, at(second)), expected, "{what}");
        }
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
            build: failed(Reason::ParentLost, long_ago),
            ..settled()
        };
        let asked = dataset(json!({}), Some("now"));
        assert_eq!(next(&asked, &lost, at(1)), Next::Build { parent: None });
    }

    #[test]
    fn a_revision_that_no_cache_node_has_is_built_anew_when_nobody_can_come_back_with_it() {
        let plain = dataset(json!({}), None);
        let lost = |patience_left| Observed {
            lost: vec!["11".repeat(32)],
            patience_left,
            ..settled()
        };
        let patience = Duration::from_secs(7);
        assert_eq!(next(&plain, &lost(patience), at(1)), Next::Wait(patience));
        assert_eq!(next(&plain, &lost(Duration::ZERO), at(1)), Next::Build { parent: None });
        let only_older = Observed {
            lost: vec!["22".repeat(32)],
            ..settled()
        };
        assert_eq!(next(&plain, &only_older, at(1)), Next::Rest);
    }

    #[test]
    fn what_is_about_other_sources_or_failed_and_is_not_wanted_any_more_is_moot() {
        let running = || State::Running {
            basis: Basis {
                sources_digest: "same".into(),
                ..Basis::default()
            },
            last: None,
        };
        let failed = || failed(Reason::Denied, Instant::now());
        let (plain, asked) = (dataset(json!({}), None), dataset(json!({}), Some("now")));
        for (what, dataset, digest, build, moot) in [
            ("nothing", &plain, "same", State::Idle, false),
            ("a build of these sources", &plain, "same", running(), false),
            ("a build of others", &plain, "other", running(), true),
            ("a failure that is due again", &asked, "same", failed(), false),
            ("a failure of sources that were mended", &plain, "other", failed(), true),
            (
                "a failure after which the spec was taken back",
                &plain,
                "same",
                failed(),
                true,
            ),
        ] {
            let observed = Observed {
                sources_digest: digest.into(),
                build,
                ..settled()
            };
            assert_eq!(is_moot(dataset, &observed, at(1)), moot, "{what}");
        }
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
            sources: Err(Unusable::ClaimOfDataset("tree".into())),
            revision: None,
            ..settled()
        };
        assert_eq!(next(&plain, &no_secret, at(1)), Next::Wait(WAIT_INTERVAL));
    }

    #[test]
    fn claims_of_sources_are_looked_at_again_because_nobody_tells_when_one_goes() {
        let plain = dataset(json!({}), None);
        let known = volumes::tests::known(volumes::State::Missing, None);
        let reads_a_claim = |sources| Observed {
            volumes: Volumes::from([(volumes::tests::reading("data", 1000), known.clone())]),
            sources,
            ..settled()
        };
        let settled = reads_a_claim(Ok(Vec::new()));
        assert_eq!(next(&plain, &settled, at(1)), Next::Wait(SECRET_LOOK_INTERVAL));
        let missing = Err(crate::sources::Unusable::NoClaim("data".into()));
        let missing = reads_a_claim(missing);
        assert_eq!(
            next(&plain, &missing, at(1)),
            Next::Wait(WAIT_INTERVAL),
            "nothing is built"
        );
        let asked = dataset(json!({}), Some("now"));
        let due = Next::Build {
            parent: Some(RevisionId([0x11; 32])),
        };
        assert_eq!(next(&asked, &settled, at(1)), due);
    }

    #[test]
    fn what_is_not_allowed_is_not_built_and_what_was_begun_is_thrown_away() {
        let asked = dataset(json!({"refresh": {"intervalSeconds": 60}}), Some("now"));
        let digest = || Basis {
            sources_digest: "same".into(),
            ..Basis::default()
        };
        let built = Box::new(Done {
            built: wire::Built::default(),
            basis: digest(),
        });
        for build in [
            State::Idle,
            State::Running {
                basis: digest(),
                last: None,
            },
            State::Built(built),
            failed(Reason::Unreachable, Instant::now()),
        ] {
            let mut observed = Observed {
                sources: Err(not_allowed()),
                build,
                ..settled()
            };
            let is_begun = !matches!(observed.build, State::Idle);
            assert_eq!(is_moot(&asked, &observed, at(9999)), is_begun, "{:?}", observed.build);
            let other = crate::others::NotTaken::NotAllowed("a/d".into(), "b".into());
            for withdrawn in [other.into(), not_granted()] {
                let withdrawn = Observed {
                    sources: Err(withdrawn),
                    ..observed.clone()
                };
                assert_eq!(is_moot(&asked, &withdrawn, at(9999)), is_begun);
            }
            observed.build = State::Idle;
            assert_eq!(next(&asked, &observed, at(9999)), Next::Rest);
        }
    }

    #[test]
    fn a_runtime_is_chosen_by_name_or_because_it_is_the_only_one() {
        let choose = |wanted, names: &[&str]| {
            choose_runtime(wanted, Some("used"), names.iter().map(|name| runtime(name)).collect())
                .map(|runtime| runtime.name_any())
        };
        assert_eq!(choose(None, &["a"]), Ok("a".into()));
        assert_eq!(choose(Some("b"), &["a", "b"]), Ok("b".into()));
        assert_eq!(choose(None, &["a", "used"]), Ok("used".into()));
        assert!(choose(None, &["a", "b"]).unwrap_err().contains("a, b"));
        assert!(!choose(Some("c"), &[]).unwrap_err().contains("one of"));
        assert!(
            choose(Some("c"), &["a"])
                .unwrap_err()
                .contains("CacheRuntime c does not exist")
        );
        assert!(choose(None, &[]).unwrap_err().contains("no CacheRuntime"));
    }
}
