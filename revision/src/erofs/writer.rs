//! Writes an image in two passes: first every inode gets its place, then everything is written.
//!
//! ```text
//! block 0: nothing, superblock, device table │ inodes, tails of folders, chunk indexes │ whole blocks of folders
//! ```

use std::io;

use penstock_protocol::geometry::DEVICE_BYTES;

use super::layout::*;
use crate::build::BuildOptions;
use crate::limits::{DEVICES_MAX, OBJECT_BYTES_MAX};
use crate::scratch::{Plane, Scratch};

/// A step of the walk through a tree. It begins in the root, and goes through what is in a folder by name, bytewise.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// Into a folder, by its name.
    Into(&'a str),
    /// Out of the folder in which the walk stands.
    Out,
    /// A file.
    File(File<'a>),
}

/// A file of a tree.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Name within its folder, at most 255 bytes, without `/` and NUL.
    pub name: &'a str,
    /// Length in bytes.
    pub bytes: u64,
    /// Address in the space; unused when it is empty.
    pub address: u64,
    /// Time of the last change, nanoseconds since 1970. A folder is as new as the newest file below it.
    pub modified_unix_nanos: i64,
}

/// A tree that can be walked through as often as wanted, each time in the same way.
pub trait Walk {
    /// Calls `visit` with each step.
    ///
    /// # Errors
    /// The first of `visit`, and its own.
    fn walk(&self, visit: &mut dyn FnMut(Step<'_>) -> Result<(), WriteError>) -> Result<(), WriteError>;
}

impl Walk for [Step<'_>] {
    fn walk(&self, visit: &mut dyn FnMut(Step<'_>) -> Result<(), WriteError>) -> Result<(), WriteError> {
        self.iter().try_for_each(|step| visit(*step))
    }
}

/// Why an image cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Block numbers of an image have 32 bits.
    #[error("the names need more than 16 TiB")]
    TooLarge,
    /// Nodes are counted in 32 bits.
    #[error("there are more than 4,294,967,294 files and folders")]
    TooManyNodes,
    /// More than [`DEVICES_MAX`].
    #[error("the space needs more than {DEVICES_MAX} devices of 8 TiB")]
    TooManyDevices,
    /// A file does not lie in one device, nor begin with one and fill the next.
    #[error("a file lies outside of the devices")]
    OutsideDevices,
    /// A walk leaves more folders than it entered.
    #[error("a folder ends that never began")]
    Unbalanced,
    /// What is kept outside of memory cannot be kept.
    #[error("keep what does not fit in memory: {0}")]
    Scratch(#[from] io::Error),
}

/// An image that is written.
pub(crate) struct Written {
    pub(crate) image: Plane,
    /// BLAKE3 of the image.
    pub(crate) digest: [u8; 32],
    /// Folders, the root included.
    pub(crate) directories: u64,
}

/// The image of `tree` over devices of `devices` bytes. The same input gives the same bytes.
///
/// # Errors
/// When a field of the format cannot hold the tree.
pub fn write(tree: &[Step<'_>], devices: &[u64], options: &BuildOptions) -> Result<Vec<u8>, WriteError> {
    let Written {
        image,
        digest: _,
        directories: _,
    } = write_to(tree, devices, options, &Scratch::memory())?;
    Ok(image.into_bytes()?)
}

/// The same in bounded memory: that of the folders alone, 24 bytes each.
///
/// As an inode says how long a folder is, and a folder where the inodes of what is in it lie, the tree is walked through three times:
/// for the lengths of folders, for where the inodes end, and to write.
pub(crate) fn write_to(
    tree: &(impl Walk + ?Sized),
    devices: &[u64],
    options: &BuildOptions,
    scratch: &Scratch,
) -> Result<Written, WriteError> {
    if devices.len() > DEVICES_MAX {
        return Err(WriteError::TooManyDevices);
    }
    let table_end = SUPER_OFFSET + SUPER_BYTES + devices.len() * DEVICE_SLOT_BYTES;
    let start = table_end.next_multiple_of(INODE_SLOT_BYTES) as u64;
    let (mut folders, nodes) = measure(tree, devices)?;
    let inodes_end = inodes_end(tree, &folders, start)?;
    let image_bytes = place_folders(&mut folders, inodes_end)?;
    let mut image = Plane::new(scratch, image_bytes, start)?;
    for (slot, bytes) in devices.iter().enumerate() {
        let at = SUPER_OFFSET + SUPER_BYTES + slot * DEVICE_SLOT_BYTES;
        let blocks = (bytes / BLOCK as u64) as u32;
        image.write_at(at as u64, &device_slot(slot, blocks))?;
    }
    let mut writing = Writing {
        image: &mut image,
        folders: &folders,
        options,
        at: start,
        nodes: 0,
        entered: 0,
        open: Vec::new(),
    };
    writing.enter("")?;
    tree.walk(&mut |step| match step {
        Step::Into(name) => writing.enter(name),
        Step::Out => writing.leave(),
        Step::File(file) => writing.file(&file),
    })?;
    writing.leave()?;
    let root = inode_at(start, folders[0].inline_tail());
    write_super(&mut image, devices.len() as u16, root, nodes)?;
    Ok(Written {
        digest: *digest(&mut image)?.as_bytes(),
        image,
        directories: folders.len() as u64,
    })
}

/// A folder, in the order in which they are entered.
#[derive(Clone, Copy, Default)]
struct Folder {
    /// Length of its data.
    bytes: u64,
    /// First whole block of its data.
    block: u32,
    subfolders: u32,
    /// The newest time of what is in it; 0 when that is nothing.
    modified_unix_nanos: i64,
}

impl Folder {
    /// Bytes of its data that stand behind its inode: what is left of the last block, if it fits there.
    fn inline_tail(&self) -> u64 {
        let tail = self.bytes % BLOCK as u64;
        if tail <= (BLOCK - INODE_BYTES) as u64 { tail } else { 0 }
    }

    fn block_bytes(&self) -> u64 {
        match self.inline_tail() {
            0 => self.bytes.next_multiple_of(BLOCK as u64),
            tail => self.bytes - tail,
        }
    }
}

/// How long the entries of a folder become, of which blocks are filled one after the other.
#[derive(Default)]
struct Length {
    blocks: u64,
    used: usize,
}

impl Length {
    fn add(&mut self, name: &str) {
        let need = DIRENT_BYTES + name.len();
        if self.used + need > BLOCK {
            (self.blocks, self.used) = (self.blocks + 1, 0);
        }
        self.used += need;
    }
}

/// Which of `.` and `..` come before a name, in the order of the format: bytewise.
#[derive(Default)]
struct Dots(usize);

const DOTS: [&str; 2] = [".", ".."];

impl Dots {
    /// The next of them, if it comes before `name`; any before the end.
    fn before(&mut self, name: Option<&str>) -> Option<&'static str> {
        let dots = DOTS.get(self.0).filter(|dots| name.is_none_or(|name| **dots < name))?;
        self.0 += 1;
        Some(dots)
    }
}

/// A folder that is being measured.
struct Measured {
    number: usize,
    length: Length,
    dots: Dots,
    modified_unix_nanos: Option<i64>,
}

/// All folders but for their blocks, and how many nodes there are.
fn measure(tree: &(impl Walk + ?Sized), devices: &[u64]) -> Result<(Vec<Folder>, u32), WriteError> {
    let measured = |number| Measured {
        number,
        length: Length::default(),
        dots: Dots::default(),
        modified_unix_nanos: None,
    };
    let mut folders = vec![Folder::default()];
    let mut open = vec![measured(0)];
    let mut nodes = 1u32;
    let mut name_in = |folder: &mut Measured, name: &str| {
        while let Some(dots) = folder.dots.before(Some(name)) {
            folder.length.add(dots);
        }
        folder.length.add(name);
        // The number of an inode counts from 1.
        nodes = nodes
            .checked_add(1)
            .filter(|nodes| *nodes < u32::MAX)
            .ok_or(WriteError::TooManyNodes)?;
        Ok::<(), WriteError>(())
    };
    tree.walk(&mut |step| {
        let here = open.last_mut().ok_or(WriteError::Unbalanced)?;
        match step {
            Step::File(file) => {
                if !fits(&file, devices) {
                    return Err(WriteError::OutsideDevices);
                }
                name_in(here, file.name)?;
                here.modified_unix_nanos = here.modified_unix_nanos.max(Some(file.modified_unix_nanos));
            }
            Step::Into(name) => {
                name_in(here, name)?;
                folders[here.number].subfolders += 1;
                open.push(measured(folders.len()));
                folders.push(Folder::default());
            }
            Step::Out => {
                let ended = end_folder(&mut open, &mut folders)?;
                let above = open.last_mut().ok_or(WriteError::Unbalanced)?;
                above.modified_unix_nanos = above.modified_unix_nanos.max(Some(ended));
            }
        }
        Ok(())
    })?;
    end_folder(&mut open, &mut folders)?;
    Ok((folders, nodes))
}

/// The time of the folder that ends.
fn end_folder(open: &mut Vec<Measured>, folders: &mut [Folder]) -> Result<i64, WriteError> {
    let Measured {
        number,
        mut length,
        mut dots,
        modified_unix_nanos,
    } = open.pop().ok_or(WriteError::Unbalanced)?;
    while let Some(dots) = dots.before(None) {
        length.add(dots);
    }
    let folder = &mut folders[number];
    folder.bytes = length.blocks * BLOCK as u64 + length.used as u64;
    folder.modified_unix_nanos = modified_unix_nanos.unwrap_or(0);
    Ok(folder.modified_unix_nanos)
}

fn fits(file: &File<'_>, devices: &[u64]) -> bool {
    let File { bytes, address, .. } = *file;
    if bytes == 0 {
        return true;
    }
    let (first, offset) = ((address / DEVICE_BYTES) as usize, address % DEVICE_BYTES);
    let in_one = bytes <= DEVICE_BYTES && devices.get(first).is_some_and(|end| offset + bytes <= *end);
    let count = chunk_count(bytes);
    let fills = || {
        let last = devices
            .get(first + count - 1)
            .is_some_and(|end| (bytes - 1) % DEVICE_BYTES < *end);
        offset == 0
            && bytes <= OBJECT_BYTES_MAX
            && last
            && devices[first..first + count - 1].iter().all(|end| *end == DEVICE_BYTES)
    };
    address.is_multiple_of(BLOCK as u64) && (in_one || fills())
}

/// Bytes behind the inode of a file: the indexes of its chunks.
fn chunks_tail(bytes: u64) -> u64 {
    (CHUNK_INDEX_BYTES * chunk_count(bytes)) as u64
}

/// Where an inode stands of which nothing but what is before it ends at `at`: neither it nor what follows it inline may cross a block.
fn inode_at(at: u64, tail: u64) -> u64 {
    if at % BLOCK as u64 + INODE_BYTES as u64 + tail > BLOCK as u64 {
        at.next_multiple_of(BLOCK as u64)
    } else {
        at
    }
}

/// Where the next inode may stand at the earliest.
fn behind_inode(at: u64, tail: u64) -> u64 {
    (at + INODE_BYTES as u64 + tail).next_multiple_of(INODE_SLOT_BYTES as u64)
}

/// Where the last inode ends.
fn inodes_end(tree: &(impl Walk + ?Sized), folders: &[Folder], start: u64) -> Result<u64, WriteError> {
    let mut folders = folders.iter();
    let mut at = start;
    let mut pass = |tail| at = behind_inode(inode_at(at, tail), tail);
    pass(folders.next().map_or(0, Folder::inline_tail));
    tree.walk(&mut |step| {
        match step {
            Step::Into(_) => pass(folders.next().map_or(0, Folder::inline_tail)),
            Step::Out => {}
            Step::File(file) => pass(chunks_tail(file.bytes)),
        }
        Ok(())
    })?;
    Ok(at)
}

/// Gives blocks to the folders, behind the inodes; the length of the image.
fn place_folders(folders: &mut [Folder], inodes_end: u64) -> Result<u64, WriteError> {
    // fsck.erofs reads a header of attributes behind every inode, also where the inode says that there is none.
    let mut at = (inodes_end + XATTR_HEADER_BYTES as u64).next_multiple_of(BLOCK as u64);
    for folder in folders {
        folder.block = u32::try_from(at / BLOCK as u64).map_err(|_| WriteError::TooLarge)?;
        at += folder.block_bytes();
    }
    if at / BLOCK as u64 > u64::from(u32::MAX) {
        return Err(WriteError::TooLarge);
    }
    Ok(at)
}

/// The third walk.
struct Writing<'a> {
    image: &'a mut Plane,
    folders: &'a [Folder],
    options: &'a BuildOptions,
    /// Where the next inode may stand at the earliest.
    at: u64,
    nodes: u32,
    /// Folders that were entered.
    entered: usize,
    open: Vec<Open>,
}

/// A folder that the walk is in.
struct Open {
    folder: Folder,
    inode: u64,
    parent: u64,
    dots: Dots,
    /// Blocks that are written.
    blocks: u64,
    /// The entries of the block that is not: where each name begins, slot of the inode, type.
    entries: Vec<(usize, u64, u8)>,
    names: Vec<u8>,
}

impl Writing<'_> {
    fn enter(&mut self, name: &str) -> Result<(), WriteError> {
        let folder = *self.folders.get(self.entered).ok_or(WriteError::Unbalanced)?;
        self.entered += 1;
        let tail = folder.inline_tail();
        let inode = inode_at(self.at, tail);
        let parent = self.open.last().map_or(inode, |parent| parent.inode);
        self.add_to_folder(name, inode, FILE_TYPE_DIRECTORY)?;
        let layout = if tail > 0 { LAYOUT_INLINE } else { LAYOUT_PLAIN };
        self.write_inode(
            inode,
            &Fields {
                layout,
                mode: S_IFDIR | self.options.directory_mode & 0o7777,
                bytes: folder.bytes,
                union: folder.block,
                modified_unix_nanos: folder.modified_unix_nanos,
                links: 2 + folder.subfolders,
            },
            &vec![0; tail as usize],
        )?;
        self.open.push(Open {
            folder,
            inode,
            parent,
            dots: Dots::default(),
            blocks: 0,
            entries: Vec::new(),
            names: Vec::new(),
        });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), WriteError> {
        let mut ended = self.open.pop().ok_or(WriteError::Unbalanced)?;
        while let Some(dots) = ended.dots.before(None) {
            ended.add_dots(dots, self.image)?;
        }
        ended.flush(true, self.image)
    }

    fn file(&mut self, file: &File<'_>) -> Result<(), WriteError> {
        let File {
            name,
            bytes,
            address,
            modified_unix_nanos,
        } = *file;
        let inode = inode_at(self.at, chunks_tail(bytes));
        self.add_to_folder(name, inode, FILE_TYPE_REGULAR)?;
        let mut chunks = Vec::with_capacity(CHUNK_INDEX_BYTES);
        for chunk in 0..chunk_count(bytes) {
            chunks.extend_from_slice(&[0; 2]);
            chunks.extend_from_slice(&((address / DEVICE_BYTES) as u16 + 1 + chunk as u16).to_le_bytes());
            chunks.extend_from_slice(&((address % DEVICE_BYTES / BLOCK as u64) as u32).to_le_bytes());
        }
        let (layout, union) = match bytes {
            0 => (LAYOUT_PLAIN, 0),
            _ => (LAYOUT_CHUNKS, u32::from(chunk_bits(bytes) | CHUNK_INDEXES)),
        };
        self.write_inode(
            inode,
            &Fields {
                layout,
                mode: S_IFREG | self.options.file_mode & 0o7777,
                bytes,
                union,
                modified_unix_nanos,
                links: 1,
            },
            &chunks,
        )
    }

    fn add_to_folder(&mut self, name: &str, inode: u64, file_type: u8) -> Result<(), WriteError> {
        let Some(folder) = self.open.last_mut() else {
            // The root.
            return Ok(());
        };
        while let Some(dots) = folder.dots.before(Some(name)) {
            folder.add_dots(dots, self.image)?;
        }
        folder.add(name, inode, file_type, self.image)
    }

    fn write_inode(&mut self, inode: u64, fields: &Fields, tail: &[u8]) -> Result<(), WriteError> {
        let Fields {
            layout,
            mode,
            bytes,
            union,
            modified_unix_nanos,
            links,
        } = *fields;
        self.nodes += 1;
        let gap = (inode - self.image.next_at()) as usize;
        let end = behind_inode(inode, tail.len() as u64);
        let mut out = vec![0; gap + (end - inode) as usize];
        let at = gap;
        put16(&mut out, at, layout << 1 | EXTENDED);
        put16(&mut out, at + 4, mode);
        put64(&mut out, at + 8, bytes);
        put32(&mut out, at + 16, union);
        put32(&mut out, at + 20, self.nodes);
        put32(&mut out, at + 24, self.options.uid);
        put32(&mut out, at + 28, self.options.gid);
        put64(&mut out, at + 32, modified_unix_nanos.div_euclid(1_000_000_000) as u64);
        put32(&mut out, at + 40, modified_unix_nanos.rem_euclid(1_000_000_000) as u32);
        put32(&mut out, at + 44, links);
        out[at + INODE_BYTES..at + INODE_BYTES + tail.len()].copy_from_slice(tail);
        self.image.follow(&out)?;
        self.at = end;
        Ok(())
    }
}

/// What differs between inodes.
struct Fields {
    layout: u16,
    mode: u16,
    bytes: u64,
    union: u32,
    modified_unix_nanos: i64,
    links: u32,
}

impl Open {
    fn add_dots(&mut self, dots: &str, image: &mut Plane) -> Result<(), WriteError> {
        let inode = if dots == DOTS[0] { self.inode } else { self.parent };
        self.add(dots, inode, FILE_TYPE_DIRECTORY, image)
    }

    fn add(&mut self, name: &str, inode: u64, file_type: u8, image: &mut Plane) -> Result<(), WriteError> {
        if self.used() + DIRENT_BYTES + name.len() > BLOCK {
            self.flush(false, image)?;
        }
        self.entries
            .push((self.names.len(), inode / INODE_SLOT_BYTES as u64, file_type));
        self.names.extend_from_slice(name.as_bytes());
        Ok(())
    }

    fn used(&self) -> usize {
        self.entries.len() * DIRENT_BYTES + self.names.len()
    }

    /// Writes the entries as the next block, or behind the inode when they are the last and fit there.
    fn flush(&mut self, is_last: bool, image: &mut Plane) -> Result<(), WriteError> {
        let at = if is_last && self.folder.inline_tail() > 0 {
            self.inode + INODE_BYTES as u64
        } else {
            (u64::from(self.folder.block) + self.blocks) * BLOCK as u64
        };
        let names_at = self.entries.len() * DIRENT_BYTES;
        let mut out = vec![0; names_at];
        for (entry, (name, slot, file_type)) in out.chunks_exact_mut(DIRENT_BYTES).zip(&self.entries) {
            put64(entry, 0, *slot);
            put16(entry, 8, (names_at + name) as u16);
            entry[10] = *file_type;
        }
        out.append(&mut self.names);
        image.write_at(at, &out)?;
        self.entries.clear();
        self.blocks += 1;
        Ok(())
    }
}

fn digest(image: &mut Plane) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    image.read(|piece| {
        hasher.update(piece);
        Ok(())
    })?;
    Ok(hasher.finalize())
}

fn write_super(image: &mut Plane, devices: u16, root: u64, inodes: u32) -> Result<(), WriteError> {
    let mut fields = Super {
        root: (root / INODE_SLOT_BYTES as u64) as u16,
        inodes: inodes.into(),
        blocks: (image.bytes() / BLOCK as u64) as u32,
        devices,
        uuid: [0; 16],
    };
    image.write_at(SUPER_OFFSET as u64, &fields.encode())?;
    fields.uuid.copy_from_slice(&digest(image)?.as_bytes()[..16]);
    image.write_at(SUPER_OFFSET as u64, &fields.encode())?;
    let mut block = [0; BLOCK];
    image.head(&mut block)?;
    image.write_at(SUPER_OFFSET as u64 + 4, &super_checksum(&block).to_le_bytes())?;
    Ok(())
}

fn put16(image: &mut [u8], at: usize, value: u16) {
    image[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn put32(image: &mut [u8], at: usize, value: u32) {
    image[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
}
