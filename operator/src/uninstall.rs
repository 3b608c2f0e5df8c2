//! The check before the chart goes: whatever needs the operator to be cleaned up has to go first.

use std::fmt::Debug;

use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use penstock_crds::{CacheRuntime, Dataset};
use serde::de::DeserializeOwned;

use crate::error::Error;

/// Every object that is still there, as `kind namespace/name`.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn in_use(client: &Client) -> Result<Vec<String>, Error> {
    let mut found = all_of::<Dataset>(client, "dataset").await?;
    found.extend(all_of::<CacheRuntime>(client, "cacheruntime").await?);
    Ok(found)
}

async fn all_of<K>(client: &Client, kind: &str) -> Result<Vec<String>, Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let listed = Api::<K>::all(client.clone()).list(&ListParams::default()).await;
    let line = |object: &K| {
        format!(
            "{kind} {}/{}",
            object.namespace().unwrap_or_default(),
            object.name_any()
        )
    };
    match listed {
        Ok(objects) => Ok(objects.items.iter().map(line).collect()),
        // The definition is gone, and all objects of the kind with it.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(Error::api("list what is in use")(error)),
    }
}
