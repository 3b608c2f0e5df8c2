//! The objects of one reader: pure.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{Resource, ResourceExt};
use penstock_crds::{CacheRuntime, Dataset, READER_PORT};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::context::Facts;
use crate::error::Error;
use crate::host_paths::Held;
use crate::limits::{READER_CPU_REQUEST, READER_ENDING_SECONDS, READER_MEMORY_LIMIT, READER_MEMORY_REQUEST};
use crate::names::{READER_LABEL, reader_labels, runtime_labels};
use crate::volumes::{Reading, TOKEN_KEY};

/// Where the volume and the Secret are in the container.
const VOLUME_FOLDER: &str = "/volume";
const TOKEN_FOLDER: &str = "/token";

/// A reader that should be.
pub(super) struct Reader<'a> {
    /// The Dataset that owns it.
    pub(super) dataset: &'a Dataset,
    /// Where both are.
    pub(super) namespace: &'a str,
    /// Its name.
    pub(super) name: &'a str,
    /// What it reads, as whom.
    pub(super) reading: &'a Reading,
    /// What it mounts for that.
    pub(super) mounted: Mounted,
}

/// What a reader mounts.
pub(super) enum Mounted {
    /// The volume of the claim of this name.
    Claim(String),
    /// A folder of its node.
    HostPath(Held),
}

impl Mounted {
    /// What it is called in sentences.
    fn place(&self, namespace: &str) -> String {
        match self {
            Self::Claim(name) => format!("claim://{namespace}/{name}"),
            Self::HostPath(held) => held.listed.clone(),
        }
    }

    fn volume(&self) -> Value {
        match self {
            Self::Claim(name) => {
                json!({"name": "volume", "persistentVolumeClaim": {"claimName": name, "readOnly": true}})
            }
            // One that a node lacks keeps the pod from starting there, and nothing is made in its place.
            Self::HostPath(held) => {
                json!({"name": "volume", "hostPath": {"path": held.mounted, "type": "Directory"}})
            }
        }
    }

    /// What the reader is told of it besides.
    fn argument(&self) -> Option<String> {
        match self {
            Self::Claim(_) => None,
            Self::HostPath(held) => Some(format!("--folder={}", held.listed_below())),
        }
    }

    fn mount(&self) -> Value {
        let mut mount = json!({"name": "volume", "mountPath": VOLUME_FOLDER, "readOnly": true});
        if let Self::HostPath(_) = self {
            // What is mounted there later, or again, is seen.
            mount["mountPropagation"] = json!("HostToContainer");
        }
        mount
    }

    /// Labels of the nodes that have it, as far as it is known.
    fn nodes(&self, runtime: &CacheRuntime) -> BTreeMap<String, String> {
        let mut labels = match self {
            // Its volume says that.
            Self::Claim(_) => BTreeMap::new(),
            Self::HostPath(_) => runtime.spec.node_selector.clone(),
        };
        labels.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
        labels
    }
}

/// All but the Secret.
pub(super) struct Children {
    /// UID of the Dataset.
    pub(super) owner_uid: String,
    /// Who may connect: the cache nodes, and the reader to nobody.
    pub(super) network_policy: NetworkPolicy,
    /// Its address.
    pub(super) service: Service,
    /// Its pod.
    pub(super) deployment: Deployment,
}

/// The Secret with the token. Nobody can change it, so it is that of the pod as long as it is there.
pub(super) fn secret(reader: &Reader<'_>, token: &str) -> Result<Secret, Error> {
    shaped(
        "build the Secret of a reader",
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": metadata(reader), "type": "Opaque", "immutable": true,
            "stringData": {TOKEN_KEY: token},
        }),
    )
}

/// The other objects; `secret_uid` is that of the Secret.
pub(super) fn children(
    reader: &Reader<'_>,
    secret_uid: &str,
    runtime: &CacheRuntime,
    facts: &Facts,
) -> Result<Children, Error> {
    let metadata = metadata(reader);
    let selector = json!({READER_LABEL: reader.name});
    Ok(Children {
        owner_uid: reader.dataset.uid().unwrap_or_default(),
        network_policy: shaped(
            "build the NetworkPolicy of a reader",
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata,
                "spec": {
                    "podSelector": {"matchLabels": selector},
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [{
                        "from": [{"podSelector": {"matchLabels": runtime_labels(&runtime.name_any())}}],
                        "ports": [{"port": "files"}],
                    }],
                    "egress": [],
                },
            }),
        )?,
        service: shaped(
            "build the Service of a reader",
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": {
                    "selector": selector,
                    "ports": [{"name": "files", "port": READER_PORT, "targetPort": "files", "protocol": "TCP"}],
                },
            }),
        )?,
        deployment: shaped(
            "build the Deployment of a reader",
            deployment(reader, secret_uid, runtime, facts, &metadata, &selector),
        )?,
    })
}

fn metadata(reader: &Reader<'_>) -> Value {
    json!({
        "name": reader.name,
        "namespace": reader.namespace,
        "labels": reader_labels(&reader.dataset.name_any(), reader.name),
        "ownerReferences": [reader.dataset.controller_owner_ref(&())],
    })
}

fn deployment(
    reader: &Reader<'_>,
    secret_uid: &str,
    runtime: &CacheRuntime,
    facts: &Facts,
    metadata: &Value,
    selector: &Value,
) -> Value {
    let Reading {
        volume: _,
        uid,
        gid,
        groups,
    } = reader.reading;
    let mounted = &reader.mounted;
    let pull_secrets: Vec<Value> = facts
        .image_pull_secrets
        .iter()
        .map(|name| json!({"name": name}))
        .collect();
    let probe = |period: u32| json!({"httpGet": {"path": "/healthz", "port": "files"}, "periodSeconds": period});
    let arguments = [
        format!("--volume={VOLUME_FOLDER}"),
        format!("--token-file={TOKEN_FOLDER}/{TOKEN_KEY}"),
        format!("--place={}", mounted.place(reader.namespace)),
        format!("--listen=0.0.0.0:{READER_PORT}"),
    ];
    let arguments: Vec<String> = arguments.into_iter().chain(mounted.argument()).collect();
    let container = json!({
        "name": "reader",
        "image": facts.image,
        "imagePullPolicy": facts.image_pull_policy,
        "command": ["/bin/penstock-reader"],
        "args": arguments,
        "ports": [{"name": "files", "containerPort": READER_PORT, "protocol": "TCP"}],
        "readinessProbe": probe(2),
        "livenessProbe": probe(10),
        "env": [{"name": "RUST_LOG", "value": facts.log}],
        "resources": {
            "requests": {"cpu": READER_CPU_REQUEST, "memory": READER_MEMORY_REQUEST},
            "limits": {"memory": READER_MEMORY_LIMIT},
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            mounted.mount(),
            {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": true},
        ],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {
            "replicas": 1,
            // A volume that one pod or node may have at a time is let go before the next pod wants it.
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {
                    "labels": metadata["labels"],
                    // With another token there is another pod.
                    "annotations": {"penstock.io/token": secret_uid},
                },
                "spec": {
                    "automountServiceAccountToken": false,
                    "enableServiceLinks": false,
                    "terminationGracePeriodSeconds": READER_ENDING_SECONDS,
                    "imagePullSecrets": pull_secrets,
                    "nodeSelector": mounted.nodes(runtime),
                    "tolerations": runtime.spec.tolerations,
                    // Without fsGroup: it would change who owns the files.
                    "securityContext": {
                        "runAsNonRoot": true,
                        "runAsUser": uid,
                        "runAsGroup": gid,
                        "supplementalGroups": groups,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container],
                    "volumes": [
                        mounted.volume(),
                        {"name": "token", "secret": {"secretName": reader.name, "defaultMode": 0o444}},
                    ],
                },
            },
        },
    })
}

fn shaped<K: DeserializeOwned>(step: &'static str, value: Value) -> Result<K, Error> {
    serde_json::from_value(value).map_err(|source| Error::Shape { step, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::facts;
    use crate::volumes::Volume;
    use crate::volumes::tests::reading;

    fn dataset() -> Dataset {
        serde_json::from_value(json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "Dataset",
            "metadata": {"name": "tree", "namespace": "vision", "uid": "u-1"},
            "spec": {"sources": []},
        }))
        .unwrap()
    }

    fn runtime() -> CacheRuntime {
        serde_json::from_value(json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime",
            "metadata": {"name": "pool", "namespace": "vision"},
            "spec": {"replicas": 1, "tiers": [], "nodeSelector": {"has": "lustre"}, "tolerations": [{"key": "storage", "operator": "Exists"}]},
        }))
        .unwrap()
    }

    fn made(reading: &Reading) -> (Secret, Children) {
        let dataset = dataset();
        let reader = Reader {
            dataset: &dataset,
            namespace: "vision",
            name: "reader-tree-1",
            reading,
            mounted: match &reading.volume {
                Volume::Claim(name) => Mounted::Claim(name.clone()),
                Volume::Folder(path) => Mounted::HostPath(Held {
                    mounted: "/mnt".into(),
                    listed: "/mnt/lustre".into(),
                    folder: path.clone(),
                }),
            },
        };
        let children = children(&reader, "s-1", &runtime(), &facts()).unwrap();
        (secret(&reader, "hush-hush").unwrap(), children)
    }

    #[test]
    fn a_reader_satisfies_the_restricted_level_and_is_who_the_source_says() {
        let reading = Reading {
            groups: vec![7],
            ..reading("training-data", 1000)
        };
        let (_, children) = made(&reading);
        let spec = children.deployment.spec.unwrap();
        assert_eq!(
            (spec.replicas, spec.strategy.unwrap().type_.as_deref()),
            (Some(1), Some("Recreate"))
        );
        let pod = spec.template.spec.unwrap();
        let security = pod.security_context.unwrap();
        assert_eq!(
            (security.run_as_non_root, security.run_as_user, security.run_as_group),
            (Some(true), Some(1000), Some(100))
        );
        assert_eq!(security.supplemental_groups, Some(vec![7]));
        assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
        assert_eq!(security.fs_group, None, "it would change who owns the files");
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!(pod.image_pull_secrets.unwrap()[0].name, "pull");
        assert_eq!(pod.tolerations.unwrap()[0].key.as_deref(), Some("storage"));
        let [container] = pod.containers.try_into().unwrap();
        let security = container.security_context.unwrap();
        assert_eq!(
            (security.allow_privilege_escalation, security.read_only_root_filesystem),
            (Some(false), Some(true))
        );
        assert_eq!(security.capabilities.unwrap().drop.unwrap(), ["ALL"]);
        let image = (container.image.as_deref(), container.image_pull_policy.as_deref());
        assert_eq!(image, (Some("penstock:1"), Some("Always")));
        let resources = container.resources.unwrap();
        assert!(resources.limits.unwrap().contains_key("memory") && resources.requests.unwrap().contains_key("cpu"));
    }

    #[test]
    fn a_claim_is_mounted_for_reading_only_and_nothing_but_it_and_the_token() {
        let (_, children) = made(&reading("training-data", 1000));
        let pod = children.deployment.spec.unwrap().template.spec.unwrap();
        let mounts = pod.containers[0].volume_mounts.clone().unwrap();
        assert!(mounts.iter().all(|mount| mount.read_only == Some(true)));
        let [volume, token] = pod.volumes.unwrap().try_into().unwrap();
        let claim = volume.persistent_volume_claim.unwrap();
        assert_eq!(
            (claim.claim_name.as_str(), claim.read_only),
            ("training-data", Some(true))
        );
        assert_eq!(token.secret.unwrap().secret_name.as_deref(), Some("reader-tree-1"));
        let arguments = pod.containers[0].args.clone().unwrap();
        assert!(
            arguments.contains(&"--place=claim://vision/training-data".to_owned()),
            "{arguments:?}"
        );
    }

    #[test]
    fn a_folder_of_nodes_is_mounted_where_cache_nodes_may_run_and_only_if_it_is_there() {
        let folder = Reading {
            volume: Volume::Folder("/mnt/lustre/2024".into()),
            ..reading("", 1000)
        };
        let (_, children) = made(&folder);
        let pod = children.deployment.spec.unwrap().template.spec.unwrap();
        let volume = pod.volumes.unwrap().swap_remove(0).host_path.unwrap();
        assert_eq!(
            (volume.path.as_str(), volume.type_.as_deref()),
            ("/mnt", Some("Directory"))
        );
        let mount = pod.containers[0].volume_mounts.clone().unwrap().swap_remove(0);
        assert_eq!(
            (mount.read_only, mount.mount_propagation.as_deref()),
            (Some(true), Some("HostToContainer"))
        );
        let arguments = pod.containers[0].args.clone().unwrap();
        for argument in ["--place=/mnt/lustre", "--folder=lustre"] {
            assert!(arguments.contains(&argument.to_owned()), "{arguments:?}");
        }
        assert_eq!(
            json!(pod.node_selector),
            json!({"has": "lustre", "kubernetes.io/os": "linux"})
        );
        assert!(pod.security_context.unwrap().run_as_non_root.unwrap());
    }

    #[test]
    fn only_cache_nodes_of_the_pool_reach_it_and_it_reaches_nobody() {
        let (_, children) = made(&reading("training-data", 1000));
        let policy = children.network_policy.spec.unwrap();
        assert_eq!(policy.policy_types.unwrap(), ["Ingress", "Egress"]);
        assert_eq!(policy.egress, Some(vec![]));
        let [ingress] = policy.ingress.unwrap().try_into().unwrap();
        let [peer] = ingress.from.unwrap().try_into().unwrap();
        assert_eq!(peer.namespace_selector, None, "of this namespace");
        assert_eq!(peer.pod_selector.unwrap().match_labels, Some(runtime_labels("pool")));
        let of_policy = policy.pod_selector.unwrap().match_labels;
        assert_eq!(of_policy, children.service.spec.unwrap().selector);
        let pod = children
            .deployment
            .spec
            .unwrap()
            .template
            .metadata
            .unwrap()
            .labels
            .unwrap();
        assert!(
            of_policy
                .unwrap()
                .iter()
                .all(|(name, value)| pod.get(name) == Some(value))
        );
    }

    #[test]
    fn all_of_it_belongs_to_the_dataset_and_the_token_is_in_the_secret_alone() {
        let (secret, children) = made(&reading("training-data", 1000));
        let Children {
            owner_uid,
            network_policy,
            service,
            deployment,
        } = children;
        assert_eq!(owner_uid, "u-1");
        let texts = [json!(network_policy), json!(service), json!(deployment), json!(secret)];
        for object in &texts {
            let owner = &object["metadata"]["ownerReferences"][0];
            assert_eq!(
                (&owner["kind"], &owner["uid"]),
                (&json!("Dataset"), &json!("u-1")),
                "{object}"
            );
            let labels = &object["metadata"]["labels"];
            assert_eq!(labels["app.kubernetes.io/managed-by"], "penstock-operator", "{object}");
            assert_eq!(object["metadata"]["name"], "reader-tree-1");
        }
        assert!(
            texts[..3]
                .iter()
                .all(|object| !object.to_string().contains("hush-hush"))
        );
        assert_eq!(secret.immutable, Some(true));
        let annotations = deployment.spec.unwrap().template.metadata.unwrap().annotations.unwrap();
        assert_eq!(annotations["penstock.io/token"], "s-1", "another Secret is another pod");
    }
}
