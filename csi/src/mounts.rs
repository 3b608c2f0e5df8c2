//! What the kernel mounts for us, behind three methods, so that everything above it runs without root too. Must not know
//! revisions, volumes or Kubernetes.

#[cfg(feature = "test-support")]
pub mod fake;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use penstock_mount::bind::Access;
use penstock_mount::forms::{self, Form, Revision};
use penstock_mount::fuse::For;
use penstock_mount::table::{self, Mount};
use penstock_mount::{MountError, bind, fuse};
use penstock_protocol::connection::Unanswered;
use rustix::io::Errno;

use crate::limits::{CONNECTION_DESCRIPTORS, READ_AHEAD_KIB};

/// What is mounted.
#[derive(Clone, Debug)]
pub enum Source {
    /// A new FUSE connection, for somebody else to serve.
    Space,
    /// A revision, over the connection that was mounted for it.
    Revision {
        /// Its image.
        image: PathBuf,
        /// Where its connection is mounted.
        space: PathBuf,
        /// How many devices the image has.
        devices: usize,
    },
    /// A folder that is there already.
    Folder {
        /// Which.
        path: PathBuf,
        /// Whether it can be written through.
        access: Access,
    },
}

/// The mounts of a node.
pub trait Mounts: Send + Sync + 'static {
    /// The form in which revisions are mounted.
    fn form(&self) -> Form;

    /// How a successor learns what was taken from the connections of new revisions and not answered.
    fn unanswered(&self) -> Unanswered;

    /// All mounts. Never asks a file system, so it cannot hang.
    ///
    /// # Errors
    /// When the kernel does not tell.
    fn table(&self) -> io::Result<Vec<Mount>>;

    /// Mounts `source` at the folder `target`. A [`Source::Space`] gives its connection and the connection's clones; a
    /// revision may wait for whoever serves its space.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is mounted then.
    fn mount(&self, source: &Source, target: &Path) -> Result<Vec<OwnedFd>, MountError>;

    /// Unmounts whatever is mounted at `target`; nothing there is fine. The FUSE connection `abort` is ended before, so
    /// that no unanswered read can make the unmount hang. Something at `target` must hold that connection: numbers are
    /// reused.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn unmount(&self, target: &Path, abort: Option<u32>) -> Result<(), MountError>;

    /// Whether a descriptor is that of a FUSE connection which has not ended.
    fn is_connected(&self, descriptor: BorrowedFd<'_>) -> bool;
}

/// The real thing.
#[derive(Clone, Debug)]
pub struct LinuxMounts {
    /// How revisions are mounted.
    pub form: Form,
    /// A folder on whose file system devices may be opened.
    pub scratch: PathBuf,
    /// What the kernel can do.
    pub unanswered: Unanswered,
}

impl Mounts for LinuxMounts {
    fn form(&self) -> Form {
        self.form
    }

    fn unanswered(&self) -> Unanswered {
        self.unanswered
    }

    fn table(&self) -> io::Result<Vec<Mount>> {
        table::read()
    }

    fn mount(&self, source: &Source, target: &Path) -> Result<Vec<OwnedFd>, MountError> {
        match source {
            Source::Space => connect(target, self.form),
            Source::Revision { image, space, devices } => {
                let revision = Revision {
                    image,
                    space,
                    devices: *devices,
                };
                forms::mount(self.form, &revision, target, READ_AHEAD_KIB, &self.scratch)?;
                Ok(Vec::new())
            }
            Source::Folder { path, access } => {
                bind::bind(path, target, *access)?;
                Ok(Vec::new())
            }
        }
    }

    fn unmount(&self, target: &Path, abort: Option<u32>) -> Result<(), MountError> {
        if let Some(connection) = abort {
            match fuse::abort(connection) {
                // It has ended by itself.
                Err(error) if error.errno == Errno::NOENT => {}
                ended => ended?,
            }
        }
        // What still uses it (a container that the kubelet lost) keeps its view; the pod's end must not wait for that.
        bind::unmount(target).or_else(|_| bind::detach(target))
    }

    fn is_connected(&self, descriptor: BorrowedFd<'_>) -> bool {
        fuse::is_connected(descriptor)
    }
}

fn connect(target: &Path, form: Form) -> Result<Vec<OwnedFd>, MountError> {
    let readers = match form {
        Form::File | Form::Loop => For::Image,
        Form::Fuse => For::Readers,
    };
    let connection = fuse::mount(Path::new("penstock"), target, readers)?;
    let clones = (1..CONNECTION_DESCRIPTORS)
        .map(|_| fuse::clone(&connection))
        .collect::<Result<Vec<_>, _>>();
    match clones {
        Ok(clones) => Ok(std::iter::once(connection).chain(clones).collect()),
        Err(error) => {
            drop(connection);
            let _ = bind::detach(target);
            Err(error)
        }
    }
}
