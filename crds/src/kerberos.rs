//! Where cache nodes get tickets of Kerberos.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Where the cache nodes of a CacheRuntime get tickets of Kerberos for sources of HDFS. No other KDC is asked, whatever a Dataset names.
/// A change takes effect without a restart.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Kerberos {
    /// The realms of the principals and of the name nodes.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub realms: Vec<KerberosRealm>,
}

/// A realm.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KerberosRealm {
    /// Its name, for example EXAMPLE.ORG.
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[^\\s@/\\\\]+$"))]
    pub name: String,

    /// `host` or `host:port` of its KDCs, which are asked over TCP, first the one that answered last. The port is 88 if there is none.
    #[schemars(
        length(min = 1, max = 8),
        inner(
            length(min = 1, max = 300),
            regex(pattern = "^([^/?#@\\s:\\[\\]]+|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?$")
        )
    )]
    pub kdcs: Vec<String>,
}
