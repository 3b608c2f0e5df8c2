//! Two operators at once, and one that dies between build and commit, before an API server that refuses what is out of date.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::{get, patch};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::*;
use crate::dataset::decide::tests::{dataset, settled};

/// The one Dataset that an API server has, with a version that counts its changes.
struct ApiServer {
    object: Arc<Mutex<Value>>,
    api: Api<Dataset>,
}

impl ApiServer {
    async fn start() -> Self {
        let mut object = serde_json::to_value(dataset(json!({"refresh": {"intervalSeconds": 3600}}), None)).unwrap();
        object["metadata"] = json!({"name": "d", "namespace": "n", "resourceVersion": "1"});
        let object = Arc::new(Mutex::new(object));
        let path = "/apis/penstock.io/v1alpha1/namespaces/n/datasets/d";
        let routes = Router::new()
            .route(path, get(look))
            .route(&format!("{path}/status"), patch(apply_status))
            .with_state(object.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let client = Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap();
        Self {
            object,
            api: Api::namespaced(client, "n"),
        }
    }

    fn committed(&self) -> Option<Revision> {
        let object: Dataset = serde_json::from_value(self.object.lock().unwrap().clone()).unwrap();
        object.status.and_then(|status| status.revision)
    }
}

async fn look(Shared(object): Shared<Arc<Mutex<Value>>>) -> String {
    object.lock().unwrap().to_string()
}

/// As an API server does it: what is said about a version is done only if that is the newest; what names none is done.
async fn apply_status(Shared(object): Shared<Arc<Mutex<Value>>>, body: String) -> (StatusCode, String) {
    let body: Value = serde_json::from_str(&body).unwrap();
    let mut object = object.lock().unwrap();
    let about = &body["metadata"]["resourceVersion"];
    if !about.is_null() && *about != object["metadata"]["resourceVersion"] {
        let conflict = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409,
            "message": "the object has been modified",
        });
        return (StatusCode::CONFLICT, conflict.to_string());
    }
    object["status"]["conditions"] = json!([]);
    object["status"]["revision"] = body["status"]["revision"].clone();
    let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    object["metadata"]["resourceVersion"] = json!((version + 1).to_string());
    (StatusCode::OK, object.to_string())
}

/// One process of the operator, and what it has of the builds of the Dataset.
struct Operator {
    api: Api<Dataset>,
    build: State,
}

impl Operator {
    fn new(server: &ApiServer) -> Self {
        Self {
            api: server.api.clone(),
            build: State::Idle,
        }
    }

    async fn look(&self) -> (Dataset, Observed) {
        let seen = self.api.get("d").await.unwrap();
        let observed = Observed {
            revision: seen.status.as_ref().and_then(|status| status.revision.clone()),
            build: self.build.clone(),
            ..settled()
        };
        (seen, observed)
    }

    /// What it would do next, by what it has seen.
    fn next(&self, (seen, observed): &(Dataset, Observed)) -> Next {
        decide::next(seen, observed, now().0)
    }

    /// A cache node has built what `next` asked for.
    fn built(&mut self, (_, observed): &(Dataset, Observed), id: u8) {
        self.build = State::Built(Box::new(Done {
            built: wire::Built {
                revision: vec![id; 32],
                ..wire::Built::default()
            },
            basis: Basis {
                committed: observed.revision.as_ref().map(|revision| revision.id.clone()),
                sources_digest: observed.sources_digest.clone(),
                ..Basis::default()
            },
        }));
    }

    async fn commit(&mut self, (seen, observed): &(Dataset, Observed), done: &Done) -> Result<(), Error> {
        let older = observed.older().unwrap();
        let revision = revision::to_commit(observed.revision.as_ref(), &older, &done.built, &done.basis).unwrap();
        commit(&self.api, seen, &revision).await?;
        self.build = State::Idle;
        Ok(())
    }

    /// Looks, has built what it wants, and commits it.
    async fn refresh(&mut self, id: u8) {
        let seen = self.look().await;
        assert!(matches!(self.next(&seen), Next::Build { .. }));
        self.built(&seen, id);
        let seen = self.look().await;
        let Next::Commit(done) = self.next(&seen) else {
            panic!("{id} is not committed")
        };
        self.commit(&seen, &done).await.unwrap();
    }
}

fn hex(byte: u8) -> String {
    format!("{byte:02x}").repeat(32)
}

fn parent_of(next: &Next) -> Option<String> {
    match next {
        Next::Build { parent, .. } => parent.map(|parent| parent.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn of_two_operators_that_commit_at_once_the_second_looks_again_and_loses_nothing() {
    let server = ApiServer::start().await;
    let (mut old, mut new) = (Operator::new(&server), Operator::new(&server));
    old.refresh(1).await;
    let seen = [old.look().await, new.look().await];
    old.built(&seen[0], 2);
    new.built(&seen[1], 3);
    // Both see the same version of the object, and what they built goes on with it.
    let seen = [old.look().await, new.look().await];
    let [Next::Commit(second), Next::Commit(third)] = [old.next(&seen[0]), new.next(&seen[1])] else {
        panic!("both want to commit")
    };
    old.commit(&seen[0], &second).await.unwrap();
    let refused = new.commit(&seen[1], &third).await.unwrap_err();
    assert!(refused.is_conflict(), "{refused}");
    let committed = server.committed().unwrap();
    assert_eq!((committed.id, committed.older), (hex(2), vec![hex(1)]));

    // What the other one built gave addresses of the space to other objects. It is thrown away, and built on what is there now.
    let seen = new.look().await;
    assert_eq!(parent_of(&new.next(&seen)), Some(hex(2)));
    new.refresh(4).await;
    let committed = server.committed().unwrap();
    assert_eq!((committed.id, committed.older), (hex(4), vec![hex(2), hex(1)]));
    assert_eq!(committed.parent, Some(hex(2)));
}

#[tokio::test]
async fn an_operator_that_dies_between_build_and_commit_costs_a_build_and_nothing_else() {
    let server = ApiServer::start().await;
    let mut operator = Operator::new(&server);
    operator.refresh(1).await;
    let seen = operator.look().await;
    operator.built(&seen, 2);
    drop(operator);

    let mut next = Operator::new(&server);
    let seen = next.look().await;
    assert_eq!(parent_of(&next.next(&seen)), Some(hex(1)));
    assert_eq!(server.committed().unwrap().id, hex(1));
    next.refresh(3).await;
    let committed = server.committed().unwrap();
    assert_eq!((committed.id, committed.older), (hex(3), vec![hex(1)]));
}

#[tokio::test]
async fn an_edit_of_the_object_between_look_and_commit_is_a_conflict_too() {
    let server = ApiServer::start().await;
    let mut operator = Operator::new(&server);
    let seen = operator.look().await;
    operator.built(&seen, 1);
    let seen = operator.look().await;
    server.object.lock().unwrap()["metadata"]["resourceVersion"] = json!("7");
    let Next::Commit(done) = operator.next(&seen) else {
        panic!("it is not committed")
    };
    let refused = operator.commit(&seen, &done).await.unwrap_err();
    assert!(refused.is_conflict() && server.committed().is_none());
    // It looks again, and what was built is still right.
    let seen = operator.look().await;
    operator.commit(&seen, &done).await.unwrap();
    assert_eq!(server.committed().unwrap().id, hex(1));
}
