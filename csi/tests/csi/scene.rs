//! A node in a scratch folder: the product's services on a cluster in memory, over fake or real mounts.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use penstock_crds::{Dataset, DatasetSpec, DatasetStatus, Revision};
use penstock_csi::folders::Folders;
use penstock_csi::keeper::Keeper;
use penstock_csi::kubernetes::fake::FakeCluster;
use penstock_csi::metrics::Metrics;
use penstock_csi::mounts::fake::FakeMounts;
use penstock_csi::mounts::{LinuxMounts, Mounts};
use penstock_csi::neighbours::Neighbours;
use penstock_csi::node::{MounterIdentity, Node, NodeService};
use penstock_csi::proto::csi;
use penstock_csi::proto::csi::node_server::Node as _;
use penstock_csi::revisions::Revisions;
use penstock_csi::tier::Tiers;
use penstock_csi::users::Users;
use penstock_csi::volume_lock::VolumeLocks;
use penstock_mount::forms::Form;
use penstock_protocol::connection::Unanswered;
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Listed, Outcome, Package, SourceListing, Version, build};
use penstock_supervisor::Store;
use tonic::{Request, Status};

/// Namespace of everything in these tests.
pub const NAMESPACE: &str = "vision";

/// A node.
pub struct Scene {
    pub folders: Folders,
    pub keeper: Arc<Keeper>,
    pub cluster: Arc<FakeCluster>,
    pub node: Arc<Node>,
    mounts: Arc<dyn Mounts>,
    scratch: tempfile::TempDir,
}

impl Scene {
    /// A node whose mounts are only written down.
    pub fn fake() -> (Self, Arc<FakeMounts>) {
        let mounts = Arc::<FakeMounts>::default();
        (Self::new(mounts.clone()), mounts)
    }

    /// A node that really mounts, in the mount namespace of the test.
    pub fn real() -> Self {
        Self::real_in(Form::File)
    }

    /// As [`Scene::real`], with images in this form.
    pub fn real_in(form: Form) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts: run it as root");
        let scratch = std::env::temp_dir();
        Self::new(Arc::new(LinuxMounts {
            form,
            scratch,
            unanswered: Unanswered::Resent,
        }))
    }

    fn new(mounts: Arc<dyn Mounts>) -> Self {
        let scratch = tempfile::Builder::new().prefix("pcsi").tempdir().unwrap();
        let folders = Folders {
            kubelet: scratch.path().join("kubelet"),
            state: scratch.path().join("state"),
            private: scratch.path().join("private"),
        };
        for folder in [folders.pods(), folders.keeper(), folders.state.clone()] {
            fs::create_dir_all(folder).unwrap();
        }
        let cluster = Arc::<FakeCluster>::default();
        let (keeper, node) = start(&folders, &cluster, &mounts);
        Self {
            folders,
            keeper,
            cluster,
            node,
            mounts,
            scratch,
        }
    }

    /// Another process of the csi container on the same node: the descriptors are lost, the mounts stay.
    pub fn restart(&mut self) {
        (self.keeper, self.node) = start(&self.folders, &self.cluster, &self.mounts);
        self.node.revisions.clear().unwrap();
    }

    /// Puts a Dataset at `package` into the cluster and returns its uid.
    pub fn dataset(&self, name: &str, package: &Package) -> String {
        let dataset = dataset(name, package, "cache-0.cache:7070".into());
        let uid = dataset.metadata.uid.clone().unwrap();
        let key = (NAMESPACE.to_owned(), name.to_owned());
        self.cluster.objects().datasets.insert(key, dataset);
        uid
    }

    /// A target whose parent the kubelet has made.
    pub fn target(&self, pod: &str) -> PathBuf {
        let volume = self.folders.pods().join(pod).join("volumes/kubernetes.io~csi/data");
        fs::create_dir_all(&volume).unwrap();
        volume.join("mount")
    }

    /// Publishes the inline volume `attributes` for a pod, as the kubelet does.
    pub async fn publish(&self, pod: &str, attributes: &[(&str, &str)]) -> Result<(), Status> {
        self.publish_as(pod, "default", NAMESPACE, attributes).await
    }

    /// As [`Scene::publish`], for a pod of another service account or namespace.
    pub async fn publish_as(
        &self,
        pod: &str,
        service_account: &str,
        namespace: &str,
        attributes: &[(&str, &str)],
    ) -> Result<(), Status> {
        let mut request = publish_request(pod, namespace, &self.target(pod), attributes);
        let account = (
            "csi.storage.k8s.io/serviceAccount.name".to_owned(),
            service_account.to_owned(),
        );
        request.volume_context.extend([account]);
        self.service().node_publish_volume(Request::new(request)).await?;
        Ok(())
    }

    /// Unpublishes the volume of a pod.
    pub async fn unpublish(&self, pod: &str) -> Result<(), Status> {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: format!("csi-{pod}"),
            target_path: self.target(pod).display().to_string(),
        };
        self.service().node_unpublish_volume(Request::new(request)).await?;
        Ok(())
    }

    /// The Node service.
    pub fn service(&self) -> NodeService {
        NodeService(self.node.clone())
    }

    /// What is mounted of this scene, as `file system path`, the path from the scratch folder on.
    pub fn mounted(&self) -> Vec<String> {
        let table = self.mounts.table().unwrap();
        let below = table.iter().filter_map(|mount| {
            let path = mount.target.strip_prefix(self.scratch.path()).ok()?;
            Some(format!("{} {}", mount.file_system, path.display()))
        });
        below.collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let table = self.mounts.table().unwrap_or_default();
        let below: Vec<_> = table
            .into_iter()
            .filter(|mount| mount.target.starts_with(self.scratch.path()))
            .collect();
        let (spaces, others): (Vec<_>, Vec<_>) = below
            .into_iter()
            .partition(|mount| mount.file_system.starts_with("fuse"));
        for mount in spaces {
            let _ = self.mounts.unmount(&mount.target, Some(mount.device.1));
        }
        for mount in others {
            let _ = self.mounts.unmount(&mount.target, None);
        }
    }
}

fn start(folders: &Folders, cluster: &Arc<FakeCluster>, mounts: &Arc<dyn Mounts>) -> (Arc<Keeper>, Arc<Node>) {
    let keeper = {
        let (mounts, folders) = (mounts.clone(), folders.clone());
        Keeper::new(
            0,
            Store::default(),
            Metrics::default(),
            move |connection, descriptors| Revisions::adopted(&*mounts, &folders, connection, descriptors),
        )
    };
    let uid = rustix::process::getuid().as_raw();
    keeper.listen(&folders.keeper_socket(), uid).unwrap();
    let users = Users {
        mounter: uid,
        cache_node: uid,
    };
    let node = Node {
        name: "node-a".into(),
        folders: folders.clone(),
        mounts: mounts.clone(),
        cluster: cluster.clone(),
        revisions: Revisions::new(mounts.clone(), keeper.clone(), folders.clone()),
        tiers: Tiers {
            folder: folders.tiers(),
            users,
            mounts: mounts.clone(),
            cluster: cluster.clone(),
            sweeping: Default::default(),
            giving: Default::default(),
        },
        neighbours: Neighbours {
            folder: folders.neighbours(),
            users,
            mounts: mounts.clone(),
            cluster: cluster.clone(),
            changing: Default::default(),
        },
        mounter: MounterIdentity {
            namespace: "penstock-system".into(),
            service_account: "penstock-mounter".into(),
        },
        locks: VolumeLocks::default(),
        metrics: Metrics::default(),
    };
    (keeper, Arc::new(node))
}

/// A Dataset at `package`, which a cache node has.
pub fn dataset(name: &str, package: &Package, cache_node: String) -> Dataset {
    let spec = DatasetSpec {
        ownership: None,
        runtime: None,
        sources: Vec::new(),
        allowed_namespaces: Vec::new(),
        refresh: None,
        cache: None,
        read_timeout_seconds: 300,
    };
    let mut dataset = Dataset::new(name, spec);
    dataset.metadata.namespace = Some(NAMESPACE.into());
    dataset.metadata.uid = Some(format!("uid-of-{name}"));
    dataset.status = Some(DatasetStatus {
        revision: Some(Revision {
            id: package.id().to_string(),
            space: package.space().to_string(),
            ..Revision::default()
        }),
        cache_nodes: vec![cache_node],
        ..DatasetStatus::default()
    });
    dataset
}

/// The kubelet's request for an inline volume.
pub fn publish_request(
    pod: &str,
    namespace: &str,
    target: &Path,
    attributes: &[(&str, &str)],
) -> csi::NodePublishVolumeRequest {
    let uid = format!("uid-of-{pod}");
    let kubelet = [
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.namespace", namespace),
        ("csi.storage.k8s.io/pod.name", pod),
        ("csi.storage.k8s.io/pod.uid", &uid),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
    ];
    let context: HashMap<_, _> = kubelet
        .iter()
        .chain(attributes)
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    csi::NodePublishVolumeRequest {
        volume_id: format!("csi-{pod}"),
        target_path: target.display().to_string(),
        volume_capability: Some(read_write_once()),
        volume_context: context,
        ..csi::NodePublishVolumeRequest::default()
    }
}

/// What the kubelet sends for inline volumes.
pub fn read_write_once() -> csi::VolumeCapability {
    use csi::volume_capability::access_mode::Mode;
    use csi::volume_capability::{AccessMode, AccessType, MountVolume};
    csi::VolumeCapability {
        access_mode: Some(AccessMode {
            mode: Mode::SingleNodeMultiWriter.into(),
        }),
        access_type: Some(AccessType::Mount(MountVolume::default())),
    }
}

/// A revision of some files; another `seed` is another revision in another space.
pub fn package(seed: u8) -> Package {
    let files: Vec<_> = (0..20)
        .map(|number| {
            (
                format!("folder-{}/file-{number}", number % 3),
                10_000 * number + u64::from(seed),
            )
        })
        .collect();
    package_of(SpaceId([seed; 16]), &seed.to_string(), &files)
}

/// A revision of files with these names and lengths.
pub fn package_of(space: SpaceId, version: &str, files: &[(String, u64)]) -> Package {
    let objects = files.iter().map(|(key, bytes)| Listed {
        key: key.clone(),
        bytes: *bytes,
        modified_unix_nanos: 1_700_000_000_000_000_000,
        version: Version::ETag(format!("{version}-{key}")),
    });
    let listing = SourceListing {
        identity: "s3://bucket/".into(),
        path: String::new(),
        objects: objects.collect(),
    };
    match build(space, None, &[listing], &BuildOptions::default()).unwrap() {
        Outcome::New(package) => package,
        Outcome::Unchanged => panic!("a first revision is new"),
    }
}
