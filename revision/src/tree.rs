//! From keys of object stores to names of a file system.
//!
//! A key is any text; a name is not. What a file system cannot hold follows these rules, is counted once, and keeps up to
//! [`EXAMPLES_MAX`] examples. Nothing is dropped without being counted. The result does not depend on the order of a
//! listing. What became of a key can always be looked up: the extents table keeps the key itself.
//!
//! | key | becomes |
//! |---|---|
//! | `a/` with no bytes | the folder `a`: a marker, not awkward |
//! | the empty key with no bytes | the source's own folder: a marker, not awkward |
//! | an empty part (`a//b`, `/a`, `a/` with bytes) | the part `%2F` |
//! | a part `.` or `..`, no bytes | `%2E`, `%2E%2E` |
//! | a part `.` or `..`, with bytes | left out: such parts vanish from URLs, encoded or not, so no origin can be asked for it |
//! | NUL in a part | `%00` |
//! | a part over 255 bytes | as much of it as fits, `~` and 16 hexadecimal digits of the part's BLAKE3 |
//! | a path over 3,840 bytes | one file in the source's own folder: the key with `%2F` for `/`, shortened as a part over 255 bytes |
//! | `a` beside `a/b` | the folder `a` and the file `a~object` |
//! | two keys that become one name | the one that has the name by nature keeps it, else the first source's, else the first key; the others get `~object` |
//! | ... and `a~object` is taken too, or too long | `a~object-` and 16 hexadecimal digits of the BLAKE3 of source and key |
//! | a key listed twice by one source | the newer one; the other is left out |
//! | a key at or below the path of another source that stands within this one's folder | left out: the longest path counts |
//! | an object over 256 TiB, a key over 16 KiB, a version over 8 KiB, a marker of a folder whose path is too long | left out |

use std::fmt::Write;

use crate::limits::{
    EXAMPLE_CHARACTERS_MAX, EXAMPLES_MAX, KEY_BYTES_MAX, NAME_BYTES_MAX, OBJECT_BYTES_MAX, PATH_BYTES_MAX,
    SOURCE_PATH_BYTES_MAX, VERSION_BYTES_MAX,
};
use crate::object::{Listed, Version};

/// How many keys had to be changed or left out, with examples for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Awkward {
    /// All of them.
    pub count: u64,
    /// Those of them that are not in the tree.
    pub left_out: u64,
    /// Names that differ only in case from another one of their folder. They are as they should be, and not among the others.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub case_twins: u64,
    /// `key: what was done`; first those that were left out, then in the order of the tree, with those that differ only in case.
    pub examples: Vec<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Awkward {
    pub(crate) fn note(&mut self, key: &str, done: impl FnOnce() -> String) {
        self.count += 1;
        self.show(key, done);
    }

    pub(crate) fn note_case_twin(&mut self, path: &str) {
        self.case_twins += 1;
        self.show(path, || {
            "differs only in case from another name of its folder".to_owned()
        });
    }

    fn show(&mut self, key: &str, done: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{:?}: {}", cut(key), done()));
        }
    }
}

pub(crate) fn cut(text: &str) -> String {
    text.chars().take(EXAMPLE_CHARACTERS_MAX).collect()
}

/// Why a source cannot stand where it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path:?} is no place for a source: a path has at most {SOURCE_PATH_BYTES_MAX} bytes, its parts at most \
     {NAME_BYTES_MAX}, none of them is `.` or `..`, and there is no NUL"
)]
pub struct BadSourcePath {
    /// As it was given.
    pub path: String,
}

/// What stands in the tree for an object, beside the object itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// As in [`crate::entry::Entry`].
    pub(crate) path: String,
    pub(crate) is_folder: bool,
    pub(crate) changed: bool,
}

/// Where a source stands that is to stand at `path`, with NUL between the parts.
pub(crate) fn mount(path: &str) -> Result<String, BadSourcePath> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let bad = |part: &&str| part.len() > NAME_BYTES_MAX || matches!(*part, "." | "..") || part.contains('\0');
    if path.len() > SOURCE_PATH_BYTES_MAX || parts.iter().any(bad) {
        return Err(BadSourcePath { path: cut(path) });
    }
    Ok(parts.join("\0"))
}

/// The name for an object of a source at `mount`; `Ok(None)` when the tree has what it stands for anyway, an error why it is
/// left out.
pub(crate) fn named(mount: &str, listed: &Listed) -> Result<Option<Named>, &'static str> {
    let Listed {
        key,
        bytes,
        modified_unix_nanos: _,
        version,
    } = listed;
    if *bytes > OBJECT_BYTES_MAX {
        return Err("left out: larger than 256 TiB");
    }
    if key.len() > KEY_BYTES_MAX {
        return Err("left out: the key has more than 16 KiB");
    }
    if matches!(version, Version::ETag(text) | Version::Id(text) if text.len() > VERSION_BYTES_MAX) {
        return Err("left out: its ETag or generation has more than 8 KiB");
    }
    if *bytes > 0 && key.split('/').any(|part| matches!(part, "." | "..")) {
        return Err("left out: no URL can name a key with a part `.` or `..`; rename the object");
    }
    if key.is_empty() && *bytes == 0 {
        return Ok(None);
    }
    let folder = key.strip_suffix('/').filter(|_| *bytes == 0);
    let mut path = mount.to_owned();
    let mut changed = append_parts(&mut path, folder.unwrap_or(key));
    if path.len() > PATH_BYTES_MAX {
        if folder.is_some() {
            return Err("left out: a folder whose path is too long");
        }
        path.truncate(mount.len());
        append_separator(&mut path);
        path.push_str(&shortened(&key.replace('/', "%2F").replace('\0', "%00")));
        changed = true;
    }
    Ok(Some(Named {
        path,
        is_folder: folder.is_some(),
        changed,
    }))
}

fn append_separator(path: &mut String) {
    if !path.is_empty() {
        path.push('\0');
    }
}

/// Appends the names for the parts of a key; true when one had to be changed.
fn append_parts(path: &mut String, key: &str) -> bool {
    let mut changed = false;
    for part in key.split('/') {
        append_separator(path);
        changed |= append_name(path, part);
    }
    changed
}

fn append_name(path: &mut String, part: &str) -> bool {
    match part {
        "" => path.push_str("%2F"),
        "." => path.push_str("%2E"),
        ".." => path.push_str("%2E%2E"),
        plain if plain.len() <= NAME_BYTES_MAX && !plain.contains('\0') => {
            path.push_str(plain);
            return false;
        }
        other => path.push_str(&shortened(&other.replace('\0', "%00"))),
    }
    true
}

fn shortened(name: &str) -> String {
    if name.len() <= NAME_BYTES_MAX {
        return name.to_owned();
    }
    let digest = digits(&[name]);
    format!(
        "{}~{digest}",
        &name[..name.floor_char_boundary(NAME_BYTES_MAX - 1 - digest.len())]
    )
}

/// 16 hexadecimal digits of the BLAKE3 of `parts`, with NUL between them.
fn digits(parts: &[&str]) -> String {
    let digest = blake3::hash(parts.join("\0").as_bytes());
    digest.to_hex()[..16].to_owned()
}

/// Whether `path` lies in the folder `folder`.
pub(crate) fn is_below(path: &str, folder: &str) -> bool {
    path.as_bytes().get(folder.len()) == Some(&0) && path.starts_with(folder)
}

/// Names for an object whose own name is taken: without end, so that one of them is free.
pub(crate) fn other_names(path: &str, identity: &str, key: &str) -> impl Iterator<Item = String> {
    let (folder, name) = match path.rfind('\0') {
        Some(end) => path.split_at(end + 1),
        None => ("", path),
    };
    (0u64..).map(move |attempt| {
        let mut suffix = String::from("~object");
        if attempt > 0 || name.len() + suffix.len() > NAME_BYTES_MAX {
            // Writing to a String cannot fail.
            let _ = write!(suffix, "-{}", digits(&[identity, key, &attempt.to_string()]));
        }
        let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX - suffix.len())];
        format!("{folder}{name}{suffix}")
    })
}

/// How many bytes of `path` are folders that `here` lies in or is.
pub(crate) fn shared_parts(here: &str, path: &str) -> usize {
    let (a, b) = (here.as_bytes(), path.as_bytes());
    let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let ends = |text: &[u8]| text.len() == common || text[common] == 0;
    if common > 0 && ends(a) && ends(b) {
        return common;
    }
    path[..path.floor_char_boundary(common)].rfind('\0').unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SourceListing;
    use crate::erofs::writer::{File, Step, Walk};
    use crate::gathering::Gathering;
    use crate::names::Steps;
    use crate::scratch::{Log, Scratch};

    fn listing(path: &str, keys: &[(&str, u64)]) -> SourceListing {
        let objects = keys
            .iter()
            .map(|(key, bytes)| Listed {
                key: (*key).into(),
                bytes: *bytes,
                modified_unix_nanos: 0,
                version: Version::None,
            })
            .collect();
        SourceListing {
            identity: "test".into(),
            path: path.into(),
            objects,
        }
    }

    /// Every path of the tree in walking order; folders end in `/`. How many keys were awkward.
    fn paths(sources: &[SourceListing]) -> (Vec<String>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let found = [Scratch::memory(), Scratch::folder_beyond(folder.path(), 100)].map(|scratch| {
            let mut gathering = Gathering::new(scratch.clone());
            let begun = sources
                .iter()
                .map(|source| gathering.begin_source(source.identity.clone(), &source.path).unwrap());
            for (number, source) in begun.collect::<Vec<_>>().into_iter().zip(sources) {
                gathering.add(number, &source.objects).unwrap();
            }
            let names = gathering.names().unwrap();
            let mut addresses = Log::new(&scratch);
            for _ in 0..100 {
                addresses.append(&[0; 8]).unwrap();
            }
            let (mut here, mut out) = (vec![String::new()], Vec::new());
            let steps = Steps {
                entries: &names.entries,
                addresses: &addresses,
            };
            steps
                .walk(&mut |step| {
                    let above = here.last().unwrap().clone();
                    match step {
                        Step::Into(name) => {
                            here.push(format!("{above}{name}/"));
                            out.push(format!("{above}{name}/"));
                        }
                        Step::Out => drop(here.pop()),
                        Step::File(File { name, .. }) => out.push(format!("{above}{name}")),
                    }
                    Ok(())
                })
                .unwrap();
            assert_eq!(here, [""]);
            (out, names.awkward.count)
        });
        let [found, spilled] = found;
        assert_eq!(found, spilled);
        found
    }

    fn paths_of(keys: &[(&str, u64)]) -> (Vec<String>, u64) {
        paths(&[listing("", keys)])
    }

    #[test]
    fn ordinary_keys_become_the_paths_they_look_like() {
        let (paths, awkward) = paths_of(&[
            ("b/c/d", 1),
            ("a", 0),
            ("b/c!", 1),
            ("b/c/a", 1),
            ("bb/x", 1),
            ("e/", 0),
        ]);
        assert_eq!(
            paths,
            ["a", "b/", "b/c/", "b/c/a", "b/c/d", "b/c!", "bb/", "bb/x", "e/"]
        );
        assert_eq!(awkward, 0);
    }

    #[test]
    fn awkward_keys_follow_the_written_rules() {
        let long = "x".repeat(300);
        let cut = format!("{}~{}", &long[..238], &blake3::hash(long.as_bytes()).to_hex()[..16]);
        let third = format!("a~object-{}", digits(&["test", "a", "1"]));
        for (keys, expected) in [
            (vec![("a//b", 1)], vec!["a/", "a/%2F/", "a/%2F/b"]),
            (vec![("/a", 1)], vec!["%2F/", "%2F/a"]),
            (vec![("a/", 1)], vec!["a/", "a/%2F"]),
            (vec![("./..", 0)], vec!["%2E/", "%2E/%2E%2E"]),
            (vec![("./..", 1)], vec![]),
            (vec![("a/../b", 1)], vec![]),
            (vec![("n\0l", 1)], vec!["n%00l"]),
            (vec![("a", 1), ("a/b", 1)], vec!["a/", "a/b", "a~object"]),
            (vec![("a", 1), ("a/", 0)], vec!["a/", "a~object"]),
            (
                vec![("a", 1), ("a!", 1), ("a/b", 1)],
                vec!["a/", "a/b", "a!", "a~object"],
            ),
            (
                vec![("a", 1), ("a/b", 1), ("a~object", 1)],
                vec!["a/", "a/b", "a~object", third.as_str()],
            ),
            (vec![(long.as_str(), 1)], vec![cut.as_str()]),
            (vec![("huge", 1 << 49)], vec![]),
        ] {
            let (paths, awkward) = paths_of(&keys);
            assert_eq!(paths, expected, "{keys:?}");
            assert_eq!(awkward, 1, "{keys:?}");
        }
    }

    #[test]
    fn of_several_files_that_want_one_name_each_gets_its_own() {
        let sources = [
            listing("", &[("a", 1), ("a/b", 1)]),
            listing("", &[("a", 1), ("a~object/x", 1)]),
            listing("", &[("a", 1)]),
        ];
        let mut expected = ["a/", "a/b", "a~object/", "a~object/x"].map(str::to_owned).to_vec();
        expected.extend(["1", "2", "3"].map(|attempt| format!("a~object-{}", digits(&["test", "a", attempt]))));
        let (mut paths, awkward) = paths(&sources);
        expected.sort_unstable();
        paths.sort_unstable();
        assert_eq!((paths, awkward), (expected, 3));
    }

    #[test]
    fn sources_stand_where_they_are_mounted() {
        let sources = [
            listing("", &[("x", 1)]),
            listing("deep/down", &[("y", 1)]),
            listing("empty", &[]),
        ];
        assert_eq!(paths(&sources).0, ["deep/", "deep/down/", "deep/down/y", "empty/", "x"]);
    }

    #[test]
    fn of_sources_within_one_another_the_longest_path_counts() {
        let outer = [
            ("x", 1),
            ("deep/up", 1),
            ("deep/down/hidden", 1),
            ("deep/down/folder/", 0),
            ("deep/down", 1),
            ("deep/downwards", 1),
            ("deep/down/", 0),
        ];
        let sources = [
            listing("", &outer),
            listing("deep/down/under", &[("z", 1)]),
            listing("deep/down", &[("y", 1), ("under/hidden", 1)]),
        ];
        let expected = [
            "deep/",
            "deep/down/",
            "deep/down/under/",
            "deep/down/under/z",
            "deep/down/y",
            "deep/downwards",
            "deep/up",
            "x",
        ];
        // In whatever order they are named.
        for turn in 0..3 {
            let mut sources = sources.to_vec();
            sources.rotate_left(turn);
            let (paths, left_out) = paths(&sources);
            assert_eq!(paths, expected);
            assert_eq!(left_out, 3, "markers of folders are not missed");
        }
    }
}
