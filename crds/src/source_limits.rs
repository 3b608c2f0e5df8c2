//! How much a source is asked for at the most.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How much a source is asked for at the most, by all cache nodes of the CacheRuntime together. Each has the same part of it, whether
/// others use theirs or not: of 100 requests with 10 cache nodes each sends 10. What is cached does not count.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SourceLimits {
    /// Requests in a second: pages of listings, and reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_second: Option<i32>,

    /// Bytes in a second that are read, for example 200Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = "^[1-9][0-9]*(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$")
    )]
    pub bandwidth: Option<String>,
}
