//! What the Datasets of a CacheRuntime may reach.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the Datasets of a CacheRuntime may reach. An edit takes effect at once: of what is not allowed any more nothing is fetched, while
/// what is cached of it is served as long as pods mount it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Origins {
    /// Patterns of places that sources may name. Without any: every place. A pattern allows a folder, and all below it. `*` and `?` stop
    /// at slashes, `**` does not. Places are `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `azure://ACCOUNT/CONTAINER/PREFIX`,
    /// `hdfs://HOST:PORT/PATH` (of each name node), `hf://datasets/OWNER/NAME/PATH` (or `models`, `spaces`), `claim://NAME/PATH`, and the URL of a web server.
    /// With an endpoint of its own a place is `https://HOST:PORT/BUCKET/PREFIX` (with account or kind of repository where there is one),
    /// so `s3://photos/**` allows nobody else's bucket of that name. A prefix counts up to its last slash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 1, max = 512),
            regex(pattern = "^((s3|gs|azure|hdfs|hf|claim|https?)://[^\\s/].*|\\*\\*)$")
        )
    )]
    #[x_kube(validation = Rule::new("!self.exists(pattern, pattern.split('/').exists(part, part == '.' || part == '..'))").message("a pattern has no parts `.` or `..`: places have none"))]
    pub allowed: Vec<String>,

    /// What of the cluster's own network may be reached: `HOST:PORT`, `HOST`, or a range of addresses such as `10.96.4.0/24`. Without
    /// any: nothing. Refused are, after names were looked up, the addresses of Services, pods, nodes and the API server, and loopback,
    /// but for what is listed. A host is written as the sources write it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 1, max = 300),
            regex(pattern = "^(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9._-]+|[0-9A-Fa-f:]+)(:[0-9]{1,5}|/[0-9]{1,3})?$")
        )
    )]
    pub cluster_addresses: Vec<String>,

    /// Folders of the nodes that sources may name, with all that is in them: mounts that every node of the cache nodes has, such as
    /// `/mnt/lustre`. Without any: none. The chart has to allow them, too (`hostPaths`), and so has the Pod Security level of the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 1024), regex(pattern = "^(/[^/\\x00]+)+$")))]
    #[x_kube(validation = Rule::new("!self.exists(path, path.split('/').exists(part, part == '.' || part == '..'))").message("a path has no parts `.` or `..`"))]
    pub host_paths: Vec<String>,
}
