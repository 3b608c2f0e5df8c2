//! The commit of a revision: the one compare-and-set that the whole system rests on.
//!
//! `status.revision` is written with the resourceVersion of the object that was looked at, so of two operators (an old leader
//! that does not know it yet, and the new one) only one can be first; the other sees a conflict and looks again.

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use penstock_crds::{Dataset, Revision};
use serde_json::json;

use crate::error::Error;
use crate::names::COMMIT_MANAGER;

/// Writes `revision` into the status of `dataset` as it was seen; returns the version that the object has then.
///
/// # Errors
/// [`Error::is_conflict`] when the object changed since; nothing was written then.
pub async fn commit(api: &Api<Dataset>, dataset: &Dataset, revision: &Revision) -> Result<Option<String>, Error> {
    let body = json!({
        "apiVersion": Dataset::api_version(&()),
        "kind": Dataset::kind(&()),
        "metadata": {"name": dataset.name_any(), "resourceVersion": dataset.resource_version()},
        "status": {"revision": revision},
    });
    let parameters = PatchParams::apply(COMMIT_MANAGER).force();
    let patched = api
        .patch_status(&dataset.name_any(), &parameters, &Patch::Apply(&body))
        .await;
    let patched = patched.map_err(Error::api("commit the revision"))?;
    Ok(patched.resource_version())
}
