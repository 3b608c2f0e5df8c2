//! The image files of revisions on the node's disk. An image is written once, from a package whose digest was compared
//! with the Dataset's status and whose structure was checked, into a folder that only this container can write: the
//! kernel trusts what it mounts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use penstock_mount::mapped;
use penstock_protocol::ids::{RevisionId, SpaceId};
use penstock_revision::Package;
use penstock_revision::erofs::reader;

use crate::error::Error;

/// Bytes of an image that are read or written at once.
const PIECE_BYTES: usize = 1 << 20;

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
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", &path)(error)),
        };
        match check(&file).map_err(Error::file("read", &path))? {
            Ok(device_bytes) => Ok(Some(ImageFile { path, device_bytes })),
            Err(damaged) => {
                tracing::warn!(%revision, %damaged, "an image on the disk is damaged; it is fetched anew");
                Ok(None)
            }
        }
    }

    /// Verifies a package and writes its image, of both of which little is in memory at a time.
    ///
    /// # Errors
    /// [`Error::Package`] when it is not the package of this revision and space, or damaged; or the disk's.
    pub fn write(&self, revision: &RevisionId, space: &SpaceId, package: File) -> Result<ImageFile, Error> {
        let refused = |why: String| Error::Package {
            wanted: revision.to_string(),
            why,
        };
        let package = Package::in_file(package, revision).map_err(|error| refused(error.to_string()))?;
        if package.space() != *space {
            return Err(refused(format!("its space is {}, not {space}", package.space())));
        }
        let path = self.path(revision);
        let mut draft = Draft::begin(&path).map_err(Error::file("write", &path))?;
        package.image_to(&mut draft).map_err(|error| match draft.fault.take() {
            Some(fault) => Error::file("write", &path)(fault),
            None => refused(error.to_string()),
        })?;
        let checked = draft.file.flush().and_then(|()| check(draft.file.get_ref()));
        let device_bytes = checked
            .map_err(Error::file("write", &path))?
            .map_err(|damaged| refused(damaged.to_string()))?;
        draft.finish().map_err(Error::file("write", &path))?;
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

/// Walks through all of it, a page at a time; it needs to be in memory no longer than the kernel likes.
fn check(file: &File) -> io::Result<Result<Vec<u64>, reader::Damaged>> {
    if file.metadata()?.len() == 0 {
        // Which cannot be mapped.
        return Ok(Err(reader::Damaged("it is empty".to_owned())));
    }
    // A disk that fails says so here; under a mapping it would end the process.
    let mut from_front = file;
    from_front.rewind()?;
    io::copy(&mut BufReader::with_capacity(PIECE_BYTES, from_front), &mut io::sink())?;
    let bytes = Bytes::from_owner(mapped::read_only(file.as_fd())?);
    let check = || {
        let image = reader::Image::open(bytes)?;
        image.check()?;
        Ok(image.devices().to_vec())
    };
    Ok(check())
}

/// An image that is being written. It gets its name when it is whole, also after the power failed; else nothing is left of it.
struct Draft {
    file: BufWriter<File>,
    draft: PathBuf,
    path: PathBuf,
    /// What the disk refused.
    fault: Option<io::Error>,
}

impl Draft {
    fn begin(path: &Path) -> io::Result<Self> {
        let draft = path.with_extension("draft");
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        Ok(Self {
            file: BufWriter::with_capacity(PIECE_BYTES, file),
            draft,
            path: path.to_owned(),
            fault: None,
        })
    }

    fn finish(self) -> io::Result<()> {
        self.file.get_ref().sync_all()?;
        fs::rename(&self.draft, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file
            .write(bytes)
            .inspect_err(|error| self.fault = Some(error.kind().into()))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename there is none.
        let _ = fs::remove_file(&self.draft);
    }
}
