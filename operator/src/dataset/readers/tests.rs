//! Which readers there are, how they come and go, and what is said of one that does not run.

use serde_json::{Value, json};

use super::*;
use crate::context::tests::context;
use crate::dataset::decide::tests::{dataset, settled};
use crate::fake_api::FakeApi;
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

const NAMESPACE: &str = "vision";

/// A path of the API server.
fn path(kind: &str, name: &str) -> String {
    let group = match kind {
        "deployments" => "apis/apps/v1",
        "networkpolicies" => "apis/networking.k8s.io/v1",
        _ => "api/v1",
    };
    format!("/{group}/namespaces/{NAMESPACE}/{kind}/{name}")
}

/// A Dataset that reads this claim, or none any more.
fn reading_claim(claim: Option<&str>) -> Dataset {
    let source = match claim {
        Some(claim) => json!({"claim": {"name": claim, "uid": 1000, "gid": 100}}),
        None => json!({"s3": {"bucket": "b"}}),
    };
    let mut dataset = dataset(json!({"sources": [source]}), None);
    dataset.metadata.uid = Some("u-1".into());
    dataset.metadata.namespace = Some(NAMESPACE.into());
    dataset
}

/// Looks at the readers of a Dataset and brings them nearer to what it needs; the name of the one that it needs.
async fn reconcile(dataset: &Dataset, context: &Context) -> (Option<String>, Result<(), Error>, Observed) {
    let (client, domain) = (&context.client, &context.facts.cluster_domain);
    let volumes = crate::volumes::look(client, dataset, NAMESPACE, domain, &dataset.spec.sources).await;
    let volumes = volumes.unwrap();
    let name = volumes.values().next().map(|known| known.reader.clone());
    let mut observed = Observed {
        readers: look(dataset, NAMESPACE, context).await.unwrap(),
        volumes,
        ..settled()
    };
    let applied = apply(dataset, NAMESPACE, &mut observed, context).await;
    (name, applied, observed)
}

#[tokio::test]
async fn what_a_process_leaves_behind_of_a_reader_is_found_when_no_source_needs_it() {
    let kinds = ["services", "networkpolicies", "secrets", "deployments"];
    for ends_before in kinds.into_iter().skip(1) {
        let api = FakeApi::default();
        let context = context(api.client());
        api.make(
            &path("persistentvolumeclaims", "data"),
            json!({"metadata": {"name": "data"}}),
        );
        api.refuse(path(ends_before, "").trim_end_matches('/'));
        let (_, made, _) = reconcile(&reading_claim(Some("data")), &context).await;
        made.unwrap_err();
        let left: Vec<String> = api.kinds();
        let begun = kinds.iter().take_while(|kind| **kind != ends_before);
        for kind in begun {
            assert!(left.iter().any(|left| left == kind), "{kind} of {left:?}");
        }
        // Another process begins, and the source is gone meanwhile.
        api.refuse("nothing");
        let (_, gone, _) = reconcile(&reading_claim(None), &context).await;
        gone.unwrap();
        assert_eq!(api.kinds(), ["persistentvolumeclaims"], "it ended before {ends_before}");
    }
}

#[tokio::test]
async fn a_reader_goes_with_all_that_is_its_datasets_and_nothing_else() {
    let kinds = ["services", "networkpolicies", "secrets", "deployments"];
    for foreign in kinds {
        let api = FakeApi::default();
        let context = context(api.client());
        api.make(
            &path("persistentvolumeclaims", "data"),
            json!({"metadata": {"name": "data"}}),
        );
        let (name, made, _) = reconcile(&reading_claim(Some("data")), &context).await;
        made.unwrap();
        assert_eq!(api.kinds().len(), 5, "{:?}", api.kinds());
        // Somebody else's in the place of one of ours.
        let name = name.unwrap();
        api.make(
            &path(foreign, &name),
            json!({"metadata": {"name": name}, "spec": {"selector": {}, "template": {}}}),
        );
        let (_, gone, _) = reconcile(&reading_claim(None), &context).await;
        gone.unwrap();
        let left = api.kinds();
        assert!(
            left.len() == 2 && left.iter().any(|left| left == foreign),
            "{foreign}: {left:?}"
        );
    }
}

#[tokio::test]
async fn a_reader_is_not_made_while_something_of_its_name_is_somebody_elses() {
    for (foreign, kind) in [
        ("services", "Service"),
        ("networkpolicies", "NetworkPolicy"),
        ("secrets", "Secret"),
        ("deployments", "Deployment"),
    ] {
        let api = FakeApi::default();
        let context = context(api.client());
        api.make(
            &path("persistentvolumeclaims", "data"),
            json!({"metadata": {"name": "data"}}),
        );
        let dataset = reading_claim(Some("data"));
        let name = Reading::of(&dataset.spec.sources[0]).unwrap().reader(&dataset);
        api.make(
            &path(foreign, &name),
            json!({"metadata": {"name": name}, "spec": {"selector": {}, "template": {}}}),
        );
        let (_, made, observed) = reconcile(&dataset, &context).await;
        made.unwrap();
        assert_eq!(api.kinds().len(), 2, "nothing is made beside {foreign}");
        let said = observed.sources.unwrap_err().to_string();
        assert!(
            said.ends_with(&format!("because {kind} {name} is somebody else's; delete it")),
            "{said}"
        );
    }
}
