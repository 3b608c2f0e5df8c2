//! The folders of cache nodes on this node: they outlive the pod and end with the CacheRuntime.

use std::collections::HashSet;
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
