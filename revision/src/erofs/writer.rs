//! Writes an image in two passes: first every inode gets its place, then everything is written.
//!
//! ```text
//! block 0: nothing, superblock, device table │ inodes, tails of folders, chunk indexes │ whole blocks of folders
//! ```

use penstock_protocol::geometry::DEVICE_BYTES;

use super::layout::*;
use crate::limits::{DEVICES_MAX, OBJECT_BYTES_MAX};

/// One folder or file. The root is the first; a folder stands before what is in it.
#[derive(Clone, Debug)]
pub struct ImageNode<'a> {
    /// Name within its folder, at most 255 bytes, without `/` and NUL; unused for the root.
    pub name: &'a str,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change, nanoseconds since 1970.
    pub modified_unix_nanos: i64,
    /// What it is.
    pub kind: NodeKind<'a>,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum NodeKind<'a> {
    /// A folder, with the numbers of the nodes in it, sorted by name, bytewise.
    Directory {
        /// Numbers of the nodes in it.
        children: &'a [u32],
    },
    /// A file of `bytes` bytes that begin at `address` of the space (unused when it is empty).
    File {
        /// Length in bytes.
        bytes: u64,
        /// Address in the space.
        address: u64,
    },
}

/// Why an image cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Block numbers of an image have 32 bits.
    #[error("the names need more than 16 TiB")]
    TooLarge,
    /// More than [`DEVICES_MAX`].
    #[error("the space needs more than {DEVICES_MAX} devices of 8 TiB")]
    TooManyDevices,
    /// A file does not lie in one device, nor begin with one and fill the next.
    #[error("a file lies outside of the devices")]
    OutsideDevices,
}

/// Where an inode and its data lie.
#[derive(Clone, Copy, Default)]
struct Place {
    /// Offset of the inode in the image.
    inode: usize,
    /// Length of a folder's data.
    bytes: usize,
    /// First whole block of a folder's data.
    block: u32,
    parent: u32,
    inline_tail: bool,
    subfolders: u32,
}

/// The image of `nodes` over devices of `devices` bytes. The same input gives the same bytes.
///
/// # Errors
/// When a field of the format cannot hold the tree.
pub fn write(nodes: &[ImageNode<'_>], devices: &[u64]) -> Result<Vec<u8>, WriteError> {
    if devices.len() > DEVICES_MAX {
        return Err(WriteError::TooManyDevices);
    }
    let device_count = devices.len() as u16;
    if nodes.iter().any(|node| !fits(node, devices)) {
        return Err(WriteError::OutsideDevices);
    }
    let table_end = SUPER_OFFSET + SUPER_BYTES + devices.len() * DEVICE_SLOT_BYTES;
    let (places, image_bytes) = place(nodes, table_end.next_multiple_of(INODE_SLOT_BYTES))?;
    let mut image = vec![0; image_bytes];
    for (number, (node, place)) in nodes.iter().zip(&places).enumerate() {
        write_inode(&mut image, number as u32, node, place);
        if let NodeKind::Directory { children } = node.kind {
            write_directory(&mut image, number, children, nodes, &places);
        }
    }
    for (slot, bytes) in devices.iter().enumerate() {
        let at = SUPER_OFFSET + SUPER_BYTES + slot * DEVICE_SLOT_BYTES;
        let blocks = (bytes / BLOCK as u64) as u32;
        image[at..at + DEVICE_SLOT_BYTES].copy_from_slice(&device_slot(slot, blocks));
    }
    write_super(&mut image, device_count, places[0].inode, nodes.len());
    Ok(image)
}

fn fits(node: &ImageNode<'_>, devices: &[u64]) -> bool {
    let NodeKind::File {
        bytes: bytes @ 1..,
        address,
    } = node.kind
    else {
        return true;
    };
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

fn place(nodes: &[ImageNode<'_>], start: usize) -> Result<(Vec<Place>, usize), WriteError> {
    let mut places = vec![Place::default(); nodes.len()];
    let mut at = start;
    for (number, node) in nodes.iter().enumerate() {
        let tail = match node.kind {
            NodeKind::File { bytes: 0, .. } => 0,
            NodeKind::File { bytes, .. } => CHUNK_INDEX_BYTES * chunk_count(bytes),
            NodeKind::Directory { children } => {
                for child in children {
                    places[*child as usize].parent = number as u32;
                }
                let is_folder = |child: &&u32| matches!(nodes[**child as usize].kind, NodeKind::Directory { .. });
                places[number].subfolders = children.iter().filter(is_folder).count() as u32;
                let bytes = directory_bytes(number, children, nodes);
                let tail = bytes % BLOCK;
                let inline_tail = tail > 0 && tail <= BLOCK - INODE_BYTES;
                places[number].bytes = bytes;
                places[number].inline_tail = inline_tail;
                if inline_tail { tail } else { 0 }
            }
        };
        // Neither an inode nor what follows it inline may cross a block.
        if at % BLOCK + INODE_BYTES + tail > BLOCK {
            at = at.next_multiple_of(BLOCK);
        }
        places[number].inode = at;
        at = (at + INODE_BYTES + tail).next_multiple_of(INODE_SLOT_BYTES);
    }
    // fsck.erofs reads a header of attributes behind every inode, also where the inode says that there is none.
    at = (at + XATTR_HEADER_BYTES).next_multiple_of(BLOCK);
    for place in places.iter_mut().filter(|place| place.bytes > 0) {
        place.block = u32::try_from(at / BLOCK).map_err(|_| WriteError::TooLarge)?;
        let whole = if place.inline_tail {
            place.bytes / BLOCK * BLOCK
        } else {
            place.bytes.next_multiple_of(BLOCK)
        };
        at += whole;
    }
    if at / BLOCK > u32::MAX as usize {
        return Err(WriteError::TooLarge);
    }
    Ok((places, at))
}

/// The entries of a folder in the order of the format: bytewise by name, `.` and `..` among them.
fn sorted<'a>(
    number: usize,
    parent: u32,
    children: &'a [u32],
    nodes: &'a [ImageNode<'a>],
) -> impl Iterator<Item = (&'a str, u32)> {
    let dots = [(".", number as u32), ("..", parent)];
    let before = children.partition_point(|child| nodes[*child as usize].name < ".");
    let between = children.partition_point(|child| nodes[*child as usize].name < "..");
    let named = |part: &'a [u32]| part.iter().map(|child| (nodes[*child as usize].name, *child));
    named(&children[..before])
        .chain([dots[0]])
        .chain(named(&children[before..between]))
        .chain([dots[1]])
        .chain(named(&children[between..]))
}

fn directory_bytes(number: usize, children: &[u32], nodes: &[ImageNode<'_>]) -> usize {
    let (mut blocks, mut used) = (0, 0);
    for (name, _) in sorted(number, 0, children, nodes) {
        let need = DIRENT_BYTES + name.len();
        if used + need > BLOCK {
            (blocks, used) = (blocks + 1, 0);
        }
        used += need;
    }
    blocks * BLOCK + used
}

fn write_inode(image: &mut [u8], number: u32, node: &ImageNode<'_>, place: &Place) {
    let at = place.inode;
    let (layout, type_bits, bytes, union, links) = match node.kind {
        NodeKind::Directory { .. } => {
            let layout = if place.inline_tail { LAYOUT_INLINE } else { LAYOUT_PLAIN };
            (layout, S_IFDIR, place.bytes as u64, place.block, 2 + place.subfolders)
        }
        NodeKind::File { bytes: 0, .. } => (LAYOUT_PLAIN, S_IFREG, 0, 0, 1),
        NodeKind::File { bytes, address } => {
            for chunk in 0..chunk_count(bytes) {
                let index = at + INODE_BYTES + chunk * CHUNK_INDEX_BYTES;
                put16(image, index + 2, (address / DEVICE_BYTES) as u16 + 1 + chunk as u16);
                put32(image, index + 4, (address % DEVICE_BYTES / BLOCK as u64) as u32);
            }
            (
                LAYOUT_CHUNKS,
                S_IFREG,
                bytes,
                u32::from(chunk_bits(bytes) | CHUNK_INDEXES),
                1,
            )
        }
    };
    put16(image, at, layout << 1 | EXTENDED);
    put16(image, at + 4, type_bits | node.mode & 0o7777);
    put64(image, at + 8, bytes);
    put32(image, at + 16, union);
    put32(image, at + 20, number + 1);
    put32(image, at + 24, node.uid);
    put32(image, at + 28, node.gid);
    put64(
        image,
        at + 32,
        node.modified_unix_nanos.div_euclid(1_000_000_000) as u64,
    );
    put32(
        image,
        at + 40,
        node.modified_unix_nanos.rem_euclid(1_000_000_000) as u32,
    );
    put32(image, at + 44, links);
}

fn write_directory(image: &mut [u8], number: usize, children: &[u32], nodes: &[ImageNode<'_>], places: &[Place]) {
    let place = &places[number];
    let entries: Vec<(&str, u32)> = sorted(number, place.parent, children, nodes).collect();
    let mut from = 0;
    for (block, start) in (0..place.bytes).step_by(BLOCK).enumerate() {
        let mut used = 0;
        let in_block = entries[from..]
            .iter()
            .take_while(|(name, _)| {
                used += DIRENT_BYTES + name.len();
                used <= BLOCK
            })
            .count();
        let last = place.bytes - start <= BLOCK;
        let at = if last && place.inline_tail {
            place.inode + INODE_BYTES
        } else {
            (place.block as usize + block) * BLOCK
        };
        write_entries(image, at, &entries[from..from + in_block], nodes, places);
        from += in_block;
    }
}

fn write_entries(image: &mut [u8], at: usize, entries: &[(&str, u32)], nodes: &[ImageNode<'_>], places: &[Place]) {
    let mut name_at = entries.len() * DIRENT_BYTES;
    for (slot, (name, target)) in entries.iter().enumerate() {
        let entry = at + slot * DIRENT_BYTES;
        put64(image, entry, (places[*target as usize].inode / INODE_SLOT_BYTES) as u64);
        put16(image, entry + 8, name_at as u16);
        image[entry + 10] = match nodes[*target as usize].kind {
            NodeKind::Directory { .. } => FILE_TYPE_DIRECTORY,
            NodeKind::File { .. } => FILE_TYPE_REGULAR,
        };
        image[at + name_at..at + name_at + name.len()].copy_from_slice(name.as_bytes());
        name_at += name.len();
    }
}

fn write_super(image: &mut [u8], devices: u16, root: usize, inodes: usize) {
    let at = SUPER_OFFSET;
    let mut fields = Super {
        root: (root / INODE_SLOT_BYTES) as u16,
        inodes: inodes as u64,
        blocks: (image.len() / BLOCK) as u32,
        devices,
        uuid: [0; 16],
    };
    image[at..at + SUPER_BYTES].copy_from_slice(&fields.encode());
    fields.uuid.copy_from_slice(&blake3::hash(image).as_bytes()[..16]);
    image[at..at + SUPER_BYTES].copy_from_slice(&fields.encode());
    let checksum = super_checksum(image);
    put32(image, at + 4, checksum);
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
