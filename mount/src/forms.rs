//! How the kernel is given a revision: the form of a volume. Whoever reads it sees the same tree in each.

use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat};
use rustix::io::Errno;

use crate::bind::Access;
use crate::loop_device::{LoopDevice, Reads};
use crate::table::Mount;
use crate::{MountError, bind, erofs, fuse, read_ahead};

/// How the folders of probes are called.
const PROBE: &str = "probe-";

/// Longer than a probe takes: what is older, nobody works at.
const PROBE_MAX: Duration = Duration::from_secs(60);

/// A form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// EROFS mounted from regular files (Linux 6.12).
    File,
    /// EROFS on loop devices over the same files (Linux 5.16).
    Loop,
    /// A FUSE file system that shows the tree itself (Linux 5.1).
    Fuse,
}

/// What the owner of the machine asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The best that the kernel has.
    Auto,
    /// This one.
    Form(Form),
}

impl Form {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::File, Self::Loop, Self::Fuse];

    /// The form of a mounted revision.
    pub fn of(mount: &Mount) -> Self {
        let source = mount.source.file_name().unwrap_or_default();
        if mount.file_system != erofs::TYPE {
            Self::Fuse
        } else if source.as_encoded_bytes().starts_with(b"loop") {
            Self::Loop
        } else {
            Self::File
        }
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "File",
            Self::Loop => "Loop",
            Self::Fuse => "Fuse",
        }
    }
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        let form = Form::ALL
            .into_iter()
            .find(|form| form.name().eq_ignore_ascii_case(&text));
        match form {
            Some(form) => Ok(Self::Form(form)),
            None if text == "auto" => Ok(Self::Auto),
            None => Err(format!("{text:?} is no form of volumes: auto, file, loop or fuse")),
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Form(form) => f.write_str(&form.name().to_ascii_lowercase()),
        }
    }
}

/// Chooses a form, and says why. `small` is an image over one block whose file `file` begins with that block's bytes
/// [`SMALL_CONTENT`]; `state` is the folder in which images will lie, `scratch` one on whose file system devices may be
/// opened.
pub fn choose(wish: Wish, small: &[u8], state: &Path, scratch: &Path) -> (Form, String) {
    if let Wish::Form(form) = wish {
        return (form, "it was asked for".to_owned());
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let from_files = match known_fault(&release) {
        Some(fault) => fault.to_owned(),
        None => match probe(Form::File, small, state, scratch) {
            Ok(()) => return (Form::File, format!("Linux {release} mounts EROFS from files")),
            Err(error) => error.to_string(),
        },
    };
    match probe(Form::Loop, small, state, scratch) {
        Ok(()) => (Form::Loop, from_files),
        // A full disk, for example. Loop devices are what most kernels have.
        Err(error @ ProbeError::Folder { .. }) => (Form::Loop, format!("nothing could be tried: {error}")),
        Err(error) => {
            let why = format!("no EROFS from files ({from_files}), none from loop devices ({error})");
            (Form::Fuse, why)
        }
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

/// What the small image that probes mount shows in its file.
pub const SMALL_CONTENT: &[u8] = b"Penstock";

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("{}: {error}", .path.display())]
    Folder { path: PathBuf, error: std::io::Error },
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("EROFS shows wrong bytes on this kernel")]
    WrongBytes,
}

/// Mounts an image of one small file in this form, and reads the file.
fn probe(form: Form, small: &[u8], state: &Path, scratch: &Path) -> Result<(), ProbeError> {
    remove_left_probes(state);
    // Another process may probe at the same time.
    let folder = new_folder(state)?;
    let probed = probe_in(form, small, &folder, scratch);
    let _ = bind::detach(&folder.join("tree"));
    let _ = fs::remove_dir_all(&folder);
    probed
}

fn new_folder(state: &Path) -> Result<PathBuf, ProbeError> {
    let mut number = 0;
    loop {
        let path = state.join(format!("{PROBE}{}-{number}", std::process::id()));
        match mkdirat(CWD, &path, Mode::RWXU) {
            Ok(()) => return Ok(path),
            Err(Errno::EXIST) => number += 1,
            Err(errno) => {
                let error = errno.into();
                return Err(ProbeError::Folder { path, error });
            }
        }
    }
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

fn probe_in(form: Form, small: &[u8], folder: &Path, scratch: &Path) -> Result<(), ProbeError> {
    let (file, space, tree) = (folder.join("image"), folder.join("space"), folder.join("tree"));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| ProbeError::Folder { path, error }
    };
    for folder in [&space, &tree] {
        fs::create_dir(folder).map_err(failed(folder))?;
    }
    fs::write(&file, small).map_err(failed(&file))?;
    let mut block = SMALL_CONTENT.to_vec();
    block.resize(4096, 0);
    fs::write(space.join("0"), &block).map_err(failed(&space))?;
    let revision = Revision {
        image: &file,
        space: &space,
        devices: 1,
    };
    mount(form, &revision, &tree, 128, scratch)?;
    let read = fs::read(tree.join("file")).map_err(failed(&tree))?;
    if read == SMALL_CONTENT {
        Ok(())
    } else {
        Err(ProbeError::WrongBytes)
    }
}

/// What is mounted.
#[derive(Clone, Copy, Debug)]
pub struct Revision<'a> {
    /// Its image.
    pub image: &'a Path,
    /// Where its FUSE connection is mounted: with the files "0", "1", ... of the space, or, in the third form, with the tree.
    pub space: &'a Path,
    /// How many of these files there are.
    pub devices: usize,
}

/// Mounts a revision at `target`, read-only. The kernel reads ahead on it by so many KiB. Whoever serves the connection is
/// asked meanwhile.
///
/// # Errors
/// When the kernel refuses; nothing is mounted then.
pub fn mount(
    form: Form,
    revision: &Revision<'_>,
    target: &Path,
    read_ahead_kib: u32,
    scratch: &Path,
) -> Result<(), MountError> {
    let Revision { image, space, devices } = revision;
    match form {
        Form::File => {
            let devices = devices_in(space, *devices)?;
            let paths: Vec<_> = devices.iter().map(path_of).collect();
            read_ahead::mounted(read_ahead_kib, || erofs::mount(image, target, &paths))
        }
        Form::Loop => {
            let devices = devices_in(space, *devices)?;
            let image = LoopDevice::over(image, Reads::Cached, scratch)?;
            image.read_ahead(read_ahead_kib)?;
            let devices = devices
                .iter()
                .map(|device| LoopDevice::over(&path_of(device), Reads::Direct, scratch));
            let devices = devices.collect::<Result<Vec<_>, _>>()?;
            let paths: Vec<_> = devices.iter().map(LoopDevice::path).collect();
            erofs::mount(image.path(), target, &paths)
            // The mount holds the devices; they go with it.
        }
        Form::Fuse => {
            // Only once it is served there is something to see, and something to set.
            fs::metadata(space).map_err(MountError::of_io("look at", space))?;
            read_ahead::of_device((0, fuse::connection_number(space)?), read_ahead_kib);
            bind::bind(space, target, Access::ReadOnly)
        }
    }
}

/// The files "0", "1", ... of a space, held so that they cannot become others. Whoever serves the space may show anything under
/// these names: a link to a file of the host, a pipe whose opening never ends.
fn devices_in(space: &Path, count: usize) -> Result<Vec<OwnedFd>, MountError> {
    let hold = |number: usize| {
        let path = space.join(number.to_string());
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = rustix::fs::open(&path, flags, Mode::empty()).map_err(MountError::new("open", &path))?;
        let status = rustix::fs::fstat(&held).map_err(MountError::new("look at", &path))?;
        if FileType::from_raw_mode(status.st_mode) == FileType::RegularFile {
            Ok(held)
        } else {
            Err(MountError::new("find a regular file at", &path)(Errno::INVAL))
        }
    };
    (0..count).map(hold).collect()
}

/// A path that leads to what is held.
fn path_of(held: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", held.as_raw_fd()).into()
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
    fn this_kernel_has_all_forms_and_nothing_is_left() {
        let (state, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let small = penstock_revision::image_of_one_file("file", SMALL_CONTENT.len() as u64).unwrap();
        for form in Form::ALL.into_iter().filter(|form| *form != Form::Fuse) {
            probe(form, &small, state.path(), scratch.path()).expect("run this as root, on ext4, xfs or btrfs");
        }
        let (form, why) = choose(Wish::Auto, &small, state.path(), scratch.path());
        assert_eq!(form, Form::File, "{why}");
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_state_folder_that_cannot_be_written_stops_nobody() {
        let nowhere = Path::new("/proc/nowhere");
        let (form, why) = choose(Wish::Auto, &[], nowhere, nowhere);
        assert_eq!(form, Form::Loop);
        assert!(why.contains("/proc/nowhere"), "{why}");
    }

    #[test]
    fn a_kernel_without_erofs_gets_the_third_form() {
        let (state, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // An image that no EROFS takes is all that such a kernel says too.
        let (form, why) = choose(Wish::Auto, &[0; 4096], state.path(), scratch.path());
        assert_eq!(form, Form::Fuse, "{why}");
        assert!(why.contains("loop devices"), "{why}");
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_wish_is_read_as_it_is_written_in_the_chart() {
        for wish in Form::ALL.map(Wish::Form).into_iter().chain([Wish::Auto]) {
            assert_eq!(wish.to_string().parse(), Ok(wish));
        }
        assert_eq!("Fuse".parse(), Ok(Wish::Form(Form::Fuse)));
        assert!("fuze".parse::<Wish>().unwrap_err().contains("no form"));
    }
}
