//! The clients of origins that a node has: one for each source that it was told, with its keys, and none else.

use std::collections::HashMap;
use std::sync::Arc;

use penstock_origin::meter::Tally;
use penstock_origin::{Environment, Origin, OriginError, Reach, selected};
use penstock_protocol::control::cache_node as wire;
use penstock_revision::Scratch;
use penstock_tls::Identity;

use crate::other_dataset::{OtherDataset, OtherPackages};

/// The clients, each by the source without its place in the tree. Connections survive a new configuration that names the same
/// source.
#[derive(Default)]
pub(super) struct Origins {
    clients: HashMap<wire::Source, Arc<dyn Origin>>,
    /// What was looked into of other Datasets: they survive a new configuration, which comes with each of their revisions.
    other_packages: OtherPackages,
    /// With which it speaks to the cache nodes of other Datasets.
    identity: Option<Arc<Identity>>,
    /// Which addresses they may reach, all the same ones.
    reach: Reach,
    /// Where they count what they ask.
    tally: Tally,
    /// As whom those ask that have the workload identity of this pod.
    environment: Environment,
}

impl Origins {
    /// None yet, for a node with this identity. Packages of other Datasets are in `scratch`.
    pub(super) fn of(identity: Option<Arc<Identity>>, scratch: Scratch) -> Self {
        Self {
            other_packages: OtherPackages::new(scratch),
            identity,
            environment: Environment::of_process(),
            ..Self::default()
        }
    }

    /// From now on nobody reaches an address of the cluster, but for these.
    pub(super) fn keep_out(&self, cluster_networks: &[String], but_for: &[String]) {
        for text in self.reach.set(cluster_networks, but_for) {
            tracing::warn!(
                text,
                "neither addresses nor a host; correct spec.origins.clusterAddresses of the CacheRuntime"
            );
        }
    }

    /// The client of a source: the one that is there, or a new one that is not remembered.
    ///
    /// # Errors
    /// When the source makes no sense.
    pub(super) fn client(&self, source: &wire::Source) -> Result<Arc<dyn Origin>, OriginError> {
        if let Some(origin) = self.clients.get(&placeless(source)) {
            return Ok(origin.clone());
        }
        match &source.origin {
            Some(wire::source::Origin::Dataset(other)) => {
                let other = OtherDataset::new(other.clone(), self.other_packages.clone(), self.identity.clone());
                selected(Arc::new(other), source)
            }
            _ => penstock_origin::client_within(source, &self.environment, &self.reach, &self.tally),
        }
    }

    /// Where all of them count what they ask.
    pub(super) fn tally(&self) -> Tally {
        self.tally.clone()
    }

    /// Remembers the clients of these sources and forgets all others, with their keys.
    pub(super) fn keep_only<'a>(&mut self, sources: impl IntoIterator<Item = &'a wire::Source>) {
        // Who asks for the client of a source that makes no sense is told.
        let kept = sources
            .into_iter()
            .filter_map(|source| Some((placeless(source), self.client(source).ok()?)));
        self.clients = kept.collect();
        let named = self.clients.values().map(|origin| origin.identity());
        self.tally.keep_only(&named.collect());
    }
}

fn placeless(source: &wire::Source) -> wire::Source {
    wire::Source {
        path: String::new(),
        ..source.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, secret: &str) -> wire::Source {
        let keys = wire::AwsKeys {
            access_key_id: "id".into(),
            secret_access_key: secret.into(),
            session_token: String::new(),
        };
        let s3 = wire::S3 {
            bucket: "bucket".into(),
            keys: Some(keys),
            ..Default::default()
        };
        wire::Source {
            path: path.into(),
            origin: Some(wire::source::Origin::S3(s3)),
            ..Default::default()
        }
    }

    #[test]
    fn clients_stay_while_they_are_named_whatever_keys_others_of_the_same_bucket_have() {
        let (one, two) = (source("", "one"), source("", "two"));
        let mut origins = Origins::default();
        origins.keep_only([&one, &two]);
        let before = [origins.client(&one).unwrap(), origins.client(&two).unwrap()];
        assert!(!Arc::ptr_eq(&before[0], &before[1]));
        let moved = source("elsewhere", "one");
        origins.keep_only([&two, &moved]);
        let after = [origins.client(&moved).unwrap(), origins.client(&two).unwrap()];
        assert!(Arc::ptr_eq(&before[0], &after[0]) && Arc::ptr_eq(&before[1], &after[1]));
    }

    #[test]
    fn the_pods_own_identity_and_keys_have_clients_of_their_own_for_one_bucket() {
        let with_keys = source("", "one");
        let mut as_itself = with_keys.clone();
        let Some(wire::source::Origin::S3(s3)) = &mut as_itself.origin else {
            panic!("{as_itself:?}")
        };
        (s3.keys, s3.workload_identity) = (None, true);
        let mut origins = Origins::default();
        origins.keep_only([&with_keys, &as_itself]);
        let clients = [&with_keys, &as_itself].map(|source| origins.client(source).unwrap());
        assert!(!Arc::ptr_eq(&clients[0], &clients[1]));
        // Who is not granted it any more is not told of, and its client goes with its token.
        let gone = Arc::downgrade(&clients[1]);
        drop(clients);
        origins.keep_only([&with_keys]);
        assert!(gone.upgrade().is_none());
    }

    #[test]
    fn a_client_that_is_not_named_any_more_goes_with_its_keys() {
        let (one, two) = (source("", "one"), source("", "two"));
        let mut origins = Origins::default();
        origins.keep_only([&one, &two]);
        let gone = Arc::downgrade(&origins.client(&one).unwrap());
        origins.keep_only([&two]);
        assert!(gone.upgrade().is_none());
        // One for a build of a source that is not told yet is not kept either.
        drop(origins.client(&one).unwrap());
        assert_eq!(origins.clients.len(), 1);
    }
}
