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
    /// Whether a name on the path that is met for the first time has a twin among those that its folder had before.
    pub(crate) fn has_twin(&mut self, path: &str) -> bool {
        let mut at = shared_parts(&self.here, path);
        while self.open.pop_if(|(length, _)| *length > at).is_some() {}
        let mut has_twin = false;
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
                has_twin |= !names.insert(folded(&path[start..end]));
            }
            at = end;
        }
        path.clone_into(&mut self.here);
        has_twin
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
        for (path, has_twin) in [
            ("A", false),
            ("A/a", false),
            ("A/b", false),
            ("A/b/x", false),
            ("B/Read", false),
            ("B/read", true),
            ("B/sub/read", false),
            ("B/sub/z/Q", false),
            ("B/sub/z/q/deep", true),
            ("B/sub/z/q/deeper", false),
            ("B/zREAD", false),
            ("a", true),
            ("ab", false),
            ("Ä", false),
            ("ä", true),
        ] {
            assert_eq!(cases.has_twin(&path.replace('/', "\0")), has_twin, "{path}");
        }
    }
}
