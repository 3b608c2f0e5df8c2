//! Walks through the tree of an image. Of each folder that it is in one block is in memory, and of each node a bit.

use super::cursor::FolderCursor;
use super::layout::INODE_SLOT_BYTES;
use super::reader::{Counts, Damaged, Image, Inode, NodeId};
use crate::limits::{IMAGE_PATH_BYTES_MAX, NAME_BYTES_MAX};

impl Image {
    /// Calls `visit` with path and inode of everything below the root, folders before what is in them.
    ///
    /// # Errors
    /// When the tree is damaged: legal names in order, `.` and `..` right, no node seen twice, every file inside its device.
    pub fn walk(&self, visit: impl FnMut(&str, NodeId, &Inode)) -> Result<Counts, Damaged> {
        let counts = self.walk_from(self.root(), Some(self.root()), visit)?;
        if counts.files + counts.directories != self.inode_count() {
            return Err(Damaged("it has more or fewer nodes than it says".to_owned()));
        }
        Ok(counts)
    }

    /// The same below a folder; paths begin there, and so do counts.
    ///
    /// # Errors
    /// As for [`Self::walk`], as far as the tree is walked.
    pub fn walk_below(&self, folder: NodeId, visit: impl FnMut(&str, NodeId, &Inode)) -> Result<Counts, Damaged> {
        self.walk_from(folder, None, visit)
    }

    /// Walks the whole tree for its faults; call it before the kernel mounts bytes of somebody else.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self) -> Result<Counts, Damaged> {
        self.walk(|_, _, _| {})
    }

    fn walk_from(
        &self,
        top: NodeId,
        above: Option<NodeId>,
        mut visit: impl FnMut(&str, NodeId, &Inode),
    ) -> Result<Counts, Damaged> {
        let mut counts = Counts::default();
        let mut seen = Seen::in_image(self);
        let mut path = String::new();
        seen.enter(top)?;
        let inode = self.inode(top)?;
        let mut open = vec![Walked::begin(self, top, above, &inode, &path)?];
        counts.directories += 1;
        while let Some(folder) = open.last_mut() {
            path.truncate(folder.path_bytes);
            let Some(entry) = folder.next(self, &mut path)? else {
                open.pop();
                continue;
            };
            if path.len() > IMAGE_PATH_BYTES_MAX {
                return Err(Damaged(format!("a path has more than {IMAGE_PATH_BYTES_MAX} bytes")));
            }
            seen.enter(entry.node)?;
            let inode = self.inode(entry.node)?;
            if inode.is_directory() != entry.is_directory {
                return Err(Damaged(format!("{path:?} is not what its folder says")));
            }
            visit(&path, entry.node, &inode);
            if inode.is_directory() {
                counts.directories += 1;
                let parent = Some(folder.node);
                open.push(Walked::begin(self, entry.node, parent, &inode, &path)?);
            } else {
                counts.files += 1;
                counts.bytes = counts.bytes.saturating_add(inode.bytes);
            }
        }
        Ok(counts)
    }
}

/// What a walk has seen, a bit for each place of a node: one that is seen twice would make it endless.
struct Seen(Vec<u64>);

impl Seen {
    fn in_image(image: &Image) -> Self {
        let slots = image.bytes() / INODE_SLOT_BYTES as u64;
        Self(vec![0; slots.div_ceil(64) as usize])
    }

    fn enter(&mut self, node: NodeId) -> Result<(), Damaged> {
        let word = usize::try_from(node.0 / 64).ok().and_then(|word| self.0.get_mut(word));
        let bit = 1 << (node.0 % 64);
        match word {
            Some(word) if *word & bit == 0 => *word |= bit,
            Some(_) => return Err(Damaged(format!("node {} is there twice", node.0))),
            None => return Err(Damaged(format!("node {} lies nowhere", node.0))),
        }
        Ok(())
    }
}

/// A folder that a walk is in.
struct Walked {
    node: NodeId,
    /// The folder in which it is, where that is known.
    parent: Option<NodeId>,
    /// Length of its path.
    path_bytes: usize,
    cursor: FolderCursor,
    /// The name before, if there was one.
    name: Option<String>,
    /// Whether `.` and `..` were there.
    dots: [bool; 2],
}

/// An entry but for its name.
struct Found {
    node: NodeId,
    is_directory: bool,
}

impl Walked {
    fn begin(image: &Image, node: NodeId, parent: Option<NodeId>, inode: &Inode, path: &str) -> Result<Self, Damaged> {
        Ok(Self {
            node,
            parent,
            path_bytes: path.len(),
            cursor: FolderCursor::begin(image, node, inode)?,
            name: None,
            dots: [false; 2],
        })
    }

    /// The next entry that is neither `.` nor `..`, with its name behind the path of this folder.
    fn next(&mut self, image: &Image, path: &mut String) -> Result<Option<Found>, Damaged> {
        loop {
            let Some(entry) = self.cursor.next(image)? else {
                return match self.dots {
                    [true, true] => Ok(None),
                    _ => fault(path, "has no right `.` and `..`"),
                };
            };
            match &mut self.name {
                Some(name) if **name >= *entry.name => return fault(path, "is not in order"),
                Some(name) => entry.name.clone_into(name),
                None => self.name = Some(entry.name.to_owned()),
            }
            let itself = match entry.name {
                "." => Some((0, Some(self.node))),
                ".." => Some((1, self.parent)),
                _ => None,
            };
            if let Some((dot, node)) = itself {
                if !entry.is_directory || node.is_some_and(|node| node != entry.node) {
                    return fault(path, "has no right `.` and `..`");
                }
                self.dots[dot] = true;
                continue;
            }
            if entry.name.is_empty() || entry.name.len() > NAME_BYTES_MAX || entry.name.contains(['/', '\0']) {
                return fault(path, &format!("has the name {:?}", entry.name));
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(entry.name);
            return Ok(Some(Found {
                node: entry.node,
                is_directory: entry.is_directory,
            }));
        }
    }
}

fn fault<T>(path: &str, what: &str) -> Result<T, Damaged> {
    let shown: String = path.chars().take(200).collect();
    Err(Damaged(format!("the folder {shown:?} {what}")))
}
