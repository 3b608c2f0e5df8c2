//! Reads the images that the writer writes: for `ls`, for a FUSE file system where the kernel has no EROFS, and to check
//! an image before the kernel sees it. Never panics on damaged bytes.

use bytes::Bytes;
use penstock_protocol::geometry::DEVICE_BYTES;

use super::layout::*;
use crate::limits::{IMAGE_PATH_BYTES_MAX, NAME_BYTES_MAX, OBJECT_BYTES_MAX};

/// Why an image is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the EROFS image is damaged: {0}")]
pub struct Damaged(pub String);

/// A readable image.
#[derive(Clone, Debug)]
pub struct Image {
    bytes: Bytes,
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
        tail: Option<usize>,
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
        let damaged = |what: &str| Damaged(what.to_owned());
        if bytes.len() < BLOCK || !bytes.len().is_multiple_of(BLOCK) {
            return Err(damaged("its length is no whole number of blocks"));
        }
        let image = Self {
            bytes,
            devices: Vec::new(),
            root: NodeId(0),
            inodes: 0,
        };
        let at = SUPER_OFFSET;
        if image.u32(at)? != MAGIC {
            return Err(damaged("no superblock of ours"));
        }
        if image.u32(at + 4)? != super_checksum(&image.bytes) {
            return Err(damaged("the checksum of the superblock does not match"));
        }
        let fields = Super {
            root: image.u16(at + 14)?,
            inodes: image.u64(at + 16)?,
            blocks: image.u32(at + 36)?,
            devices: image.u16(at + 86)?,
            uuid: std::array::from_fn(|i| image.bytes[at + 48 + i]),
        };
        let mut found: [u8; SUPER_BYTES] = std::array::from_fn(|i| image.bytes[at + i]);
        found[4..8].fill(0);
        // Any other field would make the kernel see something that is not walked here.
        if found != fields.encode() {
            return Err(damaged("it uses features that we do not write"));
        }
        if u64::from(fields.blocks) * BLOCK as u64 != image.bytes.len() as u64 {
            return Err(damaged("its length differs from the superblock's"));
        }
        let devices = (0..usize::from(fields.devices))
            .map(|number| {
                let slot = (usize::from(DEVICE_TABLE_SLOT) + number) * DEVICE_SLOT_BYTES;
                let blocks = image.u32(slot + 64)?;
                if image.slice(slot, DEVICE_SLOT_BYTES)? != device_slot(number, blocks) {
                    return Err(damaged("the device table has something that we do not write"));
                }
                Ok(u64::from(blocks) * BLOCK as u64)
            })
            .collect::<Result<Vec<_>, Damaged>>()?;
        if devices.is_empty() || devices.iter().any(|bytes| *bytes > DEVICE_BYTES) {
            return Err(damaged("the device table makes no sense"));
        }
        let (root, inodes) = (NodeId(fields.root.into()), fields.inodes);
        if inodes > (image.bytes.len() / INODE_BYTES) as u64 {
            return Err(damaged("it has no room for the nodes that it promises"));
        }
        Ok(Self {
            devices,
            root,
            inodes,
            ..image
        })
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
        let at = usize::try_from(node.0)
            .ok()
            .and_then(|slot| slot.checked_mul(INODE_SLOT_BYTES))
            .ok_or_else(|| Damaged(format!("node {} lies nowhere", node.0)))?;
        let format = self.u16(at)?;
        let (mode, bytes, union) = (self.u16(at + 4)?, self.u64(at + 8)?, self.u32(at + 16)?);
        let reserved = [self.u64(at + 48)?, self.u64(at + 56)?, self.u16(at + 6)?.into()];
        if format & EXTENDED == 0 || self.u16(at + 2)? != 0 || reserved != [0; 3] {
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
                tail: Some(at + INODE_BYTES),
            },
            _ => return Err(Damaged(format!("node {} is of a kind that we do not write", node.0))),
        };
        let seconds = self.u64(at + 32)? as i64;
        let modified_unix_nanos = seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(self.u32(at + 40)?));
        let (uid, gid, links) = (self.u32(at + 24)?, self.u32(at + 28)?, self.u32(at + 44)?);
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

    fn file_address(&self, inode: usize, bytes: u64, format: u32) -> Result<u64, Damaged> {
        let outside = || Damaged("a file lies outside of its device".to_owned());
        if bytes > OBJECT_BYTES_MAX || format != u32::from(chunk_bits(bytes) | CHUNK_INDEXES) {
            return Err(outside());
        }
        let count = chunk_count(bytes);
        let mut first = None;
        for chunk in 0..count {
            let index = inode + INODE_BYTES + chunk * CHUNK_INDEX_BYTES;
            let (device, offset) = (
                usize::from(self.u16(index + 2)?),
                u64::from(self.u32(index + 4)?) * BLOCK as u64,
            );
            let slot = device.checked_sub(1).ok_or_else(outside)?;
            let in_chunk = (bytes - chunk as u64 * DEVICE_BYTES).min(DEVICE_BYTES);
            let end = self.devices.get(slot).ok_or_else(outside)?;
            let address = slot as u64 * DEVICE_BYTES + offset;
            let follows = first.is_none_or(|first| address == first + chunk as u64 * DEVICE_BYTES);
            if self.u16(index)? != 0 || offset + in_chunk > *end || !follows {
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
        let mut entries = self.raw_entries(node)?;
        entries.retain(|entry| entry.name != "." && entry.name != "..");
        Ok(entries)
    }

    /// The entries of one block of a folder, from 0 on; `None` behind the last.
    ///
    /// # Errors
    /// When it is no folder or damaged.
    pub fn entries_of_block(&self, node: NodeId, block: usize) -> Result<Option<Vec<EntryRef<'_>>>, Damaged> {
        let inode = self.inode(node)?;
        if block >= self.folder_blocks(node, &inode)? {
            return Ok(None);
        }
        parse_entries(self.folder_block(&inode, block)?).map(Some)
    }

    fn raw_entries(&self, node: NodeId) -> Result<Vec<Entry>, Damaged> {
        let inode = self.inode(node)?;
        let mut entries = Vec::new();
        for block in 0..self.folder_blocks(node, &inode)? {
            let found = parse_entries(self.folder_block(&inode, block)?)?;
            entries.extend(found.into_iter().map(|entry| Entry {
                name: entry.name.to_owned(),
                node: entry.node,
                is_directory: entry.is_directory,
            }));
        }
        Ok(entries)
    }

    /// How many blocks a folder has.
    fn folder_blocks(&self, node: NodeId, inode: &Inode) -> Result<usize, Damaged> {
        if !inode.is_directory() {
            return Err(Damaged(format!("node {} is no folder", node.0)));
        }
        let bytes = usize::try_from(inode.bytes)
            .ok()
            .filter(|bytes| *bytes <= self.bytes.len());
        let bytes = bytes.ok_or_else(|| Damaged(format!("folder {} is longer than the image", node.0)))?;
        Ok(bytes.div_ceil(BLOCK))
    }

    fn folder_block(&self, inode: &Inode, number: usize) -> Result<&[u8], Damaged> {
        let Data::Directory { block, tail } = inode.data else {
            return Err(Damaged("a file has no entries".to_owned()));
        };
        let length = (inode.bytes as usize - number * BLOCK).min(BLOCK);
        let at = match tail {
            Some(tail) if length < BLOCK => tail,
            _ => (block as usize + number) * BLOCK,
        };
        self.slice(at, length)
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
            let entries = parse_entries(self.folder_block(&inode, middle)?)?;
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

    /// Calls `visit` with path and inode of everything below the root, folders before what is in them.
    ///
    /// # Errors
    /// When the tree is damaged: legal names in order, `.` and `..` right, no node seen twice, every file inside its device.
    pub fn walk(&self, mut visit: impl FnMut(&str, NodeId, &Inode)) -> Result<Counts, Damaged> {
        let mut counts = Counts::default();
        let mut seen = vec![false; self.bytes.len() / INODE_SLOT_BYTES];
        let mut path = String::new();
        self.enter(self.root, &mut seen)?;
        let mut open = vec![self.open_folder(&path, self.root, self.root)?];
        counts.directories += 1;
        while let Some(folder) = open.last_mut() {
            path.truncate(folder.path_bytes);
            let Some(entry) = folder.entries.next() else {
                open.pop();
                continue;
            };
            if entry.name == "." || entry.name == ".." {
                continue;
            }
            let parent = folder.node;
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(&entry.name);
            if path.len() > IMAGE_PATH_BYTES_MAX {
                return Err(Damaged(format!("a path has more than {IMAGE_PATH_BYTES_MAX} bytes")));
            }
            self.enter(entry.node, &mut seen)?;
            let inode = self.inode(entry.node)?;
            if inode.is_directory() != entry.is_directory {
                return Err(Damaged(format!("{path:?} is not what its folder says")));
            }
            visit(&path, entry.node, &inode);
            if inode.is_directory() {
                counts.directories += 1;
                open.push(self.open_folder(&path, entry.node, parent)?);
            } else {
                counts.files += 1;
                counts.bytes = counts.bytes.saturating_add(inode.bytes);
            }
        }
        if counts.files + counts.directories != self.inodes {
            return Err(Damaged("it has more or fewer nodes than it says".to_owned()));
        }
        Ok(counts)
    }

    /// Marks a node; a node that is seen twice would make a walk endless.
    fn enter(&self, node: NodeId, seen: &mut [bool]) -> Result<(), Damaged> {
        let mark = usize::try_from(node.0).ok().and_then(|slot| seen.get_mut(slot));
        match mark {
            Some(mark) if !*mark => *mark = true,
            Some(_) => return Err(Damaged(format!("node {} is there twice", node.0))),
            None => return Err(Damaged(format!("node {} lies nowhere", node.0))),
        }
        Ok(())
    }

    fn open_folder(&self, path: &str, node: NodeId, parent: NodeId) -> Result<OpenFolder, Damaged> {
        let entries = self.raw_entries(node)?;
        legal(path, &entries, node, parent)?;
        Ok(OpenFolder {
            node,
            path_bytes: path.len(),
            entries: entries.into_iter(),
        })
    }

    /// Walks the whole tree for its faults; call it before the kernel mounts bytes of somebody else.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self) -> Result<Counts, Damaged> {
        self.walk(|_, _, _| {})
    }

    fn slice(&self, at: usize, length: usize) -> Result<&[u8], Damaged> {
        at.checked_add(length)
            .and_then(|end| self.bytes.get(at..end))
            .ok_or_else(|| Damaged(format!("it points outside of itself, to {at}")))
    }

    fn u16(&self, at: usize) -> Result<u16, Damaged> {
        let bytes = self.slice(at, 2)?;
        Ok(u16::from_le_bytes(std::array::from_fn(|i| bytes[i])))
    }

    fn u32(&self, at: usize) -> Result<u32, Damaged> {
        let bytes = self.slice(at, 4)?;
        Ok(u32::from_le_bytes(std::array::from_fn(|i| bytes[i])))
    }

    fn u64(&self, at: usize) -> Result<u64, Damaged> {
        let bytes = self.slice(at, 8)?;
        Ok(u64::from_le_bytes(std::array::from_fn(|i| bytes[i])))
    }
}

fn parse_entries(block: &[u8]) -> Result<Vec<EntryRef<'_>>, Damaged> {
    let damaged = || Damaged("a block of a folder makes no sense".to_owned());
    let name_offset = |slot: usize| -> Option<usize> {
        let at = slot * DIRENT_BYTES + 8;
        Some(u16::from_le_bytes(block.get(at..at + 2)?.try_into().ok()?).into())
    };
    let first = name_offset(0).filter(|first| *first >= DIRENT_BYTES && first % DIRENT_BYTES == 0);
    let count = first.ok_or_else(damaged)? / DIRENT_BYTES;
    let parse = |slot: usize| {
        let start = name_offset(slot)?;
        let name = if slot + 1 < count {
            block.get(start..name_offset(slot + 1)?)?
        } else {
            block.get(start..)?.split(|byte| *byte == 0).next()?
        };
        let entry = block.get(slot * DIRENT_BYTES..(slot + 1) * DIRENT_BYTES)?;
        Some(EntryRef {
            name: std::str::from_utf8(name).ok()?,
            node: NodeId(u64::from_le_bytes(entry[..8].try_into().ok()?)),
            is_directory: entry[10] == FILE_TYPE_DIRECTORY,
        })
    };
    (0..count).map(parse).collect::<Option<_>>().ok_or_else(damaged)
}

/// A folder that a walk is in.
struct OpenFolder {
    node: NodeId,
    path_bytes: usize,
    entries: std::vec::IntoIter<Entry>,
}

fn legal(path: &str, entries: &[Entry], node: NodeId, parent: NodeId) -> Result<(), Damaged> {
    let shown: String = path.chars().take(200).collect();
    let fault = |what: &str| Err(Damaged(format!("the folder {shown:?} {what}")));
    if !entries.is_sorted_by(|a, b| a.name < b.name) {
        return fault("is not in order");
    }
    let dot = |name: &str| {
        entries
            .iter()
            .find(|entry| entry.name == name)
            .map(|entry| (entry.node, entry.is_directory))
    };
    if dot(".") != Some((node, true)) || dot("..") != Some((parent, true)) {
        return fault("has no right `.` and `..`");
    }
    let bad_name =
        |entry: &&Entry| entry.name.is_empty() || entry.name.len() > NAME_BYTES_MAX || entry.name.contains(['/', '\0']);
    match entries.iter().find(bad_name) {
        Some(entry) => fault(&format!("has the name {:?}", entry.name)),
        None => Ok(()),
    }
}
