//! The tree of a revision, read from its image as the kernel's EROFS would read it.

use bytes::Bytes;
use penstock_protocol::geometry::BLOCK_BYTES;
use penstock_revision::erofs::reader::{Damaged, Image, Inode, NodeId};
use rustix::io::Errno;

use super::{Attributes, Caching, DirectoryEntry, Files, Place, ROOT, Totals};

/// A position in a folder: the block, and in the lowest bits the entry of it. A block has less than 4096 / 12 entries.
const SLOT_BITS: u32 = 12;

/// A tree. Nodes have the numbers that they have in the image, except for the root, whose number FUSE prescribes.
#[derive(Clone, Debug)]
pub struct Tree {
    image: Image,
    blocks: u64,
}

impl Tree {
    /// The tree in the bytes of an image.
    ///
    /// # Errors
    /// When they are no image of ours.
    pub fn open(image: Bytes) -> Result<Self, Damaged> {
        let bytes = image.len() as u64;
        let image = Image::open(image)?;
        let blocks = (bytes + image.devices().iter().sum::<u64>()) / BLOCK_BYTES;
        Ok(Self { image, blocks })
    }

    fn in_image(&self, node: u64) -> NodeId {
        if node == ROOT { self.image.root() } else { NodeId(node) }
    }

    fn in_kernel(&self, node: NodeId) -> u64 {
        if node == self.image.root() { ROOT } else { node.0 }
    }

    fn inode(&self, node: u64) -> Result<Inode, Errno> {
        self.image.inode(self.in_image(node)).map_err(damaged)
    }

    fn folder(&self, node: u64) -> Result<NodeId, Errno> {
        if self.inode(node)?.is_directory() {
            Ok(self.in_image(node))
        } else {
            Err(Errno::NOTDIR)
        }
    }
}

impl Files for Tree {
    fn lookup(&self, folder: u64, name: &[u8]) -> Result<Option<Attributes>, Errno> {
        let folder = self.folder(folder)?;
        let Ok(name) = std::str::from_utf8(name) else {
            return Ok(None);
        };
        let found = self.image.find(folder, name).map_err(damaged)?;
        found.map(|node| self.attributes(self.in_kernel(node))).transpose()
    }

    fn attributes(&self, node: u64) -> Result<Attributes, Errno> {
        let inode = self.inode(node)?;
        Ok(Attributes {
            node,
            inode: self.in_image(node).0,
            mode: inode.mode.into(),
            uid: inode.uid,
            gid: inode.gid,
            links: inode.links,
            bytes: inode.bytes,
            modified_unix_nanos: inode.modified_unix_nanos,
        })
    }

    fn place(&self, node: u64) -> Result<Option<Place>, Errno> {
        let inode = self.inode(node)?;
        if inode.is_directory() {
            return Err(Errno::ISDIR);
        }
        let bytes = inode.bytes;
        Ok(inode.address().map(|address| Place { address, bytes }))
    }

    fn entries(
        &self,
        folder: u64,
        position: u64,
        take: &mut dyn FnMut(DirectoryEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let folder = self.folder(folder)?;
        let mut slot = (position & ((1 << SLOT_BITS) - 1)) as usize;
        let first = usize::try_from(position >> SLOT_BITS).map_err(|_| Errno::INVAL)?;
        for block in first.. {
            let Some(found) = self.image.block(folder, block).map_err(damaged)? else {
                return Ok(());
            };
            let entries = found.entries().map_err(damaged)?;
            for (at, entry) in entries.iter().enumerate().skip(slot) {
                let taken = take(DirectoryEntry {
                    name: entry.name,
                    inode: entry.node.0,
                    node: self.in_kernel(entry.node),
                    is_directory: entry.is_directory,
                    next: ((block as u64) << SLOT_BITS) + at as u64 + 1,
                });
                if !taken {
                    return Ok(());
                }
            }
            slot = 0;
        }
        Ok(())
    }

    fn caching(&self) -> Caching {
        Caching::Here
    }

    fn totals(&self) -> Totals {
        Totals {
            blocks: self.blocks,
            inodes: self.image.inode_count(),
        }
    }
}

/// The privileged side checked the image before; this is about memory or a disk that went bad since.
fn damaged(damaged: Damaged) -> Errno {
    tracing::error!(%damaged, "a file or folder cannot be shown");
    Errno::IO
}
