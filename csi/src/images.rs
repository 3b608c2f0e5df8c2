//! The image files of revisions on the node's disk. An image is written once, from a package whose digest was compared
//! with the Dataset's status and whose structure was checked, into a folder that only this container can write: the
//! kernel trusts what it mounts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::Package;
use penstock_revision::erofs::reader;

use crate::error::Error;

/// The folder of the images.
#[derive(Clone, Debug)]
pub struct Images {
    folder: PathBuf,
}

/// A checked image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFile {
    /// Where it is.
    pub path: PathBuf,
    /// Lengths of the files of the space.
    pub device_bytes: Vec<u64>,
}

impl Images {
    /// The images in `folder`, which is made when it is needed.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The image of a revision, when it is here and whole.
    ///
    /// # Errors
    /// When the disk does not answer.
    pub fn find(&self, revision: &RevisionId) -> Result<Option<ImageFile>, Error> {
        let path = self.path(revision);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", &path)(error)),
        };
        match check(bytes.into()) {
            Ok(device_bytes) => Ok(Some(ImageFile { path, device_bytes })),
            Err(damaged) => {
                tracing::warn!(%revision, %damaged, "an image on the disk is damaged; it is fetched anew");
                Ok(None)
            }
        }
    }

    /// Verifies a package and writes its image.
    ///
    /// # Errors
    /// [`Error::Package`] when it is not the package of this revision and space, or damaged; or the disk's.
    pub fn write(&self, revision: &RevisionId, space: &SpaceId, package: Bytes) -> Result<ImageFile, Error> {
        let refused = |why: String| Error::Package {
            wanted: revision.to_string(),
            why,
        };
        let package = Package::verified(package, revision).map_err(|error| refused(error.to_string()))?;
        if package.space() != *space {
            return Err(refused(format!("its space is {}, not {space}", package.space())));
        }
        let image = package.image().map_err(|error| refused(error.to_string()))?;
        let image = Bytes::from(image);
        let device_bytes = check(image.clone()).map_err(|error| refused(error.to_string()))?;
        let path = self.path(revision);
        write_whole(&path, &image)?;
        Ok(ImageFile { path, device_bytes })
    }

    /// The image of a revision, to be handed on.
    ///
    /// # Errors
    /// When it is not here.
    pub fn open(&self, revision: &RevisionId) -> Result<OwnedFd, Error> {
        let path = self.path(revision);
        let file = File::open(&path).map_err(Error::file("open", &path))?;
        Ok(file.into())
    }

    /// Removes the image of a revision; none is fine. A mount of it goes on: the kernel holds the file.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, revision: &RevisionId) -> Result<(), Error> {
        let folder = self.folder.join(revision.to_string());
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", &folder)(error)),
            _ => Ok(()),
        }
    }

    /// The revisions that have a folder here.
    ///
    /// # Errors
    /// When the disk does not answer.
    pub fn all(&self) -> Result<Vec<RevisionId>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::file("read", &self.folder)(error)),
        };
        Ok(entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect())
    }

    fn path(&self, revision: &RevisionId) -> PathBuf {
        self.folder.join(revision.to_string()).join("image")
    }
}

fn check(image: Bytes) -> Result<Vec<u64>, reader::Damaged> {
    let image = reader::Image::open(image)?;
    image.check()?;
    Ok(image.devices().to_vec())
}

/// A file is there whole or not at all, also after the power failed.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let draft = path.with_extension("draft");
    let write = || -> io::Result<()> {
        fs::create_dir_all(folder)?;
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&draft);
        Error::file("write", path)(error)
    })
}
