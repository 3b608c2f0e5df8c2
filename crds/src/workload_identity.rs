//! The identity that cache nodes have for clouds.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The identity that the cache nodes of a CacheRuntime have for clouds, and who may read with it. A grant that is taken away takes effect
/// at once. Other annotations or labels start the cache nodes anew, one after the other.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadIdentity {
    /// Names of the Datasets of the namespace whose sources may say `workloadIdentity`; `*` is all of them. Whoever may write one of these
    /// Datasets can read what the identity may read: bound that in the cloud, and with `spec.origins.allowed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 63), regex(pattern = "^(\\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$"))
    )]
    pub datasets: Vec<String>,

    /// Annotations of the service account of the cache nodes, for example `eks.amazonaws.com/role-arn`,
    /// `iam.gke.io/gcp-service-account` or `azure.workload.identity/client-id`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8, "additionalProperties" = {"type": "string", "maxLength": 2048}))]
    #[x_kube(validation = Rule::new("self.all(key, key.matches('^[a-z0-9.-]+/[A-Za-z0-9._-]+$') && !key.matches('(^|[.])(penstock|kubernetes|k8s)[.]io/'))").message("an annotation begins with the domain of a cloud, for example eks.amazonaws.com/role-arn; those of Kubernetes and Penstock are not for you"))]
    pub service_account_annotations: BTreeMap<String, String>,

    /// Labels of the cache nodes' pods, for example `azure.workload.identity/use: "true"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8, "additionalProperties" = {"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$"}))]
    #[x_kube(validation = Rule::new("self.all(key, key.matches('^[a-z0-9.-]+/[A-Za-z0-9._-]+$') && !key.matches('(^|[.])(penstock|kubernetes|k8s)[.]io/'))").message("a label begins with the domain of a cloud, for example azure.workload.identity/use; those of Kubernetes and Penstock are not for you"))]
    pub pod_labels: BTreeMap<String, String>,

    /// Endpoints that sources may name together with `workloadIdentity`, beside the clouds' own: patterns of places, as in
    /// `spec.origins.allowed`, for example `https://s3.example.org`. They get what says who asks: tokens, and signatures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 512), regex(pattern = "^https?://[^\\s/].*$"))
    )]
    #[x_kube(validation = Rule::new("!self.exists(pattern, pattern.split('/').exists(part, part == '.' || part == '..'))").message("a pattern has no parts `.` or `..`: places have none"))]
    pub endpoints: Vec<String>,
}
