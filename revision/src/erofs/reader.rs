//! Reads the images that the writer writes: for `ls`, for a FUSE file system where the kernel has no EROFS, and to check
//! an image before the kernel sees it. Never panics on damaged bytes.

use bytes::Bytes;
use penstock_protocol::geometry::DEVICE_BYTES;

use super::cursor::FolderCursor;
use super::layout::*;
use super::pages::Pages;
use crate::contents::Contents;
use crate::limits::OBJECT_BYTES_MAX;

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the EROFS image is damaged: {0}")]
pub struct Damaged(pub String);

/// A readable image.
#[derive(Clone, Debug)]
pub struct Image {
    pages: Pages,
    devices: Vec<u64>,
    root: NodeId,
    inodes: u64,
}

/// Where an inode lies, in slots of 32 bytes; `stat` shows it as the inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// What `stat` shows, and where the bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Type and permission bits as in `st_mode`.
    pub mode: u16,
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
    data: Data,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Data {
    Empty,
    /// Address of the file's first byte in the space.
    Space(u64),
    /// Whole blocks from this block on; offset of the inline tail, if there is one.
    Directory {
        block: u32,
        tail: Option<u64>,
    },
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// The inode.
    pub node: NodeId,
    /// Whether it is a folder.
    pub is_directory: bool,
}

/// An entry as it lies in a block of its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// Name; `.` and `..` are entries too.
    pub name: &'a str,
    /// The inode.
    pub node: NodeId,
    /// Whether it is a folder.
    pub is_directory: bool,
}

/// A block of a folder.
#[derive(Clone, Debug)]
pub struct FolderBlock {
    bytes: Bytes,
    count: usize,
}

/// What [`Image::check`] counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files.
    pub files: u64,
    /// Folders, the root included.
    pub directories: u64,
    /// Sum of the lengths of the files.
    pub bytes: u64,
}

impl Inode {
    /// Whether it is a folder.
    pub fn is_directory(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }

    /// Address in the space of a file's first byte; `None` for an empty file and for folders.
    pub fn address(&self) -> Option<u64> {
        match self.data {
            Data::Space(address) => Some(address),
            Data::Empty | Data::Directory { .. } => None,
        }
    }
}

impl Image {
    /// The image in `bytes`.
    ///
    /// # Errors
    /// When the superblock is not one of ours.
    pub fn open(bytes: Bytes) -> Result<Self, Damaged> {
        Self::of(Pages::Memory(bytes))
    }

    /// The image in memory or in a file.
    pub(crate) fn in_contents(contents: Contents) -> Result<Self, Damaged> {
        Self::of(contents.into())
    }

    fn of(pages: Pages) -> Result<Self, Damaged> {
        let damaged = |what: &str| Damaged(what.to_owned());
        let bytes = pages.bytes();
        if bytes < BLOCK as u64 || !bytes.is_multiple_of(BLOCK as u64) {
            return Err(damaged("its length is no whole number of blocks"));
        }
        let first = pages.slice(0, BLOCK)?;
        let mut found: [u8; SUPER_BYTES] = std::array::from_fn(|i| first[SUPER_OFFSET + i]);
        if u32_at(&found, 0) != MAGIC {
            return Err(damaged("no superblock of ours"));
        }
        if u32_at(&found, 4) != super_checksum(&first) {
            return Err(damaged("the checksum of the superblock does not match"));
        }
        let fields = Super {
            root: u16_at(&found, 14),
            inodes: u64_at(&found, 16),
            blocks: u32_at(&found, 36),
            devices: u16_at(&found, 86),
            uuid: std::array::from_fn(|i| found[48 + i]),
        };
        found[4..8].fill(0);
        // Any other field would make the kernel see something that is not walked here.
        if found != fields.encode() {
            return Err(damaged("it uses features that we do not write"));
        }
        if u64::from(fields.blocks) * BLOCK as u64 != bytes {
            return Err(damaged("its length differs from the superblock's"));
        }
        let devices = (0..usize::from(fields.devices))
            .map(|number| {
                let at = (usize::from(DEVICE_TABLE_SLOT) + number) * DEVICE_SLOT_BYTES;
                let slot: [u8; DEVICE_SLOT_BYTES] = pages.array(at as u64)?;
                let blocks = u32_at(&slot, 64);
                if slot != device_slot(number, blocks) {
                    return Err(damaged("the device table has something that we do not write"));
                }
                Ok(u64::from(blocks) * BLOCK as u64)
            })
            .collect::<Result<Vec<_>, Damaged>>()?;
        if devices.is_empty() || devices.iter().any(|bytes| *bytes > DEVICE_BYTES) {
            return Err(damaged("the device table makes no sense"));
        }
        if fields.inodes > bytes / INODE_BYTES as u64 {
            return Err(damaged("it has no room for the nodes that it promises"));
        }
        Ok(Self {
            pages,
            devices,
            root: NodeId(fields.root.into()),
            inodes: fields.inodes,
        })
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.pages.bytes()
    }

    /// The root folder.
    pub fn root(&self) -> NodeId {
        self.root
    }

    /// Lengths in bytes of the extra devices.
    pub fn devices(&self) -> &[u64] {
        &self.devices
    }

    /// How many inodes there are.
    pub fn inode_count(&self) -> u64 {
        self.inodes
    }

    /// The inode at `node`.
    ///
    /// # Errors
    /// When there is none.
    pub fn inode(&self, node: NodeId) -> Result<Inode, Damaged> {
        let at = node.0.checked_mul(INODE_SLOT_BYTES as u64);
        let at = at.ok_or_else(|| Damaged(format!("node {} lies nowhere", node.0)))?;
        let raw: [u8; INODE_BYTES] = self.pages.array(at)?;
        let format = u16_at(&raw, 0);
        let (mode, bytes, union) = (u16_at(&raw, 4), u64_at(&raw, 8), u32_at(&raw, 16));
        let reserved = [u64_at(&raw, 48), u64_at(&raw, 56), u16_at(&raw, 6).into()];
        if format & EXTENDED == 0 || u16_at(&raw, 2) != 0 || reserved != [0; 3] {
            return Err(Damaged(format!("node {} is of a kind that we do not write", node.0)));
        }
        let data = match (mode & S_IFMT, format >> 1) {
            (S_IFREG, LAYOUT_PLAIN) if bytes == 0 => Data::Empty,
            (S_IFREG, LAYOUT_CHUNKS) if bytes > 0 => Data::Space(self.file_address(at, bytes, union)?),
            (S_IFDIR, LAYOUT_PLAIN) => Data::Directory {
                block: union,
                tail: None,
            },
            (S_IFDIR, LAYOUT_INLINE) => Data::Directory {
                block: union,
                tail: Some(at + INODE_BYTES as u64),
            },
            _ => return Err(Damaged(format!("node {} is of a kind that we do not write", node.0))),
        };
        let seconds = u64_at(&raw, 32) as i64;
        let modified_unix_nanos = seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(u32_at(&raw, 40)));
        let (uid, gid, links) = (u32_at(&raw, 24), u32_at(&raw, 28), u32_at(&raw, 44));
        Ok(Inode {
            mode,
            uid,
            gid,
            links,
            bytes,
            modified_unix_nanos,
            data,
        })
    }

    fn file_address(&self, inode: u64, bytes: u64, format: u32) -> Result<u64, Damaged> {
        let outside = || Damaged("a file lies outside of its device".to_owned());
        if bytes > OBJECT_BYTES_MAX || format != u32::from(chunk_bits(bytes) | CHUNK_INDEXES) {
            return Err(outside());
        }
        let mut first = None;
        for chunk in 0..chunk_count(bytes) as u64 {
            let at = inode + INODE_BYTES as u64 + chunk * CHUNK_INDEX_BYTES as u64;
            let index: [u8; CHUNK_INDEX_BYTES] = self.pages.array(at)?;
            let (device, offset) = (
                usize::from(u16_at(&index, 2)),
                u64::from(u32_at(&index, 4)) * BLOCK as u64,
            );
            let slot = device.checked_sub(1).ok_or_else(outside)?;
            let in_chunk = (bytes - chunk * DEVICE_BYTES).min(DEVICE_BYTES);
            let end = self.devices.get(slot).ok_or_else(outside)?;
            let address = slot as u64 * DEVICE_BYTES + offset;
            let follows = first.is_none_or(|first| address == first + chunk * DEVICE_BYTES);
            if u16_at(&index, 0) != 0 || offset + in_chunk > *end || !follows {
                return Err(outside());
            }
            first.get_or_insert(address);
        }
        first.ok_or_else(outside)
    }

    /// The entries of a folder in their order on disk, without `.` and `..`.
    ///
    /// # Errors
    /// When it is no folder or damaged.
    pub fn entries(&self, node: NodeId) -> Result<Vec<Entry>, Damaged> {
        let mut entries = Vec::new();
        self.each_entry(node, |entry| {
            entries.push(Entry {
                name: entry.name.to_owned(),
                node: entry.node,
                is_directory: entry.is_directory,
            });
        })?;
        Ok(entries)
    }

    /// Calls `visit` with the same entries, one after the other.
    ///
    /// # Errors
    /// When it is no folder or damaged.
    pub fn each_entry(&self, node: NodeId, mut visit: impl FnMut(EntryRef<'_>)) -> Result<(), Damaged> {
        let mut cursor = FolderCursor::begin(self, node, &self.inode(node)?)?;
        while let Some(entry) = cursor.next(self)? {
            if !matches!(entry.name, "." | "..") {
                visit(entry);
            }
        }
        Ok(())
    }

    /// One block of a folder, from 0 on; `None` behind the last.
    ///
    /// # Errors
    /// When it is no folder or damaged.
    pub fn block(&self, node: NodeId, number: usize) -> Result<Option<FolderBlock>, Damaged> {
        let inode = self.inode(node)?;
        if number >= self.folder_blocks(node, &inode)? {
            return Ok(None);
        }
        self.folder_block(&inode, number).map(Some)
    }

    /// How many blocks a folder has.
    pub(super) fn folder_blocks(&self, node: NodeId, inode: &Inode) -> Result<usize, Damaged> {
        if !inode.is_directory() {
            return Err(Damaged(format!("node {} is no folder", node.0)));
        }
        let bytes = Some(inode.bytes).filter(|bytes| *bytes <= self.bytes());
        let bytes = bytes.ok_or_else(|| Damaged(format!("folder {} is longer than the image", node.0)))?;
        Ok(bytes.div_ceil(BLOCK as u64) as usize)
    }

    pub(super) fn folder_block(&self, inode: &Inode, number: usize) -> Result<FolderBlock, Damaged> {
        let Data::Directory { block, tail } = inode.data else {
            return Err(Damaged("a file has no entries".to_owned()));
        };
        let length = (inode.bytes as usize - number * BLOCK).min(BLOCK);
        let at = match tail {
            Some(tail) if length < BLOCK => tail,
            _ => (u64::from(block) + number as u64) * BLOCK as u64,
        };
        FolderBlock::parse(self.pages.slice(at, length)?)
    }

    /// The entry `name` of the folder `node`; `None` when it has none. Reads as few blocks as a binary search needs.
    ///
    /// # Errors
    /// When it is no folder or damaged.
    pub fn find(&self, node: NodeId, name: &str) -> Result<Option<NodeId>, Damaged> {
        let inode = self.inode(node)?;
        let (mut low, mut high) = (0, self.folder_blocks(node, &inode)?);
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.folder_block(&inode, middle)?;
            let entries = block.entries()?;
            match entries.binary_search_by(|entry| entry.name.cmp(name)) {
                Ok(at) => return Ok(Some(entries[at].node)),
                Err(0) => high = middle,
                Err(at) if at == entries.len() => low = middle + 1,
                Err(_) => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The node at a path of names separated by `/` (empty parts count for nothing); `None` when there is none.
    ///
    /// # Errors
    /// When a folder on the way is damaged.
    pub fn lookup(&self, path: &str) -> Result<Option<NodeId>, Damaged> {
        let mut node = self.root;
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            let inode = self.inode(node)?;
            if !inode.is_directory() {
                return Ok(None);
            }
            match self.find(node, name)? {
                Some(found) => node = found,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }
}

impl FolderBlock {
    fn parse(bytes: Bytes) -> Result<Self, Damaged> {
        let block = Self { bytes, count: 0 };
        let first = block.name_offset(0).ok_or_else(senseless)?;
        if first < DIRENT_BYTES || !first.is_multiple_of(DIRENT_BYTES) {
            return Err(senseless());
        }
        Ok(Self {
            count: first / DIRENT_BYTES,
            ..block
        })
    }

    /// How many entries it has, `.` and `..` included.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Its entries, `.` and `..` included.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn entries(&self) -> Result<Vec<EntryRef<'_>>, Damaged> {
        (0..self.count).map(|slot| self.entry(slot)).collect()
    }

    /// One of them.
    pub(super) fn entry(&self, slot: usize) -> Result<EntryRef<'_>, Damaged> {
        self.try_entry(slot).ok_or_else(senseless)
    }

    fn try_entry(&self, slot: usize) -> Option<EntryRef<'_>> {
        let start = self.name_offset(slot)?;
        let name = if slot + 1 < self.count {
            self.bytes.get(start..self.name_offset(slot + 1)?)?
        } else {
            self.bytes.get(start..)?.split(|byte| *byte == 0).next()?
        };
        let entry = self.bytes.get(slot * DIRENT_BYTES..(slot + 1) * DIRENT_BYTES)?;
        Some(EntryRef {
            name: std::str::from_utf8(name).ok()?,
            node: NodeId(u64_at(entry, 0)),
            is_directory: entry[10] == FILE_TYPE_DIRECTORY,
        })
    }

    fn name_offset(&self, slot: usize) -> Option<usize> {
        let at = slot * DIRENT_BYTES + 8;
        Some(u16_at(self.bytes.get(at..at + 2)?, 0).into())
    }
}

fn senseless() -> Damaged {
    Damaged("a block of a folder makes no sense".to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
