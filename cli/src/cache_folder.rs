//! The folder in which one dataset's cache lies: its lock, its files by name, and what a killed process left of its mounts.
//!
//! ```text
//! lock           held by the process that uses the folder; says who
//! package        of the newest revision: the next one keeps its addresses
//! blocks/        the engine's tier
//! image.erofs    the image that is mounted
//! space/         mount point of the FUSE connection that holds the space
//! status.sock    answers `penstock status`
//! ```
//!
//! Must not know what an engine or a revision is.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// A cache folder that is ours until this is dropped.
#[derive(Debug)]
pub struct CacheFolder {
    path: PathBuf,
    // The kernel gives the lock back when the descriptor is closed, also after kill -9.
    _lock: File,
}

impl CacheFolder {
    /// Makes the folder when it is not there and takes its lock. `user` is written into the lock for whoever comes
    /// second.
    ///
    /// # Errors
    /// When another process uses it, or it cannot be made.
    pub fn take(path: &Path, user: &str) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| {
            format!(
                "make the cache folder {}: choose one that you may write with --cache-dir",
                path.display()
            )
        })?;
        // The kernel will be handed paths below it, and whoever mounts may stand elsewhere later.
        let path = path.canonicalize().with_context(|| path.display().to_string())?;
        let lock_path = path.join("lock");
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("open {}: is the cache folder of another user?", lock_path.display()))?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                bail!("lock {}: {error}", lock_path.display());
            }
            let mut holder = String::new();
            // Only for the sentence: without it the sentence is shorter.
            let _ = lock.read_to_string(&mut holder);
            bail!(
                "the cache folder {} is in use{}{}: end that one first, or give another folder with --cache-dir",
                path.display(),
                if holder.is_empty() { "" } else { " by " },
                holder.trim_end()
            );
        }
        lock.set_len(0)?;
        writeln!(lock, "{user} (pid {})", std::process::id())?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder itself, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Folder of the engine's tier.
    pub fn blocks(&self) -> PathBuf {
        self.path.join("blocks")
    }

    /// The image that is mounted.
    pub fn image(&self) -> PathBuf {
        image_of(&self.path)
    }

    /// Mount point of the FUSE connection.
    pub fn space(&self) -> PathBuf {
        self.path.join("space")
    }

    /// Socket that answers `penstock status`.
    pub fn status_socket(&self) -> PathBuf {
        status_socket_of(&self.path)
    }

    /// The package of the newest revision that was served from here, as it was given to [`CacheFolder::keep_package`].
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn package(&self) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path.join("package")) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("read the package of the newest revision"),
        }
    }

    /// Keeps the package of the newest revision. It is on the disk before blocks are stored under its addresses: after a
    /// crash an address of the space must not be given to another object.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keep_package(&self, bytes: &[u8]) -> Result<()> {
        let (temporary, path) = (self.path.join("package.new"), self.path.join("package"));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("write {}", path.display()))
    }
}

/// The image below a cache folder.
pub fn image_of(cache_folder: &Path) -> PathBuf {
    cache_folder.join("image.erofs")
}

/// The status socket below a cache folder.
pub fn status_socket_of(cache_folder: &Path) -> PathBuf {
    cache_folder.join("status.sock")
}

/// Where the cache of a dataset lies when nobody says: below /var/cache for root, below the home folder for others.
pub fn default_path(namespace: &str, name: &str, is_root: bool, home: Option<&Path>) -> PathBuf {
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    let base = match home {
        Some(home) if !is_root => home.join(".cache/penstock"),
        _ => PathBuf::from("/var/cache/penstock"),
    };
    // Neither a namespace nor a name has a dot that could be mistaken: namespaces have none.
    base.join(format!("{namespace}.{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("cache");
        let first = CacheFolder::take(&path, "the mount on /mnt/a").unwrap();
        let second = CacheFolder::take(&path, "another").unwrap_err().to_string();
        assert!(second.contains("in use by the mount on /mnt/a (pid "), "{second}");
        assert!(second.contains("--cache-dir"), "{second}");
        drop(first);
        CacheFolder::take(&path, "another").unwrap();
    }

    #[test]
    fn the_newest_package_is_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = CacheFolder::take(scratch.path(), "test").unwrap();
        assert_eq!(folder.package().unwrap(), None);
        folder.keep_package(b"abc").unwrap();
        folder.keep_package(b"def").unwrap();
        assert_eq!(folder.package().unwrap().as_deref(), Some(&b"def"[..]));
    }

    #[test]
    fn root_caches_below_var_and_others_at_home() {
        let home = Some(Path::new("/home/ada"));
        for (namespace, is_root, expected) in [
            ("vision", true, "/var/cache/penstock/vision.imagenet"),
            ("", true, "/var/cache/penstock/default.imagenet"),
            ("", false, "/home/ada/.cache/penstock/default.imagenet"),
        ] {
            assert_eq!(default_path(namespace, "imagenet", is_root, home), Path::new(expected));
        }
    }
}
