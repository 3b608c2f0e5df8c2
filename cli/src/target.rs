//! The folder on which a person wants to see a dataset: what may stand in the way, and noticing that somebody unmounted it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use penstock_mount::table;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::oneshot;

/// The absolute path of `target` when something can be mounted there.
///
/// # Errors
/// When it cannot; the sentence says what to do.
pub fn free(target: &Path) -> Result<PathBuf> {
    let shown = target.display();
    let metadata = match fs::metadata(target) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{shown} does not exist: make it with `mkdir -p {shown}`")
        }
        Err(error) => return Err(error).with_context(|| format!("look at {shown}")),
    };
    if !metadata.is_dir() {
        bail!("{shown} is no folder: name an empty folder");
    }
    let target = target.canonicalize().with_context(|| format!("look at {shown}"))?;
    if let Some(mount) = table::read()?.into_iter().rev().find(|mount| mount.target == target) {
        bail!(
            "{shown} has a {} mounted on it already: unmount it with `umount {shown}`, or name another folder",
            mount.file_system
        );
    }
    if fs::read_dir(&target)
        .with_context(|| format!("list {shown}"))?
        .next()
        .is_some()
    {
        bail!("{shown} is not empty, and a mount would hide what is in it: name an empty folder");
    }
    Ok(target)
}

/// Ends when nothing is mounted on `target` any more.
///
/// # Errors
/// When the kernel's mount table cannot be watched.
pub async fn unmounted(target: PathBuf) -> Result<()> {
    let (done, ended) = oneshot::channel();
    // A thread, because tokio watches such descriptors only with unsafe code. It ends with the mount or the process.
    thread::spawn(move || done.send(watch(&target)));
    ended.await.context("the watcher of the mount table")?
}

fn watch(target: &Path) -> Result<()> {
    let watched = File::open("/proc/self/mountinfo")?;
    while table::is_mounted(target)? {
        // The kernel marks the table with a priority event when it changes (proc_pid_mounts(5)).
        match poll(&mut [PollFd::new(&watched, PollFlags::PRI)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("watch the mount table"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_is_said() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("empty")).unwrap();
        fs::create_dir_all(at("full/of")).unwrap();
        for (name, sentence) in [
            ("missing", "does not exist: make it with `mkdir -p"),
            ("file", "is no folder"),
            ("full", "is not empty"),
        ] {
            let error = free(&at(name)).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
        assert!(
            free(Path::new("/proc"))
                .unwrap_err()
                .to_string()
                .contains("has a proc mounted")
        );
        assert_eq!(free(&at("empty")).unwrap(), at("empty").canonicalize().unwrap());
    }
}
