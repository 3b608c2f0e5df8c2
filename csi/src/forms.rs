//! How the kernel is given an image: the form of a volume. Pods see the same tree in each.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use bytes::Bytes;
use penstock_mount::loop_device::{LoopDevice, Reads};
use penstock_mount::{bind, erofs, read_ahead};
use penstock_protocol::ids::SpaceId;
use penstock_revision::{BuildOptions, Listed, Outcome, SourceListing, Version, build};
use prometheus_client::encoding::EncodeLabelValue;

use crate::error::Error;
use crate::limits::{PROBE_MAX, READ_AHEAD_KIB};

/// How the folders of probes are called in the state folder.
const PROBE: &str = "probe-";

/// A form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Form {
    /// EROFS mounted from regular files (Linux 6.12).
    File,
    /// EROFS on loop devices over the same files (Linux 5.16; the take-over needs 6.9).
    Loop,
}

/// What the owner of the node asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The best that the kernel has.
    Auto,
    /// This one.
    Form(Form),
}

impl Form {
    /// The form of an image whose mount has this source.
    pub fn of(source: &Path) -> Self {
        let name = source.file_name().unwrap_or_default();
        if name.as_encoded_bytes().starts_with(b"loop") {
            Self::Loop
        } else {
            Self::File
        }
    }
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "file" => Ok(Self::Form(Form::File)),
            "loop" => Ok(Self::Form(Form::Loop)),
            _ => Err(format!("{text:?} is no form of volumes: auto, file or loop")),
        }
    }
}

/// Chooses a form, and says why. `state` is the folder of images, `scratch` one on whose file system devices may be opened.
///
/// # Errors
/// When the kernel has none of them.
pub fn choose(wish: Wish, state: &Path, scratch: &Path) -> Result<(Form, String), Error> {
    if let Wish::Form(form) = wish {
        return Ok((form, "it was asked for".to_owned()));
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let unwanted = match known_fault(&release) {
        Some(fault) => fault.to_owned(),
        None => match probe(Form::File, state, scratch) {
            Ok(()) => return Ok((Form::File, format!("Linux {release} mounts EROFS from files"))),
            Err(error) => error.to_string(),
        },
    };
    match probe(Form::Loop, state, scratch) {
        Ok(()) => Ok((Form::Loop, unwanted)),
        // A full disk, for example. Pods must start and end all the same, and loop devices are what most kernels have.
        Err(error @ Error::File { .. }) => Ok((Form::Loop, format!("nothing could be tried: {error}"))),
        Err(error) => Err(Error::Internal(format!(
            "Linux {release} mounts EROFS neither from files ({unwanted}) nor from loop devices ({error}): load the module \
             (modprobe erofs), or choose other nodes with nodes.nodeSelector"
        ))),
    }
}

/// Why a kernel that mounts EROFS from files must not do so. Numbers of stable kernels: one that a distribution has mended by
/// itself gets loop devices without need.
fn known_fault(release: &str) -> Option<&'static str> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next()?, numbers.next()?, numbers.next().unwrap_or(0));
    // Mended in 6.12.29, 6.14.7 and 6.15.
    let faulty = match version {
        (6, 12, patch) => patch <= 28,
        (6, 13, _) => true,
        (6, 14, patch) => patch <= 6,
        _ => false,
    };
    faulty.then_some("this kernel may crash on EROFS from files (CVE-2025-37999)")
}

/// Mounts an image of one small file in this form, and reads the file.
fn probe(form: Form, state: &Path, scratch: &Path) -> Result<(), Error> {
    remove_left_probes(state);
    // Another csi container may probe at the same time.
    let folder = state.join(format!("{PROBE}{:016x}", rand::random::<u64>()));
    let probed = probe_in(form, &folder, scratch);
    let _ = bind::detach(&folder.join("tree"));
    let _ = fs::remove_dir_all(&folder);
    probed
}

/// Removes what a process left that was killed while it probed. Its mount ended with it.
fn remove_left_probes(state: &Path) {
    for entry in fs::read_dir(state).into_iter().flatten().flatten() {
        let age = entry
            .metadata()
            .and_then(|status| status.modified())
            .map(|at| at.elapsed().unwrap_or_default());
        if entry.file_name().to_string_lossy().starts_with(PROBE) && age.is_ok_and(|age| age > PROBE_MAX) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn probe_in(form: Form, folder: &Path, scratch: &Path) -> Result<(), Error> {
    const CONTENT: &[u8] = b"Penstock";
    let (image, device, tree) = (folder.join("image"), folder.join("0"), folder.join("tree"));
    let file = |path: &Path, bytes: &[u8]| fs::write(path, bytes).map_err(Error::file("write", path));
    fs::create_dir_all(&tree).map_err(Error::file("make the folder", &tree))?;
    file(&image, &small_image()?)?;
    let mut block = CONTENT.to_vec();
    block.resize(4096, 0);
    file(&device, &block)?;
    mount(form, &image, &tree, &[&device], scratch)?;
    let read = fs::read(tree.join("file")).map_err(Error::file("read", &tree))?;
    if read == CONTENT {
        Ok(())
    } else {
        Err(Error::Internal("EROFS shows wrong bytes on this kernel".to_owned()))
    }
}

fn small_image() -> Result<Bytes, Error> {
    let object = Listed {
        key: "file".to_owned(),
        bytes: 8,
        modified_unix_nanos: 0,
        version: Version::ETag("1".to_owned()),
    };
    let listing = SourceListing {
        identity: "probe".to_owned(),
        path: String::new(),
        objects: vec![object],
    };
    let fault = |error: &dyn std::fmt::Display| Error::Internal(format!("make an image of one file: {error}"));
    match build(SpaceId([0; 16]), None, &[listing], &BuildOptions::default()).map_err(|error| fault(&error))? {
        Outcome::New(package) => package.image().map(Bytes::from).map_err(|error| fault(&error)),
        Outcome::Unchanged => Err(fault(&"nothing is new")),
    }
}

/// Mounts an image over its devices. The kernel reads ahead on it as far as our mounter answers at once.
///
/// # Errors
/// When the kernel refuses.
pub fn mount(
    form: Form,
    image: &Path,
    target: &Path,
    devices: &[impl AsRef<Path>],
    scratch: &Path,
) -> Result<(), penstock_mount::MountError> {
    match form {
        Form::File => read_ahead::mounted(READ_AHEAD_KIB, || erofs::mount(image, target, devices)),
        Form::Loop => {
            let image = LoopDevice::over(image, Reads::Cached, scratch)?;
            image.read_ahead(READ_AHEAD_KIB)?;
            let devices = devices
                .iter()
                .map(|device| LoopDevice::over(device.as_ref(), Reads::Direct, scratch));
            let devices = devices.collect::<Result<Vec<_>, _>>()?;
            let paths: Vec<_> = devices.iter().map(LoopDevice::path).collect();
            erofs::mount(image.path(), target, &paths)
            // The mount holds the devices; they go with it.
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_with_the_fault_are_known() {
        let faulty = [
            "6.12.0",
            "6.12.28-generic",
            "6.13.11",
            "6.14.0-27-generic",
            "6.14.6+deb",
        ];
        let sound = [
            "6.12.29",
            "6.14.7",
            "6.15.0-rc1",
            "6.18.3",
            "5.15.0-100",
            "7.0",
            "strange",
            "6",
        ];
        assert!(faulty.iter().all(|release| known_fault(release).is_some()));
        assert!(sound.iter().all(|release| known_fault(release).is_none()));
    }

    #[test]
    fn this_kernel_has_both_forms_and_nothing_is_left() {
        let (state, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for form in [Form::File, Form::Loop] {
            probe(form, state.path(), scratch.path()).expect("run this as root, on ext4, xfs or btrfs");
        }
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
        let (form, why) = choose(Wish::Auto, state.path(), scratch.path()).unwrap();
        assert_eq!(form, Form::File, "{why}");
    }

    #[test]
    fn a_state_folder_that_cannot_be_written_stops_nobody() {
        let nowhere = Path::new("/proc/nowhere");
        let (form, why) = choose(Wish::Auto, nowhere, nowhere).unwrap();
        assert_eq!(form, Form::Loop);
        assert!(why.contains("/proc/nowhere"), "{why}");
    }

    #[test]
    fn a_wish_is_read_as_it_is_written_in_the_chart() {
        assert_eq!("Auto".parse(), Ok(Wish::Auto));
        assert_eq!("loop".parse(), Ok(Wish::Form(Form::Loop)));
        assert!("fuse".parse::<Wish>().unwrap_err().contains("no form"));
    }
}
