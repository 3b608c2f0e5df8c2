//! Volumes for our own pods: folders of cache nodes, and the keeper's socket.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::pin::pin;

use futures::poll;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use penstock_crds::{CacheRuntime, CacheRuntimeSpec, Medium, Tier, TierVolume};
use penstock_csi::leaving;
use tonic::Code;

use crate::scene::{NAMESPACE, Scene};

const NEIGHBOUR: &[(&str, &str)] = &[("cacheRuntime", "pool"), ("neighbour", "socket")];
const TIER: &[(&str, &str)] = &[("cacheRuntime", "pool"), ("tier", "ssd")];

fn owner(api_version: &str, kind: &str, name: &str, uid: &str) -> Option<Vec<OwnerReference>> {
    Some(vec![OwnerReference {
        api_version: api_version.into(),
        kind: kind.into(),
        name: name.into(),
        uid: uid.into(),
        controller: Some(true),
        block_owner_deletion: None,
    }])
}

fn metadata(name: &str, uid: &str, owner_references: Option<Vec<OwnerReference>>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(NAMESPACE.into()),
        uid: Some(uid.into()),
        owner_references,
        ..ObjectMeta::default()
    }
}

/// A CacheRuntime `pool` with a StatefulSet, a cache node `pool-cache-0`, and a stranger.
fn runtime(scene: &Scene) {
    let key = |name: &str| (NAMESPACE.to_owned(), name.to_owned());
    let spec = CacheRuntimeSpec {
        replicas: 1,
        tiers: vec![Tier {
            name: "ssd".into(),
            medium: Medium::SSD,
            capacity: "1Gi".into(),
            volume: TierVolume::Node,
        }],
        node_selector: Default::default(),
        tolerations: Vec::new(),
        resources: None,
        origins: None,
        workload_identity: None,
        kerberos: None,
    };
    let mut runtime = CacheRuntime::new("pool", spec);
    runtime.metadata = metadata("pool", "runtime-uid", None);
    let set = StatefulSet {
        metadata: metadata(
            "pool-cache",
            "set-uid",
            owner("penstock.io/v1alpha1", "CacheRuntime", "pool", "runtime-uid"),
        ),
        ..StatefulSet::default()
    };
    let mut objects = scene.cluster.objects();
    objects.cache_runtimes.insert(key("pool"), runtime);
    objects.stateful_sets.insert(key("pool-cache"), set);
    let of_set = owner("apps/v1", "StatefulSet", "pool-cache", "set-uid");
    for (name, owners) in [
        ("pool-cache-0", of_set.clone()),
        ("stranger", None),
        ("stranger-0", of_set),
    ] {
        let pod = Pod {
            metadata: metadata(name, &format!("uid-of-{name}"), owners),
            ..Pod::default()
        };
        objects.pods.insert(key(name), pod);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_a_tier_goes_when_its_runtime_has_the_tier_no_more() {
    let scene = Scene::real();
    runtime(&scene);
    let folder = scene.folders.tiers().join("runtime-uid/ssd");
    let other = scene.folders.tiers().join("runtime-uid/hdd/pool-cache-0");
    fs::create_dir_all(&other).unwrap();
    scene.publish("pool-cache-0", TIER).await.unwrap();
    assert!(scene.node.tiers.sweep().await.unwrap());
    assert!(folder.exists() && !other.exists());
    for runtime in scene.cluster.objects().cache_runtimes.values_mut() {
        runtime.spec.tiers[0].name = "nvme".into();
    }
    assert!(!scene.node.tiers.sweep().await.unwrap(), "the pod still has it");
    assert!(folder.exists());
    scene.unpublish("pool-cache-0").await.unwrap();
    assert!(scene.node.tiers.sweep().await.unwrap());
    assert!(!folder.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_node_gets_its_folder_again_until_its_runtime_is_gone() {
    let scene = Scene::real();
    runtime(&scene);
    let folder = scene.folders.tiers().join("runtime-uid/ssd/pool-cache-0");
    scene.publish("pool-cache-0", TIER).await.unwrap();
    scene.publish("pool-cache-0", TIER).await.unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    fs::write(scene.target("pool-cache-0").join("stripe"), "cached").unwrap();
    scene.unpublish("pool-cache-0").await.unwrap();
    scene.node.tiers.sweep().await.unwrap();
    assert_eq!(
        fs::read(folder.join("stripe")).unwrap(),
        b"cached",
        "it outlives the pod"
    );

    scene.publish("pool-cache-0", TIER).await.unwrap();
    for runtime in scene.cluster.objects().cache_runtimes.values_mut() {
        runtime.metadata.deletion_timestamp = Some(Time(Default::default()));
    }
    scene.unpublish("pool-cache-0").await.unwrap();
    assert!(scene.node.tiers.sweep().await.unwrap());
    assert!(folder.exists(), "its deletion waits for Datasets, which go on using it");
    scene.publish("pool-cache-0", TIER).await.unwrap();
    scene.cluster.objects().cache_runtimes.clear();
    assert!(!scene.node.tiers.sweep().await.unwrap(), "looked at again soon");
    assert!(folder.exists(), "the pod still has it");
    scene.unpublish("pool-cache-0").await.unwrap();
    assert!(scene.node.tiers.sweep().await.unwrap());
    assert!(!folder.exists());
    assert_eq!(scene.mounted(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cache_node_puts_into_its_folder_keeps_no_other_pod() {
    let scene = Scene::real();
    runtime(&scene);
    let folder = scene.folders.neighbours().join("pool-cache-0.pool.vision");
    scene.publish("pool-cache-0", NEIGHBOUR).await.unwrap();
    let deep = folder.join("a/".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    scene.unpublish("pool-cache-0").await.unwrap();
    assert!(deep.exists(), "nobody walks into it");
    scene.publish("pool-cache-0", NEIGHBOUR).await.unwrap();
    scene.unpublish("pool-cache-0").await.unwrap();
    assert_eq!(scene.mounted(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sigterm_the_mounters_volume_is_waited_for_unless_a_successor_comes() {
    let (scene, _) = Scene::fake();
    let (socket, mounter) = (&[("keeper", "socket")], ("penstock-mounter", "penstock-system"));
    scene.publish_as("m", mounter.0, mounter.1, socket).await.unwrap();
    leaving::until_not_needed(&scene.node).await;

    for (uninstalled, unreachable) in [(true, false), (false, true)] {
        scene.publish_as("m", mounter.0, mounter.1, socket).await.unwrap();
        scene.cluster.objects().uninstalled = uninstalled;
        scene.cluster.objects().unreachable = unreachable;
        let mut leaving = pin!(leaving::until_not_needed(&scene.node));
        assert!(
            poll!(&mut leaving).is_pending(),
            "the kubelet has to take the volume away"
        );
        scene.unpublish("m").await.unwrap();
        leaving.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_gets_a_folder() {
    let (scene, mounts) = Scene::fake();
    runtime(&scene);
    for (pod, attributes) in [
        ("stranger", TIER),
        ("stranger-0", TIER),
        ("unknown", TIER),
        ("stranger", NEIGHBOUR),
        ("stranger-0", NEIGHBOUR),
        ("unknown", NEIGHBOUR),
        ("pool-cache-0", &[("cacheRuntime", "pool"), ("tier", "hdd")][..]),
        ("pool-cache-0", &[("cacheRuntime", "other"), ("tier", "ssd")]),
    ] {
        let refused = scene.publish(pod, attributes).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::PermissionDenied,
            "{pod} {attributes:?}: {refused}"
        );
    }
    let elsewhere = scene
        .publish_as("pool-cache-0", "default", "other", TIER)
        .await
        .unwrap_err();
    assert_eq!(elsewhere.code(), Code::PermissionDenied);
    assert_eq!(mounts.shown(), Vec::<String>::new());
    assert!(!scene.folders.tiers().exists());
    assert!(!scene.folders.neighbours().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mounter_finds_a_cache_node_by_its_address_as_long_as_a_pod_has_it() {
    let mut scene = Scene::real();
    runtime(&scene);
    let folder = scene.folders.neighbours().join("pool-cache-0.pool.vision");
    let left = scene.folders.neighbours().join("left-0.pool.vision");
    fs::create_dir_all(&left).unwrap();
    scene.publish("pool-cache-0", NEIGHBOUR).await.unwrap();
    scene.publish("pool-cache-0", NEIGHBOUR).await.unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o750);
    fs::write(scene.target("pool-cache-0").join("socket"), "").unwrap();
    assert!(folder.join("socket").exists());

    scene.restart();
    scene.node.neighbours.sweep();
    assert!(folder.join("socket").exists(), "its pod has it");
    assert!(!left.exists());
    scene.unpublish("pool-cache-0").await.unwrap();
    assert!(!folder.exists());
    assert_eq!(scene.mounted(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_while_the_cluster_does_not_answer() {
    let (scene, _) = Scene::fake();
    let folder = scene.folders.tiers().join("runtime-uid/ssd/pool-cache-0");
    fs::create_dir_all(&folder).unwrap();
    scene.cluster.objects().unreachable = true;
    assert!(scene.node.tiers.sweep().await.is_err());
    assert!(folder.exists());
    scene.cluster.objects().unreachable = false;
    scene.node.tiers.sweep().await.unwrap();
    assert!(!folder.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_mounter_gets_the_keepers_socket() {
    let (scene, mounts) = Scene::fake();
    let socket = &[("keeper", "socket")];
    for (service_account, namespace) in [
        ("default", "penstock-system"),
        ("penstock-mounter", NAMESPACE),
        ("default", NAMESPACE),
    ] {
        let refused = scene
            .publish_as("m", service_account, namespace, socket)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    scene
        .publish_as("m", "penstock-mounter", "penstock-system", socket)
        .await
        .unwrap();
    assert_eq!(mounts.shown().len(), 1);
    scene.unpublish("m").await.unwrap();
    assert_eq!(mounts.shown(), Vec::<String>::new());
}
