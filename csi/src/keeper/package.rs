//! A package, as the mounter hands it over.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::SealFlags;

use super::KeeperError;
use penstock_revision::limits::PACKAGE_BYTES_MAX;

/// A memory file of `bytes` bytes that nobody can change any more. The mounter is not trusted: what it sends could be a pipe
/// that never ends, or change after it was verified.
pub(super) fn sealed(memory: OwnedFd, bytes: u64) -> Result<File, KeeperError> {
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
    let memory = File::from(memory);
    match memory.metadata() {
        Ok(found) if found.len() == bytes => Ok(memory),
        _ => Err(nonsense("a package of another length than it says".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    fn memory(content: &[u8], seals: SealFlags) -> OwnedFd {
        let descriptor = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        let mut file = File::from(descriptor);
        file.write_all(content).unwrap();
        rustix::fs::fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    #[test]
    fn only_a_sealed_memory_file_of_its_length_is_taken_for_a_package() {
        let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW;
        let mut content = [0; 3];
        let file = sealed(memory(b"abc", all), 3).unwrap();
        file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(&content, b"abc");
        assert!(sealed(memory(b"abc", SealFlags::GROW), 3).is_err());
        assert!(sealed(memory(b"abc", all), 4).is_err());
        assert!(sealed(memory(b"abc", all), 2).is_err());
        assert!(sealed(memory(b"abc", all), u64::MAX).is_err());
        assert!(sealed(tempfile::tempfile().unwrap().into(), 0).is_err());
    }
}
