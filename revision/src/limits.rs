//! Every bound of this crate: name, number, reason.

use penstock_protocol::geometry::DEVICE_BYTES;

/// Longest name that Linux file systems hold (NAME_MAX), in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest path below the root, in bytes: a path given to the kernel has at most 4,095 (PATH_MAX without its NUL), and the
/// path of the mount point must fit in front of it.
pub const PATH_BYTES_MAX: usize = 3840;
/// Longest path of the tree at which a source may stand, in bytes; what is left must do for its keys.
pub const SOURCE_PATH_BYTES_MAX: usize = 1024;
/// Longest path that an image may have: the longest of ours with the suffix that a clash of names may add.
pub const IMAGE_PATH_BYTES_MAX: usize = 4095;
/// Longest key, in bytes. S3, GCS and Azure allow 1,024, HDFS 8,000.
pub const KEY_BYTES_MAX: usize = 16 << 10;
/// Longest version, in bytes. Entity tags have some tens.
pub const VERSION_BYTES_MAX: usize = 8 << 10;
/// Longest object: far above S3 (50 TB), and its indexes of chunks always fit behind its inode.
pub const OBJECT_BYTES_MAX: u64 = 32 * DEVICE_BYTES;
/// Most devices of an image: 8 PiB. The number of the root's inode has 16 bits and lies behind the device table, which
/// would allow 16,000; but a mount names every device.
pub const DEVICES_MAX: usize = 1024;
/// Where a space ends at the latest.
pub const SPACE_BYTES_MAX: u64 = DEVICES_MAX as u64 * DEVICE_BYTES;
/// Most examples of awkward keys that a revision keeps: enough to understand, few enough for a status.
pub const EXAMPLES_MAX: usize = 8;
/// Most characters of a key in an example.
pub const EXAMPLE_CHARACTERS_MAX: usize = 120;
/// Below this much that is dead a new space is not worth fetching everything again.
pub const DEAD_BYTES_MIN: u64 = 1 << 30;
/// Most bytes of a package: 10⁸ files; more needs packages that are read lazily.
pub const PACKAGE_BYTES_MAX: u64 = 8 << 30;
/// Most bytes of the summary and the identities of sources, as JSON: a Dataset has at most some hundred sources.
pub const FACTS_BYTES_MAX: usize = 16 << 20;
/// Most bytes of an image: 10⁸ files of 130 bytes each would be 13 GB; more needs packages that are read lazily.
pub const IMAGE_BYTES_MAX: u64 = 16 << 30;
/// Most bytes of an image for each byte of its compressed form, so that a small package cannot claim a large memory.
/// Ours have 3 to 30.
pub const IMAGE_RATIO_MAX: u64 = 512;
/// An image may always have this much, whatever its compressed length.
pub const IMAGE_BYTES_ALWAYS: u64 = 4 << 20;
/// Extents of a chunk: large enough to compress (about 15 KB), small enough to decode in some ten microseconds.
pub const CHUNK_EXTENTS: usize = 256;
/// A chunk is closed when it has this many bytes, long keys or not.
pub const CHUNK_BYTES_CLOSE: usize = 256 << 10;
/// Most bytes of a decoded chunk: what closes it, the largest entry, and the numbers of all entries.
pub const CHUNK_BYTES_MAX: usize = CHUNK_BYTES_CLOSE + KEY_BYTES_MAX + VERSION_BYTES_MAX + CHUNK_EXTENTS * 64;
/// Most bytes of all keys and versions of a chunk: a small chunk whose keys share what they have must not become a large memory.
pub const CHUNK_TEXT_BYTES_MAX: usize = CHUNK_BYTES_CLOSE + KEY_BYTES_MAX + VERSION_BYTES_MAX;
/// Decoded chunks that a package keeps: 512 × 256 extents, about 16 MB. 64 were too few for an epoch of 20,000 files in random
/// order: nearly every file decoded a chunk.
pub const DECODED_CHUNKS_MAX: usize = 512;
/// Most bytes that each of the lists of a build has in memory before it goes to the folder that was handed in. A build has up to three
/// that are sorted at the same time. With 32 MiB 10 M objects are some forty runs, which are merged at once.
pub const SCRATCH_MEMORY_BYTES: usize = 32 << 20;
/// What is read or written of a file of a build at a time: a tenth of a millisecond of an SSD, and little beside the lists when there
/// is one for each run.
pub const SCRATCH_PIECE_BYTES: usize = 128 << 10;

/// Pages of an image in a file that are kept while it is read, 16 KiB each: that of the inodes and those of the folders on the way to
/// them; in a deeper tree a folder's page is read again now and then.
pub(crate) const IMAGE_PAGES_KEPT: usize = 16;

/// Names of one folder that are compared with each other for their case: 16 MB of digests. What a larger folder has beyond it is not
/// looked at.
pub(crate) const NAMES_COMPARED_MAX: usize = 1 << 20;
