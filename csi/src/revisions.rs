//! The revisions that are mounted on this node: one mount each, bound into every pod that uses it, so that all share one page
//! cache.
//!
//! ```text
//! image on disk? ─no─► package from the mounter, verified ─► image
//!      │
//! FUSE mount ─► mounter serves it ─► mount of the revision ─► kept ─► bind to the target        (first pod)
//!                                                                     bind to the target        (every further pod)
//! last bind gone ─► connection aborted ─► revision unmounted ─► FUSE unmounted ─► image removed
//! ```
//!
//! The mount of the revision is EROFS over the FUSE mount's files, or, where the FUSE mount shows the tree, a bind of it.
//!
//! Who uses what is read from the mount table each time, never remembered: after a restart of this container it is still
//! true. Only the descriptors are in memory. A mount whose descriptors everybody lost goes on for its pods as far as the
//! kernel has the data, but is not given to new pods: they get a mount of their own.
//!
//! Teardown aborts the connection first. Nobody uses it by then, and a read that nobody answers would make the unmount
//! hang in the kernel for ever.
//!
//! *Lock order*: the lock of a revision is held while it is mounted, bound or unmounted; within it the keeper's.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_mount::MountError;
use penstock_mount::bind::Access;
use penstock_mount::forms::Form;
use penstock_mount::table::Mount;
use penstock_mount::{erofs, fuse, ledger};
use penstock_protocol::connection::{Connection, Shows, Unanswered};
use penstock_protocol::ids::{ConnectionId, RevisionId, SpaceId};
use rustix::io::Errno;

use crate::error::Error;
use crate::folders::Folders;
use crate::images::{ImageFile, Images};
use crate::keeper::{Keeper, Server};
use crate::limits::IMAGE_MOUNT_DEADLINE;
use crate::mounts::{Mounts, Source};

/// What a Dataset's status says about the revision to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its id.
    pub revision: RevisionId,
    /// Its space.
    pub space: SpaceId,
    /// Cache nodes to ask first.
    pub seeds: Vec<String>,
    /// How long a read may wait before it fails with EIO.
    pub read_timeout: Duration,
}

/// The mounted revisions.
pub struct Revisions {
    mounts: Arc<dyn Mounts>,
    keeper: Arc<Keeper>,
    images: Images,
    folders: Folders,
    locks: Mutex<HashMap<RevisionId, Arc<Mutex<()>>>>,
}

/// A mounted revision, from the mount table.
struct Mounted {
    revision: RevisionId,
    connection: u32,
    path: PathBuf,
    device: (u32, u32),
}

impl Revisions {
    /// The revisions below `folders`.
    pub fn new(mounts: Arc<dyn Mounts>, keeper: Arc<Keeper>, folders: Folders) -> Self {
        Self {
            mounts,
            keeper,
            images: Images::new(folders.images()),
            folders,
            locks: Mutex::default(),
        }
    }

    /// Shows a revision at the folder `target`, read-only. Blocks.
    ///
    /// # Errors
    /// Nothing new is mounted then.
    pub fn publish(&self, wanted: &Wanted, target: &Path) -> Result<(), Error> {
        let lock = self.lock_of(&wanted.revision);
        let _held = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = self.mounted(&self.table()?);
        let usable = ours
            .into_iter()
            .find(|mounted| mounted.revision == wanted.revision && self.keeper.keeps(mounted.connection));
        let mounted = match usable {
            Some(mounted) => {
                self.keeper.check_served(mounted.connection)?;
                mounted
            }
            None => self
                .mount(wanted)
                .inspect_err(|_| self.remove_image_if_unused(&wanted.revision))?,
        };
        let source = Source::Folder {
            path: mounted.path.clone(),
            access: Access::ReadOnly,
        };
        if let Err(refused) = self.mounts.mount(&source, target) {
            self.end_if_unused(&mounted)?;
            return Err(refused.into());
        }
        Ok(())
    }

    /// Unmounts `target`, and every revision that has no user any more: that of the target, and those that an earlier call
    /// failed to end. Blocks.
    ///
    /// # Errors
    /// When the kernel refuses; a repeated call goes on where this one stopped.
    pub fn unpublish(&self, target: &Path) -> Result<(), Error> {
        let table = self.table()?;
        let shown = table.iter().rev().find(|mount| mount.target == target);
        let shown = shown.map(|mount| mount.device);
        self.mounts.unmount(target, None)?;
        let mut ended = Ok(());
        for mounted in self.mounted(&self.table()?) {
            let lock = self.lock_of(&mounted.revision);
            let held = if shown == Some(mounted.device) {
                // Whoever holds it may have looked while this target was still there.
                Some(lock.lock().unwrap_or_else(PoisonError::into_inner))
            } else {
                // Of what others failed to end: nobody waits for a revision that is not theirs.
                lock.try_lock().ok()
            };
            if held.is_some() {
                ended = ended.and(self.end_if_unused(&mounted));
            }
        }
        ended
    }

    /// The descriptors of a connection as they are to be kept, from those that somebody had; `None` when no revision is mounted
    /// over it. When the kernel does not tell they are kept: to drop them would end it. An image is taken from the disk, and a
    /// ledger has the length and none of the locks of what was handed back: the mounter is not trusted with what the next one
    /// gets.
    pub fn adopted(
        mounts: &dyn Mounts,
        folders: &Folders,
        connection: &Connection,
        mut descriptors: Vec<OwnedFd>,
    ) -> Option<Vec<OwnedFd>> {
        if !Self::is_mounted(mounts, folders, connection, &descriptors) {
            return None;
        }
        let queues = connection.held(&descriptors).queues.len();
        let mut others = descriptors.split_off(queues).into_iter();
        if connection.shows == Shows::Tree {
            let handed_back = others.next();
            let image = Images::new(folders.images()).open(&connection.revision).map_or_else(
                |error| {
                    tracing::error!(%error, "the image that was handed back is kept");
                    handed_back
                },
                Some,
            );
            descriptors.extend(image);
        }
        if connection.unanswered == Unanswered::InLedger {
            descriptors.push(Self::adopted_ledger(others.next()?)?);
        }
        Some(descriptors)
    }

    fn adopted_ledger(handed_back: OwnedFd) -> Option<OwnedFd> {
        match ledger::reopen(handed_back.as_fd()) {
            Ok(ledger) => Some(ledger),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(%error, "a ledger that was handed back is replaced by an empty one");
                ledger::create().ok()
            }
            Err(error) => {
                tracing::error!(%error, "the ledger that was handed back is kept");
                Some(handed_back)
            }
        }
    }

    fn is_mounted(mounts: &dyn Mounts, folders: &Folders, connection: &Connection, descriptors: &[OwnedFd]) -> bool {
        let path = folders.revision(&connection.revision, connection.number);
        let is_there = |mount: &Mount| mount.target == path && Self::shows_revision(mount);
        let mounted = mounts.table().map(|table| table.iter().any(is_there));
        let connected = |descriptor: &OwnedFd| mounts.is_connected(descriptor.as_fd());
        let queues = connection.held(descriptors).queues;
        mounted.unwrap_or(true) && !queues.is_empty() && queues.iter().all(connected)
    }

    /// The uids of the pods that show a revision over one of the connections that are `concerned`, by their numbers. None
    /// when the kernel does not tell.
    pub fn pods_of(&self, concerned: impl Fn(u32) -> bool) -> BTreeSet<String> {
        let Ok(table) = self.table() else {
            return BTreeSet::new();
        };
        let mounted = self.mounted(&table);
        let devices: Vec<_> = mounted
            .iter()
            .filter(|mounted| concerned(mounted.connection))
            .map(|mounted| mounted.device)
            .collect();
        let pods = self.folders.pods();
        let shown = table.iter().filter(|mount| devices.contains(&mount.device));
        let uids = shown.filter_map(|mount| mount.target.strip_prefix(&pods).ok()?.iter().next()?.to_str());
        uids.map(str::to_owned).collect()
    }

    /// Whether a mount shows a revision: at a target of a pod, or where it is bound from.
    pub fn shows_revision(mount: &Mount) -> bool {
        mount.file_system == erofs::TYPE || mount.file_system == fuse::TYPE
    }

    /// Whether somebody would answer if the file system of a mount that shows a revision were asked.
    ///
    /// # Errors
    /// When nobody would, and the question would wait.
    pub fn check_answers(&self, mount: &Mount) -> Result<(), Error> {
        match Form::of(mount) {
            Form::File | Form::Loop => Ok(()),
            Form::Fuse => Ok(self.keeper.check_served(mount.device.1)?),
        }
    }

    /// Removes what a predecessor left: mounts that no pod uses, folders without a mount, images of no mounted revision.
    /// Call it before anything is published.
    ///
    /// # Errors
    /// When the mount table or the disk cannot be read; what one mount refuses is only logged.
    pub fn clear(&self) -> Result<(), Error> {
        for mounted in self.mounted(&self.table()?) {
            let revision = mounted.revision;
            match self.end_if_unused(&mounted) {
                Ok(()) => tracing::info!(%revision, connection = mounted.connection, "found a mounted revision"),
                Err(error) => tracing::error!(%revision, %error, "a mount of a predecessor is left"),
            }
        }
        let ours = self.mounted(&self.table()?);
        for revision in self.images.all()? {
            if !ours.iter().any(|mounted| mounted.revision == revision) {
                self.images.remove(&revision)?;
            }
        }
        // Fails, as it should, for the folders on which something is mounted.
        for folder in [self.folders.revisions(), self.folders.spaces()]
            .iter()
            .flat_map(|parent| folders_in(parent))
        {
            folders_in(&folder)
                .iter()
                .for_each(|mount_point| drop(fs::remove_dir(mount_point)));
            drop(fs::remove_dir(&folder));
        }
        Ok(())
    }

    /// Each mounted revision with the number of its connection and its form; none when the kernel does not tell.
    pub fn shown(&self) -> Vec<(RevisionId, u32, Form)> {
        let table = self.table().unwrap_or_default();
        let ours = table.iter().filter(|mount| Self::shows_revision(mount));
        let shown = ours.filter_map(|mount| {
            let (revision, number) = self.folders.revision_of(&mount.target)?;
            Some((revision, number, Form::of(mount)))
        });
        shown.collect()
    }

    fn mount(&self, wanted: &Wanted) -> Result<Mounted, Error> {
        let Wanted {
            revision,
            space,
            seeds,
            read_timeout,
        } = wanted;
        let image = match self.images.find(revision)? {
            Some(image) => image,
            None => {
                let package = self.keeper.fetch(revision, seeds)?;
                self.images.write(revision, space, package)?
            }
        };
        let space_folder = new_folder(&self.folders.spaces().join(revision.to_string()))?;
        let mut undo = Undo {
            mounts: &*self.mounts,
            keeper: &self.keeper,
            connection: None,
            served: None,
            space: Some(space_folder.clone()),
            image: None,
        };
        let mut descriptors = self.mounts.mount(&Source::Space, &space_folder)?;
        let number = self.connection_at(&space_folder)?;
        undo.connection = Some(number);

        let connection = Connection {
            id: ConnectionId(rand::random()),
            number,
            revision: *revision,
            space: *space,
            device_bytes: image.device_bytes.clone(),
            seeds: seeds.clone(),
            read_timeout: *read_timeout,
            shows: match self.mounts.form() {
                Form::File | Form::Loop => Shows::Devices,
                Form::Fuse => Shows::Tree,
            },
            unanswered: self.mounts.unanswered(),
        };
        if connection.shows == Shows::Tree {
            descriptors.push(self.images.open(revision)?);
        }
        if connection.unanswered == Unanswered::InLedger {
            let ledger = ledger::create().map_err(|error| Error::Internal(format!("make a ledger: {error}")))?;
            descriptors.push(ledger);
        }
        let server = self.keeper.serve(&connection, &descriptors)?;
        undo.served = Some((connection.id, server));

        let path = self.folders.revision(revision, number);
        fs::create_dir_all(&path).map_err(Error::file("make the folder", &path))?;
        undo.image = Some(path.clone());
        self.mount_image(&image, &space_folder, &path, &mut undo)?;
        let table = self.table()?;
        let device = table
            .iter()
            .rev()
            .find(|mount| mount.target == path)
            .map(|mount| mount.device);
        let device = device.ok_or_else(|| Error::Internal(format!("{} is not mounted after all", path.display())))?;
        self.keeper.keep(connection, descriptors, server);
        undo.disarm();
        tracing::info!(%revision, number, "mounted a revision");
        Ok(Mounted {
            revision: *revision,
            connection: number,
            path,
            device,
        })
    }

    /// The kernel asks whoever serves the space for its files while it mounts the image; if nobody answers in time, the
    /// connection is aborted, which ends the wait.
    fn mount_image(&self, image: &ImageFile, space: &Path, target: &Path, undo: &mut Undo<'_>) -> Result<(), Error> {
        let source = Source::Revision {
            image: image.path.clone(),
            space: space.to_owned(),
            devices: image.device_bytes.len(),
        };
        let (sender, receiver) = sync_channel(1);
        let (mounts, target) = (self.mounts.clone(), target.to_owned());
        let mount = move || drop(sender.try_send(mounts.mount(&source, &target)));
        let thread = std::thread::Builder::new().name("mount".into()).spawn(mount);
        thread.map_err(|error| Error::Internal(format!("start a thread: {error}")))?;
        match receiver.recv_timeout(IMAGE_MOUNT_DEADLINE) {
            Ok(mounted) => {
                mounted?;
                Ok(())
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error::Internal("the thread that mounts ended".to_owned())),
            Err(RecvTimeoutError::Timeout) => {
                undo.end_space();
                // Whatever became of it, it is over now, and unmounted on the way out.
                let _ = receiver.recv_timeout(IMAGE_MOUNT_DEADLINE);
                Err(Error::NotReady(format!(
                    "the mounter of this node did not answer the kernel within {} s; it will be tried again",
                    IMAGE_MOUNT_DEADLINE.as_secs()
                )))
            }
        }
    }

    fn end_if_unused(&self, mounted: &Mounted) -> Result<(), Error> {
        let Mounted {
            revision,
            connection,
            path,
            device,
        } = mounted;
        let table = self.table()?;
        let spaces = self.folders.spaces();
        let is_it = |mount: &Mount| mount.target == *path && mount.device == *device;
        let used =
            |mount: &Mount| mount.device == *device && mount.target != *path && !mount.target.starts_with(&spaces);
        // Who ended it meanwhile ended all of it, and its numbers may be those of another by now.
        if !table.iter().any(is_it) || table.iter().any(used) {
            return Ok(());
        }
        let kept = self.keeper.id_of(*connection);
        self.mounts.unmount(path, Some(*connection))?;
        let is_space = |mount: &&Mount| {
            mount.device.1 == *connection && mount.file_system == fuse::TYPE && mount.target.starts_with(&spaces)
        };
        if let Some(space) = table.iter().find(is_space) {
            self.mounts.unmount(&space.target, None)?;
            remove_folder(&space.target);
        }
        if let Some(id) = kept {
            self.keeper.forget(id);
        }
        remove_folder(path);
        let others = self.mounted(&self.table()?);
        if !others.iter().any(|other| other.revision == *revision) {
            self.images.remove(revision)?;
        }
        tracing::info!(%revision, connection, "unmounted a revision that nobody uses any more");
        Ok(())
    }

    /// A revision that cannot be mounted must not leave its image: there may be a new one every minute.
    fn remove_image_if_unused(&self, revision: &RevisionId) {
        let removed = self.table().and_then(|table| {
            let is_used = self.mounted(&table).iter().any(|mounted| mounted.revision == *revision);
            if is_used { Ok(()) } else { self.images.remove(revision) }
        });
        if let Err(error) = removed {
            tracing::error!(%revision, %error, "an image is left");
        }
    }

    fn connection_at(&self, space: &Path) -> Result<u32, Error> {
        let table = self.table()?;
        let mount = table.iter().rev().find(|mount| mount.target == space);
        let mount = mount.ok_or_else(|| MountError {
            operation: "find the FUSE connection at",
            path: space.to_owned(),
            errno: Errno::NOENT,
        })?;
        Ok(mount.device.1)
    }

    fn mounted(&self, table: &[Mount]) -> Vec<Mounted> {
        let mounted = table
            .iter()
            .filter(|mount| Self::shows_revision(mount))
            .filter_map(|mount| {
                let (revision, connection) = self.folders.revision_of(&mount.target)?;
                Some(Mounted {
                    revision,
                    connection,
                    path: mount.target.clone(),
                    device: mount.device,
                })
            });
        mounted.collect()
    }

    fn table(&self) -> Result<Vec<Mount>, Error> {
        self.mounts
            .table()
            .map_err(Error::file("read", Path::new("/proc/self/mountinfo")))
    }

    fn lock_of(&self, revision: &RevisionId) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds are made anew when they are needed.
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(*revision).or_default().clone()
    }
}

/// Undoes a mount that did not come to its end.
struct Undo<'a> {
    mounts: &'a dyn Mounts,
    keeper: &'a Keeper,
    connection: Option<u32>,
    served: Option<(ConnectionId, Server)>,
    space: Option<PathBuf>,
    image: Option<PathBuf>,
}

impl Undo<'_> {
    fn disarm(mut self) {
        (self.space, self.image, self.served) = (None, None, None);
    }

    /// Only while the FUSE mount is there the number means our connection, so both end at once, and only once.
    fn end_space(&mut self) {
        if let Some(space) = self.space.take() {
            self.end(&space, self.connection);
        }
    }

    fn end(&self, path: &Path, abort: Option<u32>) {
        if let Err(error) = self.mounts.unmount(path, abort) {
            tracing::error!(%error, "a mount is left");
        }
        remove_folder(path);
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        self.end_space();
        if let Some(image) = self.image.take() {
            self.end(&image, None);
        }
        if let Some((id, server)) = self.served.take() {
            self.keeper.abandon(id, server);
        }
    }
}

/// A folder that was not there before, below `parent`.
fn new_folder(parent: &Path) -> Result<PathBuf, Error> {
    fs::create_dir_all(parent).map_err(Error::file("make the folder", parent))?;
    for number in 0..u32::MAX {
        let folder = parent.join(number.to_string());
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::file("make the folder", &folder)(error)),
        }
    }
    Err(Error::Internal(format!("{} is full", parent.display())))
}

/// Removes a mount point, and its parent when it was the last in it.
fn remove_folder(path: &Path) {
    if let Err(error) = fs::remove_dir(path) {
        tracing::warn!(path = %path.display(), %error, "a folder is left");
    }
    // Other mounts of the revision may be in it.
    path.parent().map(fs::remove_dir);
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}
