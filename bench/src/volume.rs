//! A folder as a pod sees a local volume: bind-mounted. So that a path to ext4 crosses a mount as a path to ours does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use penstock_mount::bind::{self, Access};

/// The volume; unmounted when dropped.
pub struct Volume {
    /// Where it is.
    pub target: PathBuf,
}

impl Volume {
    /// Shows `folder` at `target`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn of(folder: &Path, target: &Path) -> Result<Self> {
        fs::create_dir_all(target)?;
        bind::bind(folder, target, Access::ReadOnly)?;
        Ok(Self {
            target: target.to_owned(),
        })
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(error) = bind::unmount(&self.target) {
            eprintln!("{error}");
        }
    }
}
