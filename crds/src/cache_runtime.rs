//! A pool of cache nodes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kerberos::Kerberos;
use crate::origins::Origins;
use crate::workload_identity::WorkloadIdentity;

/// A pool of cache nodes that the Datasets of the namespace share.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "penstock.io",
    version = "v1alpha1",
    kind = "CacheRuntime",
    plural = "cacheruntimes",
    shortname = "pcr",
    category = "penstock",
    namespaced,
    status = "CacheRuntimeStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$')").message("the name has at most 52 lower-case letters, digits and dashes, begins with a letter and does not end with a dash: its Service and its cache nodes are named after it"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Nodes","type":"integer","jsonPath":".status.readyReplicas"}"#,
    printcolumn = r#"{"name":"Wanted","type":"integer","jsonPath":".spec.replicas"}"#,
    printcolumn = r#"{"name":"Capacity","type":"string","jsonPath":".status.capacity"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CacheRuntimeSpec {
    /// How many cache nodes.
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: i32,

    /// Where a cache node stores, the fastest first. What is read often rises, what is not sinks, and what does not fit into the
    /// last is gone.
    #[schemars(length(min = 1, max = 4))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tiers: Vec<Tier>,

    /// Labels of the nodes that cache nodes may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that cache nodes tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,

    /// Resources of a cache node's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// What its Datasets may reach. Without it: every place outside of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origins: Option<Origins>,

    /// The identity that its cache nodes have for clouds. Without it: none that a Dataset may read with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_identity: Option<WorkloadIdentity>,

    /// Where its cache nodes get tickets of Kerberos, for sources of HDFS with `credentialsSecretRef`. Without it there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kerberos: Option<Kerberos>,
}

/// One medium of a cache node.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.medium != 'Memory' || self.volume == 'EmptyDir'").message("a tier in Memory has the volume EmptyDir: memory does not outlive the pod"))]
pub struct Tier {
    /// Its name, for status and metrics.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// What it is made of.
    pub medium: Medium,
    /// How much of it a cache node may use, for example 100Gi.
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = "^[1-9][0-9]*(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$")
    )]
    pub capacity: String,
    /// What holds the bytes: a folder of the node, which outlives the pod, or an emptyDir, which is lost with it.
    #[serde(default)]
    pub volume: TierVolume,
}

/// What a tier is made of.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Memory of the node, counted in the pod's limit.
    Memory,
    /// A solid-state disk.
    SSD,
    /// A hard disk.
    HDD,
}

/// What holds the bytes of a tier.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TierVolume {
    /// A folder of the node below the state folder of the chart; outlives the pod.
    #[default]
    Node,
    /// An emptyDir; lost with the pod.
    EmptyDir,
}

/// Where a CacheRuntime stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CacheRuntimeStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, Reconciling, Stalled, CacheDegraded, DeletionBlocked.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// Cache nodes that exist.
    #[serde(default)]
    pub replicas: i32,

    /// Cache nodes that serve.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Label selector of the cache nodes, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub selector: Option<String>,

    /// Epoch of the ring: grows when its members change.
    #[serde(default)]
    pub ring_epoch: i64,

    /// What one cache node holds: the capacities of its tiers, the fastest first, for example 8Gi + 1Ti.
    #[serde(default)]
    pub capacity: String,

    /// How many members the ring of that epoch has.
    #[serde(default)]
    pub ring_members: i32,
}
