//! The addresses of the cluster itself, which no origin may have that its CacheRuntime does not list. The API server tells them:
//!
//! | addresses | from |
//! |---|---|
//! | Services | ServiceCIDR objects |
//! | pods | `spec.podCIDRs` of nodes |
//! | nodes, whose ports lead to Services too | `status.addresses` of nodes |
//! | API server | Service and EndpointSlices of `kubernetes` |
//! | loopback | always the same |
//!
//! and what an administrator adds, for network plugins that give pods other addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::WatchStream;

/// Of a cache node: "this host", and loopback.
const LOOPBACK: [&str; 4] = ["0.0.0.0/8", "127.0.0.0/8", "::/128", "::1/128"];

/// Namespace of the API server's own Service.
const HOME: &str = "default";

/// Kinds of objects that are asked.
const KINDS: usize = 4;

/// Addresses that one kind of objects tells, and which.
type News = (usize, BTreeSet<String>);

/// What is known of the cluster's addresses; clones share it.
#[derive(Clone)]
pub struct Cluster(watch::Receiver<Arc<Vec<String>>>);

impl Cluster {
    /// Waits until every kind of objects was asked, and keeps what they tell fresh for as long as the process lives. Until then
    /// nobody may be told anything: what is not known is not refused.
    pub async fn learn(client: &Client, added: &[IpNet]) -> Self {
        let (news, mut heard) = mpsc::unbounded_channel();
        let everything = watcher::Config::default;
        let of_kubernetes = everything().fields("metadata.name=kubernetes");
        let slices = everything().labels("kubernetes.io/service-name=kubernetes");
        tokio::spawn(follow(
            Api::all(client.clone()),
            everything(),
            of_range,
            0,
            news.clone(),
        ));
        tokio::spawn(follow(Api::all(client.clone()), everything(), of_node, 1, news.clone()));
        tokio::spawn(follow(
            Api::namespaced(client.clone(), HOME),
            of_kubernetes,
            of_service,
            2,
            news.clone(),
        ));
        tokio::spawn(follow(Api::namespaced(client.clone(), HOME), slices, of_slice, 3, news));
        let mut told: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        while told.len() < KINDS {
            // All four hold a sender for ever.
            let Some((kind, addresses)) = heard.recv().await else {
                break;
            };
            told.insert(kind, addresses);
        }
        let added: BTreeSet<String> = added.iter().map(ToString::to_string).collect();
        let all = move |told: &BTreeMap<usize, BTreeSet<String>>| joined(told.values().chain([&added]));
        let first = all(&told);
        tracing::info!(
            addresses = first.join(" "),
            "the addresses of the cluster, which no origin may have"
        );
        let (sender, receiver) = watch::channel(Arc::new(first));
        tokio::spawn(async move {
            while let Some((kind, addresses)) = heard.recv().await {
                told.insert(kind, addresses);
                let now = all(&told);
                sender.send_if_modified(|before| {
                    let differs = **before != now;
                    *before = Arc::new(now);
                    differs
                });
            }
        });
        Self(receiver)
    }

    /// One that has these, always.
    #[cfg(test)]
    pub(crate) fn of(networks: &[String]) -> Self {
        Self(watch::channel(Arc::new(networks.to_vec())).1)
    }

    /// `ADDRESS:PORT` and CIDRs.
    pub fn networks(&self) -> Vec<String> {
        self.0.borrow().to_vec()
    }

    /// Each time that they changed.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + 'static {
        WatchStream::from_changes(self.0.clone()).map(|_| ())
    }
}

/// Says what the objects of a kind tell, whenever that changes.
async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    told_by: fn(&K) -> Vec<String>,
    kind: usize,
    news: mpsc::UnboundedSender<News>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let (mut known, mut listed) = (BTreeMap::new(), BTreeMap::new());
    let mut events = pin!(watcher(api, config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed.insert(object.name_any(), told_by(&object));
                continue;
            }
            Ok(Event::InitDone) => known = std::mem::take(&mut listed),
            Ok(Event::Apply(object)) => {
                let told = told_by(&object);
                // Nodes change all the time, and this of them never.
                if known.insert(object.name_any(), told.clone()) == Some(told) {
                    continue;
                }
            }
            Ok(Event::Delete(object)) => {
                known.remove(&object.name_any());
            }
            // A cluster that is older than ServiceCIDRs.
            Err(error) if is_absent(&error) => known.clear(),
            Err(error) => {
                let kind = K::kind(&());
                tracing::warn!(%kind, %error, "learn the addresses of the cluster; what is not known yet is waited for");
                continue;
            }
        }
        // The receiver ends with the process.
        let _ = news.send((kind, known.values().flatten().cloned().collect()));
    }
}

fn is_absent(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

fn of_range(range: &ServiceCIDR) -> Vec<String> {
    let spec = range.spec.as_ref();
    spec.and_then(|spec| spec.cidrs.clone()).unwrap_or_default()
}

fn of_node(node: &Node) -> Vec<String> {
    let spec = node.spec.as_ref();
    let pods = spec.and_then(|spec| spec.pod_cidrs.clone().or_else(|| Some(vec![spec.pod_cidr.clone()?])));
    let own = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let own = own.into_iter().flatten().map(|own| own.address.clone());
    // Some of them are names.
    let own = own.filter(|address| address.parse::<IpAddr>().is_ok());
    pods.unwrap_or_default().into_iter().chain(own).collect()
}

fn of_service(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default()
}

/// With their ports: what else lies at these addresses may be nobody's of the cluster.
fn of_slice(slice: &EndpointSlice) -> Vec<String> {
    let ports = slice.ports.iter().flatten().filter_map(|port| port.port);
    let ports: Vec<u16> = ports.filter_map(|port| u16::try_from(port).ok()).collect();
    let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    let addresses: Vec<IpAddr> = addresses.filter_map(|address| address.parse().ok()).collect();
    let at_ports = |address: IpAddr| {
        ports
            .iter()
            .map(move |port| SocketAddr::new(address, *port).to_string())
    };
    addresses.into_iter().flat_map(at_ports).collect()
}

/// All of it and loopback, in few words: those of neighbouring nodes are mostly one.
fn joined<'a>(told: impl Iterator<Item = &'a BTreeSet<String>>) -> Vec<String> {
    let (mut networks, mut ports) = (Vec::new(), BTreeSet::new());
    for text in told.flatten().map(String::as_str).chain(LOOPBACK) {
        let network = text
            .parse()
            .or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)));
        match network {
            Ok(network) => networks.push(network),
            Err(_) => {
                ports.insert(text.to_owned());
            }
        }
    }
    let networks = IpNet::aggregate(&networks);
    networks.iter().map(ToString::to_string).chain(ports).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_objects_tells_its_addresses() {
        let range = serde_json::from_value(json!({"spec": {"cidrs": ["10.96.0.0/16", "fd00:1::/112"]}})).unwrap();
        assert_eq!(of_range(&range), ["10.96.0.0/16", "fd00:1::/112"]);
        let node = json!({
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:2::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "172.30.0.11"},
            ]},
        });
        let node = serde_json::from_value(node).unwrap();
        assert_eq!(of_node(&node), ["10.244.1.0/24", "fd00:2::/64", "172.30.0.11"]);
        assert_eq!(of_node(&serde_json::from_value(json!({})).unwrap()), [""; 0]);
        let service = serde_json::from_value(json!({"spec": {"clusterIPs": ["10.96.0.1"]}})).unwrap();
        assert_eq!(of_service(&service), ["10.96.0.1"]);
        let slice = json!({
            "addressType": "IPv4", "ports": [{"port": 6443}],
            "endpoints": [{"addresses": ["172.30.0.1"]}, {"addresses": ["fd00::1"]}],
        });
        let slice = serde_json::from_value(slice).unwrap();
        assert_eq!(of_slice(&slice), ["172.30.0.1:6443", "[fd00::1]:6443"]);
    }

    #[test]
    fn what_lies_side_by_side_is_one_and_loopback_is_always_there() {
        let told: BTreeSet<String> = ["10.244.0.0/24", "10.244.1.0/24", "10.244.1.7", "172.30.0.1:6443", "::1"]
            .into_iter()
            .map(str::to_owned)
            .collect();
        let expected = ["0.0.0.0/8", "10.244.0.0/23", "127.0.0.0/8", "::/127", "172.30.0.1:6443"];
        assert_eq!(joined([&told].into_iter()), expected);
    }

    #[test]
    fn only_a_kind_that_does_not_exist_tells_nothing() {
        let failed = |code: u16| {
            let status = json!({"status": "Failure", "message": "m", "reason": "r", "code": code});
            let status = serde_json::from_value(status).unwrap();
            watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
        };
        assert!(is_absent(&failed(404)));
        assert!(!is_absent(&failed(403)), "it may be there, and what it says counts");
    }
}
