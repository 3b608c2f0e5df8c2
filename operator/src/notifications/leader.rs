//! What is behind the door when this process leads: the Datasets, their Secrets, and what is remembered.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::events::EventType;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Resource, ResourceExt};
use penstock_crds::Dataset;

use super::door::Leader;
use super::marks::Mark;
use crate::context::Context;
use crate::error::Error;

/// The key of the Secret.
const TOKEN: &str = "token";

/// A process that leads.
pub struct Leading {
    /// What reconciles use.
    pub context: Arc<Context>,
    /// All Datasets.
    pub datasets: Store<Dataset>,
}

#[async_trait]
impl Leader for Leading {
    /// The store is filled at once. (Its `wait_until_ready` wakes only one of those who wait, so nobody but the controller may.)
    fn knows_datasets(&self) -> bool {
        !self.datasets.is_empty()
    }

    fn dataset(&self, namespace: &str, name: &str) -> Option<Arc<Dataset>> {
        self.datasets.get(&ObjectRef::new(name).within(namespace))
    }

    async fn token(&self, namespace: &str, secret: &str) -> Result<Option<String>, Error> {
        let secrets: Api<Secret> = Api::namespaced(self.context.client.clone(), namespace);
        let found = secrets.get_opt(secret).await.map_err(Error::api("get a Secret"))?;
        let token = found.and_then(|secret| secret.data?.remove(TOKEN));
        Ok(token.and_then(|token| String::from_utf8(token.0).ok()))
    }

    fn mark(&self, dataset: &Dataset, marks: Vec<Mark>) {
        let uid = dataset.uid().unwrap_or_default();
        self.context
            .notifications
            .mark(ObjectRef::from_obj(dataset), &uid, marks);
    }

    async fn tell(&self, dataset: &Dataset, reason: &str, note: String) {
        let about = dataset.object_ref(&());
        self.context.event(&about, EventType::Normal, reason, note).await;
    }
}
