//! The objects that belong to a Dataset: pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Resource, ResourceExt};
use penstock_crds::{CSI_DRIVER, Dataset, DatasetSpec};
use serde_json::json;

use crate::error::Error;
use crate::names::{digest, volume, volume_labels};

/// The volume and the claim that people mount.
///
/// # Errors
/// When one of ours does not have the shape of its kind.
pub fn volume_and_claim(
    dataset: &Dataset,
    namespace: &str,
    bytes: i64,
) -> Result<(PersistentVolume, PersistentVolumeClaim), Error> {
    let (name, uid) = (dataset.name_any(), dataset.uid().unwrap_or_default());
    let labels = volume_labels(namespace, &name);
    // A capacity is for people and quotas here; it has to be positive and equal in both.
    let capacity = bytes.max(1).to_string();
    let volume_value = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": volume(&uid), "labels": labels},
        "spec": {
            "capacity": {"storage": capacity},
            "accessModes": ["ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name},
            "csi": {
                "driver": CSI_DRIVER,
                "readOnly": true,
                "volumeHandle": uid,
                "volumeAttributes": {"dataset": name, "namespace": namespace, "uid": uid},
            },
        },
    });
    let claim_value = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name, "namespace": namespace, "labels": labels,
            "ownerReferences": [dataset.controller_owner_ref(&())],
        },
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "volumeName": volume(&uid),
            "resources": {"requests": {"storage": capacity}},
        },
    });
    let shape = |step| move |source| Error::Shape { step, source };
    Ok((
        serde_json::from_value(volume_value).map_err(shape("build the PersistentVolume"))?,
        serde_json::from_value(claim_value).map_err(shape("build the PersistentVolumeClaim"))?,
    ))
}

/// A digest of all that makes a revision what it is, as far as it is known without looking at origins: another one means another
/// revision. `claims` are the UIDs of those that the sources name: a claim that is made anew has other files.
pub fn sources_digest(spec: &DatasetSpec, claims: &[&str]) -> String {
    // Serialising our own types cannot fail; the text has no secrets.
    let mut text = serde_json::to_string(&(&spec.sources, &spec.ownership)).unwrap_or_default();
    for claim in claims {
        text.push('\n');
        text.push_str(claim);
    }
    digest(&text)
}
