//! Mounts that are only written down, and can be told to fail.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use penstock_mount::MountError;
use penstock_mount::forms::Form;
use penstock_mount::table::Mount;
use penstock_protocol::connection::Unanswered;
use rustix::io::Errno;

use super::{Mounts, Source};

/// A mount table in memory.
#[derive(Debug, Default)]
pub struct FakeMounts {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mounts: Vec<Mount>,
    devices: u32,
    failing: Option<(What, Errno)>,
    stuck: Option<PathBuf>,
    aborted: Vec<u32>,
}

/// A kind of mount, to let it fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A FUSE connection.
    Space,
    /// A revision.
    Revision,
    /// A bind.
    Folder,
}

impl FakeMounts {
    /// From now on mounts of this kind fail; `None` heals them.
    pub fn fail(&self, failing: Option<(What, Errno)>) {
        self.state().failing = failing;
    }

    /// From now on what is mounted below this folder cannot be unmounted; `None` heals it.
    pub fn hold(&self, folder: Option<&Path>) {
        self.state().stuck = folder.map(Path::to_owned);
    }

    /// The connections that were aborted.
    pub fn aborted(&self) -> Vec<u32> {
        self.state().aborted.clone()
    }

    /// What is mounted, as `file system target`.
    pub fn shown(&self) -> Vec<String> {
        let state = self.state();
        let show = |mount: &Mount| format!("{} {}", mount.file_system, mount.target.display());
        state.mounts.iter().map(show).collect()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mounts for FakeMounts {
    fn form(&self) -> Form {
        Form::File
    }

    fn unanswered(&self) -> Unanswered {
        Unanswered::Resent
    }

    fn table(&self) -> io::Result<Vec<Mount>> {
        Ok(self.state().mounts.clone())
    }

    fn mount(&self, source: &Source, target: &Path) -> Result<Vec<OwnedFd>, MountError> {
        let mut state = self.state();
        let what = match source {
            Source::Space => What::Space,
            Source::Revision { .. } => What::Revision,
            Source::Folder { .. } => What::Folder,
        };
        let refused = |errno| MountError {
            operation: "mount at",
            path: target.to_owned(),
            errno,
        };
        if let Some((_, errno)) = state.failing.filter(|(failing, _)| *failing == what) {
            return Err(refused(errno));
        }
        if !target.is_dir() {
            return Err(refused(Errno::NOENT));
        }
        state.devices += 1;
        let new = (0, 100 + state.devices);
        let (file_system, device, source_path) = match source {
            Source::Space => ("fuse.penstock".to_owned(), new, PathBuf::from("penstock")),
            Source::Revision { image, .. } => ("erofs".to_owned(), new, image.clone()),
            Source::Folder { path, .. } => match state.mounts.iter().rev().find(|mount| mount.target == *path) {
                Some(mount) => (mount.file_system.clone(), mount.device, mount.source.clone()),
                None => ("ext4".to_owned(), (8, 1), PathBuf::from("/dev/sda1")),
            },
        };
        let root = match source {
            Source::Folder { path, .. } if file_system == "ext4" => path.clone(),
            _ => PathBuf::from("/"),
        };
        state.mounts.push(Mount {
            device,
            root,
            target: target.to_owned(),
            options: "ro".to_owned(),
            file_system,
            source: source_path,
        });
        match what {
            What::Space => {
                let null = File::open("/dev/null").map_err(|_| refused(Errno::NOENT))?;
                Ok(vec![null.into()])
            }
            What::Revision | What::Folder => Ok(Vec::new()),
        }
    }

    fn unmount(&self, target: &Path, abort: Option<u32>) -> Result<(), MountError> {
        let mut state = self.state();
        if state.stuck.as_ref().is_some_and(|stuck| target.starts_with(stuck)) {
            return Err(MountError {
                operation: "unmount",
                path: target.to_owned(),
                errno: Errno::BUSY,
            });
        }
        state.aborted.extend(abort);
        state.mounts.retain(|mount| mount.target != target);
        Ok(())
    }

    fn is_connected(&self, _: BorrowedFd<'_>) -> bool {
        true
    }
}
