//! A revision as a file system on this machine: the FUSE connection, its session in this process, and what a person sees of
//! it. Must not know where the bytes come from.
//!
//! *Order*: the connection is mounted and served before the revision is mounted over it, and taken down after it. A
//! connection that nobody serves makes the last unmount hang in the kernel.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use penstock_buffer::BufferPool;
use penstock_mount::forms::{self, Form, Revision, SMALL_CONTENT, Wish};
use penstock_mount::fuse::For;
use penstock_mount::{MountError, bind, fuse, fusermount, table};
use penstock_mounter::files::{Devices, Files, Tree};
use penstock_mounter::limits::{IDLE_BUFFERS_MAX, READ_BYTES_MAX, SESSION_THREADS_MAX};
use penstock_mounter::{Metrics, Session, SpaceReader, Start};
use penstock_protocol::geometry::BLOCK_BYTES;
use penstock_revision::{Package, image_of_one_file};
use rustix::io::Errno;

use crate::limits::{ENDED_LOOK, READ_AHEAD_KIB, RELEASE_MAX, RELEASE_PAUSE};

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    /// The file of the image that the kernel mounts; where it mounts none, the name of the mount.
    pub image: PathBuf,
    /// Where the connection is mounted.
    pub space: PathBuf,
    /// Where a person wants to see the revision.
    pub target: PathBuf,
}

impl Places {
    /// Where the connection is mounted in this way.
    fn connection(&self, way: Way) -> &Path {
        match way {
            Way::Directly(_) => &self.space,
            Way::Fusermount => &self.target,
        }
    }
}

/// Who mounts, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// This process, which may.
    Directly(Form),
    /// `fusermount3`, for a user who may not; the tree is shown by this process.
    Fusermount,
}

impl Way {
    /// The best way of this user on this machine, and why, or the one that was wished for. `folder` is where the image will be.
    ///
    /// # Errors
    /// When a form was wished for that this user cannot have.
    pub fn find(wish: Wish, folder: &Path) -> Result<(Self, String)> {
        let is_root = rustix::process::geteuid().is_root();
        match wish {
            Wish::Auto | Wish::Form(Form::Fuse) if !is_root => {
                Ok((Self::Fusermount, "only root can mount EROFS".to_owned()))
            }
            Wish::Form(form) if !is_root => bail!(
                "the form {} needs root: run it with sudo, or leave --form out",
                form.name().to_lowercase()
            ),
            wish => {
                let small = image_of_one_file("file", SMALL_CONTENT.len() as u64);
                let small = small.map_err(|error| anyhow::anyhow!("make an image of one file: {error}"))?;
                let (form, why) = forms::choose(wish, &small, folder, folder);
                Ok((Self::Directly(form), why))
            }
        }
    }

    fn shows_tree(self) -> bool {
        matches!(self, Self::Directly(Form::Fuse) | Self::Fusermount)
    }
}

/// A served revision. Take it down with [`Served::end`].
pub struct Served {
    session: Session,
    way: Way,
    places: Places,
    devices: usize,
}

impl Served {
    /// Serves `package` and shows it at the target.
    ///
    /// # Errors
    /// When the disk or the kernel refuses; nothing is left mounted then.
    pub fn start(
        package: &Package,
        reader: Arc<dyn SpaceReader>,
        places: Places,
        way: Way,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self> {
        let files: Box<dyn Files> = if way.shows_tree() {
            Box::new(Tree::open(Bytes::from(package.image()?))?)
        } else {
            write_image(package, &places.image)?;
            Box::new(Devices(package.device_bytes()))
        };
        let connection = match way {
            Way::Fusermount => fusermount::mount(&places.image, &places.target)?,
            Way::Directly(_) => {
                let readers = if way.shows_tree() { For::Readers } else { For::Image };
                fs::create_dir_all(&places.space).with_context(|| format!("make {}", places.space.display()))?;
                fuse::mount(&places.image, &places.space, readers)?
            }
        };
        let start = || -> Result<Session> {
            let threads = std::thread::available_parallelism().map_or(2, usize::from);
            let mut descriptors = Vec::new();
            for _ in 1..threads.clamp(2, SESSION_THREADS_MAX) {
                // Without a device of its own (not everybody may open one) a thread takes turns with the others.
                let clone = fuse::clone(&connection).or_else(|_| fuse::keep(&connection).map(Into::into));
                descriptors.push(clone?);
            }
            descriptors.push(connection);
            let buffers = BufferPool::new(READ_BYTES_MAX + 2 * BLOCK_BYTES as usize, IDLE_BUFFERS_MAX);
            Ok(Session::start(Start {
                descriptors,
                files,
                reader,
                buffers,
                runtime,
                initialised: false,
                notes: None,
                name: package.id().to_string(),
                metrics: Metrics::default(),
            })?)
        };
        let session = start().inspect_err(|_| {
            // The connection was closed on the way here, so this cannot hang.
            if let Err(error) = detach(way, places.connection(way)) {
                tracing::warn!(%error, "a mount is left");
            }
        })?;
        let served = Self {
            session,
            way,
            places,
            devices: package.device_bytes().len(),
        };
        match served.show() {
            Ok(()) => Ok(served),
            Err(error) => {
                served.end()?;
                Err(error)
            }
        }
    }

    /// Shows the revision at the target, after [`Served::hide`] once more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn show(&self) -> Result<()> {
        let Places { image, space, target } = &self.places;
        match self.way {
            // It is there already.
            Way::Fusermount => Ok(()),
            Way::Directly(form) => {
                let devices = self.devices;
                let revision = Revision { image, space, devices };
                let scratch = space.parent().unwrap_or(space);
                Ok(forms::mount(form, &revision, target, READ_AHEAD_KIB, scratch)?)
            }
        }
    }

    /// Waits until the session has ended by itself: somebody aborted the connection.
    pub async fn ended(&self) {
        while !self.session.has_ended() {
            tokio::time::sleep(ENDED_LOOK).await;
        }
    }

    /// Takes the revision from the target; `false` while somebody uses it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hide(&self) -> Result<bool> {
        let target = &self.places.target;
        match self.way {
            Way::Directly(_) => is_released(bind::unmount(target)),
            Way::Fusermount if !table::is_mounted(target)? => Ok(true),
            // It says that it is busy in words only.
            Way::Fusermount => Ok(fusermount::unmount(target).is_ok()),
        }
    }

    /// As [`Served::hide`], whoever uses it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach(&self) -> Result<()> {
        detach(self.way, &self.places.target)
    }

    /// Unmounts the connection, which ends the session; `false` while somebody still has a file of the revision open.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn release(&self) -> Result<bool> {
        match self.way {
            Way::Directly(_) => is_released(bind::unmount(&self.places.space)),
            Way::Fusermount => Ok(self.session.has_ended()),
        }
    }

    /// Ends the connection whatever still uses it: further reads of what the kernel has not cached fail.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn abort(&self) -> Result<()> {
        match self.way {
            Way::Directly(_) => {
                fuse::abort(fuse::connection_number(&self.places.space)?)?;
                Ok(bind::detach(&self.places.space)?)
            }
            // The kernel ends it with the last descriptor, which is ours.
            Way::Fusermount => Ok(()),
        }
    }

    /// Takes the connection down. The target must be free by now.
    ///
    /// # Errors
    /// When the kernel refuses to unmount.
    pub fn end(self) -> Result<()> {
        let Self {
            session, way, places, ..
        } = self;
        if let Way::Directly(_) = way {
            let started = Instant::now();
            // Read-ahead that nobody waits for any more holds the connection until it is answered.
            while let Err(error) = bind::unmount(&places.space) {
                if error.errno != Errno::BUSY || started.elapsed() > RELEASE_MAX {
                    return Err(error.into());
                }
                std::thread::sleep(RELEASE_PAUSE);
            }
            session.join();
        }
        match fs::remove_file(&places.image) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", places.image.display()))
            }
            _ => Ok(()),
        }
    }
}

fn is_released(unmounted: Result<(), MountError>) -> Result<bool> {
    match unmounted {
        Ok(()) => Ok(true),
        Err(error) if error.errno == Errno::BUSY => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn detach(way: Way, target: &Path) -> Result<()> {
    match way {
        Way::Directly(_) => Ok(bind::detach(target)?),
        Way::Fusermount => Ok(fusermount::detach(target)?),
    }
}

/// Takes down what a killed process left of the revision with this image, wherever it is. Nobody serves it, so its readers
/// have errors already.
///
/// # Errors
/// When the kernel refuses.
pub fn clear_leftovers(image: &Path, space: &Path) -> Result<Vec<PathBuf>> {
    let mut cleared = Vec::new();
    let way = if rustix::process::geteuid().is_root() {
        Way::Directly(Form::File)
    } else {
        Way::Fusermount
    };
    for mount in table::read()?.into_iter().rev() {
        if source_of(&mount) != image {
            continue;
        }
        detach(way, &mount.target)?;
        if mount.target != space {
            cleared.push(mount.target);
        }
    }
    Ok(cleared)
}

/// The file from which something is mounted: the image of a revision, whatever its form, for which the file may be a name
/// only.
pub fn source_of(mount: &table::Mount) -> PathBuf {
    let device = mount.source.file_name().unwrap_or_default();
    let backing = Path::new("/sys/block").join(device).join("loop/backing_file");
    match fs::read_to_string(backing) {
        Ok(path) => path.trim_end().into(),
        Err(_) => mount.source.clone(),
    }
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
