//! Which pods are cache nodes: those of a StatefulSet that a CacheRuntime of their namespace controls.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use penstock_crds::CacheRuntime;

use crate::error::Error;
use crate::kubernetes::Cluster;
use crate::request::Pod;

/// The CacheRuntime `runtime`, after it was checked that `pod` is one of its cache nodes; with its uid.
///
/// # Errors
/// [`Error::Denied`] when it is not, with what is wrong.
pub async fn runtime_of(cluster: &dyn Cluster, runtime: &str, pod: &Pod) -> Result<(CacheRuntime, String), Error> {
    let Pod {
        namespace, name, uid, ..
    } = pod;
    let denied = |why: &str| {
        Error::Denied(format!(
            "the pod {namespace}/{name} cannot have a volume of CacheRuntime {runtime:?}: {why}"
        ))
    };
    let found = cluster.cache_runtime(namespace, runtime).await?;
    let found = found.ok_or_else(|| denied("there is no such CacheRuntime in its namespace"))?;
    let runtime_uid = uid_of(&found.metadata)?;
    let object = cluster.pod(namespace, name).await?;
    let object = object.filter(|object| object.metadata.uid.as_deref() == Some(uid));
    let object = object.ok_or_else(|| denied("the pod is gone"))?;
    let stranger = "only pods of the CacheRuntime's own StatefulSet can";
    let set_name = controller::<StatefulSet>(&object.metadata).ok_or_else(|| denied(stranger))?;
    let set = cluster.stateful_set(namespace, &set_name.name).await?;
    let of_runtime = set.is_some_and(|set| {
        set.metadata.uid.as_deref() == Some(&set_name.uid)
            && controller::<CacheRuntime>(&set.metadata).is_some_and(|owner| owner.uid == runtime_uid)
    });
    let of_set = name
        .strip_prefix(&set_name.name)
        .and_then(|rest| rest.strip_prefix('-'));
    if !of_runtime || of_set.is_none_or(|ordinal| ordinal.parse::<u32>().is_err()) {
        return Err(denied(stranger));
    }
    Ok((found, runtime_uid))
}

struct Controller {
    name: String,
    uid: String,
}

fn controller<K: Resource<DynamicType = ()>>(metadata: &ObjectMeta) -> Option<Controller> {
    let owners = metadata.owner_references.iter().flatten();
    let group = |version: &str| version.split('/').next().map(str::to_owned);
    let owner = owners
        .into_iter()
        .find(|owner| owner.controller == Some(true) && owner.kind == K::kind(&()))?;
    (group(&owner.api_version) == group(&K::api_version(&()))).then(|| Controller {
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    })
}

fn uid_of(metadata: &ObjectMeta) -> Result<String, Error> {
    let uid = metadata
        .uid
        .clone()
        .filter(|uid| !uid.is_empty() && !uid.contains(['/', '.']));
    uid.ok_or_else(|| Error::Internal("the API server sent an object without a uid".to_owned()))
}
