//! A folder of this machine: a local disk, NFS, or whatever else is mounted there.
//!
//! A file's version is its inode and the time of its last change; with the length they prove a version as far as the file system tells
//! two changes apart. They are looked at before the first byte and after each piece, before that is handed out, so that a file that is
//! written to while it is read is never taken for what was listed. Links are followed to files within the folder; the kernel makes sure that none leads out
//! of it (`openat2(2)`, RESOLVE_BENEATH). Folders behind links are not walked: they may lead in circles.
//!
//! The pod that reads a volume for cache nodes uses it too, with the volume around the folder and words of its own.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use penstock_revision::{Listed, ObjectVersion, Version};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::limits::{FOLDER_PAGE_FILES, FOLDER_PIECE_BYTES};
use crate::{Body, Origin, OriginError, Pages};

/// A folder of this machine.
pub struct FolderOrigin(Arc<Folder>);

struct Folder {
    path: PathBuf,
    /// The way from there to the folder that is meant. No link leads out of where a step begins.
    below: Vec<String>,
    words: Words,
}

/// What a folder and who reads it are called in sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The folder.
    pub place: String,
    /// Who reads it, for example "this user".
    pub user: String,
    /// What to do when that one may not.
    pub remedy: String,
}

/// What a file is at one moment.
#[derive(Debug, PartialEq, Eq)]
struct State {
    bytes: u64,
    modified_unix_nanos: i64,
    inode: u64,
}

impl State {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Self {
            bytes: metadata.len(),
            modified_unix_nanos: metadata
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(metadata.mtime_nsec()),
            inode: metadata.ino(),
        })
    }

    fn version(&self) -> Version {
        Version::ETag(format!("{:x}-{:x}", self.inode, self.modified_unix_nanos))
    }
}

impl FolderOrigin {
    /// Looks at nothing yet.
    ///
    /// # Errors
    /// When the path is not absolute.
    pub fn new(path: String) -> Result<Self, OriginError> {
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(OriginError::Invalid(format!(
                "{}: the path of a folder begins with a slash",
                path.display()
            )));
        }
        let words = Words {
            place: path.display().to_string(),
            user: "this user".to_owned(),
            remedy: "give it the right to read files and enter folders".to_owned(),
        };
        let below = Vec::new();
        Ok(Self(Arc::new(Folder { path, below, words })))
    }

    /// The folder to which the steps `below` lead ("" is none) in what is mounted at `volume`. No link leads out of where a step begins.
    /// Looks at nothing yet.
    pub fn within(volume: PathBuf, below: Vec<String>, words: Words) -> Self {
        let path = volume;
        Self(Arc::new(Folder { path, below, words }))
    }
}

#[async_trait]
impl Origin for FolderOrigin {
    fn identity(&self) -> String {
        format!("file://{}/", self.0.words.place.trim_end_matches('/'))
    }

    fn place(&self) -> String {
        self.0.words.place.clone()
    }

    fn list(&self) -> Pages<'_> {
        let (pages, listed) = mpsc::channel(1);
        let folder = self.0.clone();
        // Ends when nobody takes pages any more.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = folder.walk(&pages) {
                let _ = pages.blocking_send(Err(error));
            }
        });
        ReceiverStream::new(listed).boxed()
    }

    async fn read(&self, object: &ObjectVersion, bytes: u64, range: Range<u64>) -> Result<Body, OriginError> {
        let (folder, object) = (self.0.clone(), object.clone());
        let opened = tokio::task::spawn_blocking(move || folder.opened(object, bytes));
        let reading = opened.await.map_err(|_| interrupted())??;
        let reading = Arc::new(reading);
        let pieces = futures::stream::try_unfold(range, move |left| {
            let reading = reading.clone();
            async move {
                if left.is_empty() {
                    return Ok(None);
                }
                let end = left.end.min(left.start + FOLDER_PIECE_BYTES);
                let piece = left.start..end;
                let read = tokio::task::spawn_blocking(move || reading.piece(piece));
                let piece = read.await.map_err(|_| interrupted())??;
                Ok(Some((piece, end..left.end)))
            }
        });
        Ok(pieces.boxed())
    }
}

/// A file that is being read in the version that was listed.
struct Reading {
    folder: Arc<Folder>,
    file: File,
    object: ObjectVersion,
    bytes: u64,
}

impl Reading {
    fn piece(&self, range: Range<u64>) -> Result<Bytes, OriginError> {
        // A piece is a few hundred KiB.
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = self.file.read_exact_at(&mut bytes, range.start);
        let key = &self.object.key;
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.folder.drifted(key),
            _ => self.folder.broken(key, &error),
        })?;
        self.prove()?;
        Ok(bytes.into())
    }

    fn prove(&self) -> Result<(), OriginError> {
        let key = &self.object.key;
        let state = State::of(&self.file).map_err(|error| self.folder.broken(key, &error))?;
        if state.bytes != self.bytes || state.version() != self.object.version {
            return Err(self.folder.drifted(key));
        }
        Ok(())
    }
}

impl Folder {
    /// Sends what is in it, page by page; ends early when nobody listens.
    fn walk(&self, pages: &mpsc::Sender<Result<Vec<Listed>, OriginError>>) -> Result<(), OriginError> {
        let root = self.root()?;
        let (mut page, mut left_out) = (Vec::new(), 0u64);
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let entries = match entries(&root, &folder) {
                Ok(entries) => entries,
                // Gone since it was seen, or a link by now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if !folder.is_empty() => continue,
                Err(error) => return Err(self.unlisted(&folder, &error.into())),
            };
            let mut is_empty = true;
            for entry in entries {
                let entry = entry.map_err(|error| self.unlisted(&folder, &error.into()))?;
                if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    continue;
                }
                is_empty = false;
                let Ok(name) = entry.file_name().to_str() else {
                    left_out += 1;
                    continue;
                };
                let key = format!("{folder}{name}");
                let kind = match entry.file_type() {
                    // Not every file system says it.
                    FileType::Unknown => match statat(&root, &key, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(state) => FileType::from_raw_mode(state.st_mode),
                        Err(Errno::NOENT) => continue,
                        Err(error) => return Err(self.unlisted(&key, &error.into())),
                    },
                    kind => kind,
                };
                if kind.is_dir() {
                    folders.push(key + "/");
                } else if kind.is_file() || kind.is_symlink() {
                    match self.open(&root, &key).and_then(|file| State::of(&file)) {
                        Ok(state) => page.push(Listed {
                            bytes: state.bytes,
                            modified_unix_nanos: state.modified_unix_nanos,
                            version: state.version(),
                            key,
                        }),
                        // Gone since it was seen, or a link to nothing, to a folder or out of here.
                        Err(_) if kind.is_symlink() => left_out += 1,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(self.unlisted(&key, &error)),
                    }
                } else {
                    left_out += 1;
                }
                if page.len() == FOLDER_PAGE_FILES && pages.blocking_send(Ok(std::mem::take(&mut page))).is_err() {
                    return Ok(());
                }
            }
            if is_empty && !folder.is_empty() {
                page.push(Listed {
                    key: folder,
                    bytes: 0,
                    modified_unix_nanos: 0,
                    version: Version::None,
                });
            }
        }
        if left_out > 0 {
            tracing::warn!(
                path = self.words.place,
                left_out,
                "left out: links that lead to no file in the folder, names that are no text, pipes, sockets and devices"
            );
        }
        let _ = pages.blocking_send(Ok(page));
        Ok(())
    }

    fn opened(self: Arc<Self>, object: ObjectVersion, bytes: u64) -> Result<Reading, OriginError> {
        let file = self.open(&self.root()?, &object.key);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.drifted(&object.key),
            _ => self.broken(&object.key, &error),
        })?;
        let reading = Reading {
            folder: self,
            file,
            object,
            bytes,
        };
        reading.prove()?;
        Ok(reading)
    }

    fn root(&self) -> Result<File, OriginError> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let steps = self.below.iter().filter(|step| !step.is_empty());
        let root = openat(CWD, &self.path, flags, Mode::empty()).and_then(|root| {
            steps.into_iter().try_fold(root, |root, step| {
                openat2(&root, Path::new(step), flags, Mode::empty(), WITHIN)
            })
        });
        Ok(root.map_err(|error| self.unlisted("", &error.into()))?.into())
    }

    fn open(&self, root: &File, key: &str) -> io::Result<File> {
        // Opening must not wait for whoever writes to a pipe.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(openat2(root, Path::new(key), flags, Mode::empty(), WITHIN)?.into())
    }

    fn unlisted(&self, below: &str, error: &io::Error) -> OriginError {
        let Words { place, user, remedy } = &self.words;
        let path = match below {
            "" => place.clone(),
            below => format!("{}/{below}", place.trim_end_matches('/')),
        };
        match error.kind() {
            io::ErrorKind::NotFound if below.is_empty() => OriginError::NotFound(format!(
                "the folder {path} does not exist; check the path of the source"
            )),
            io::ErrorKind::NotADirectory => {
                OriginError::Invalid(format!("{path} is no folder; name the folder that it lies in"))
            }
            io::ErrorKind::PermissionDenied => {
                OriginError::Denied(format!("{path} may not be read by {user}; {remedy}"))
            }
            io::ErrorKind::CrossesDevices => OriginError::Invalid(format!(
                "{path} is a link that leads out of its volume; name the folder itself"
            )),
            _ => OriginError::Unreachable(format!("{path} cannot be read ({error}); check its file system")),
        }
    }

    fn broken(&self, key: &str, error: &io::Error) -> OriginError {
        if error.kind() == io::ErrorKind::PermissionDenied {
            return self.unlisted(key, error);
        }
        OriginError::Unreachable(format!(
            "{key} in {} cannot be read ({error}); check its file system",
            self.words.place
        ))
    }

    fn drifted(&self, key: &str) -> OriginError {
        crate::transport::drifted(&self.words.place, key)
    }
}

/// How a name is looked up so that no link leads out of where the look-up began.
const WITHIN: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// What is in a folder, if no part of its path is a link.
fn entries(root: &File, folder: &str) -> Result<Dir, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let path = if folder.is_empty() { "." } else { folder };
    let resolve = WITHIN | ResolveFlags::NO_SYMLINKS;
    Dir::new(openat2(root, path, flags, Mode::empty(), resolve)?)
}

fn interrupted() -> OriginError {
    OriginError::Other("reading a folder was interrupted; it is tried again".to_owned())
}
