//! A folder with the devices of a space as files "0", "1", ..., for an image that is mounted over them.

use penstock_protocol::geometry::{BLOCK_BYTES, DEVICE_BYTES};
use rustix::io::Errno;

use super::{Attributes, Caching, DirectoryEntry, Files, Place, ROOT, Totals};

/// The devices, by their lengths in bytes.
#[derive(Clone, Debug)]
pub struct Devices(pub Vec<u64>);

impl Devices {
    fn number(&self, node: u64) -> Option<(usize, u64)> {
        let number = usize::try_from(node.checked_sub(ROOT + 1)?).ok()?;
        Some((number, *self.0.get(number)?))
    }
}

impl Files for Devices {
    fn lookup(&self, folder: u64, name: &[u8]) -> Result<Option<Attributes>, Errno> {
        if folder != ROOT {
            return Err(Errno::NOTDIR);
        }
        let number = std::str::from_utf8(name)
            .ok()
            .and_then(|name| name.parse::<u64>().ok())
            .filter(|number| *number < self.0.len() as u64 && number.to_string().as_bytes() == name);
        number.map(|number| self.attributes(number + ROOT + 1)).transpose()
    }

    fn attributes(&self, node: u64) -> Result<Attributes, Errno> {
        let (mode, links, bytes) = match self.number(node) {
            _ if node == ROOT => (0o040_500, 2, 0),
            Some((_, bytes)) => (0o100_400, 1, bytes),
            None => return Err(Errno::NOENT),
        };
        Ok(Attributes {
            node,
            inode: node,
            mode,
            uid: 0,
            gid: 0,
            links,
            bytes,
            modified_unix_nanos: 0,
        })
    }

    fn place(&self, node: u64) -> Result<Option<Place>, Errno> {
        let (number, bytes) = self.number(node).ok_or(Errno::NOENT)?;
        let address = number as u64 * DEVICE_BYTES;
        Ok(Some(Place { address, bytes }))
    }

    /// Nobody lists them: whoever mounts the image knows their names.
    fn entries(&self, _: u64, _: u64, _: &mut dyn FnMut(DirectoryEntry<'_>) -> bool) -> Result<(), Errno> {
        Ok(())
    }

    fn caching(&self) -> Caching {
        Caching::Above
    }

    fn totals(&self) -> Totals {
        Totals {
            blocks: self.0.iter().sum::<u64>() / BLOCK_BYTES,
            inodes: self.0.len() as u64 + 1,
        }
    }
}
