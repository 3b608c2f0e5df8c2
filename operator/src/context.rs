//! What every reconcile may use. The only holder of a client.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::builds::Builds;
use crate::children::Memory;
use crate::cluster::Cluster;
use crate::conditions;
use crate::limits::EVENT_NOTE_BYTES_MAX;
use crate::links::Links;
use crate::notifications::Notifications;

/// Handed to every reconcile.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Links to cache nodes.
    pub links: Links,
    /// Builds of revisions.
    pub builds: Builds,
    /// What somebody told us of changes.
    pub notifications: Notifications,
    /// Facts that do not change.
    pub facts: Arc<Facts>,
    /// The addresses of the cluster itself.
    pub cluster: Cluster,
    /// What was applied last.
    pub applied: Arc<Memory>,
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
    /// Whether it takes notifications of changed objects.
    pub takes_notifications: bool,
    /// Folders of nodes that CacheRuntimes may let their Datasets read.
    pub host_paths: Vec<String>,
    /// Namespace of the operator itself.
    pub namespace: String,
    /// What cache nodes log, as RUST_LOG understands it.
    pub log: String,
}

impl Context {
    /// The context of one process.
    pub fn new(
        client: Client,
        links: Links,
        builds: Builds,
        notifications: Notifications,
        facts: Facts,
        cluster: Cluster,
    ) -> Self {
        let reporter = Reporter {
            controller: "penstock-operator".to_owned(),
            instance: None,
        };
        let recorder = Recorder::new(client.clone(), reporter);
        Self {
            client,
            links,
            builds,
            notifications,
            facts: Arc::new(facts),
            cluster,
            applied: Arc::default(),
            recorder,
        }
    }

    /// Tells people what happened to an object.
    pub async fn event(&self, about: &ObjectReference, kind: EventType, reason: &str, mut note: String) {
        while note.len() > EVENT_NOTE_BYTES_MAX {
            note.pop();
        }
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

    /// Tells people of conditions that they have to do something about, once for each change.
    pub async fn tell_news(&self, about: &ObjectReference, before: &[Condition], after: &[Condition]) {
        for new in conditions::news(before, after) {
            self.event(about, EventType::Warning, &new.reason, new.message.clone())
                .await;
        }
    }
}

/// The time now, in whole seconds, as objects carry it.
pub fn now() -> Time {
    let seconds = Timestamp::now().as_second();
    Time(Timestamp::from_second(seconds).unwrap_or_default())
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::sync::mpsc;

    use super::*;

    pub(crate) fn facts() -> Facts {
        Facts {
            image: "penstock:1".into(),
            image_pull_policy: "Always".into(),
            image_pull_secrets: vec!["pull".into()],
            cluster_domain: "cluster.local".into(),
            takes_notifications: false,
            host_paths: Vec::new(),
            namespace: "penstock-system".into(),
            log: "info".into(),
        }
    }

    /// One that nobody is told news of.
    pub(crate) fn context(client: Client) -> Context {
        let (runtimes, datasets) = (mpsc::unbounded_channel().0, mpsc::unbounded_channel().0);
        Context::new(
            client,
            Links::new(runtimes),
            Builds::new(datasets.clone()),
            Notifications::new(datasets),
            facts(),
            Cluster::of(&[]),
        )
    }
}
