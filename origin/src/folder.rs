//! A folder of this machine: a local disk, NFS, or whatever else is mounted there.
//!
//! A file's version is its inode and the time of its last change; with the length they prove a version as far as the file system tells
//! two changes apart. They are looked at before the first byte and after each piece, before that is handed out, so that a file that is
//! written to while it is read is never taken for what was listed. Links are followed to files within the folder; the kernel makes sure that none leads out
//! of it (`openat2(2)`, RESOLVE_BENEATH). Folders behind links are not walked: they may lead in circles.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use penstock_protocol::control::cache_node as wire;
use penstock_revision::{Listed, ObjectVersion, Version};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::limits::{FOLDER_PAGE_FILES, FOLDER_PIECE_BYTES};
use crate::{Body, Origin, OriginError, Pages};

/// A folder of this machine.
pub struct FolderOrigin(Arc<Folder>);

struct Folder {
    path: PathBuf,
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
    pub fn new(wire::Folder { path }: wire::Folder) -> Result<Self, OriginError> {
        let path = PathBuf::from(path);
        if !path.is_absolute() {
            return Err(OriginError::Invalid(format!(
                "{}: the path of a folder begins with a slash",
                path.display()
            )));
        }
        Ok(Self(Arc::new(Folder { path })))
    }
}

#[async_trait]
impl Origin for FolderOrigin {
    fn identity(&self) -> String {
        format!("file://{}/", self.0.path.display().to_string().trim_end_matches('/'))
    }

    fn place(&self) -> String {
        self.0.path.display().to_string()
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
            let entries = match std::fs::read_dir(self.path.join(&folder)) {
                Ok(entries) => entries,
                // Gone since it was seen.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_empty() => continue,
                Err(error) => return Err(self.unlisted(&folder, &error)),
            };
            let mut is_empty = true;
            for entry in entries {
                let entry = entry.map_err(|error| self.unlisted(&folder, &error))?;
                is_empty = false;
                let Ok(name) = entry.file_name().into_string() else {
                    left_out += 1;
                    continue;
                };
                let key = format!("{folder}{name}");
                let kind = entry.file_type().map_err(|error| self.unlisted(&folder, &error))?;
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
                path = %self.path.display(), left_out,
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
        let root = openat(CWD, &self.path, flags, Mode::empty());
        Ok(root.map_err(|error| self.unlisted("", &error.into()))?.into())
    }

    fn open(&self, root: &File, key: &str) -> io::Result<File> {
        // Opening must not wait for whoever writes to a pipe.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(root, Path::new(key), flags, Mode::empty(), resolve)?.into())
    }

    fn unlisted(&self, below: &str, error: &io::Error) -> OriginError {
        let path = match below {
            "" => self.path.clone(),
            below => self.path.join(below),
        };
        let path = path.display();
        match error.kind() {
            io::ErrorKind::NotFound if below.is_empty() => OriginError::NotFound(format!(
                "the folder {path} does not exist; check the path of the source"
            )),
            io::ErrorKind::NotADirectory => {
                OriginError::Invalid(format!("{path} is no folder; name the folder that it lies in"))
            }
            io::ErrorKind::PermissionDenied => OriginError::Denied(format!(
                "{path} may not be read by this user; give it the right to read files and enter folders"
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
            self.path.display()
        ))
    }

    fn drifted(&self, key: &str) -> OriginError {
        crate::transport::drifted(&self.path.display().to_string(), key)
    }
}

fn interrupted() -> OriginError {
    OriginError::Other("reading a folder was interrupted; it is tried again".to_owned())
}
