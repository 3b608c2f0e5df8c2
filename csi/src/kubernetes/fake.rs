//! A cluster in memory, which can be unreachable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use penstock_crds::{CacheRuntime, Dataset};

use super::Cluster;
use crate::error::Error;
use crate::told::News;

/// The objects, by namespace and name.
#[derive(Debug, Default)]
pub struct Objects {
    /// Datasets.
    pub datasets: BTreeMap<(String, String), Dataset>,
    /// CacheRuntimes.
    pub cache_runtimes: BTreeMap<(String, String), CacheRuntime>,
    /// Pods.
    pub pods: BTreeMap<(String, String), Pod>,
    /// StatefulSets.
    pub stateful_sets: BTreeMap<(String, String), StatefulSet>,
    /// The reasons of events, by the uid of the pod.
    pub told: Vec<(String, &'static str)>,
    /// The chart is gone.
    pub uninstalled: bool,
    /// Nothing is answered.
    pub unreachable: bool,
}

/// A cluster in memory.
#[derive(Debug, Default)]
pub struct FakeCluster(Mutex<Objects>);

impl FakeCluster {
    /// The objects, to read and to change.
    pub fn objects(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<T>(&self, what: &str, answer: impl FnOnce(&Objects) -> T) -> Result<T, Error> {
        let objects = self.objects();
        if objects.unreachable {
            return Err(Error::Api {
                what: what.to_owned(),
                why: "connection refused".to_owned(),
            });
        }
        Ok(answer(&objects))
    }
}

fn key(namespace: &str, name: &str) -> (String, String) {
    (namespace.to_owned(), name.to_owned())
}

#[async_trait]
impl Cluster for FakeCluster {
    async fn dataset(&self, namespace: &str, name: &str) -> Result<Option<Dataset>, Error> {
        self.ask("a Dataset", |objects| {
            objects.datasets.get(&key(namespace, name)).cloned()
        })
    }

    async fn cache_runtime(&self, namespace: &str, name: &str) -> Result<Option<CacheRuntime>, Error> {
        self.ask("a CacheRuntime", |objects| {
            objects.cache_runtimes.get(&key(namespace, name)).cloned()
        })
    }

    async fn cache_runtimes(&self) -> Result<Vec<CacheRuntime>, Error> {
        self.ask("CacheRuntimes", |objects| {
            objects.cache_runtimes.values().cloned().collect()
        })
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, Error> {
        self.ask("a pod", |objects| objects.pods.get(&key(namespace, name)).cloned())
    }

    async fn stateful_set(&self, namespace: &str, name: &str) -> Result<Option<StatefulSet>, Error> {
        self.ask("a StatefulSet", |objects| {
            objects.stateful_sets.get(&key(namespace, name)).cloned()
        })
    }

    async fn tell_pods(&self, _: &str, uids: &BTreeSet<String>, news: &News) -> Result<(), Error> {
        self.ask("an event", |_| ())?;
        let told = uids.iter().map(|uid| (uid.clone(), news.reason));
        self.objects().told.extend(told);
        Ok(())
    }

    async fn is_installed(&self, _: &str) -> Result<bool, Error> {
        self.ask("the DaemonSet", |objects| !objects.uninstalled)
    }
}
