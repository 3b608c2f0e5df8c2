//! The folders of cache nodes on this node: they outlive the pod and end with the CacheRuntime.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use penstock_crds::TierVolume;
use penstock_mount::bind::Access;

use crate::cache_nodes;
use crate::error::Error;
use crate::kubernetes::Cluster;
use crate::mounts::{Mounts, Source};
use crate::request::Pod;
use crate::users::Users;

/// The folders of tiers.
pub struct Tiers {
    /// Where they are.
    pub folder: PathBuf,
    /// Whose they are.
    pub users: Users,
    /// What mounts them.
    pub mounts: Arc<dyn Mounts>,
    /// Who says whether they are wanted.
    pub cluster: Arc<dyn Cluster>,
    /// One sweep at a time: two would remove the same folder.
    pub sweeping: tokio::sync::Mutex<()>,
}

impl Tiers {
    /// The folder for a cache node's pod, after it was checked that it is one.
    ///
    /// # Errors
    /// [`Error::Denied`] when it is not, with what is wrong.
    pub async fn folder_of(&self, runtime: &str, tier: &str, pod: &Pod) -> Result<PathBuf, Error> {
        let (found, uid) = cache_nodes::runtime_of(&*self.cluster, runtime, pod).await?;
        let is_wanted = |wanted: &penstock_crds::Tier| wanted.name == tier && wanted.volume == TierVolume::Node;
        if !found.spec.tiers.iter().any(is_wanted) {
            return Err(Error::Denied(format!(
                "the CacheRuntime {runtime:?} has no tier {tier:?} with `volume: Node`"
            )));
        }
        Ok(self.folder.join(uid).join(tier).join(&pod.name))
    }

    /// Makes the folder if it is not there, and shows it at `target`, writable. Blocks.
    ///
    /// # Errors
    /// When the disk or the kernel refuses.
    pub fn publish(&self, folder: &Path, target: &Path) -> Result<(), Error> {
        let make = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            chown(folder, Some(self.users.cache_node), Some(self.users.cache_node))?;
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

    /// Removes the folders of CacheRuntimes that are gone, and of tiers that one does not have any more, except those that a pod
    /// still has. One that is being deleted may wait for its Datasets for hours, and serves them all the time. True when nothing
    /// unwanted is left.
    ///
    /// # Errors
    /// When the API server or the disk does not answer; nothing was removed that is wanted.
    pub async fn sweep(&self) -> Result<bool, Error> {
        let _alone = self.sweeping.lock().await;
        // The folders first: one that is made after this look belongs to a CacheRuntime that the list below may not have.
        let found = names_in(&self.folder)?;
        if found.is_empty() {
            return Ok(true);
        }
        let wanted: HashMap<String, HashSet<String>> = self
            .cluster
            .cache_runtimes()
            .await?
            .into_iter()
            .filter_map(|runtime| Some((runtime.metadata.uid?, names(&runtime.spec.tiers))))
            .collect();
        let mut unwanted = Vec::new();
        for uid in found {
            let folder = self.folder.join(&uid);
            match wanted.get(&uid) {
                None => unwanted.push(folder),
                Some(tiers) => {
                    let others = names_in(&folder)?.into_iter().filter(|tier| !tiers.contains(tier));
                    unwanted.extend(others.map(|tier| folder.join(tier)));
                }
            }
        }
        let mut clean = true;
        for folder in unwanted {
            let (removed, mounts) = (folder.clone(), self.mounts.clone());
            let removed = tokio::task::spawn_blocking(move || remove_unused(&removed, &*mounts)).await;
            clean &= matches!(removed, Ok(Ok(true)));
            let folder = folder.display();
            match removed {
                Ok(Ok(true)) => tracing::info!(%folder, "removed the folder of tiers that are gone"),
                Ok(Ok(false)) => tracing::info!(%folder, "a pod still has the folder of a tier that is gone"),
                Ok(Err(error)) => tracing::error!(%folder, %error, "the folder of tiers that are gone is left"),
                Err(error) => tracing::error!(%folder, %error, "the folder of tiers that are gone is left"),
            }
        }
        Ok(clean)
    }
}

/// The tiers of a CacheRuntime that have a folder on its nodes.
fn names(tiers: &[penstock_crds::Tier]) -> HashSet<String> {
    let on_nodes = tiers.iter().filter(|tier| tier.volume == TierVolume::Node);
    on_nodes.map(|tier| tier.name.clone()).collect()
}

fn names_in(folder: &Path) -> Result<Vec<String>, Error> {
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
    let (last, above) = (name.first(), name.get(1));
    let shows = |root: &Path| {
        let parts: Vec<_> = root.iter().collect();
        parts
            .windows(2)
            .any(|pair| Some(&pair[0]) == above && Some(&pair[1]) == last)
    };
    if table.iter().any(|mount| shows(&mount.root)) {
        return Ok(false);
    }
    fs::remove_dir_all(folder).map_err(Error::file("remove", folder))?;
    Ok(true)
}
