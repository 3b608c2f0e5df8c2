//! The folders of cache nodes on this node: they outlive the pod and end with the CacheRuntime.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Held while a folder is given to a pod, and while it is found that no pod has it and it is taken out of the way.
    pub giving: Arc<Mutex<()>>,
}

/// Where folders are that are about to be removed.
const TRASH: &str = ".trash";

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
        let _giving = lock(&self.giving);
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
        // The folders first: one that is made after this look belongs to a CacheRuntime, or a tier of it, that the list below may
        // not have.
        let mut found = Vec::new();
        for uid in names_in(&self.folder)?.into_iter().filter(|uid| uid != TRASH) {
            let tiers = names_in(&self.folder.join(&uid))?;
            found.push((uid, tiers));
        }
        let trash = self.folder.join(TRASH);
        if found.is_empty() && !trash.exists() {
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
        for (uid, tiers) in found {
            let folder = self.folder.join(&uid);
            match wanted.get(&uid) {
                None => unwanted.push(folder),
                Some(wanted) => {
                    let others = tiers.into_iter().filter(|tier| !wanted.contains(tier));
                    unwanted.extend(others.map(|tier| folder.join(tier)));
                }
            }
        }
        let mut clean = true;
        for folder in unwanted {
            let (unwanted, trash) = (folder.clone(), trash.clone());
            let (giving, mounts) = (self.giving.clone(), self.mounts.clone());
            let taken = tokio::task::spawn_blocking(move || take_away(&unwanted, &trash, &giving, &*mounts)).await;
            clean &= matches!(taken, Ok(Ok(true)));
            let folder = folder.display();
            match taken {
                Ok(Ok(true)) => tracing::info!(%folder, "removed the folder of tiers that are gone"),
                Ok(Ok(false)) => tracing::info!(%folder, "a pod still has the folder of a tier that is gone"),
                Ok(Err(error)) => tracing::error!(%folder, %error, "the folder of tiers that are gone is left"),
                Err(error) => tracing::error!(%folder, %error, "the folder of tiers that are gone is left"),
            }
        }
        let removed = tokio::task::spawn_blocking(move || remove_all(&trash)).await;
        if !matches!(removed, Ok(Ok(()))) {
            tracing::error!(?removed, "what was removed still takes up the disk");
            clean = false;
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

/// Moves a folder that no pod has to the trash, from where nobody gets it again; false when a pod has it. What is removed is long
/// to remove, so it is not removed here.
fn take_away(folder: &Path, trash: &Path, giving: &Mutex<()>, mounts: &dyn Mounts) -> Result<bool, Error> {
    let _giving = lock(giving);
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
    let move_away = || {
        fs::create_dir_all(trash)?;
        // A disk of its own that somebody mounted here cannot be moved, and stays.
        let place = (0..).map(|number: u32| trash.join(number.to_string()));
        let free = place.into_iter().find(|place| !place.exists());
        free.map_or(Ok(()), |free| fs::rename(folder, free))
    };
    move_away().map_err(Error::file("move away", folder))?;
    Ok(true)
}

fn remove_all(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
