//! Who belongs to the ring: every wanted cache node, whether it is ready or not, so that stripes do not move when one
//! restarts.

use kube::ResourceExt;
use penstock_crds::CacheRuntime;
use penstock_protocol::control::cache_node as wire;

use crate::names;

/// The members of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Grows when the members change.
    pub epoch: i64,
    /// Host names, in the order of the ordinals.
    pub hosts: Vec<String>,
    names: Vec<String>,
}

impl Members {
    /// The members that the spec wants.
    pub fn of(runtime: &CacheRuntime, cluster_domain: &str) -> Self {
        let (name, namespace) = (runtime.name_any(), runtime.namespace().unwrap_or_default());
        let replicas = runtime.spec.replicas.max(0);
        let hosts = (0..replicas)
            .map(|i| names::node_host(&name, &namespace, i, cluster_domain))
            .collect();
        let names = (0..replicas).map(|i| format!("{name}-{i}")).collect();
        let (epoch, known) = runtime
            .status
            .as_ref()
            .map_or((0, -1), |status| (status.ring_epoch, status.ring_members));
        Self {
            epoch: if known == replicas { epoch } else { epoch + 1 },
            hosts,
            names,
        }
    }

    /// How many.
    pub fn count(&self) -> i32 {
        self.hosts.len() as i32
    }

    /// `host:port` of the bulk protocol of the first ones: where a mount begins to ask.
    pub fn seeds(&self, most: usize) -> Vec<String> {
        self.hosts
            .iter()
            .take(most)
            .map(|host| names::bulk_address(host))
            .collect()
    }

    /// As cache nodes are told.
    pub fn wire(&self) -> Vec<wire::Member> {
        let pairs = self.names.iter().zip(&self.hosts);
        pairs
            .map(|(name, host)| wire::Member {
                name: name.clone(),
                address: names::bulk_address(host),
                weight: 1,
            })
            .collect()
    }
}
