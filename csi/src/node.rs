//! The Node service. Each call goes the same way: arguments → lock → look → act → answer.
//!
//! A call that has begun goes on when the kubelet gives up waiting for it: half-done mounts are worse than unwanted ones,
//! and the kubelet asks again or unpublishes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use penstock_crds::{Dataset, condition};
use penstock_mount::bind::Access;
use penstock_mount::table::Mount;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};

use crate::error::Error;
use crate::folders::Folders;
use crate::kubernetes::Cluster;
use crate::limits::{STATISTICS_AT_ONCE, STATISTICS_DEADLINE};
use crate::metrics::Metrics;
use crate::mounts::{Mounts, Source};
use crate::neighbours::Neighbours;
use crate::proto::csi;
use crate::proto::csi::node_service_capability::rpc::Type;
use crate::proto::csi::volume_usage::Unit;
use crate::request::{Pod, Publish, Unpublish, Volume, present, volume_path};
use crate::revisions::{Revisions, Wanted};
use crate::tier::Tiers;
use crate::volume_lock::VolumeLocks;

/// The node, shared by all calls.
pub struct Node {
    /// Name of the node, its id towards CSI.
    pub name: String,
    /// Where everything lies.
    pub folders: Folders,
    /// The kernel's mounts.
    pub mounts: Arc<dyn Mounts>,
    /// The API server.
    pub cluster: Arc<dyn Cluster>,
    /// What is mounted for Datasets.
    pub revisions: Revisions,
    /// The folders of cache nodes.
    pub tiers: Tiers,
    /// The folders in which they listen.
    pub neighbours: Neighbours,
    /// Who may have the keeper's socket.
    pub mounter: MounterIdentity,
    /// The targets that are being worked on.
    pub locks: VolumeLocks,
    /// What is counted.
    pub metrics: Metrics,
}

/// The pods of the mounter.
#[derive(Clone, Debug)]
pub struct MounterIdentity {
    /// Their namespace: this container's own.
    pub namespace: String,
    /// Their service account.
    pub service_account: String,
}

/// Of the process: what a call leaves behind that nobody answers.
static STATISTICS: Semaphore = Semaphore::const_new(STATISTICS_AT_ONCE);

/// The service on a [`Node`].
#[derive(Clone)]
pub struct NodeService(pub Arc<Node>);

impl Node {
    async fn publish(self: Arc<Self>, request: csi::NodePublishVolumeRequest) -> Result<(), Error> {
        let Publish {
            volume_id,
            target,
            volume,
        } = Publish::parse(request, &self.folders)?;
        let _lock = self.locks.lock(&target)?;
        if let Some(mount) = self.mounted_at(&target)? {
            // A repeated publish keeps what is mounted: the pod sees one revision for its whole life.
            return match volume {
                Volume::Dataset { .. } if Revisions::shows_revision(&mount) => Ok(()),
                Volume::Tier { .. } | Volume::NeighbourSocket { .. } | Volume::KeeperSocket { .. }
                    if self.is_own_folder(&mount) =>
                {
                    Ok(())
                }
                _ => Err(Error::Occupied(target)),
            };
        }
        let made = make_target(&target)?;
        let published = self.clone().act(volume, target.clone()).await;
        match &published {
            Ok(()) => tracing::info!(volume = volume_id, target = %target.display(), "published"),
            Err(_) if made => drop(fs::remove_dir(&target)),
            Err(_) => {}
        }
        published
    }

    async fn act(self: Arc<Self>, volume: Volume, target: PathBuf) -> Result<(), Error> {
        match volume {
            Volume::Dataset { namespace, name, uid } => {
                let wanted = self.wanted(&namespace, &name, uid.as_deref()).await?;
                blocking(move || self.revisions.publish(&wanted, &target)).await
            }
            Volume::Tier { runtime, tier, pod } => {
                let folder = self.tiers.folder_of(&runtime, &tier, &pod).await?;
                blocking(move || self.tiers.publish(&folder, &target)).await
            }
            Volume::NeighbourSocket { runtime, pod } => {
                let folder = self.neighbours.folder_of(&runtime, &pod).await?;
                blocking(move || self.neighbours.publish(&folder, &target)).await
            }
            Volume::KeeperSocket { pod } => {
                self.check_mounter(&pod)?;
                let source = Source::Folder {
                    path: self.folders.keeper(),
                    access: Access::ReadOnly,
                };
                self.mounts.mount(&source, &target)?;
                Ok(())
            }
        }
    }

    /// The revision that a new pod sees.
    async fn wanted(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Wanted, Error> {
        let dataset = self.cluster.dataset(namespace, name).await?;
        let dataset = dataset.ok_or_else(|| {
            Error::NotFound(format!(
                "there is no Dataset {name} in namespace {namespace}: create it, or correct the name (kubectl get datasets -n {namespace})"
            ))
        })?;
        if uid.is_some_and(|uid| dataset.metadata.uid.as_deref() != Some(uid)) {
            return Err(Error::NotFound(format!(
                "the Dataset {namespace}/{name} is not the one that this volume was made for: it was deleted and made again; delete the pod and its claim too, so that they are made again"
            )));
        }
        if dataset.metadata.deletion_timestamp.is_some() {
            return Err(Error::NotFound(format!(
                "the Dataset {namespace}/{name} is being deleted"
            )));
        }
        let status = dataset.status.as_ref();
        let revision = status.and_then(|status| status.revision.as_ref()).ok_or_else(|| {
            Error::NotReady(format!(
                "the Dataset {namespace}/{name} is not ready yet: {}; it will be tried again. See: kubectl describe dataset {name} -n {namespace}",
                reason(&dataset)
            ))
        })?;
        let nonsense = |what| Error::Internal(format!("the status of Dataset {namespace}/{name} has no valid {what}"));
        Ok(Wanted {
            revision: revision.id.parse().map_err(|_| nonsense("revision.id"))?,
            space: revision.space.parse().map_err(|_| nonsense("revision.space"))?,
            seeds: status.map(|status| status.cache_nodes.clone()).unwrap_or_default(),
            read_timeout: dataset.spec.read_timeout(),
        })
    }

    fn check_mounter(&self, pod: &Pod) -> Result<(), Error> {
        let MounterIdentity {
            namespace,
            service_account,
        } = &self.mounter;
        if pod.namespace == *namespace && pod.service_account == *service_account {
            return Ok(());
        }
        Err(Error::Denied(format!(
            "the pod {}/{} cannot have the volume `keeper: socket`: it is for the mounter only",
            pod.namespace, pod.name
        )))
    }

    async fn unpublish(self: Arc<Self>, request: csi::NodeUnpublishVolumeRequest) -> Result<(), Error> {
        let Unpublish { volume_id, target } = Unpublish::parse(request, &self.folders)?;
        let _lock = self.locks.lock(&target)?;
        let mount = self.mounted_at(&target)?;
        let (node, path) = (self.clone(), target.clone());
        if mount.as_ref().is_some_and(|mount| !Revisions::shows_revision(mount)) {
            blocking(move || {
                node.mounts.unmount(&path, None)?;
                node.neighbours.sweep();
                Ok(())
            })
            .await?;
            self.clone().sweep_tiers();
        } else {
            // Also when nothing is mounted any more: a call before may have come no further.
            blocking(move || node.revisions.unpublish(&path)).await?;
        }
        match fs::remove_dir(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::file("remove", &target)(error)),
            _ => {}
        }
        tracing::info!(volume = volume_id, target = %target.display(), "unpublished");
        Ok(())
    }

    /// Removes the folders of a CacheRuntime whose last pod may just have left. Nobody waits for it.
    fn sweep_tiers(self: Arc<Self>) {
        tokio::spawn(async move {
            if let Err(error) = self.tiers.sweep().await {
                tracing::warn!(%error, "look for tier folders that nobody wants; it will be done again");
            }
        });
    }

    async fn statistics(&self, request: csi::NodeGetVolumeStatsRequest) -> Result<Vec<csi::VolumeUsage>, Error> {
        let csi::NodeGetVolumeStatsRequest {
            volume_id,
            volume_path: path,
            staging_target_path: _,
        } = request;
        present("volume_id", volume_id)?;
        let path = volume_path(path)?;
        let mount = self.mounted_at(&path)?;
        let revision = mount.as_ref().is_some_and(Revisions::shows_revision);
        let ours = revision || mount.as_ref().is_some_and(|mount| self.is_own_folder(mount));
        if !ours || !path.starts_with(self.folders.pods()) {
            return Err(Error::NotOurs(path));
        }
        if let Some(mount) = mount.filter(|_| revision) {
            self.revisions.check_answers(&mount)?;
        }
        let asked = async {
            let path = path.clone();
            // Never closed.
            let permit = STATISTICS.acquire().await;
            blocking(move || {
                let _permit = permit;
                rustix::fs::statfs(&path).map_err(|errno| Error::file("look at", &path)(errno.into()))
            })
            .await
        };
        match tokio::time::timeout(STATISTICS_DEADLINE, asked).await {
            Ok(statistics) => Ok(usage(&statistics?, revision)),
            Err(_) => Err(Error::NotReady(format!(
                "the file system at {} does not answer",
                path.display()
            ))),
        }
    }

    fn mounted_at(&self, path: &Path) -> Result<Option<Mount>, Error> {
        let table = self
            .mounts
            .table()
            .map_err(Error::file("read", Path::new("/proc/self/mountinfo")))?;
        Ok(table.into_iter().rev().find(|mount| mount.target == path))
    }

    /// Whether a pod still has the keeper's folder.
    ///
    /// # Errors
    /// When the kernel does not tell what is mounted.
    pub fn shows_keeper(&self) -> io::Result<bool> {
        let (table, pods) = (self.mounts.table()?, self.folders.pods());
        Ok(table
            .iter()
            .any(|mount| mount.target.starts_with(&pods) && self.is_keeper(mount)))
    }

    fn is_keeper(&self, mount: &Mount) -> bool {
        mount.root.ends_with(last_names(&self.folders.keeper(), 3))
    }

    /// Whether a mount shows the keeper's folder, or one of a cache node; the table has paths within their file system.
    fn is_own_folder(&self, mount: &Mount) -> bool {
        let tiers = last_names(&self.folders.tiers(), 1);
        // <uid>/<tier>/<pod> below it.
        let above = mount.root.ancestors().nth(3);
        self.is_keeper(mount) || self.neighbours.shows(mount) || above.is_some_and(|above| above.ends_with(tiers))
    }
}

fn last_names(path: &Path, count: usize) -> PathBuf {
    path.iter().skip(path.iter().count().saturating_sub(count)).collect()
}

fn reason(dataset: &Dataset) -> String {
    let conditions = dataset.status.iter().flat_map(|status| &status.conditions);
    let ready = conditions
        .into_iter()
        .find(|condition| condition.type_ == condition::READY);
    ready.map_or_else(
        || "the operator has not looked at it (is it running?)".to_owned(),
        |ready| format!("{}: {}", ready.reason, ready.message),
    )
}

/// Makes the target's folder; whether it was not there.
fn make_target(target: &Path) -> Result<bool, Error> {
    match fs::create_dir(target) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::file("make the folder", target)(error)),
    }
}

fn usage(statistics: &rustix::fs::StatFs, revision: bool) -> Vec<csi::VolumeUsage> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let block = u64::try_from(statistics.f_bsize).unwrap_or(1);
    let bytes = |blocks: u64| signed(blocks.saturating_mul(block));
    let files_used = statistics.f_files.saturating_sub(statistics.f_ffree);
    // A revision is full: EROFS counts from the largest number down, which is no true total.
    let files_total = if revision { files_used } else { statistics.f_files };
    vec![
        csi::VolumeUsage {
            unit: Unit::Bytes.into(),
            total: bytes(statistics.f_blocks),
            available: bytes(statistics.f_bavail),
            used: bytes(statistics.f_blocks.saturating_sub(statistics.f_bfree)),
        },
        csi::VolumeUsage {
            unit: Unit::Inodes.into(),
            total: signed(files_total),
            available: signed(files_total.saturating_sub(files_used)),
            used: signed(files_used),
        },
    ]
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|error| Error::Internal(format!("a task of this call failed: {error}")))?
}

/// The end of every call: it goes on even if the caller has left, and its failure is logged here and nowhere else.
async fn answer<T: Send + 'static>(
    metrics: &Metrics,
    call: &'static str,
    about: String,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<Response<T>, Status> {
    let started = Instant::now();
    let worked = tokio::spawn(work).await;
    let worked = worked.unwrap_or_else(|error| Err(Error::Internal(format!("a task of this call failed: {error}"))));
    let answered = worked.map(Response::new).map_err(|error| {
        tracing::warn!(call, about, %error, "a call failed");
        Status::from(error)
    });
    let code = answered.as_ref().err().map_or(Code::Ok, Status::code);
    metrics.called(call, code, started.elapsed());
    answered
}

fn unsupported(call: &str) -> Status {
    Status::unimplemented(format!("{call} is not supported: volumes are mounted in one step"))
}

#[tonic::async_trait]
impl csi::node_server::Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let (node, request) = (self.0.clone(), request.into_inner());
        let about = format!("{} at {}", request.volume_id, request.target_path);
        answer(&self.0.metrics, "NodePublishVolume", about, async move {
            node.publish(request).await?;
            Ok(csi::NodePublishVolumeResponse {})
        })
        .await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let (node, request) = (self.0.clone(), request.into_inner());
        let about = format!("{} at {}", request.volume_id, request.target_path);
        answer(&self.0.metrics, "NodeUnpublishVolume", about, async move {
            node.unpublish(request).await?;
            Ok(csi::NodeUnpublishVolumeResponse {})
        })
        .await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Result<Response<csi::NodeGetVolumeStatsResponse>, Status> {
        let (node, request) = (self.0.clone(), request.into_inner());
        let about = format!("{} at {}", request.volume_id, request.volume_path);
        answer(&self.0.metrics, "NodeGetVolumeStats", about, async move {
            Ok(csi::NodeGetVolumeStatsResponse {
                usage: node.statistics(request).await?,
                volume_condition: None,
            })
        })
        .await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        // SINGLE_NODE_MULTI_WRITER lets the kubelet tell ReadWriteOncePod from ReadWriteOnce.
        let capabilities = [Type::GetVolumeStats, Type::SingleNodeMultiWriter].map(|rpc| csi::NodeServiceCapability {
            r#type: Some(csi::node_service_capability::Type::Rpc(
                csi::node_service_capability::Rpc { r#type: rpc.into() },
            )),
        });
        Ok(Response::new(csi::NodeGetCapabilitiesResponse {
            capabilities: capabilities.into(),
        }))
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: self.0.name.clone(),
            max_volumes_per_node: 0,
            accessible_topology: None,
        }))
    }

    async fn node_stage_volume(
        &self,
        _: Request<csi::NodeStageVolumeRequest>,
    ) -> Result<Response<csi::NodeStageVolumeResponse>, Status> {
        // Staging would pin the revision of the first pod for all that follow.
        Err(unsupported("NodeStageVolume"))
    }

    async fn node_unstage_volume(
        &self,
        _: Request<csi::NodeUnstageVolumeRequest>,
    ) -> Result<Response<csi::NodeUnstageVolumeResponse>, Status> {
        Err(unsupported("NodeUnstageVolume"))
    }

    async fn node_expand_volume(
        &self,
        _: Request<csi::NodeExpandVolumeRequest>,
    ) -> Result<Response<csi::NodeExpandVolumeResponse>, Status> {
        Err(unsupported("NodeExpandVolume"))
    }
}
