//! A revision mounted for the bench; taken down when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use penstock::served::Served;
use penstock_mount::bind;
use penstock_mounter::SpaceReader;
use penstock_revision::Package;

/// The mount.
pub struct Shown {
    served: Option<Served>,
    target: PathBuf,
}

impl Shown {
    /// Serves `package` by `reader` and mounts it below `folder`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(
        folder: &Path,
        package: &Package,
        reader: Arc<dyn SpaceReader>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self> {
        let target = folder.join("mnt");
        fs::create_dir_all(&target)?;
        let (image, space) = (folder.join("image.erofs"), folder.join("space"));
        let served = Served::start(package, reader, &image, &space, runtime.clone())?;
        let shown = Self {
            served: Some(served),
            target,
        };
        shown.mount()?;
        Ok(shown)
    }

    /// Where the tree is.
    pub fn root(&self) -> &Path {
        &self.target
    }

    /// Makes the kernel forget everything that it cached of this mount and nothing else.
    ///
    /// # Errors
    /// When something uses it.
    pub fn forget(&self) -> Result<()> {
        bind::unmount(&self.target)?;
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        self.served
            .as_ref()
            .map_or(Ok(()), |served| served.show_at(&self.target))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let ended = bind::unmount(&self.target).map_err(Into::into);
        let ended = ended.and_then(|()| self.served.take().map_or(Ok(()), Served::end));
        if let Err(error) = ended {
            eprintln!("{} could not be taken down: {error:#}", self.target.display());
        }
    }
}
