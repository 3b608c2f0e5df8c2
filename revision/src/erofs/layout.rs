//! Numbers and records of the on-disk format that writer and reader share. All integers are little-endian.

use penstock_protocol::checksum::crc32c;
use penstock_protocol::geometry::DEVICE_BYTES;

/// Offset of the superblock.
pub(super) const SUPER_OFFSET: usize = 1024;
/// Bytes of the superblock.
pub(super) const SUPER_BYTES: usize = 128;
pub(super) const MAGIC: u32 = 0xE0F5_E1E2;
/// log2 of the block.
pub(super) const BLOCK_BITS: u8 = 12;
pub(super) const BLOCK: usize = 1 << BLOCK_BITS;

/// feature_compat: the superblock has a checksum; inodes have times of their own.
const COMPAT_CHECKSUM: u32 = 0x1;
const COMPAT_MTIME: u32 = 0x2;
/// feature_incompat: chunk-based files; a device table.
const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
const INCOMPAT_DEVICE_TABLE: u32 = 0x8;

/// Bytes of a slot of the device table, also the unit of its offset.
pub(super) const DEVICE_SLOT_BYTES: usize = 128;
/// Where the table begins, in slots: behind the superblock.
pub(super) const DEVICE_TABLE_SLOT: u16 = ((SUPER_OFFSET + SUPER_BYTES) / DEVICE_SLOT_BYTES) as u16;
/// A node id counts slots of this many bytes from the start of the metadata, which is the start of the image here.
pub(super) const INODE_SLOT_BYTES: usize = 32;
/// Bytes of an extended inode.
pub(super) const INODE_BYTES: usize = 64;
/// `struct erofs_xattr_ibody_header` without entries.
pub(super) const XATTR_HEADER_BYTES: usize = 12;
/// Bytes of an index of a chunk.
pub(super) const CHUNK_INDEX_BYTES: usize = 8;
/// Bytes of a directory entry without its name.
pub(super) const DIRENT_BYTES: usize = 12;

/// i_format: bit 0 says "extended", bits 1 to 3 the data layout.
pub(super) const EXTENDED: u16 = 1;
pub(super) const LAYOUT_PLAIN: u16 = 0;
pub(super) const LAYOUT_INLINE: u16 = 2;
pub(super) const LAYOUT_CHUNKS: u16 = 4;

/// Chunk format: bits 0 to 4 are log2 of the chunk in blocks, this one says that there are 8-byte indexes.
pub(super) const CHUNK_INDEXES: u16 = 0x20;

pub(super) const FILE_TYPE_REGULAR: u8 = 1;
pub(super) const FILE_TYPE_DIRECTORY: u8 = 2;

pub(super) const S_IFMT: u16 = 0o170_000;
pub(super) const S_IFREG: u16 = 0o100_000;
pub(super) const S_IFDIR: u16 = 0o040_000;

/// The fields of a superblock that differ between images; all others are the same in each, or zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Super {
    /// Slot of the root's inode.
    pub(super) root: u16,
    pub(super) inodes: u64,
    /// Blocks of the image.
    pub(super) blocks: u32,
    /// Extra devices.
    pub(super) devices: u16,
    pub(super) uuid: [u8; 16],
}

impl Super {
    /// `struct erofs_super_block` without its checksum.
    pub(super) fn encode(&self) -> [u8; SUPER_BYTES] {
        let mut out = [0; SUPER_BYTES];
        out[..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[8..12].copy_from_slice(&(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
        out[12] = BLOCK_BITS;
        out[14..16].copy_from_slice(&self.root.to_le_bytes());
        out[16..24].copy_from_slice(&self.inodes.to_le_bytes());
        out[36..40].copy_from_slice(&self.blocks.to_le_bytes());
        out[48..64].copy_from_slice(&self.uuid);
        out[80..84].copy_from_slice(&(INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE).to_le_bytes());
        out[86..88].copy_from_slice(&self.devices.to_le_bytes());
        out[88..90].copy_from_slice(&DEVICE_TABLE_SLOT.to_le_bytes());
        out
    }
}

/// `struct erofs_deviceslot` of a device: its tag, its length in blocks, and no place in the image's own addresses.
pub(super) fn device_slot(number: usize, blocks: u32) -> [u8; DEVICE_SLOT_BYTES] {
    let mut out = [0; DEVICE_SLOT_BYTES];
    let tag = format!("penstock-{number}");
    out[..tag.len()].copy_from_slice(tag.as_bytes());
    out[64..68].copy_from_slice(&blocks.to_le_bytes());
    out
}

/// log2, in blocks, of the chunks of a file of `bytes` bytes: the smallest that holds it, at most a device.
pub(super) fn chunk_bits(bytes: u64) -> u16 {
    let blocks = bytes.min(DEVICE_BYTES).div_ceil(BLOCK as u64).max(1);
    blocks.next_power_of_two().trailing_zeros() as u16
}

/// The checksum of the superblock's block: CRC32C from the superblock to the end of its block, without the final
/// inversion, as the kernel computes it.
pub(super) fn super_checksum(block: &[u8]) -> u32 {
    let mut bytes = block[SUPER_OFFSET..BLOCK].to_vec();
    bytes[4..8].fill(0);
    !crc32c(&bytes)
}

/// How many chunks a file of `bytes` bytes has: one, or a whole device each.
pub(super) fn chunk_count(bytes: u64) -> usize {
    bytes.div_ceil(DEVICE_BYTES) as usize
}
