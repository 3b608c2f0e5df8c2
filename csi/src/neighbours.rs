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

    /// Removes the folders that no pod has. Blocks.
    ///
    /// # Errors
    /// When the mount table or the disk cannot be read.
    pub fn sweep(&self) -> Result<(), Error> {
        let unreadable = Error::file("read", &self.folder);
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self
            .mounts
            .table()
            .map_err(Error::file("read", Path::new("/proc/self/mountinfo")))?;
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(unreadable)?,
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let is_shown = |mount: &Mount| self.shows(mount) && mount.root.file_name() == Some(&name);
            if !table.iter().any(is_shown) {
                let folder = entry.path();
                fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?;
            }
        }
        Ok(())
    }
}
