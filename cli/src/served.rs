//! A revision as a file system on this machine: the FUSE connection that holds the space, its session in this process, and
//! the EROFS image over it. Must not know where the bytes come from.
//!
//! *Order*: the connection is mounted and served before the image is mounted over it, and taken down after it. A
//! connection that nobody serves makes the last unmount hang in the kernel.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use penstock_buffer::BufferPool;
use penstock_mount::{MountError, bind, erofs, fuse, read_ahead, table};
use penstock_mounter::limits::{IDLE_BUFFERS_MAX, READ_BYTES_MAX, SESSION_THREADS_MAX};
use penstock_mounter::{Metrics, Session, SpaceReader, Start};
use penstock_protocol::geometry::BLOCK_BYTES;
use penstock_revision::Package;
use rustix::io::Errno;

use crate::limits::{ENDED_LOOK, READ_AHEAD_KIB, RELEASE_MAX, RELEASE_PAUSE};

/// A served revision. Take it down with [`Served::end`].
pub struct Served {
    session: Session,
    space: PathBuf,
    image: PathBuf,
    devices: Vec<PathBuf>,
}

impl Served {
    /// Writes the image of `package` to the file `image` and serves its space below the folder `space`. Nothing is
    /// visible until [`Served::show_at`].
    ///
    /// # Errors
    /// When the disk or the kernel refuses; nothing is left mounted then.
    pub fn start(
        package: &Package,
        reader: Arc<dyn SpaceReader>,
        image: &Path,
        space: &Path,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self> {
        write_image(package, image)?;
        fs::create_dir_all(space).with_context(|| format!("make {}", space.display()))?;
        let connection = fuse::mount(space)?;
        let start = || -> Result<Session> {
            let threads = std::thread::available_parallelism().map_or(2, usize::from);
            let mut descriptors = Vec::new();
            for _ in 1..threads.clamp(2, SESSION_THREADS_MAX) {
                descriptors.push(fuse::clone(&connection)?);
            }
            descriptors.push(connection);
            let buffers = BufferPool::new(READ_BYTES_MAX + 2 * BLOCK_BYTES as usize, IDLE_BUFFERS_MAX);
            Ok(Session::start(Start {
                descriptors,
                device_bytes: package.device_bytes(),
                reader,
                buffers,
                runtime,
                initialised: false,
                name: package.id().to_string(),
                metrics: Metrics::default(),
            })?)
        };
        let session = start().inspect_err(|_| {
            // The connection was closed on the way here, so this cannot hang.
            if let Err(error) = bind::detach(space) {
                tracing::warn!(%error, "a mount is left");
            }
        })?;
        let devices = (0..package.device_bytes().len())
            .map(|number| space.join(number.to_string()))
            .collect();
        Ok(Self {
            session,
            space: space.to_owned(),
            image: image.to_owned(),
            devices,
        })
    }

    /// Mounts the revision at `target`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn show_at(&self, target: &Path) -> Result<()> {
        Ok(read_ahead::mounted(READ_AHEAD_KIB, || {
            erofs::mount(&self.image, target, &self.devices)
        })?)
    }

    /// Waits until the session has ended by itself: somebody aborted the connection.
    pub async fn ended(&self) {
        while !self.session.has_ended() {
            tokio::time::sleep(ENDED_LOOK).await;
        }
    }

    /// Unmounts the connection, which ends the session.
    ///
    /// # Errors
    /// EBUSY while somebody still has a file of the revision open.
    pub fn unmount_space(&self) -> Result<(), MountError> {
        bind::unmount(&self.space)
    }

    /// Ends the connection whatever still uses it: further reads of what the kernel has not cached fail.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn abort(&self) -> Result<(), MountError> {
        let number = fuse::connection_number(&self.space)?;
        fuse::abort(number)?;
        bind::detach(&self.space)
    }

    /// Takes the connection down. Everything that [`Served::show_at`] mounted must be unmounted before.
    ///
    /// # Errors
    /// When the kernel refuses to unmount.
    pub fn end(self) -> Result<()> {
        let Self {
            session,
            space,
            image,
            devices: _,
        } = self;
        let started = Instant::now();
        // Read-ahead that nobody waits for any more holds the connection until it is answered.
        while let Err(error) = bind::unmount(&space) {
            if error.errno != Errno::BUSY || started.elapsed() > RELEASE_MAX {
                return Err(error.into());
            }
            std::thread::sleep(RELEASE_PAUSE);
        }
        session.join();
        fs::remove_file(&image).with_context(|| format!("remove {}", image.display()))
    }
}

/// Takes down what a killed process left: mounts of `image`, wherever they are, and the connection at `space`. Nobody
/// serves them, so their readers have errors already.
///
/// # Errors
/// When the kernel refuses.
pub fn clear_leftovers(image: &Path, space: &Path) -> Result<Vec<PathBuf>> {
    let mut cleared = Vec::new();
    for mount in table::read()?.into_iter().rev() {
        let is_image = mount.file_system == "erofs" && mount.source == image;
        let is_space = mount.file_system == "fuse.penstock" && mount.target == space;
        if is_image || is_space {
            bind::detach(&mount.target)?;
        }
        if is_image {
            cleared.push(mount.target);
        }
    }
    Ok(cleared)
}

fn write_image(package: &Package, path: &Path) -> Result<()> {
    // Never into the file of before: a mount of it may live on in another mount namespace.
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("remove {}", path.display())),
    }
    let write = || -> Result<()> {
        let image = package.image()?;
        File::create_new(path)?.write_all(&image)?;
        Ok(())
    };
    write().with_context(|| format!("write {}", path.display()))
}
