//! What the kernel is shown on a connection. Pure; derived from the revision alone.

mod devices;
mod tree;

use rustix::io::Errno;

pub use self::devices::Devices;
pub use self::tree::Tree;

/// Node of the root folder (FUSE_ROOT_ID).
pub const ROOT: u64 = 1;

/// What `stat` shows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its number between the kernel and us.
    pub node: u64,
    /// Its number in `stat`.
    pub inode: u64,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of links.
    pub links: u32,
    /// Length in bytes.
    pub bytes: u64,
    /// Time of the last change, nanoseconds since 1970.
    pub modified_unix_nanos: i64,
}

/// An entry of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// Its name; `.` and `..` are entries too.
    pub name: &'a str,
    /// The number in `stat` of what it names.
    pub inode: u64,
    /// The node of what it names.
    pub node: u64,
    /// Whether that is a folder.
    pub is_directory: bool,
    /// Where the entries behind it begin.
    pub next: u64,
}

/// Where the bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Address of the first in the space; it begins a block.
    pub address: u64,
    /// How many there are.
    pub bytes: u64,
}

/// Who keeps pages and entries in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// A file system above this one.
    Above,
    /// The kernel keeps those of this one, for as long as it likes.
    Here,
}

/// Totals for `statfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Blocks of 4 KiB.
    pub blocks: u64,
    /// Files and folders.
    pub inodes: u64,
}

/// Files and folders, which never change. Each failure is the errno that the kernel gets.
pub trait Files: Send + Sync + 'static {
    /// What `name` is in a folder; `None` when the folder has no such name.
    ///
    /// # Errors
    /// ENOTDIR, ENOENT for an unknown node, EIO for a damaged tree.
    fn lookup(&self, folder: u64, name: &[u8]) -> Result<Option<Attributes>, Errno>;

    /// What `stat` shows.
    ///
    /// # Errors
    /// ENOENT, EIO.
    fn attributes(&self, node: u64) -> Result<Attributes, Errno>;

    /// Where the bytes of a file are; `None` when it has none.
    ///
    /// # Errors
    /// ENOENT, EISDIR, EIO.
    fn place(&self, node: u64) -> Result<Option<Place>, Errno>;

    /// Gives entries of a folder to `take`, beginning at `position` (0, or the `next` of an entry), until it is `false` or
    /// there are no more.
    ///
    /// # Errors
    /// ENOTDIR, ENOENT, EIO.
    fn entries(
        &self,
        folder: u64,
        position: u64,
        take: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<(), Errno>;

    /// Who keeps what was read.
    fn caching(&self) -> Caching;

    /// Totals.
    fn totals(&self) -> Totals;
}
