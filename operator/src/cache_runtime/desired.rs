//! The objects that a CacheRuntime owns: pure.

mod workload_identity;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ResourceRequirements, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Resource, ResourceExt};
use penstock_crds::{
    BULK_PORT, CONTROL_PORT, CSI_DRIVER, CacheRuntime, CacheRuntimeSpec, Dataset, HEALTH_PORT, INSPECTION_PORT, Medium,
    Tier, TierVolume, bytes_of,
};
use penstock_protocol::control::cache_node as wire;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::context::Facts;
use crate::error::Error;
use crate::limits::{
    KERNEL_MEMORY_PART, MEMORY_BYTES_MIN, MEMORY_OVERHEAD_BYTES, MEMORY_REQUEST, TIER_BYTES_PER_RESERVED,
    TIER_RESERVE_BYTES,
};
use crate::names::{CACHE_USER, runtime_labels};

/// Where the tier is in the container.
const TIER_FOLDER: &str = "/cache";
/// Where the cache node listens for the mounter of its node.
const NEIGHBOUR_FOLDER: &str = "/neighbour";

/// Everything that a CacheRuntime owns.
pub struct Children {
    /// Identity of the cache nodes; has no rights in the API, but perhaps some in a cloud.
    pub service_account: ServiceAccount,
    /// Gives each cache node a name of its own.
    pub service: Service,
    /// Who may connect.
    pub network_policy: NetworkPolicy,
    /// One cache node at a time may be drained.
    pub disruption_budget: PodDisruptionBudget,
    /// The cache nodes.
    pub stateful_set: StatefulSet,
}

/// The children of `runtime`, which caches for `users`.
///
/// # Errors
/// When one of ours does not have the shape of its kind.
pub fn children(runtime: &CacheRuntime, users: &[Dataset], facts: &Facts) -> Result<Children, Error> {
    let name = runtime.name_any();
    let labels = runtime_labels(&name);
    let metadata = json!({
        "name": name,
        "namespace": runtime.namespace(),
        "labels": labels,
        "ownerReferences": [runtime.controller_owner_ref(&())],
    });
    let selector = json!({"matchLabels": labels});
    Ok(Children {
        service_account: shaped(
            "build the ServiceAccount",
            workload_identity::service_account(runtime, &metadata),
        )?,
        service: shaped("build the Service", service(&metadata, &json!(labels)))?,
        network_policy: shaped(
            "build the NetworkPolicy",
            network_policy(&metadata, &selector, users, &facts.namespace),
        )?,
        disruption_budget: shaped(
            "build the PodDisruptionBudget",
            json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata,
                   "spec": {"maxUnavailable": 1, "selector": selector}}),
        )?,
        stateful_set: shaped(
            "build the StatefulSet",
            stateful_set(runtime, facts, &metadata, &selector, labels),
        )?,
    })
}

fn service(metadata: &Value, labels: &Value) -> Value {
    let port = |name: &str, port: u16| json!({"name": name, "port": port, "targetPort": name, "protocol": "TCP"});
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            // A node is told its configuration before it is ready, so it needs its name before.
            "publishNotReadyAddresses": true,
            "selector": labels,
            "ports": [port("bulk", BULK_PORT), port("control", CONTROL_PORT)],
        },
    })
}

fn network_policy(metadata: &Value, selector: &Value, users: &[Dataset], operator_namespace: &str) -> Value {
    let operator = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "penstock", "app.kubernetes.io/component": "operator"}},
    });
    let mounter = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": operator_namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "penstock", "app.kubernetes.io/component": "mounter"}},
    });
    let mut readers = vec![mounter];
    readers.extend(other_cache_nodes(users));
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata,
        "spec": {
            "podSelector": selector,
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": readers, "ports": [{"port": "bulk"}]},
                {"from": [operator], "ports": [{"port": "control"}]},
                {"from": [{"podSelector": selector}], "ports": [{"port": "inspection"}]},
                {"ports": [{"port": "health"}]},
            ],
        },
    })
}

/// Cache nodes of whose Datasets may take files of `users`: those of the same namespace, and of those that are allowed.
fn other_cache_nodes(users: &[Dataset]) -> Vec<Value> {
    let cache_nodes =
        json!({"matchLabels": {"app.kubernetes.io/name": "penstock", "app.kubernetes.io/component": "cache-node"}});
    let allowed: BTreeSet<&str> = users
        .iter()
        .flat_map(|dataset| dataset.spec.allowed_namespaces.iter().map(String::as_str))
        .collect();
    let mut peers = vec![json!({"podSelector": cache_nodes})];
    let namespaces = if allowed.contains("*") {
        Some(json!({}))
    } else {
        let named = json!({"key": "kubernetes.io/metadata.name", "operator": "In", "values": allowed});
        (!allowed.is_empty()).then(|| json!({"matchExpressions": [named]}))
    };
    peers.extend(namespaces.map(|namespaces| json!({"namespaceSelector": namespaces, "podSelector": cache_nodes})));
    peers
}

fn stateful_set(
    runtime: &CacheRuntime,
    facts: &Facts,
    metadata: &Value,
    selector: &Value,
    labels: BTreeMap<String, String>,
) -> Value {
    let CacheRuntimeSpec {
        replicas,
        tiers,
        node_selector,
        tolerations,
        resources,
        // What cache nodes are told while they run.
        origins: _,
        kerberos: _,
        // Of its service account and its pods' metadata.
        workload_identity: _,
    } = &runtime.spec;
    // Only then our driver is sure to be on the nodes of the cache nodes.
    let has_driver = tiers.iter().any(|tier| tier.volume == TierVolume::Node);
    let probe = |path: &str, period: u32| json!({"httpGet": {"path": path, "port": "health"}, "periodSeconds": period});
    let pull_secrets: Vec<Value> = facts
        .image_pull_secrets
        .iter()
        .map(|name| json!({"name": name}))
        .collect();
    let container = json!({
        "name": "cache-node",
        "image": facts.image,
        "imagePullPolicy": facts.image_pull_policy,
        "command": ["/bin/penstock-cache-node"],
        "args": tiers
            .iter()
            .map(tier_argument)
            .chain(memory_argument(tiers, memory_limit(tiers, resources.as_ref())))
            .chain(has_driver.then(neighbour_argument))
            .collect::<Vec<_>>(),
        "ports": [
            {"name": "bulk", "containerPort": BULK_PORT, "protocol": "TCP"},
            {"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"},
            {"name": "health", "containerPort": HEALTH_PORT, "protocol": "TCP"},
            {"name": "inspection", "containerPort": INSPECTION_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": probe("/readyz", 2),
        "livenessProbe": probe("/livez", 10),
        "env": [{"name": "RUST_LOG", "value": facts.log}],
        "resources": resources.as_ref().map_or_else(|| default_resources(tiers), |given| json!(given)),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": tiers
            .iter()
            .map(|tier| json!({"name": volume_name(tier), "mountPath": format!("{TIER_FOLDER}/{}", tier.name)}))
            .chain(has_driver.then(|| json!({"name": "neighbour", "mountPath": NEIGHBOUR_FOLDER})))
            .collect::<Vec<_>>(),
    });
    let neighbour_volume = json!({
        "name": "neighbour",
        "csi": {"driver": CSI_DRIVER, "volumeAttributes": {"cacheRuntime": runtime.name_any(), "neighbour": "socket"}},
    });
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata,
        "spec": {
            "replicas": replicas,
            "serviceName": runtime.name_any(),
            "podManagementPolicy": "Parallel",
            "selector": selector,
            "template": {
                "metadata": workload_identity::pod_metadata(runtime, labels),
                "spec": {
                    "serviceAccountName": runtime.name_any(),
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "terminationGracePeriodSeconds": 15,
                    "imagePullSecrets": pull_secrets,
                    "nodeSelector": node_selector,
                    "tolerations": tolerations,
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": CACHE_USER,
                        "runAsGroup": CACHE_USER,
                        "fsGroup": CACHE_USER,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}},
                    ]}},
                    "containers": [container],
                    "volumes": tiers
                        .iter()
                        .map(|tier| tier_volume(runtime, tier))
                        .chain(has_driver.then_some(neighbour_volume))
                        .collect::<Vec<_>>(),
                },
            },
        },
    })
}

/// What each tier may hold. Cache nodes are told, so that another capacity needs no other pod. One in memory is as large as its
/// volume, which comes with the pod.
pub fn capacities(tiers: &[Tier]) -> Vec<wire::TierCapacity> {
    // The pattern of the schema admits only what this understands, up to the size of the number.
    let capacity = |tier: &Tier| wire::TierCapacity {
        name: tier.name.clone(),
        bytes: bytes_of(&tier.capacity).unwrap_or(u64::MAX),
    };
    let on_disks = tiers.iter().filter(|tier| tier.medium != Medium::Memory);
    on_disks.map(capacity).collect()
}

fn tier_argument(tier: &Tier) -> String {
    let folder = format!("--tier={0}={TIER_FOLDER}/{0}", tier.name);
    match tier.medium {
        Medium::Memory => format!("{folder}:{}", bytes_of(&tier.capacity).unwrap_or(u64::MAX)),
        Medium::SSD | Medium::HDD => folder,
    }
}

fn volume_name(tier: &Tier) -> String {
    format!("tier-{}", tier.name)
}

fn neighbour_argument() -> String {
    format!("--neighbour-socket={NEIGHBOUR_FOLDER}/socket")
}

/// A tier in memory counts in the pod's memory; without a limit it would take what others on the node need.
fn default_resources(tiers: &[Tier]) -> Value {
    match memory_limit(tiers, None).map(|bytes| bytes.to_string()) {
        Some(memory) => json!({"requests": {"memory": memory}, "limits": {"memory": memory}}),
        None => json!({"requests": {"memory": MEMORY_REQUEST}}),
    }
}

/// Bytes of memory that the pod may take; `None` when nobody limits them.
fn memory_limit(tiers: &[Tier], resources: Option<&ResourceRequirements>) -> Option<u64> {
    let Some(given) = resources else {
        return in_memory(tiers).map(|bytes| bytes.saturating_add(MEMORY_OVERHEAD_BYTES));
    };
    bytes_of(&given.limits.as_ref()?.get("memory")?.0)
}

/// Bytes of the tiers in memory; `None` when there are none.
fn in_memory(tiers: &[Tier]) -> Option<u64> {
    let in_memory = tiers.iter().filter(|tier| tier.medium == Medium::Memory);
    in_memory.map(tier_bytes).reduce(u64::saturating_add)
}

/// What the cache node may take of the pod's memory: what tiers leave, less a part for what the kernel takes for its sockets and
/// files.
fn memory_argument(tiers: &[Tier], limit: Option<u64>) -> Option<String> {
    let left = limit?.saturating_sub(in_memory(tiers).unwrap_or(0));
    let memory = (left - left / KERNEL_MEMORY_PART).max(MEMORY_BYTES_MIN);
    Some(format!("--memory={memory}"))
}

/// What the tier's folder may grow to: its capacity counts blocks only.
fn tier_bytes(tier: &Tier) -> u64 {
    let capacity = bytes_of(&tier.capacity).unwrap_or(u64::MAX);
    let reserve = TIER_RESERVE_BYTES + capacity / TIER_BYTES_PER_RESERVED;
    // What a Quantity can hold.
    capacity.saturating_add(reserve).min(i64::MAX as u64 / 2)
}

fn tier_volume(runtime: &CacheRuntime, tier: &Tier) -> Value {
    let Tier {
        name: tier_name,
        medium,
        capacity: _,
        volume,
    } = tier;
    let name = volume_name(tier);
    match (volume, medium) {
        (TierVolume::Node, _) => json!({
            "name": name,
            "csi": {"driver": CSI_DRIVER, "volumeAttributes": {"cacheRuntime": runtime.name_any(), "tier": tier_name}},
        }),
        (TierVolume::EmptyDir, Medium::Memory) => {
            json!({"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": tier_bytes(tier).to_string()}})
        }
        (TierVolume::EmptyDir, Medium::SSD | Medium::HDD) => json!({"name": name, "emptyDir": {}}),
    }
}

fn shaped<K: DeserializeOwned>(step: &'static str, value: Value) -> Result<K, Error> {
    serde_json::from_value(value).map_err(|source| Error::Shape { step, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    pub(super) use crate::context::tests::facts;

    pub(super) fn runtime(tiers: Value) -> CacheRuntime {
        serde_json::from_value(json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime",
            "metadata": {"name": "pool", "namespace": "vision", "uid": "u-1"},
            "spec": {"replicas": 3, "tiers": tiers},
        }))
        .unwrap()
    }

    #[test]
    fn cache_nodes_satisfy_the_restricted_level() {
        let children = children(
            &runtime(json!([
                {"name": "memory", "medium": "Memory", "capacity": "1Gi", "volume": "EmptyDir"},
                {"name": "ssd", "medium": "SSD", "capacity": "2Gi"},
            ])),
            &[],
            &facts(),
        )
        .unwrap();
        let pod = children.stateful_set.spec.unwrap().template.spec.unwrap();
        let security = pod.security_context.unwrap();
        assert_eq!(
            (
                security.run_as_non_root,
                security.seccomp_profile.unwrap().type_.as_str()
            ),
            (Some(true), "RuntimeDefault")
        );
        let container = &pod.containers[0];
        let security = container.security_context.clone().unwrap();
        assert_eq!(security.allow_privilege_escalation, Some(false));
        assert_eq!(security.capabilities.unwrap().drop.unwrap(), ["ALL"]);
        assert_eq!(
            container.args.clone().unwrap(),
            [
                "--tier=memory=/cache/memory:1073741824",
                "--tier=ssd=/cache/ssd",
                "--memory=939524096",
                "--neighbour-socket=/neighbour/socket"
            ]
        );
        assert!(pod.volumes.unwrap().iter().all(|volume| volume.host_path.is_none()));
    }

    #[test]
    fn a_tier_in_memory_is_counted_in_the_memory_of_its_pod() {
        let memory = |tier: Value, resources: Value| {
            let mut runtime = runtime(json!([tier, {"name": "b", "medium": "HDD", "capacity": "1Ti"}]));
            runtime.spec.resources = serde_json::from_value(resources).unwrap();
            let set = children(&runtime, &[], &facts()).unwrap().stateful_set;
            let resources = set.spec.unwrap().template.spec.unwrap().containers[0].resources.clone();
            let amounts = resources
                .map(|given| [given.requests, given.limits])
                .unwrap_or_default();
            amounts.map(|amounts| amounts.map_or(String::new(), |amounts| amounts["memory"].0.clone()))
        };
        let in_memory = || json!({"name": "a", "medium": "Memory", "capacity": "1Gi", "volume": "EmptyDir"});
        let on_disk = json!({"name": "a", "medium": "SSD", "capacity": "1Gi"});
        let counted = (1_344_274_432_u64 + (1 << 30)).to_string();
        assert_eq!(memory(in_memory(), Value::Null), [counted.clone(), counted]);
        let given = json!({"requests": {"memory": "8Gi"}, "limits": {"memory": "9Gi"}});
        assert_eq!(memory(in_memory(), given), ["8Gi", "9Gi"]);
        assert_eq!(memory(on_disk, Value::Null), ["128Mi", ""]);
    }

    #[test]
    fn a_cache_node_takes_what_the_limit_and_tiers_in_memory_leave() {
        let argument = |tier: &Value, limits: Value| {
            let mut runtime = runtime(json!([tier]));
            runtime.spec.resources = Some(serde_json::from_value(json!({"limits": limits})).unwrap());
            let set = children(&runtime, &[], &facts()).unwrap().stateful_set;
            let arguments = set.spec.unwrap().template.spec.unwrap().containers[0].args.clone();
            arguments
                .unwrap_or_default()
                .into_iter()
                .find(|argument| argument.starts_with("--memory="))
        };
        let on_disk = json!({"name": "a", "medium": "SSD", "capacity": "1Gi"});
        assert_eq!(
            argument(&on_disk, json!({"memory": "8Gi"})),
            Some("--memory=7516192768".into())
        );
        assert_eq!(
            argument(&on_disk, json!({"memory": "8Mi"})),
            Some("--memory=67108864".into()),
            "the least"
        );
        assert_eq!(
            argument(&on_disk, json!({"cpu": "1"})),
            None,
            "as much as it takes by itself"
        );
        let in_memory = json!({"name": "a", "medium": "Memory", "capacity": "1Gi", "volume": "EmptyDir"});
        let left = (8 << 30) - 1_344_274_432_u64;
        let expected = format!("--memory={}", left - left / 8);
        assert_eq!(argument(&in_memory, json!({"memory": "8Gi"})), Some(expected));
    }

    #[test]
    fn the_mounter_is_listened_for_where_our_driver_is() {
        for (volume, names) in [("Node", &["tier-a", "neighbour"][..]), ("EmptyDir", &["tier-a"])] {
            let tier = json!({"name": "a", "medium": "SSD", "capacity": "1Gi", "volume": volume});
            let set = children(&runtime(json!([tier])), &[], &facts()).unwrap().stateful_set;
            let pod = set.spec.unwrap().template.spec.unwrap();
            let mounts = pod.containers[0].volume_mounts.clone().unwrap();
            assert_eq!(mounts.iter().map(|mount| &*mount.name).collect::<Vec<_>>(), names);
            let volumes = pod.volumes.unwrap();
            assert_eq!(volumes.iter().map(|volume| &*volume.name).collect::<Vec<_>>(), names);
        }
    }

    #[test]
    fn a_tier_becomes_the_volume_that_was_asked_for() {
        for (tier, expected) in [
            (
                json!({"name": "a", "medium": "SSD", "capacity": "1Gi"}),
                json!({"csi": {"driver": "csi.penstock.io", "volumeAttributes": {"cacheRuntime": "pool", "tier": "a"}}}),
            ),
            (
                json!({"name": "a", "medium": "HDD", "capacity": "1Gi", "volume": "EmptyDir"}),
                json!({"emptyDir": {}}),
            ),
            (
                json!({"name": "a", "medium": "Memory", "capacity": "1Gi", "volume": "EmptyDir"}),
                json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1344274432"}}),
            ),
        ] {
            let runtime = runtime(json!([tier]));
            let mut volume = tier_volume(&runtime, &runtime.spec.tiers[0]);
            volume.as_object_mut().unwrap().remove("name");
            assert_eq!(volume, expected);
        }
    }

    #[test]
    fn other_cache_nodes_may_connect_where_a_dataset_allows_their_namespace() {
        let dataset = |allowed: &[&str]| -> Dataset {
            serde_json::from_value(json!({
                "apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "metadata": {"name": "d"},
                "spec": {"sources": [], "allowedNamespaces": allowed},
            }))
            .unwrap()
        };
        for (users, namespaces) in [
            (vec![], None),
            (vec![dataset(&[])], None),
            (vec![dataset(&["b"]), dataset(&["c", "b"])], Some(json!(["b", "c"]))),
        ] {
            let peers = other_cache_nodes(&users);
            let named = peers.get(1);
            let named = named.map(|peer| peer["namespaceSelector"]["matchExpressions"][0]["values"].clone());
            assert_eq!(named, namespaces);
            let is_cache_node =
                |peer: &Value| peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "cache-node";
            assert!(peers.iter().all(is_cache_node), "{peers:?}");
        }
        let peers = other_cache_nodes(&[dataset(&["*"])]);
        assert_eq!(peers[1]["namespaceSelector"], json!({}));
    }
}
