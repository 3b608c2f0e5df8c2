//! Revision packages on disk: written whole, synced, named by their digest and checked by it when they are read. Of several tiers
//! each has all of them, so that any may be taken away.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use penstock_protocol::ids::RevisionId;
use penstock_revision::{Package, PackageError, Scratch};

use crate::limits::UNANNOUNCED_PACKAGES_MAX;

/// The packages of a node.
pub struct PackageStore {
    /// Where they are read.
    folder: PathBuf,
    /// Where they are as well.
    copies: Vec<PathBuf>,
    /// Names of files that are not finished: two may write the same package.
    unfinished: AtomicU64,
}

impl PackageStore {
    /// The packages in the folder `packages` of each of some tiers, at least one. What one of them lacks it gets from the others.
    ///
    /// # Errors
    /// When that of the first cannot be made.
    pub fn open(tiers: &[PathBuf]) -> io::Result<Self> {
        let mut folders = Vec::new();
        for (number, tier) in tiers.iter().enumerate() {
            match begin(tier) {
                Ok(folder) => folders.push(folder),
                Err(error) if number == 0 => return Err(error),
                Err(error) => tracing::warn!(tier = %tier.display(), %error, "no packages are kept in a tier"),
            }
        }
        for (from, to) in pairs(&folders) {
            if let Err(error) = copy_new(from, to) {
                tracing::warn!(from = %from.display(), to = %to.display(), %error, "copy packages from one tier to another");
            }
        }
        let mut folders = folders.into_iter();
        let folder = folders.next().ok_or_else(|| io::Error::other("no tier"))?;
        Ok(Self {
            folder,
            copies: folders.collect(),
            unfinished: AtomicU64::new(0),
        })
    }

    /// Where a build, and whoever looks into a package, keeps what memory should not hold.
    pub fn scratch(&self) -> Scratch {
        Scratch::folder(&self.folder)
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
        let written = write_synced(&unfinished, package).and_then(|()| fs::rename(&unfinished, path));
        if written.is_err() {
            // The error that counts is the first.
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        File::open(&self.folder)?.sync_all()?;
        for copy in &self.copies {
            if let Err(error) = copy_if_new(&self.path(&package.id()), &copy.join(package.id().to_string())) {
                tracing::warn!(copy = %copy.display(), %error, "keep a package in another tier as well");
            }
        }
        Ok(())
    }

    /// A package, which stays in its file, from the first tier that has it whole; `None` when none has. What is not what its name says
    /// is removed, what cannot be read is left: it may be the disk's fault of a moment.
    pub fn load(&self, revision: &RevisionId) -> Option<Package> {
        let folders = std::iter::once(&self.folder).chain(&self.copies);
        folders
            .map(|folder| folder.join(revision.to_string()))
            .find_map(|path| {
                let error = match Package::in_file(File::open(&path).ok()?, revision) {
                    Ok(package) => return Some(package),
                    Err(error) => error,
                };
                tracing::warn!(path = %path.display(), %error, "a package cannot be used; it is looked for elsewhere");
                if !matches!(error, PackageError::Unreadable(_)) {
                    let _ = fs::remove_file(&path);
                }
                None
            })
    }

    /// Up to `bytes_max` bytes of a package from `offset` on; fewer when it ends. The whole is checked where it begins, not
    /// for each piece: who gets them compares the digest anyway.
    pub fn piece(&self, revision: &RevisionId, offset: u64, bytes_max: usize) -> Option<Vec<u8>> {
        if offset == 0 {
            let piece = self.load(revision)?.read(0..bytes_max as u64).ok()?;
            return Some(piece.to_vec());
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
            for folder in self.copies.iter().chain([&self.folder]) {
                match fs::remove_file(folder.join(revision.to_string())) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!(%revision, %error, "remove a package that is not announced any more");
                    }
                    _ => {}
                }
            }
        }
    }

    fn path(&self, revision: &RevisionId) -> PathBuf {
        self.folder.join(revision.to_string())
    }
}

/// The same before they are opened: of the first of these tiers.
pub fn scratch_of(tiers: &[PathBuf]) -> Scratch {
    tiers
        .first()
        .map_or_else(Scratch::memory, |tier| Scratch::folder(folder_of(tier)))
}

fn folder_of(tier: &Path) -> PathBuf {
    tier.join("packages")
}

/// Makes the folder of packages of a tier.
fn begin(tier: &Path) -> io::Result<PathBuf> {
    let folder = folder_of(tier);
    fs::create_dir_all(&folder)?;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        // What an earlier process did not finish.
        if entry.file_name().to_string_lossy().starts_with('.') {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(folder)
}

fn pairs(folders: &[PathBuf]) -> impl Iterator<Item = (&PathBuf, &PathBuf)> {
    let all = folders.iter().flat_map(|from| folders.iter().map(move |to| (from, to)));
    all.filter(|(from, to)| from != to)
}

fn copy_new(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_if_new(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// Its digest says whether it arrived whole.
fn copy_if_new(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_file() && !to.exists() {
        fs::copy(from, to)?;
    }
    Ok(())
}

fn write_synced(path: &Path, package: &Package) -> io::Result<()> {
    let mut file = File::create(path)?;
    package.copy_to(&mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use penstock_protocol::ids::SpaceId;
    use penstock_revision::{BuildOptions, Outcome, build};

    fn package(space: u8) -> Package {
        match build(SpaceId([space; 16]), None, &[], &BuildOptions::default()).unwrap() {
            Outcome::New(package) => package,
            Outcome::Unchanged => unreachable!("there is no parent"),
        }
    }

    fn all(package: &Package) -> Bytes {
        package.whole().unwrap()
    }

    #[test]
    fn a_package_is_kept_found_and_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let store = PackageStore::open(&[folder.path().into()]).unwrap();
        let (one, two) = (package(1), package(2));
        for package in [&one, &two, &one] {
            store.keep(package).unwrap();
        }
        assert_eq!(all(&store.load(&one.id()).unwrap()), all(&one));
        assert_eq!(store.newest_first().len(), 2);
        store.keep_only(|revision| *revision == two.id(), Duration::ZERO);
        assert!(store.load(&one.id()).is_none() && store.load(&two.id()).is_some());
    }

    #[test]
    fn young_packages_that_nobody_announced_yet_stay_as_far_as_there_are_few() {
        let folder = tempfile::tempdir().unwrap();
        let store = PackageStore::open(&[folder.path().into()]).unwrap();
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
    fn any_tier_may_be_taken_away_and_others_may_come() {
        let folders = [1, 2, 3].map(|_| tempfile::tempdir().unwrap());
        let tiers =
            |numbers: &[usize]| -> Vec<PathBuf> { numbers.iter().map(|of| folders[*of].path().into()).collect() };
        let (one, two) = (package(1), package(2));
        PackageStore::open(&tiers(&[0, 1])).unwrap().keep(&one).unwrap();
        for numbers in [&[0][..], &[1], &[2, 1], &[2]] {
            let store = PackageStore::open(&tiers(numbers)).unwrap();
            assert_eq!(all(&store.load(&one.id()).unwrap()), all(&one), "{numbers:?}");
        }
        let store = PackageStore::open(&tiers(&[0, 1, 2])).unwrap();
        store.keep(&two).unwrap();
        store.keep_only(|revision| *revision == two.id(), Duration::ZERO);
        for number in 0..3 {
            let store = PackageStore::open(&tiers(&[number])).unwrap();
            assert_eq!(store.newest_first(), [two.id()], "no tier has what is gone");
        }
    }

    #[test]
    fn of_two_tiers_one_may_be_damaged() {
        let folders = [1, 2].map(|_| tempfile::tempdir().unwrap());
        let tiers: Vec<PathBuf> = folders.iter().map(|folder| folder.path().into()).collect();
        let store = PackageStore::open(&tiers).unwrap();
        let package = package(5);
        store.keep(&package).unwrap();
        let held = store.load(&package.id()).unwrap();
        let file = File::options().write(true).open(store.path(&package.id())).unwrap();
        file.write_all_at(b"something else", 30).unwrap();
        assert!(held.read(0..100).is_err() && held.has_failed());
        let copy = store.load(&package.id()).unwrap();
        assert_eq!(all(&copy), all(&package));
        assert!(!store.path(&package.id()).exists());
        // From where it is kept again.
        store.keep(&copy).unwrap();
        assert_eq!(all(&store.load(&package.id()).unwrap()), all(&package));
    }

    #[test]
    fn many_may_keep_one_package_at_the_same_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = PackageStore::open(&[folder.path().into()]).unwrap();
        for round in 0..20 {
            let package = package(round);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        store.keep(&package).unwrap();
                        assert_eq!(all(&store.load(&package.id()).unwrap()), all(&package));
                    });
                }
            });
        }
        fs::write(store.folder.join(".unfinished"), b"cut").unwrap();
        PackageStore::open(&[folder.path().into()]).unwrap();
        let left = fs::read_dir(&store.folder).unwrap().count();
        assert_eq!(left, 20, "files that are not packages");
    }

    #[test]
    fn pieces_make_up_the_package() {
        let folder = tempfile::tempdir().unwrap();
        let store = PackageStore::open(&[folder.path().into()]).unwrap();
        let package = package(7);
        store.keep(&package).unwrap();
        let (id, bytes) = (package.id(), all(&package));
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
        let store = PackageStore::open(&[folder.path().into()]).unwrap();
        let package = package(3);
        store.keep(&package).unwrap();
        let mut bytes = all(&package).to_vec();
        bytes[20] ^= 1;
        fs::write(store.path(&package.id()), bytes).unwrap();
        assert!(store.load(&package.id()).is_none());
        assert_eq!(store.newest_first(), []);
    }
}
