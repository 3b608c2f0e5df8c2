//! The folders of cache nodes on this node: they outlive the pod and end with the CacheRuntime.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use penstock_crds::{CacheRuntime, TierVolume};
use penstock_mount::bind::Access;

use crate::error::Error;
use crate::kubernetes::Cluster;
use crate::mounts::{Mounts, Source};
use crate::request::Pod;

/// User and group of cache nodes.
#[derive(Clone, Copy, Debug)]
pub struct Owner(pub u32);

/// The folders of tiers.
pub struct Tiers {
    /// Where they are.
    pub folder: PathBuf,
    /// Whose they are.
    pub owner: Owner,
    /// What mounts them.
    pub mounts: Arc<dyn Mounts>,
    /// Who says whether they are wanted.
    pub cluster: Arc<dyn Cluster>,
    /// One sweep at a time: two would remove the same folder.
    pub sweeping: tokio::sync::Mutex<()>,
}

impl Tiers {
    /// The folder for a cache node's pod, after it was checked that it is one: controlled by a StatefulSet that the
    /// CacheRuntime controls.
    ///
    /// # Errors
    /// [`Error::Denied`] when it is not, with what is wrong.
    pub async fn folder_of(&self, runtime: &str, tier: &str, pod: &Pod) -> Result<PathBuf, Error> {
        let Pod {
            namespace, name, uid, ..
        } = pod;
        let denied = |why: String| {
            Error::Denied(format!(
                "the pod {namespace}/{name} cannot have a folder of tier {tier:?} of CacheRuntime {runtime:?}: {why}"
            ))
        };
        let found = self.cluster.cache_runtime(namespace, runtime).await?;
        let found = found.ok_or_else(|| denied("there is no such CacheRuntime in its namespace".to_owned()))?;
        let is_wanted = |wanted: &penstock_crds::Tier| wanted.name == tier && wanted.volume == TierVolume::Node;
        if !found.spec.tiers.iter().any(is_wanted) {
            return Err(denied(
                "the CacheRuntime has no such tier with `volume: Node`".to_owned(),
            ));
        }
        let runtime_uid = uid_of(&found.metadata)?;
        let object = self.cluster.pod(namespace, name).await?;
        let object = object.filter(|object| object.metadata.uid.as_deref() == Some(uid));
        let object = object.ok_or_else(|| denied("the pod is gone".to_owned()))?;
        let set_name = controller::<StatefulSet>(&object.metadata)
            .ok_or_else(|| denied("only pods of the CacheRuntime's own StatefulSet can".to_owned()))?;
        let set = self.cluster.stateful_set(namespace, &set_name.name).await?;
        let of_runtime = set.is_some_and(|set| {
            set.metadata.uid.as_deref() == Some(&set_name.uid)
                && controller::<CacheRuntime>(&set.metadata).is_some_and(|owner| owner.uid == runtime_uid)
        });
        let of_set = name
            .strip_prefix(&set_name.name)
            .and_then(|rest| rest.strip_prefix('-'));
        if !of_runtime || of_set.is_none_or(|ordinal| ordinal.parse::<u32>().is_err()) {
            return Err(denied("only pods of the CacheRuntime's own StatefulSet can".to_owned()));
        }
        Ok(self.folder.join(runtime_uid).join(tier).join(name))
    }

    /// Makes the folder if it is not there, and shows it at `target`, writable. Blocks.
    ///
    /// # Errors
    /// When the disk or the kernel refuses.
    pub fn publish(&self, folder: &Path, target: &Path) -> Result<(), Error> {
        let make = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            chown(folder, Some(self.owner.0), Some(self.owner.0))?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        };
        make().map_err(Error::file("make the folder", folder))?;
        let source = Source::Folder {
            path: folder.to_owned(),
            access: Access::ReadWrite,
        };
        self.mounts.mount(&source, target)?;
        Ok(())
    }

    /// Removes the folders of CacheRuntimes that are gone, except those that a pod still has. One that is being deleted
    /// may wait for its Datasets for hours, and serves them all the time. True when nothing unwanted is left.
    ///
    /// # Errors
    /// When the API server or the disk does not answer; nothing was removed that is wanted.
    pub async fn sweep(&self) -> Result<bool, Error> {
        let _alone = self.sweeping.lock().await;
        // The folders first: one that is made after this look belongs to a CacheRuntime that the list below may not have.
        let found = uids_in(&self.folder)?;
        if found.is_empty() {
            return Ok(true);
        }
        let runtimes = self.cluster.cache_runtimes().await?;
        let wanted: HashSet<String> = runtimes
            .into_iter()
            .filter_map(|runtime| runtime.metadata.uid)
            .collect();
        let mut clean = true;
        for uid in found.into_iter().filter(|uid| !wanted.contains(uid)) {
            let (folder, mounts) = (self.folder.join(&uid), self.mounts.clone());
            let removed = tokio::task::spawn_blocking(move || remove_unused(&folder, &*mounts));
            let removed = removed.await;
            clean &= matches!(removed, Ok(Ok(true)));
            match removed {
                Ok(Ok(true)) => tracing::info!(uid, "removed the tier folders of a CacheRuntime that is gone"),
                Ok(Ok(false)) => tracing::info!(uid, "a pod still has a tier folder of a CacheRuntime that is gone"),
                Ok(Err(error)) => tracing::error!(uid, %error, "tier folders are left"),
                Err(error) => tracing::error!(uid, %error, "tier folders are left"),
            }
        }
        Ok(clean)
    }
}

struct Controller {
    name: String,
    uid: String,
}

fn controller<K: Resource<DynamicType = ()>>(metadata: &ObjectMeta) -> Option<Controller> {
    let owners = metadata.owner_references.iter().flatten();
    let group = |version: &str| version.split('/').next().map(str::to_owned);
    let owner = owners
        .into_iter()
        .find(|owner| owner.controller == Some(true) && owner.kind == K::kind(&()))?;
    (group(&owner.api_version) == group(&K::api_version(&()))).then(|| Controller {
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    })
}

fn uid_of(metadata: &ObjectMeta) -> Result<String, Error> {
    let uid = metadata
        .uid
        .clone()
        .filter(|uid| !uid.is_empty() && !uid.contains(['/', '.']));
    uid.ok_or_else(|| Error::Internal("the API server sent an object without a uid".to_owned()))
}

fn uids_in(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("read", folder)(error)),
    };
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}

fn remove_unused(folder: &Path, mounts: &dyn Mounts) -> Result<bool, Error> {
    let table = mounts
        .table()
        .map_err(Error::file("read", Path::new("/proc/self/mountinfo")))?;
    // The table shows folders by their path within their file system, which ends like ours.
    let name = folder.iter().rev().take(2).collect::<Vec<_>>();
    let (uid, tiers) = (name.first(), name.get(1));
    let shows = |root: &Path| {
        let parts: Vec<_> = root.iter().collect();
        parts
            .windows(2)
            .any(|pair| Some(&pair[0]) == tiers && Some(&pair[1]) == uid)
    };
    if table.iter().any(|mount| shows(&mount.root)) {
        return Ok(false);
    }
    fs::remove_dir_all(folder).map_err(Error::file("remove", folder))?;
    Ok(true)
}
