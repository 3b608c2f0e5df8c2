//! Revision packages on disk: written whole, synced, named by their digest and checked by it when they are read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use penstock_protocol::ids::RevisionId;
use penstock_revision::Package;

/// The packages in one folder.
pub struct PackageStore {
    folder: PathBuf,
}

impl PackageStore {
    /// The packages in the folder `packages` of a tier.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(tier: &Path) -> io::Result<Self> {
        let folder = tier.join("packages");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Keeps a package; it is on disk when this returns.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keep(&self, package: &Package) -> io::Result<()> {
        let path = self.path(&package.id());
        if path.exists() {
            return Ok(());
        }
        let unfinished = self.folder.join(format!(".{}", package.id()));
        let mut file = File::create(&unfinished)?;
        file.write_all(package.bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(&self.folder)?.sync_all()
    }

    /// A package; `None` when it is not here or not what its name says, in which case it is removed.
    pub fn load(&self, revision: &RevisionId) -> Option<Package> {
        let path = self.path(revision);
        let bytes = fs::read(&path).ok()?;
        match Package::parse(bytes.into()) {
            Ok(package) if package.id() == *revision => Some(package),
            _ => {
                tracing::warn!(path = %path.display(), "a package does not have its digest; it is fetched again");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Every package that is here, by the time when it was kept, the newest first.
    pub fn newest_first(&self) -> Vec<RevisionId> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .filter_map(|entry| {
                let revision = entry.file_name().to_str()?.parse::<RevisionId>().ok()?;
                Some((entry.metadata().ok()?.modified().ok()?, revision))
            })
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.into_iter().map(|(_, revision)| revision).collect()
    }

    /// Removes every package that `wanted` refuses.
    pub fn keep_only(&self, wanted: impl Fn(&RevisionId) -> bool) {
        for revision in self.newest_first().into_iter().filter(|revision| !wanted(revision)) {
            if let Err(error) = fs::remove_file(self.path(&revision)) {
                tracing::warn!(%revision, %error, "remove a package that is not announced any more");
            }
        }
    }

    fn path(&self, revision: &RevisionId) -> PathBuf {
        self.folder.join(revision.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_protocol::ids::SpaceId;
    use penstock_revision::{BuildOptions, Outcome, build};

    fn package(space: u8) -> Package {
        match build(SpaceId([space; 16]), None, &[], &BuildOptions::default()).unwrap() {
            Outcome::New(package) => package,
            Outcome::Unchanged => unreachable!("there is no parent"),
        }
    }

    #[test]
    fn a_package_is_kept_found_and_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let store = PackageStore::open(folder.path()).unwrap();
        let (one, two) = (package(1), package(2));
        for package in [&one, &two, &one] {
            store.keep(package).unwrap();
        }
        assert_eq!(store.load(&one.id()).unwrap().bytes(), one.bytes());
        assert_eq!(store.newest_first().len(), 2);
        store.keep_only(|revision| *revision == two.id());
        assert!(store.load(&one.id()).is_none() && store.load(&two.id()).is_some());
    }

    #[test]
    fn a_damaged_package_is_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let store = PackageStore::open(folder.path()).unwrap();
        let package = package(3);
        store.keep(&package).unwrap();
        let mut bytes = package.bytes().to_vec();
        bytes[20] ^= 1;
        fs::write(store.path(&package.id()), bytes).unwrap();
        assert!(store.load(&package.id()).is_none());
        assert_eq!(store.newest_first(), []);
    }
}
