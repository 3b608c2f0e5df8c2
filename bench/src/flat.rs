//! The space of a revision as one plain file: what the bare FUSE loop and the sendfile loop serve.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Result;
use penstock_revision::Package;

use crate::load::buffer;

/// Writes the file `flat` with the objects of `package`, read from the files below `data`, each at its address.
///
/// # Errors
/// When the disk refuses.
pub fn write(package: &Package, data: &Path, flat: &Path) -> Result<()> {
    let flat = File::create(flat)?;
    flat.set_len(package.device_bytes().iter().sum())?;
    let mut buffer = buffer(1 << 20);
    for extent in package.all_extents() {
        let extent = extent?;
        let file = File::open(data.join(&extent.object.key))?;
        let mut at = 0;
        while at < extent.bytes {
            let got = file.read_at(&mut buffer, at)?;
            anyhow::ensure!(got > 0, "{} is too short", extent.object.key);
            flat.write_all_at(&buffer[..got], extent.address + at)?;
            at += got as u64;
        }
    }
    flat.sync_all()?;
    Ok(())
}
