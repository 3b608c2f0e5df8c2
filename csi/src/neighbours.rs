//! The folders in which cache nodes listen for the mounter of their node: bound writable into the cache node's pod, seen by
//! the mounter below the keeper's folder. Each is named by the address of its cache node, POD.CACHERUNTIME.NAMESPACE, so that
//! the mounter asks a cache node for its own Datasets only. They hold a socket and end with the pod.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use penstock_mount::bind::Access;
use penstock_mount::table::Mount;

use crate::cache_nodes;
use crate::error::Error;
use crate::kubernetes::Cluster;
use crate::limits::NEIGHBOUR_FILES_MAX;
use crate::mounts::{Mounts, Source};
use crate::request::Pod;
use crate::users::Users;

/// The folders.
pub struct Neighbours {
    /// Where they are.
    pub folder: PathBuf,
    /// Who writes and reads them.
    pub users: Users,
    /// What mounts them.
    pub mounts: Arc<dyn Mounts>,
    /// Who says which pods are cache nodes.
    pub cluster: Arc<dyn Cluster>,
    /// Held while a folder is made and shown, or removed: one that is not shown yet must not be removed.
    pub changing: Mutex<()>,
}

impl Neighbours {
    /// The folder of a cache node's pod.
    ///
    /// # Errors
    /// [`Error::Denied`] when it is no cache node of `runtime`.
    pub async fn folder_of(&self, runtime: &str, pod: &Pod) -> Result<PathBuf, Error> {
        cache_nodes::runtime_of(&*self.cluster, runtime, pod).await?;
        Ok(self.folder.join(format!("{}.{runtime}.{}", pod.name, pod.namespace)))
    }

    /// Makes the folder if it is not there, and shows it at `target`, writable. Blocks.
    ///
    /// # Errors
    /// When the disk or the kernel refuses.
    pub fn publish(&self, folder: &Path, target: &Path) -> Result<(), Error> {
        let make = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            chown(folder, Some(self.users.cache_node), Some(self.users.mounter))?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o750))
        };
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        make().map_err(Error::file("make the folder", folder))?;
        let source = Source::Folder {
            path: folder.to_owned(),
            access: Access::ReadWrite,
        };
        self.mounts.mount(&source, target)?;
        Ok(())
    }

    /// Whether a mount shows one of the folders; the table has paths within their file system.
    pub fn shows(&self, mount: &Mount) -> bool {
        // …/plugins/<driver>/keeper/neighbours
        let names: PathBuf = self
            .folder
            .iter()
            .rev()
            .take(4)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect();
        mount.root.parent().is_some_and(|parent| parent.ends_with(names))
    }

    /// Removes the folders that no pod has. What cannot be removed is left, and said: whoever wrote there may have put in
    /// more than a socket. Blocks.
    pub fn sweep(&self) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (Ok(table), Ok(entries)) = (self.mounts.table(), fs::read_dir(&self.folder)) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_shown = |mount: &Mount| self.shows(mount) && mount.root.file_name() == Some(&name);
            if table.iter().any(is_shown) {
                continue;
            }
            if let Err(error) = remove(&entry.path()) {
                tracing::warn!(folder = %entry.path().display(), %error, "a folder of a cache node that is gone is left");
            }
        }
    }
}

/// Removes a folder with a few sockets and files. Not what is in folders below it, which may be without end.
fn remove(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.take(NEIGHBOUR_FILES_MAX) {
        // A folder is left, and keeps this one.
        let _ = fs::remove_file(entry?.path());
    }
    fs::remove_dir(folder)
}
