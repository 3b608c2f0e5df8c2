//! Who uses a mount: the processes with an open file, a working folder or a mapping below it, for the sentence that says
//! why it cannot be unmounted. Reads /proc only, and never touches the mount, which may not answer.

use std::fs;
use std::path::Path;

/// A process that uses the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub pid: u32,
    /// Its name, as `ps` shows it.
    pub name: String,
    /// What it has there, relative to the mount or the mount itself.
    pub what: String,
}

/// At most `most` users of what is mounted at `target`, an absolute path. Processes in other mount namespaces are seen
/// when they call the folder the same.
pub fn users(target: &Path, most: usize) -> Vec<User> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let what = use_of(&process.path(), target)?;
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            Some(User {
                pid,
                name: name.trim_end().to_owned(),
                what,
            })
        })
        .take(most)
        .collect()
}

fn use_of(process: &Path, target: &Path) -> Option<String> {
    let below = |link: &Path| fs::read_link(link).ok().filter(|to| to.starts_with(target));
    for (link, what) in [("cwd", "its working folder"), ("root", "its root")] {
        if let Some(folder) = below(&process.join(link)) {
            return Some(format!("{what} {}", folder.display()));
        }
    }
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    if let Some(file) = open.filter_map(|fd| below(&fd.path())).next() {
        return Some(format!("{} open", file.display()));
    }
    let maps = fs::read_to_string(process.join("maps")).ok()?;
    let mapped = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])))
        .find(|file| file.starts_with(target));
    mapped.map(|file| format!("{} mapped", file.display()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_process_with_an_open_file_is_a_user() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().canonicalize().unwrap();
        assert_eq!(users(&folder, 5), []);
        let path = folder.join("file");
        let _open = File::create(&path).unwrap();
        let found = users(&folder, 5);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].pid, std::process::id());
        assert_eq!(found[0].what, format!("{} open", path.display()));
    }
}
