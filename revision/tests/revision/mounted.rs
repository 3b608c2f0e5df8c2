//! A package mounted by the kernel over sparse device files. What it mounts and writes is gone when it is dropped.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use penstock_protocol::geometry::DEVICE_BYTES;
use penstock_revision::{Extent, Package};
use tempfile::TempDir;

/// Bytes that mark the ends of an extent.
pub const MARK_BYTES: usize = 16;

pub struct Mounted {
    folder: TempDir,
    devices: Vec<PathBuf>,
    is_mounted: bool,
}

impl Mounted {
    /// Mounts `package`. The first bytes of each extent and the bytes of its last block say where they are.
    pub fn new(package: &Package) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts file systems: run it as root, on a kernel of 6.12 or newer with EROFS"
        );
        let mut mounted = Self::files(package);
        mounted.mark(package);
        std::fs::create_dir(mounted.root()).unwrap();
        penstock_mount::erofs::mount(&mounted.image(), &mounted.root(), &mounted.devices).expect(
            "the kernel mounts the image; it must be 6.12 or newer and have EROFS, the test's folder on a disk",
        );
        mounted.is_mounted = true;
        mounted
    }

    /// Image and devices as files, not mounted.
    pub fn files(package: &Package) -> Self {
        // Not the folder for temporary files: the kernel mounts no image from a tmpfs.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::write(folder.path().join("image"), package.image().unwrap()).unwrap();
        let devices: Vec<PathBuf> = (0..package.device_bytes().len())
            .map(|number| folder.path().join(format!("device-{number}")))
            .collect();
        for (path, bytes) in devices.iter().zip(package.device_bytes()) {
            File::create(path).unwrap().set_len(bytes).unwrap();
        }
        Self {
            folder,
            devices,
            is_mounted: false,
        }
    }

    pub fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    pub fn devices(&self) -> &[PathBuf] {
        &self.devices
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("mount")
    }

    fn mark(&self, package: &Package) {
        let open = |path: &PathBuf| File::options().write(true).open(path).unwrap();
        let devices: Vec<File> = self.devices.iter().map(open).collect();
        for extent in package.all_extents() {
            let extent = extent.unwrap();
            for offset in marked_offsets(extent.bytes) {
                let address = extent.address + offset;
                let device = &devices[(address / DEVICE_BYTES) as usize];
                device.write_all_at(&mark(address), address % DEVICE_BYTES).unwrap();
            }
        }
        for (device, bytes) in devices.iter().zip(package.device_bytes()) {
            device.set_len(bytes).unwrap();
        }
    }

    /// Panics unless the file at `path` shows the bytes of `extent`.
    pub fn assert_shows(&self, path: &Path, extent: &Extent) {
        let file = File::open(path).unwrap();
        for offset in marked_offsets(extent.bytes) {
            let address = extent.address + offset;
            let mut seen = [0; MARK_BYTES];
            let expected = &mark(address)[..MARK_BYTES.min((extent.bytes - offset) as usize)];
            let seen = &mut seen[..expected.len()];
            file.read_exact_at(seen, offset).unwrap();
            assert_eq!(seen, expected, "{path:?} at {offset} shows address {address}");
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mounted
            && let Err(error) = penstock_mount::bind::unmount(&self.root())
        {
            eprintln!("{error}");
        }
    }
}

/// Offsets within an object of `bytes` bytes that carry a mark: its first and its last block.
fn marked_offsets(bytes: u64) -> impl Iterator<Item = u64> {
    let last = (bytes - 1) / 4096 * 4096;
    [0, last].into_iter().take(if last == 0 { 1 } else { 2 })
}

/// No two addresses have the same mark, and no mark is zeros.
fn mark(address: u64) -> [u8; MARK_BYTES] {
    let digest = blake3::hash(&address.to_le_bytes());
    std::array::from_fn(|at| digest.as_bytes()[at])
}
