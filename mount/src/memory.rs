//! Files in memory that are handed to other processes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

/// A file that can be sealed and, where the kernel knows the difference, not be executed (Linux 6.3).
///
/// # Errors
/// When the process has too many descriptors.
pub fn sealable(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // With `vm.memfd_noexec` at 2 no other file is made.
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{SealFlags, fcntl_add_seals, fstat};

    use super::*;

    #[test]
    fn it_can_be_sealed_and_not_be_executed() {
        let memory = sealable("test").unwrap();
        assert_eq!(
            fstat(&memory).unwrap().st_mode & 0o111,
            0,
            "run this on Linux 6.3 or newer"
        );
        fcntl_add_seals(&memory, SealFlags::WRITE).unwrap();
        assert_eq!(rustix::io::write(&memory, b"x"), Err(Errno::PERM));
    }
}
