//! The place in a folder of whoever goes through its entries: one block of it is in memory, however many there are.

use super::reader::{Damaged, EntryRef, FolderBlock, Image, Inode, NodeId};

/// Stands before an entry of a folder.
#[derive(Debug)]
pub struct FolderCursor {
    inode: Inode,
    blocks: usize,
    next_block: usize,
    block: Option<FolderBlock>,
    next_slot: usize,
}

impl FolderCursor {
    /// Before the first entry of a folder whose inode is known.
    ///
    /// # Errors
    /// When it is no folder.
    pub fn begin(image: &Image, node: NodeId, inode: &Inode) -> Result<Self, Damaged> {
        Ok(Self {
            blocks: image.folder_blocks(node, inode)?,
            inode: inode.clone(),
            next_block: 0,
            block: None,
            next_slot: 0,
        })
    }

    /// The next entry in the order on disk, `.` and `..` included; `image` is that of the folder.
    ///
    /// # Errors
    /// When the block in which it is is damaged.
    pub fn next(&mut self, image: &Image) -> Result<Option<EntryRef<'_>>, Damaged> {
        while self.block.as_ref().is_none_or(|block| self.next_slot >= block.count()) {
            if self.next_block == self.blocks {
                return Ok(None);
            }
            self.block = Some(image.folder_block(&self.inode, self.next_block)?);
            (self.next_block, self.next_slot) = (self.next_block + 1, 0);
        }
        let slot = self.next_slot;
        self.next_slot += 1;
        self.block.as_ref().map(|block| block.entry(slot)).transpose()
    }
}
