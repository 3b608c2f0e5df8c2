//! Revision packages on disk: written whole, synced, named by their digest and checked by it when they are read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use penstock_protocol::ids::RevisionId;
use penstock_revision::Package;

use crate::limits::UNANNOUNCED_PACKAGES_MAX;

/// What a node was told, beside its packages.
pub const CONFIG_FILE: &str = "node.config";

/// The packages in one folder.
pub struct PackageStore {
    folder: PathBuf,
    /// Names of files that are not finished: two may write the same package.
    unfinished: AtomicU64,
}

impl PackageStore {
    /// The packages in the folder `packages` of a tier.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(tier: &Path) -> io::Result<Self> {
        let folder = tier.join("packages");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            // What an earlier process did not finish.
            if entry.file_name().to_string_lossy().starts_with('.') {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self {
            folder,
            unfinished: AtomicU64::new(0),
        })
    }

    /// Keeps a package; it is on disk when this returns.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn keep(&self, package: &Package) -> io::Result<()> {
        let path = self.path(&package.id());
        if let Ok(file) = File::open(&path) {
            // Young again: whoever keeps it is about to announce it.
            return file.set_modified(SystemTime::now());
        }
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.folder.join(format!(".{}.{number}", package.id()));
        let written = write_synced(&unfinished, package.bytes()).and_then(|()| fs::rename(&unfinished, path));
        if written.is_err() {
            // The error that counts is the first.
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        File::open(&self.folder)?.sync_all()
    }

    /// A package; `None` when it is not here or not what its name says, in which case it is removed.
    pub fn load(&self, revision: &RevisionId) -> Option<Package> {
        let path = self.path(revision);
        let bytes = fs::read(&path).ok()?;
        match Package::verified(bytes.into(), revision) {
            Ok(package) => Some(package),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a package is damaged; it is fetched again");
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Up to `bytes_max` bytes of a package from `offset` on; fewer when it ends. The whole is checked where it begins, not
    /// for each piece: who gets them compares the digest anyway.
    pub fn piece(&self, revision: &RevisionId, offset: u64, bytes_max: usize) -> Option<Vec<u8>> {
        if offset == 0 {
            let package = self.load(revision)?;
            return Some(package.bytes()[..package.bytes().len().min(bytes_max)].to_vec());
        }
        let file = File::open(self.path(revision)).ok()?;
        let left = file.metadata().ok()?.len().saturating_sub(offset);
        let mut piece = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(bytes_max)];
        file.read_exact_at(&mut piece, offset).ok()?;
        Some(piece)
    }

    /// Every package that is here, by the time when it was kept, the newest first.
    pub fn newest_first(&self) -> Vec<RevisionId> {
        self.by_age().into_iter().map(|(_, revision)| revision).collect()
    }

    fn by_age(&self) -> Vec<(SystemTime, RevisionId)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .filter_map(|entry| {
                let revision = entry.file_name().to_str()?.parse::<RevisionId>().ok()?;
                Some((entry.metadata().ok()?.modified().ok()?, revision))
            })
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }

    /// Removes every package that `wanted` refuses, but for the newest ones that are younger than `spared`: a package that
    /// was built is announced a little later, and the process may have begun anew in between.
    pub fn keep_only(&self, wanted: impl Fn(&RevisionId) -> bool, spared: Duration) {
        let young = |kept_at: &SystemTime| kept_at.elapsed().is_ok_and(|age| age < spared);
        let unwanted = self.by_age().into_iter().filter(|(_, revision)| !wanted(revision));
        for (number, (kept_at, revision)) in unwanted.enumerate() {
            if number < UNANNOUNCED_PACKAGES_MAX && young(&kept_at) {
                continue;
            }
            if let Err(error) = fs::remove_file(self.path(&revision)) {
                tracing::warn!(%revision, %error, "remove a package that is not announced any more");
            }
        }
    }

    fn path(&self, revision: &RevisionId) -> PathBuf {
        self.folder.join(revision.to_string())
    }
}

/// Copies to the tier `to` the packages and the configuration that an earlier process, which had other tiers, left in `others`. One
/// that cannot be copied is fetched from a peer.
pub fn gather(others: &[PathBuf], to: &Path) {
    for from in others.iter().filter(|from| *from != to) {
        let copied = copy_new(&from.join("packages"), &to.join("packages"));
        let copied = copied.and_then(|()| copy_if_new(&from.join(CONFIG_FILE), &to.join(CONFIG_FILE)));
        if let Err(error) = copied {
            tracing::warn!(from = %from.display(), to = %to.display(), %error, "copy packages from one tier to the other");
        }
    }
}

fn copy_new(from: &Path, to: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    fs::create_dir_all(to)?;
    for entry in entries {
        let entry = entry?;
        copy_if_new(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Its digest, or its form, says whether it arrived whole.
fn copy_if_new(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_file() && !to.exists() {
        fs::copy(from, to)?;
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
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
        store.keep_only(|revision| *revision == two.id(), Duration::ZERO);
        assert!(store.load(&one.id()).is_none() && store.load(&two.id()).is_some());
    }

    #[test]
    fn young_packages_that_nobody_announced_yet_stay_as_far_as_there_are_few() {
        let folder = tempfile::tempdir().unwrap();
        let store = PackageStore::open(folder.path()).unwrap();
        let packages: Vec<Package> = (0..20).map(package).collect();
        for (minutes, package) in (0..).zip(&packages) {
            store.keep(package).unwrap();
            let file = File::open(store.path(&package.id())).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(60 * minutes))
                .unwrap();
        }
        // Kept again, for example because a build changed nothing.
        store.keep(&packages[19]).unwrap();
        store.keep_only(|_| false, Duration::from_secs(90));
        let mut left = store.newest_first();
        left.sort_unstable();
        let mut expected = [0, 1, 19].map(|number: usize| packages[number].id());
        expected.sort_unstable();
        assert_eq!(left, expected);
        for package in &packages {
            store.keep(package).unwrap();
        }
        store.keep_only(|_| false, Duration::from_secs(90));
        assert_eq!(store.newest_first().len(), UNANNOUNCED_PACKAGES_MAX);
    }

    #[test]
    fn packages_follow_when_the_tiers_are_others() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let package = package(1);
        PackageStore::open(old.path()).unwrap().keep(&package).unwrap();
        fs::write(old.path().join(CONFIG_FILE), "told").unwrap();
        let others = [old.path().to_owned(), new.path().to_owned(), "/nowhere".into()];
        gather(&others, new.path());
        let store = PackageStore::open(new.path()).unwrap();
        assert_eq!(store.load(&package.id()).unwrap().bytes(), package.bytes());
        assert_eq!(fs::read(new.path().join(CONFIG_FILE)).unwrap(), b"told");
    }

    #[test]
    fn many_may_keep_one_package_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = PackageStore::open(folder.path()).unwrap();
        for round in 0..20 {
            let package = package(round);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        store.keep(&package).unwrap();
                        assert_eq!(store.load(&package.id()).unwrap().bytes(), package.bytes());
                    });
                }
            });
        }
        fs::write(store.folder.join(".unfinished"), b"cut").unwrap();
        PackageStore::open(folder.path()).unwrap();
        let left = fs::read_dir(&store.folder).unwrap().count();
        assert_eq!(left, 20, "files that are not packages");
    }

    #[test]
    fn pieces_make_up_the_package() {
        let folder = tempfile::tempdir().unwrap();
        let store = PackageStore::open(folder.path()).unwrap();
        let package = package(7);
        store.keep(&package).unwrap();
        let (id, bytes) = (package.id(), package.bytes());
        let piece = |offset, bytes_max| store.piece(&id, offset, bytes_max);
        assert_eq!(piece(0, 100).unwrap(), bytes[..100]);
        assert_eq!(piece(100, 1 << 20).unwrap(), bytes[100..]);
        assert_eq!(piece(bytes.len() as u64, 100), Some(Vec::new()));
        assert_eq!(piece(u64::MAX, 100), Some(Vec::new()));
        assert_eq!(store.piece(&RevisionId([9; 32]), 100, 100), None);
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
