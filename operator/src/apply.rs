//! The only writer to the API server (but for commits): server-side apply by one field manager, statuses, finalizers.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::Error;
use crate::names::{FIELD_MANAGER, FINALIZER};

/// Applies one namespaced object.
///
/// # Errors
/// When the API server refuses.
pub async fn apply<K>(client: &Client, step: &'static str, object: &K) -> Result<K, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
{
    let namespace = object.namespace().ok_or(Error::Incomplete("namespace"))?;
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    apply_with(&api, step, object).await
}

/// Applies one object through an API.
///
/// # Errors
/// When the API server refuses.
pub async fn apply_with<K>(api: &Api<K>, step: &'static str, object: &K) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(&object.name_any(), &parameters, &Patch::Apply(object))
        .await
        .map_err(Error::api(step))
}

/// Writes a status; the caller has compared it with what is there, which is the object in this version. Another version is
/// refused: what was computed from a stale copy would take back what was written since.
///
/// # Errors
/// When the API server refuses; [`Error::is_conflict`] when the object changed since.
pub async fn apply_status<K>(api: &Api<K>, name: &str, version: Option<&str>, status: Value) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name, "resourceVersion": version},
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(name, &parameters, &Patch::Apply(&body))
        .await
        .map_err(Error::api("write the status"))?;
    Ok(())
}

/// Adds our finalizer, before anything is made that it has to clean up.
///
/// # Errors
/// When the API server refuses.
pub async fn add_finalizer<K>(api: &Api<K>, object: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let mut finalizers = object.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    set_finalizers(api, object, &finalizers).await
}

/// Takes our finalizer off, as the last step of a deletion.
///
/// # Errors
/// When the API server refuses.
pub async fn remove_finalizer<K>(api: &Api<K>, object: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let finalizers: Vec<String> = object
        .finalizers()
        .iter()
        .filter(|name| *name != FINALIZER)
        .cloned()
        .collect();
    set_finalizers(api, object, &finalizers).await
}

async fn set_finalizers<K>(api: &Api<K>, object: &K, finalizers: &[String]) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    // With the version, so that a finalizer that somebody else added meanwhile is not lost.
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": object.resource_version()}});
    let patched = api
        .patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    ignore_missing(patched.map(drop), "change the finalizers")
}

/// Deletes an object; one that is not there is fine.
///
/// # Errors
/// When the API server refuses.
pub async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Resource + DeserializeOwned + Clone + Debug,
{
    ignore_missing(api.delete(name, &DeleteParams::background()).await.map(drop), "delete")
}

/// Deletes this object, and not another one that has its name by now; one that is gone is fine.
///
/// # Errors
/// When the API server refuses; [`Error::is_conflict`] when another one has its name.
pub async fn delete_this<K>(api: &Api<K>, object: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let only_this = Preconditions {
        uid: object.uid(),
        resource_version: None,
    };
    let parameters = DeleteParams {
        preconditions: Some(only_this),
        ..DeleteParams::background()
    };
    let deleted = api.delete(&object.name_any(), &parameters).await;
    ignore_missing(deleted.map(drop), "delete")
}

/// Lets a PersistentVolume be bound again after its claim was deleted.
///
/// # Errors
/// When the API server refuses.
pub async fn forget_claim<K>(api: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Resource + DeserializeOwned + Clone + Debug,
{
    let patch = json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}});
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    patched
        .map(drop)
        .map_err(Error::api("free the volume of its old claim"))
}

fn ignore_missing(outcome: Result<(), kube::Error>, step: &'static str) -> Result<(), Error> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map_err(Error::api(step)),
    }
}
