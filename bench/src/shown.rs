//! A revision mounted for the bench; taken down when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use penstock::served::{Places, Served, Way};
use penstock_mount::forms::Form;
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
        Self::in_form(Form::File, folder, package, reader, runtime)
    }

    /// As [`Shown::new`], in this form.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn in_form(
        form: Form,
        folder: &Path,
        package: &Package,
        reader: Arc<dyn SpaceReader>,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Self> {
        let target = folder.join("mnt");
        fs::create_dir_all(&target)?;
        let places = Places {
            image: folder.join("image.erofs"),
            space: folder.join("space"),
            target: target.clone(),
        };
        let served = Served::start(package, reader, places, Way::Directly(form), runtime.clone())?;
        Ok(Self {
            served: Some(served),
            target,
        })
    }

    /// Where the tree is.
    pub fn root(&self) -> &Path {
        &self.target
    }

    /// Makes the kernel forget everything that it cached of this mount and nothing else; the third form forgets nothing.
    ///
    /// # Errors
    /// When something uses it.
    pub fn forget(&self) -> Result<()> {
        let Some(served) = &self.served else { return Ok(()) };
        ensure!(served.hide()?, "{} is in use", self.target.display());
        served.show()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let Some(served) = self.served.take() else { return };
        if let Err(error) = served.hide().and_then(|_| served.end()) {
            eprintln!("{} could not be taken down: {error:#}", self.target.display());
        }
    }
}
