//! Which objects of a source are listed anew when only some have changed, and which folders have lost all that they had: pure.
//!
//! A set of dirty beginnings of keys, none of which begins with another. A folder above one of them may have a marker, which a package
//! tells only of empty folders; so if nothing is left in such a folder it is listed, too.

use std::collections::BTreeSet;

use penstock_protocol::control::cache_node as wire;

use super::Source;

/// What is known of one source during a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// How dirty keys begin, sorted.
    dirty: Vec<String>,
    /// Folders above these, with the slash at their end, in which nothing was seen yet.
    folders: BTreeSet<String>,
    has_objects: bool,
}

/// The scope of each source; `None` when what is dirty is of none of them.
pub(super) fn scopes(sources: &[Source], dirty: &[wire::Dirty]) -> Option<Vec<Scope>> {
    let is_known = |dirty: &wire::Dirty| sources.iter().any(|source| source.path == dirty.path);
    if !dirty.iter().all(is_known) {
        return None;
    }
    let scope = |source: &Source| {
        let of_source = dirty.iter().filter(|dirty| dirty.path == source.path);
        let keys: Vec<&str> = of_source.flat_map(|dirty| &dirty.keys).map(String::as_str).collect();
        // One that cannot be listed in part is listed as a whole.
        let is_partial = keys.iter().all(|key| source.origin.list_below(key).is_some());
        if is_partial { Scope::of(&keys) } else { Scope::of(&[""]) }
    };
    Some(sources.iter().map(scope).collect())
}

impl Scope {
    fn of(keys: &[&str]) -> Self {
        let sorted: BTreeSet<&str> = keys.iter().copied().collect();
        let mut dirty: Vec<String> = Vec::new();
        for key in sorted {
            if dirty.last().is_none_or(|before| !key.starts_with(before)) {
                dirty.push(key.to_owned());
            }
        }
        let above = |key: &String| {
            folders(key)
                .filter(|folder| folder != key)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        Self {
            folders: dirty.iter().flat_map(above).collect(),
            dirty,
            has_objects: false,
        }
    }

    /// How the keys begin that have to be listed.
    pub(super) fn dirty(&self) -> &[String] {
        &self.dirty
    }

    pub(super) fn is_dirty(&self, key: &str) -> bool {
        // None begins with another, so it is the last one that is not behind the key.
        let behind = self.dirty.partition_point(|dirty| dirty.as_str() <= key);
        behind > 0 && key.starts_with(&self.dirty[behind - 1])
    }

    /// Whether an object of the parent stays as it is; if so, it is noted.
    pub(super) fn carries(&mut self, key: &str) -> bool {
        let stays = !self.is_dirty(key);
        if stays {
            self.has_objects = true;
            self.fills(key);
        }
        stays
    }

    /// Notes an object that was listed. Of one that does not stand where its key looks like nothing follows for its folders.
    pub(super) fn has_listed(&mut self, key: &str, is_plain: bool) {
        self.has_objects = true;
        if is_plain {
            self.fills(key);
        }
    }

    fn fills(&mut self, key: &str) {
        if !self.folders.is_empty() {
            for folder in folders(key) {
                self.folders.remove(folder);
            }
        }
    }

    /// The outermost folders in which nothing is left. When nothing at all is left that is the source: a marker above another source's
    /// place leaves no trace either.
    pub(super) fn emptied(&self) -> Vec<String> {
        if !self.has_objects && !self.dirty.is_empty() && !self.is_dirty("") {
            return vec![String::new()];
        }
        let mut outermost: Vec<String> = Vec::new();
        for folder in &self.folders {
            if outermost.last().is_none_or(|before| !folder.starts_with(before)) {
                outermost.push(folder.clone());
            }
        }
        outermost
    }

    /// Whether the source was looked at and holds nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        !self.has_objects && !self.dirty.is_empty()
    }
}

/// The folders that a key names, each with its slash, the outermost first.
fn folders(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('/').map(|(at, _)| &key[..=at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_dirty_when_it_begins_as_something_dirty() {
        let scope = Scope::of(&["raw/", "a/b", "raw/x", "a/b", "a/bc/"]);
        assert_eq!(scope.dirty(), ["a/b", "raw/"]);
        for (key, is_dirty) in [
            ("a/b", true),
            ("a/bc", true),
            ("a/b/c", true),
            ("a/a", false),
            ("a", false),
            ("raw", false),
            ("raw/", true),
            ("raw0", false),
            ("", false),
        ] {
            assert_eq!(scope.is_dirty(key), is_dirty, "{key}");
        }
        assert!(Scope::of(&["", "a"]).is_dirty("anything"));
        assert!(!Scope::of(&[]).is_dirty("anything"));
    }

    #[test]
    fn folders_that_have_nothing_left_are_listed_too() {
        let emptied = |seen: &[(&str, bool)]| {
            let mut scope = Scope::of(&["x/y/z", "q/r/"]);
            for (key, is_plain) in seen {
                if !scope.carries(key) {
                    scope.has_listed(key, *is_plain);
                }
            }
            scope.emptied()
        };
        assert_eq!(emptied(&[]), [""]);
        assert_eq!(emptied(&[("z", true)]), ["q/", "x/"]);
        assert_eq!(emptied(&[("q/r/s", true), ("x/a", true)]), ["x/y/"]);
        assert_eq!(emptied(&[("q/a", true), ("x/y/zz", true)]), [""; 0]);
        assert_eq!(emptied(&[("q/a", true), ("x/y/z/../a", false)]), ["x/"]);
    }

    #[test]
    fn a_source_with_nothing_in_it_is_empty() {
        let mut scope = Scope::of(&["a"]);
        assert!(!scope.carries("ab") && scope.is_empty());
        assert!(scope.carries("b") && !scope.is_empty());
        // Nobody looked at this one.
        assert!(!Scope::of(&[]).is_empty());
        assert_eq!(Scope::of(&[]).emptied(), [""; 0]);
        assert_eq!(Scope::of(&[""]).emptied(), [""; 0], "it was listed as a whole");
    }
}
