//! EROFS images: by the reader as a whole, node by node, and as the tree of a FUSE file system.

use std::collections::HashSet;

use penstock_mounter::files::{Files, Tree};
use penstock_protocol::checksum::crc32c;
use penstock_protocol::geometry::DEVICE_BYTES;
use penstock_revision::erofs::reader::{Image, NodeId};

use super::revisions;
use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "images",
    bytes_max: 20 << 10,
    memory_max: 16 << 20,
    begin,
};

const BLOCK: usize = 4096;
const SUPERBLOCK: usize = 1024;
/// Nodes of which the folders are read: each may be as long as the image.
const FOLDERS_MAX: usize = 64;

fn begin() -> Trying {
    let images = revisions::some().into_iter().filter_map(|package| package.image().ok());
    Trying {
        samples: images.filter(|image| image.len() <= TARGET.bytes_max).collect(),
        read: Box::new(read),
    }
}

fn read(input: &[u8]) {
    let _ = Image::open(input.to_vec().into());
    let image = sealed(input);
    let Ok(tree) = Tree::open(image.clone().into()) else {
        return;
    };
    let slots = image.len() as u64 / 32;
    let Ok(image) = Image::open(image.into()) else {
        panic!("a tree and no image");
    };
    check(&image);
    let nodes = (0..slots + 2).chain([u64::MAX, u64::MAX / 32, 1 << 59]);
    let is_folder = |node: &u64| image.inode(NodeId(*node)).is_ok_and(|inode| inode.is_directory());
    for node in nodes.filter(is_folder).take(FOLDERS_MAX) {
        read_folder(&image, &tree, node);
    }
    let _ = image.lookup("b/d/e");
}

/// Whole blocks, as many as the superblock says, which has the right checksum.
fn sealed(input: &[u8]) -> Vec<u8> {
    let mut image = input.to_vec();
    image.resize(input.len().next_multiple_of(BLOCK).max(BLOCK), 0);
    let blocks = (image.len() / BLOCK) as u32;
    image[SUPERBLOCK + 36..SUPERBLOCK + 40].copy_from_slice(&blocks.to_le_bytes());
    image[SUPERBLOCK + 4..SUPERBLOCK + 8].fill(0);
    let sum = !crc32c(&image[SUPERBLOCK..BLOCK]);
    image[SUPERBLOCK + 4..SUPERBLOCK + 8].copy_from_slice(&sum.to_le_bytes());
    image
}

/// What passes is a tree: each node once, each file in its device.
fn check(image: &Image) {
    let (mut nodes, mut paths) = (HashSet::new(), HashSet::new());
    let walked = image.walk(|path, node, inode| {
        assert!(
            nodes.insert(node) && paths.insert(path.to_owned()),
            "{path:?} is there twice"
        );
        if let Some(address) = inode.address() {
            let device = image.devices()[(address / DEVICE_BYTES) as usize];
            assert!(address % DEVICE_BYTES + inode.bytes.min(DEVICE_BYTES) <= device.max(DEVICE_BYTES));
        }
    });
    assert_eq!(walked, image.check());
    if walked.is_ok() {
        assert_eq!(nodes.len() as u64 + 1, image.inode_count());
        for path in paths {
            let found = image.lookup(&path);
            assert!(
                matches!(found, Ok(Some(node)) if nodes.contains(&node)),
                "{path:?} is not found"
            );
        }
    }
}

/// A folder says the same in all ways in which it is asked.
fn read_folder(image: &Image, tree: &Tree, node: u64) {
    let entries = image.entries(NodeId(node));
    let (mut names, mut positions) = (Vec::new(), Vec::new());
    let listed = tree.entries(node, 0, &mut |entry| {
        names.push(entry.name.to_owned());
        positions.push(entry.next);
        true
    });
    if let Ok(entries) = entries
        && listed.is_ok()
        && node != penstock_mounter::files::ROOT
    {
        names.retain(|name| name != "." && name != "..");
        assert!(entries.iter().map(|entry| &entry.name).eq(&names));
    }
    for position in positions.into_iter().take(4).chain([4095, 4096, u64::MAX]) {
        let _ = tree.entries(node, position, &mut |_| false);
    }
    for name in ["a", ".", "", "zz"] {
        let _ = (
            tree.lookup(node, name.as_bytes()),
            tree.attributes(node),
            tree.place(node),
        );
    }
}
