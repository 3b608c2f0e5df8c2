//! How a Dataset is cached.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a Dataset is cached. It takes effect on running cache nodes within seconds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Caching {
    /// How much of the CacheRuntime it may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,

    /// What counts for a path and all below it. Of several the longest path counts that says something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 31))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["path".into()]))]
    pub rules: Vec<CacheRule>,
}

/// How much of a CacheRuntime a Dataset may hold, on all cache nodes together. Each node has the same part of it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// As long as it holds no more, no other Dataset takes anything from it; for example 100Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = "^[1-9][0-9]*(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$")
    )]
    pub guaranteed: Option<String>,

    /// It never holds more, also when nobody else needs the place; for example 500Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = "^[1-9][0-9]*(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$")
    )]
    pub limit: Option<String>,
}

/// How a path and all below it is cached. What it does not say, the rule of a shorter path says.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CacheRule {
    /// A folder or file of the tree, for example `labels/2024`. Empty is all of it.
    #[serde(default)]
    #[schemars(length(max = 512), regex(pattern = "^([^/\\x00]+(/[^/\\x00]+)*)?$"))]
    #[x_kube(validation = Rule::new("!self.split('/').exists(part, part == '.' || part == '..')").message("path has no parts `.` or `..`"))]
    pub path: String,

    /// Once cached it is never evicted. What does not fit is not pinned, and the Dataset says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<bool>,

    /// Seconds after which what nobody has read is evicted, whether the place is needed or not. Nothing is deleted at the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub ttl_seconds: Option<i32>,

    /// When there is not enough room, what has less is evicted first. Without it: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub priority: Option<i32>,

    /// The fastest tier of the CacheRuntime that it is kept in. Without it: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub tier: Option<String>,

    /// Which of it is evicted first. Without it: Auto, which finds out by itself what suits the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<Eviction>,
}

/// Which of a Dataset is evicted first.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Finds out whether epochs or mixed traffic are read, and needs no tuning.
    Auto,
    /// What was read longest ago.
    LRU,
    /// What was read least often.
    LFU,
}
