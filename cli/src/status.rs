//! How a running mount tells its state: whoever connects to the Unix socket in the cache folder gets one JSON document.
//! Both ends are here. Must not know where the numbers come from.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

use crate::limits::{STATUS_BYTES_MAX, STATUS_TIMEOUT};

/// The state of a running mount.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `namespace/name` of the Dataset, or its name alone.
    pub dataset: String,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Id of the revision that is shown.
    pub revision: String,
    /// Process that serves it.
    pub pid: u32,
    /// Folder of the cache.
    pub cache_folder: PathBuf,
    /// Files of the revision.
    pub files: u64,
    /// Folders of the revision.
    pub directories: u64,
    /// Sum of the lengths of the files.
    pub bytes: u64,
    /// What is cached.
    pub cached: Cached,
    /// What was asked of the origin since the mount began.
    pub origin: Asked,
    /// Keys that cannot be names of files as they are.
    pub awkward_keys: u64,
    /// What is wrong, as sentences that say what to do.
    pub faults: Vec<String>,
}

/// What is cached.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cached {
    /// Bytes of the dataset on this machine.
    pub bytes: u64,
    /// Most bytes that the cache keeps.
    pub capacity_bytes: u64,
    /// Bytes that readers got without waiting for the origin, since the mount began.
    pub hit_bytes: u64,
    /// Bytes that readers waited for.
    pub miss_bytes: u64,
}

/// What was asked of the origin.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// Requests.
    pub requests: u64,
    /// Bytes that came.
    pub bytes: u64,
}

/// Answers on the socket `path` until the runtime ends. What a killed process left there is replaced: the folder is ours.
///
/// # Errors
/// When the socket cannot be made.
pub fn serve(path: &Path, status: Arc<dyn Fn() -> Status + Send + Sync>) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("remove {}", path.display())),
    }
    let listener = through_folder(path, |short| UnixListener::bind(short))
        .with_context(|| format!("listen on {}", path.display()))?;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let status = status.clone();
            tokio::spawn(async move {
                if let Ok(json) = serde_json::to_vec(&status()) {
                    // A client that has gone away needs no answer.
                    let _ = client.write_all(&json).await;
                }
            });
        }
    });
    Ok(())
}

/// Asks whoever serves on the socket `path`.
///
/// # Errors
/// When nobody does, or not in time.
pub fn ask(path: &Path) -> std::io::Result<Status> {
    let stream = through_folder(path, |short| UnixStream::connect(short))?;
    stream.set_read_timeout(Some(STATUS_TIMEOUT))?;
    let mut json = Vec::new();
    stream.take(STATUS_BYTES_MAX).read_to_end(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

/// A socket's path has at most 107 bytes, a cache folder may have more: the folder's descriptor makes any path short.
fn through_folder<T>(path: &Path, call: impl FnOnce(&Path) -> std::io::Result<T>) -> std::io::Result<T> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let folder = File::open(folder)?;
    call(
        &Path::new("/proc/self/fd")
            .join(folder.as_raw_fd().to_string())
            .join(name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            dataset: "vision/imagenet".into(),
            mount: "/mnt".into(),
            revision: "ab".into(),
            pid: 1,
            cache_folder: "/var/cache".into(),
            files: 1,
            directories: 2,
            bytes: 3,
            cached: Cached {
                bytes: 4,
                capacity_bytes: 5,
                hit_bytes: 6,
                miss_bytes: 7,
            },
            origin: Asked { requests: 8, bytes: 9 },
            awkward_keys: 10,
            faults: vec!["x".into()],
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_connects_gets_the_state_however_long_the_path_is() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("f".repeat(200));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("status.sock");
        std::fs::write(&path, "left by a killed process").unwrap();
        serve(&path, Arc::new(status)).unwrap();
        let answer = tokio::task::spawn_blocking(move || ask(&path)).await.unwrap().unwrap();
        assert_eq!(answer, status());
    }

    #[test]
    fn nobody_there_is_an_error() {
        let scratch = tempfile::tempdir().unwrap();
        assert!(ask(&scratch.path().join("status.sock")).is_err());
    }
}
