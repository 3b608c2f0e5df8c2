//! The only file that talks to the API server. It reads, and writes events to pods.

#[cfg(feature = "test-support")]
pub mod fake;

use std::collections::BTreeSet;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::ListParams;
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use penstock_crds::{CacheRuntime, Dataset};
use serde::de::DeserializeOwned;
use tokio_stream::{Stream, StreamExt};

use crate::error::Error;
use crate::limits::API_DEADLINE;
use crate::told::News;

/// Name of the chart's DaemonSet of this container.
const DAEMON_SET: &str = "penstock-csi";

/// What the node asks the cluster. `None` means that there is no such object.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// A Dataset.
    async fn dataset(&self, namespace: &str, name: &str) -> Result<Option<Dataset>, Error>;
    /// A CacheRuntime.
    async fn cache_runtime(&self, namespace: &str, name: &str) -> Result<Option<CacheRuntime>, Error>;
    /// All CacheRuntimes, never from a cache that may be behind.
    async fn cache_runtimes(&self) -> Result<Vec<CacheRuntime>, Error>;
    /// A pod.
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Error>;
    /// A StatefulSet.
    async fn stateful_set(&self, namespace: &str, name: &str) -> Result<Option<StatefulSet>, Error>;
    /// Writes an event to each pod of a node that has one of these uids.
    async fn tell_pods(&self, node: &str, uids: &BTreeSet<String>, news: &News) -> Result<(), Error>;
    /// Whether the DaemonSet of this container, in `namespace`, is there to stay.
    async fn is_installed(&self, namespace: &str) -> Result<bool, Error>;
}

/// The real thing.
#[derive(Clone)]
pub struct ApiServer(pub Client);

impl ApiServer {
    async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.0.clone(), namespace);
        let what = format!("the {} {namespace}/{name}", K::kind(&()));
        in_time(what, api.get_opt(name)).await
    }
}

#[async_trait]
impl Cluster for ApiServer {
    async fn dataset(&self, namespace: &str, name: &str) -> Result<Option<Dataset>, Error> {
        self.get(namespace, name).await
    }

    async fn cache_runtime(&self, namespace: &str, name: &str) -> Result<Option<CacheRuntime>, Error> {
        self.get(namespace, name).await
    }

    async fn cache_runtimes(&self) -> Result<Vec<CacheRuntime>, Error> {
        let api = Api::<CacheRuntime>::all(self.0.clone());
        let everything = ListParams::default();
        let list = in_time("the list of CacheRuntimes".to_owned(), api.list(&everything));
        Ok(list.await?.items)
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Error> {
        self.get(namespace, name).await
    }

    async fn stateful_set(&self, namespace: &str, name: &str) -> Result<Option<StatefulSet>, Error> {
        self.get(namespace, name).await
    }

    async fn tell_pods(&self, node: &str, uids: &BTreeSet<String>, news: &News) -> Result<(), Error> {
        let api = Api::<Pod>::all(self.0.clone());
        let of_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = in_time("the pods of this node".to_owned(), api.list_metadata(&of_node)).await?;
        let recorder = Recorder::new(
            self.0.clone(),
            Reporter {
                controller: "penstock-csi".to_owned(),
                instance: Some(node.to_owned()),
            },
        );
        let event = Event {
            type_: EventType::Warning,
            reason: news.reason.to_owned(),
            note: Some(news.note.clone()),
            action: "Read".to_owned(),
            secondary: None,
        };
        let concerned = |pod: &&PartialObjectMeta<Pod>| pod.metadata.uid.as_ref().is_some_and(|uid| uids.contains(uid));
        let mut told = Ok(());
        for pod in pods.items.iter().filter(concerned) {
            // What metadata alone do not say.
            let about = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                ..pod.object_ref(&())
            };
            let published = in_time("an event".to_owned(), recorder.publish(&event, &about)).await;
            told = told.and(published.map(drop));
        }
        told
    }

    async fn is_installed(&self, namespace: &str) -> Result<bool, Error> {
        let found: Option<DaemonSet> = self.get(namespace, DAEMON_SET).await?;
        Ok(found.is_some_and(|found| found.metadata.deletion_timestamp.is_none()))
    }
}

/// One item for each CacheRuntime that goes away from now on, and some more when the watch begins anew: a reason to look.
pub fn cache_runtimes_gone(client: Client) -> impl Stream<Item = ()> {
    // Only their metadata travels.
    let api = Api::<PartialObjectMeta<CacheRuntime>>::all(client);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    events.filter_map(|event| match event {
        Ok(watcher::Event::Delete(_) | watcher::Event::InitDone) => Some(()),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%error, "watch the CacheRuntimes");
            None
        }
    })
}

async fn in_time<T>(what: String, asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(API_DEADLINE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Error::Api {
            what,
            why: error.to_string(),
        }),
        Err(_) => Err(Error::Api {
            what,
            why: format!("no answer within {} s", API_DEADLINE.as_secs()),
        }),
    }
}
