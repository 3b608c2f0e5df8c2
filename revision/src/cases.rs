//! Names of one folder that differ only in case: no matter to Linux, but to whoever copies the files to a machine that folds case.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::limits::NAMES_COMPARED_MAX;
use crate::tree::shared_parts;

/// Looks at paths in the order of a walk, with NUL between their parts.
#[derive(Default)]
pub(crate) struct Cases {
    here: String,
    /// The folders from the root to where the walk stands: lengths of their paths, and digests of the names in them.
    open: Vec<(usize, HashSet<u64>)>,
}

impl Cases {
    /// The path up to the first name that is met for the first time and has a twin among those that its folder had before. It does not
    /// depend on whether a folder is met by itself or with what is in it.
    pub(crate) fn twin<'a>(&mut self, path: &'a str) -> Option<&'a str> {
        let mut at = shared_parts(&self.here, path);
        while self.open.pop_if(|(length, _)| *length > at).is_some() {}
        let mut twin = None;
        while at < path.len() {
            let start = if at == 0 { 0 } else { at + 1 };
            let end = path[start..].find('\0').map_or(path.len(), |length| start + length);
            if self.open.last().is_none_or(|(length, _)| *length < at) {
                self.open.push((at, HashSet::new()));
            }
            if let Some((_, names)) = self
                .open
                .last_mut()
                .filter(|(_, names)| names.len() < NAMES_COMPARED_MAX)
            {
                let is_new = names.insert(folded(&path[start..end]));
                twin = twin.or((!is_new).then(|| &path[..end]));
            }
            at = end;
        }
        path.clone_into(&mut self.here);
        twin
    }
}

fn folded(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    if name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        name.hash(&mut hasher);
    } else {
        name.to_lowercase().hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_are_names_of_one_folder_that_differ_only_in_case() {
        let mut cases = Cases::default();
        for (path, twin) in [
            ("A", None),
            ("A/a", None),
            ("A/b", None),
            ("A/b/x", None),
            ("B/Read", None),
            ("B/read", Some("B/read")),
            ("B/sub/read", None),
            ("B/sub/z/Q", None),
            ("B/sub/z/q/deep", Some("B/sub/z/q")),
            ("B/sub/z/q/deeper", None),
            ("B/zREAD", None),
            ("a", Some("a")),
            ("ab", None),
            ("Ä", None),
            ("ä", Some("ä")),
        ] {
            let (path, twin) = (path.replace('/', "\0"), twin.map(|twin| twin.replace('/', "\0")));
            assert_eq!(cases.twin(&path), twin.as_deref(), "{path}");
        }
    }
}
