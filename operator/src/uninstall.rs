//! The check before the chart goes: whatever needs the operator to be cleaned up has to go first.

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use penstock_crds::{CacheRuntime, Dataset};

use crate::error::Error;

/// Every object that is still there, as `kind namespace/name`.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn in_use(client: &Client) -> Result<Vec<String>, Error> {
    let datasets = Api::<Dataset>::all(client.clone()).list(&ListParams::default()).await;
    let runtimes = Api::<CacheRuntime>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let line = |kind: &str, namespace: Option<String>, name: String| {
        format!("{kind} {}/{name}", namespace.unwrap_or_default())
    };
    let mut found = Vec::new();
    for dataset in datasets.map_err(Error::api("list Datasets"))? {
        found.push(line("dataset", dataset.namespace(), dataset.name_any()));
    }
    for runtime in runtimes.map_err(Error::api("list CacheRuntimes"))? {
        found.push(line("cacheruntime", runtime.namespace(), runtime.name_any()));
    }
    Ok(found)
}
