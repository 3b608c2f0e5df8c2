//! A package, as the mounter hands it over.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::SealFlags;

use super::KeeperError;
use penstock_revision::limits::PACKAGE_BYTES_MAX;

/// The bytes of a memory file that nobody can change any more. The mounter is not trusted: what it sends could be a pipe
/// that never ends, or change after it was verified.
pub(super) fn read_sealed(memory: OwnedFd, bytes: u64) -> Result<Vec<u8>, KeeperError> {
    let nonsense = |text: String| KeeperError::Nonsense(text);
    if bytes > PACKAGE_BYTES_MAX {
        return Err(nonsense(format!(
            "a package of {bytes} bytes; at most {PACKAGE_BYTES_MAX} are taken"
        )));
    }
    let wanted = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
    match rustix::fs::fcntl_get_seals(&memory) {
        Ok(seals) if seals.contains(wanted) => {}
        _ => return Err(nonsense("a package that is no sealed memory file".to_owned())),
    }
    let mut content = vec![0; bytes as usize];
    let read = fs::File::from(memory).read_exact_at(&mut content, 0);
    read.map_err(|error| nonsense(format!("a package shorter than it says: {error}")))?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use std::io::Write;

    fn memory(content: &[u8], seals: SealFlags) -> OwnedFd {
        let descriptor = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        let mut file = fs::File::from(descriptor);
        file.write_all(content).unwrap();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    #[test]
    fn only_a_sealed_memory_file_of_its_length_is_taken_for_a_package() {
        let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        assert_eq!(read_sealed(memory(b"abc", all), 3).unwrap(), b"abc");
        assert!(read_sealed(memory(b"abc", SealFlags::GROW), 3).is_err());
        assert!(read_sealed(memory(b"abc", all), 4).is_err());
        assert!(read_sealed(memory(b"abc", all), u64::MAX).is_err());
        assert!(read_sealed(tempfile::tempfile().unwrap().into(), 0).is_err());
    }
}
