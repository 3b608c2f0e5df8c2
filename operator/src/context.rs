//! What every reconcile may use. The only holder of a client.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::builds::Builds;
use crate::links::Links;

/// Handed to every reconcile.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Links to cache nodes.
    pub links: Links,
    /// Builds of revisions.
    pub builds: Builds,
    /// Facts that do not change.
    pub facts: Arc<Facts>,
    recorder: Recorder,
}

/// What the operator was started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Image of the cache nodes: the operator's own.
    pub image: String,
    /// Pull policy of that image.
    pub image_pull_policy: String,
    /// Secrets to pull it with.
    pub image_pull_secrets: Vec<String>,
    /// Domain of the cluster's names.
    pub cluster_domain: String,
    /// Namespace of the operator itself.
    pub namespace: String,
}

impl Context {
    /// The context of one process.
    pub fn new(client: Client, links: Links, builds: Builds, facts: Facts) -> Self {
        let reporter = Reporter {
            controller: "penstock-operator".to_owned(),
            instance: None,
        };
        let recorder = Recorder::new(client.clone(), reporter);
        Self {
            client,
            links,
            builds,
            facts: Arc::new(facts),
            recorder,
        }
    }

    /// Tells people what happened to an object.
    pub async fn event(&self, about: &ObjectReference, kind: EventType, reason: &str, note: String) {
        let event = Event {
            type_: kind,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::debug!(%error, "publish an event");
        }
    }
}

/// The time now, in whole seconds, as objects carry it.
pub fn now() -> Time {
    let seconds = Timestamp::now().as_second();
    Time(Timestamp::from_second(seconds).unwrap_or_default())
}
