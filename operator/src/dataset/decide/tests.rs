//! Tables of what is done next, and a Dataset that others can begin with.

mod room;

use super::*;
use crate::builds::Basis;
use crate::dataset::observe::Claim;
use crate::unusable::Unusable;
use crate::volumes::{self, Volumes};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
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
        builders: vec!["pool-0".into()],
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
            observed_at: Some(Time(at(1000))),
            ..Revision::default()
        }),
        lost: Vec::new(),
        uses: std::collections::BTreeMap::new(),
        patience_left: Duration::ZERO,
        claim: Claim::Bound,
        volume_exists: true,
        volume_is_stale: false,
        cached_bytes: None,
        drifted: Vec::new(),
        unreadable: None,
        refusals: Vec::new(),
        handled_refresh: None,
        takes_notifications: true,
        told: None,
        told_number: 0,
        refused: None,
        version: None,
    }
}

pub(in crate::dataset) fn failed(reason: Reason, at: Instant) -> State {
    State::Failed(Failure {
        reason: Some(reason),
        message: String::new(),
        source_path: None,
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
        look: Look::All,
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
        look: Look::All,
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
    assert_eq!(
        next(&plain, &no_revision, at(1)),
        Next::Build {
            parent: None,
            look: Look::All
        }
    );
    let other_sources = Observed {
        sources_digest: "other".into(),
        ..settled()
    };
    assert_eq!(
        next(&plain, &other_sources, at(1)),
        Next::Build {
            parent,
            look: Look::All
        }
    );
    let asked = dataset(json!({}), Some("now"));
    assert_eq!(
        next(&asked, &settled(), at(1)),
        Next::Build {
            parent,
            look: Look::All
        }
    );
    let handled = Observed {
        handled_refresh: Some("now".into()),
        ..settled()
    };
    assert_eq!(next(&asked, &handled, at(1)), Next::Rest);
    let every_minute = dataset(json!({"refresh": {"intervalSeconds": 60}}), None);
    assert_eq!(
        next(&every_minute, &settled(), at(1060)),
        Next::Build {
            parent,
            look: Look::All
        }
    );
    assert_eq!(
        next(&every_minute, &settled(), at(1020)),
        Next::Wait(Duration::from_secs(40))
    );
}

#[test]
fn what_is_immutable_is_built_once() {
    let never = dataset(json!({"refresh": {"immutable": true}}), Some("now"));
    let moved = Observed {
        other_revisions: vec!["22".into()],
        told: Some(told(&["a"], 0)),
        ..settled()
    };
    assert_eq!(next(&never, &moved, at(9999)), Next::Rest);
    for observed in [
        Observed {
            revision: None,
            ..settled()
        },
        Observed {
            sources_digest: "other".into(),
            ..settled()
        },
        Observed {
            lost: vec!["11".repeat(32)],
            ..settled()
        },
    ] {
        let next = next(&never, &observed, at(9999));
        assert!(matches!(next, Next::Build { look: Look::All, .. }), "{next:?}");
    }
}

fn told(keys: &[&str], wait_seconds: u64) -> Told {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    Told {
        look: Look::Below(vec![wire::Dirty {
            path: "raw".into(),
            keys,
        }]),
        wait: Duration::from_secs(wait_seconds),
    }
}

#[test]
fn what_notifications_name_is_looked_at_unless_all_is_looked_at_anyway() {
    let parent = Some(RevisionId([0x11; 32]));
    let (named, soon) = (told(&["a/"], 0), told(&["a/"], 2));
    let part = |told: &Told| Next::Build {
        parent,
        look: told.look.clone(),
    };
    let all = Next::Build {
        parent,
        look: Look::All,
    };
    let anew = Next::Build {
        parent: None,
        look: Look::All,
    };
    let hourly = json!({"refresh": {"intervalSeconds": 3600, "notifications": {"tokenSecretRef": {"name": "t"}}}});
    let (hourly, asked) = (dataset(hourly.clone(), None), dataset(hourly, Some("now")));
    let wait = |seconds| Next::Wait(Duration::from_secs(seconds));
    for (what, dataset, second, told, digest, lost, expected) in [
        ("told", &hourly, 1000, &named, "same", false, part(&named)),
        ("told just now", &hourly, 1000, &soon, "same", false, wait(2)),
        ("the hour comes first", &hourly, 4599, &soon, "same", false, wait(1)),
        ("the hour is over", &hourly, 4600, &named, "same", false, all.clone()),
        ("asked for", &asked, 1000, &named, "same", false, all.clone()),
        ("other sources", &hourly, 1000, &named, "other", false, all),
        ("a lost revision", &hourly, 1000, &named, "same", true, anew),
    ] {
        let observed = Observed {
            told: Some(told.clone()),
            sources_digest: digest.into(),
            lost: if lost { vec!["11".repeat(32)] } else { Vec::new() },
            ..settled()
        };
        assert_eq!(next(dataset, &observed, at(second)), expected, "{what}");
    }
}

#[test]
fn what_failed_in_part_is_tried_as_a_whole() {
    let spec = json!({"refresh": {"notifications": {"tokenSecretRef": {"name": "t"}}}});
    let (dataset, told) = (dataset(spec, None), told(&["a/"], 0));
    let long_ago = Instant::now() - Duration::from_secs(3600);
    for (is_partial, look) in [(true, Look::All), (false, told.look.clone())] {
        let mut build = failed(Reason::Denied, long_ago);
        if let State::Failed(failure) = &mut build {
            failure.basis.is_partial = is_partial;
        }
        let observed = Observed {
            told: Some(told.clone()),
            build,
            ..settled()
        };
        assert!(!is_moot(&dataset, &observed, at(1000)));
        let parent = Some(RevisionId([0x11; 32]));
        assert_eq!(next(&dataset, &observed, at(1000)), Next::Build { parent, look });
    }
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
    assert_eq!(
        next(&plain, &built(stale), at(1)),
        Next::Build {
            parent,
            look: Look::All
        }
    );
    assert_eq!(
        next(&plain, &built(done(None)), at(1)),
        Next::Build {
            parent,
            look: Look::All
        }
    );
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
    assert_eq!(
        next(&asked, &lost, at(1)),
        Next::Build {
            parent: None,
            look: Look::All
        }
    );
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
    assert_eq!(
        next(&plain, &lost(Duration::ZERO), at(1)),
        Next::Build {
            parent: None,
            look: Look::All
        }
    );
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
fn a_build_waits_for_a_cache_node_that_understands_it() {
    let (plain, often) = (
        dataset(json!({}), None),
        dataset(json!({"refresh": {"intervalSeconds": 600}}), None),
    );
    let outdated = Observed {
        builders: Vec::new(),
        ..settled()
    };
    let first = Observed {
        revision: None,
        ..outdated.clone()
    };
    assert_eq!(next(&plain, &first, at(1)), Next::Wait(WAIT_INTERVAL));
    let one_is_new = Observed {
        builders: vec!["pool-1".into()],
        ..first
    };
    assert!(matches!(next(&plain, &one_is_new, at(1)), Next::Build { .. }));
    // What is not due waits for nobody.
    assert_eq!(next(&plain, &outdated, at(9999)), Next::Rest);
    assert_eq!(next(&often, &outdated, at(1000)), Next::Wait(Duration::from_secs(600)));
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
    let missing = Err(Unusable::NoClaim("data".into()));
    let missing = reads_a_claim(missing);
    assert_eq!(
        next(&plain, &missing, at(1)),
        Next::Wait(WAIT_INTERVAL),
        "nothing is built"
    );
    let asked = dataset(json!({}), Some("now"));
    let due = Next::Build {
        parent: Some(RevisionId([0x11; 32])),
        look: Look::All,
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
