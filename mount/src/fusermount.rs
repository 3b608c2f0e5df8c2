//! FUSE file systems of users without privileges, mounted by the setuid program `fusermount3` (fusermount3(1)), which most
//! distributions have in their package `fuse3`.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::fuse::READ_BYTES_MAX;
use penstock_descriptors as descriptors;

const PROGRAM: &str = "fusermount3";

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub enum FusermountError {
    /// The program is not there.
    #[error(
        "the program fusermount3 is not here, without which only root can mount: install the package fuse3, or use sudo"
    )]
    Missing,
    /// It refused.
    #[error("fusermount3 refused: {0}")]
    Refused(String),
}

/// Mounts a new FUSE file system at `target`, read-only and for this user, and returns its connection; the mount table shows
/// `source`. Nothing answers on it yet: the first request is INIT.
///
/// # Errors
/// When the program is missing or refuses, for example because the folder is somebody else's.
pub fn mount(source: &Path, target: &Path) -> Result<OwnedFd, FusermountError> {
    let failed = |error: io::Error| FusermountError::Refused(error.to_string());
    let (ours, theirs) = descriptors::pair().map_err(failed)?;
    fcntl_setfd(&theirs, FdFlags::empty()).map_err(|errno| failed(errno.into()))?;
    let mut options =
        format!("ro,nosuid,nodev,default_permissions,subtype=penstock,max_read={READ_BYTES_MAX},fsname=").into_bytes();
    for byte in source.as_os_str().as_encoded_bytes() {
        if matches!(byte, b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(*byte);
    }
    let mut command = Command::new(PROGRAM);
    command.arg("-o").arg(OsStr::from_bytes(&options)).arg("--").arg(target);
    // Where it sends the descriptor: doc/kernel.rst and util/fusermount.c of libfuse.
    run(command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string()))?;
    drop(theirs);
    let packet = descriptors::receive(ours.as_fd()).map_err(failed)?;
    let connection = packet.and_then(|packet| packet.descriptors.into_iter().next());
    connection.ok_or_else(|| FusermountError::Refused("it handed no connection over".to_owned()))
}

/// Unmounts what [`mount`] mounted.
///
/// # Errors
/// When it is in use.
pub fn unmount(target: &Path) -> Result<(), FusermountError> {
    run(Command::new(PROGRAM).args(["-u", "--"]).arg(target)).map(drop)
}

/// As [`unmount`], but what uses it goes on until it ends.
///
/// # Errors
/// When it is not mounted by this user.
pub fn detach(target: &Path) -> Result<(), FusermountError> {
    run(Command::new(PROGRAM).args(["-u", "-z", "--"]).arg(target)).map(drop)
}

fn run(command: &mut Command) -> Result<Output, FusermountError> {
    let refused = |why: &dyn Display| FusermountError::Refused(why.to_string());
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(FusermountError::Missing),
        Err(error) => return Err(refused(&error)),
    };
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().trim_start_matches("fusermount3: ");
    Err(if said.is_empty() {
        refused(&output.status)
    } else {
        refused(&said)
    })
}
