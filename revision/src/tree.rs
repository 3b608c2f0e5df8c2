//! From keys of object stores to names of a file system.
//!
//! A key is any text; a name is not. What a file system cannot hold follows these rules, is counted, and keeps up to
//! [`EXAMPLES_MAX`] examples. Nothing is dropped without being counted.
//!
//! | key | becomes |
//! |---|---|
//! | `a/` with no bytes | the folder `a`: a marker, not awkward |
//! | an empty part (`a//b`, `/a`, `a/` with bytes) | the part `%2F` |
//! | a part `.` or `..` | `%2E`, `%2E%2E` |
//! | NUL in a part | `%00` |
//! | a part over 255 bytes | as much of it as fits, `~` and 16 hexadecimal digits of the part's BLAKE3 |
//! | `a` beside `a/b` | the folder `a` and the file `a~object` |
//! | two keys that become one name | the first keeps it, the next gets `~object` |
//! | an object that no space can hold (over 8 TiB) | left out |

use std::collections::HashSet;
use std::fmt::Write;

use crate::object::SourceListing;

/// Most examples of awkward keys that a revision keeps.
pub const EXAMPLES_MAX: usize = 8;
/// Longest name that Linux file systems hold (NAME_MAX), in bytes.
const NAME_BYTES_MAX: usize = 255;

/// How many keys had to be changed, with examples for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Awkward {
    /// All of them.
    pub count: u64,
    /// `key: what was done`.
    pub examples: Vec<String>,
}

impl Awkward {
    pub(crate) fn note(&mut self, key: &str, done: &str) {
        self.count += 1;
        if self.examples.len() < EXAMPLES_MAX {
            let key: String = key.chars().take(120).collect();
            self.examples.push(format!("{key:?}: {done}"));
        }
    }
}

/// A folder or a file of the tree. The root is number 0.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Name within its folder; "" for the root.
    pub(crate) name: Box<str>,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Numbers of the nodes in it, by name, bytewise.
    Directory { children: Vec<u32> },
    /// Which object: number of the source and number within its listing.
    File { source: u16, object: u32 },
}

/// All nodes; a folder stands before what is in it.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
    pub(crate) awkward: Awkward,
}

/// The tree of the listings. `holds` says whether an object of a length can be held at all.
pub(crate) fn tree(sources: &[SourceListing], holds: impl Fn(u64) -> bool) -> Tree {
    let mut awkward = Awkward::default();
    let mut entries = entries(sources, holds, &mut awkward);
    entries.sort_unstable();
    rename_collisions(&mut entries, sources, &mut awkward);
    Tree {
        nodes: nodes(&entries),
        awkward,
    }
}

/// Path with NUL between the parts (so that bytewise order is the order of a walk), then the object; `None` marks a folder.
type Entry = (String, Option<(u16, u32)>);

fn entries(sources: &[SourceListing], holds: impl Fn(u64) -> bool, awkward: &mut Awkward) -> Vec<Entry> {
    let mut entries = Vec::with_capacity(sources.iter().map(|source| source.objects.len()).sum());
    for (source_number, source) in (0..).zip(sources) {
        let mount: Vec<&str> = source.path.split('/').filter(|part| !part.is_empty()).collect();
        let mount = mount.join("\0");
        if !mount.is_empty() {
            entries.push((mount.clone(), None));
        }
        for (object_number, object) in (0..).zip(&source.objects) {
            if !holds(object.bytes) && object.bytes > 0 {
                awkward.note(&object.key, "left out: larger than 8 TiB");
                continue;
            }
            let mut path = mount.clone();
            if let Some(folder) = object.key.strip_suffix('/').filter(|_| object.bytes == 0) {
                if !folder.is_empty() {
                    append_parts(&mut path, folder, awkward);
                    entries.push((path, None));
                }
                continue;
            }
            append_parts(&mut path, &object.key, awkward);
            entries.push((path, Some((source_number, object_number))));
        }
    }
    entries
}

fn append_parts(path: &mut String, key: &str, awkward: &mut Awkward) {
    let start = path.len();
    let mut changed = false;
    for part in key.split('/') {
        if !path.is_empty() {
            path.push('\0');
        }
        changed |= append_name(path, part);
    }
    if changed {
        let became = path[start..].trim_start_matches('\0').replace('\0', "/");
        awkward.note(key, &format!("is {:?}", became.chars().take(120).collect::<String>()));
    }
}

/// Appends the name for a part of a key; true when it had to be changed.
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
    let mut short = name[..name.floor_char_boundary(NAME_BYTES_MAX - 17)].to_owned();
    let digest = blake3::hash(name.as_bytes());
    // Writing to a String cannot fail.
    let _ = write!(short, "~{}", &digest.to_hex()[..16]);
    short
}

/// Gives a name of its own to each file whose path is a folder's or another file's.
fn rename_collisions(entries: &mut Vec<Entry>, sources: &[SourceListing], awkward: &mut Awkward) {
    let collides: Vec<usize> = (0..entries.len())
        .filter(|&at| {
            let (path, object) = &entries[at];
            let same_as_before = at > 0 && entries[at - 1].0 == *path;
            let folder_follows = entries[at + 1..]
                .iter()
                .take_while(|(next, _)| next.starts_with(path.as_str()))
                .any(|(next, _)| next.as_bytes().get(path.len()) == Some(&0));
            object.is_some() && (same_as_before || folder_follows)
        })
        .collect();
    if collides.is_empty() {
        return;
    }
    let mut taken: HashSet<String> = entries.iter().map(|(path, _)| path.clone()).collect();
    for at in collides {
        let mut name = entries[at].0.clone();
        while taken.contains(&name) {
            name = with_suffix(&name);
        }
        if let Some((source, object)) = entries[at].1 {
            let key = &sources[source as usize].objects[object as usize].key;
            awkward.note(
                key,
                &format!(
                    "is {:?}: a folder or another object has its name",
                    name.replace('\0', "/")
                ),
            );
        }
        taken.insert(name.clone());
        entries[at].0 = name;
    }
    entries.sort_unstable();
}

fn with_suffix(path: &str) -> String {
    let (folder, name) = path
        .rsplit_once('\0')
        .map_or((None, path), |(folder, name)| (Some(folder), name));
    let name = shortened(&format!("{name}~object"));
    folder.map_or(name.clone(), |folder| format!("{folder}\0{name}"))
}

fn nodes(entries: &[Entry]) -> Vec<Node> {
    let directory = |name: &str| Node {
        name: name.into(),
        kind: Kind::Directory { children: Vec::new() },
    };
    let mut nodes = vec![directory("")];
    // The folders from the root to where the walk stands: number of the node, length of its path.
    let mut open: Vec<(u32, usize)> = vec![(0, 0)];
    let mut here: &str = "";
    for (path, object) in entries {
        let shared = shared_parts(here, path);
        while open.last().is_some_and(|(_, length)| *length > shared) {
            open.pop();
        }
        let mut at = open.last().map_or(0, |(_, length)| *length);
        while at < path.len() {
            let start = if at == 0 { 0 } else { at + 1 };
            let end = path[start..].find('\0').map_or(path.len(), |found| start + found);
            let number = nodes.len() as u32;
            let name = &path[start..end];
            let is_file = end == path.len() && object.is_some();
            nodes.push(match object {
                Some((source, object)) if is_file => Node {
                    name: name.into(),
                    kind: Kind::File {
                        source: *source,
                        object: *object,
                    },
                },
                _ => directory(name),
            });
            if let Some((parent, _)) = open.last()
                && let Kind::Directory { children } = &mut nodes[*parent as usize].kind
            {
                children.push(number);
            }
            if is_file {
                break;
            }
            open.push((number, end));
            at = end;
        }
        here = path;
    }
    nodes
}

/// How many bytes of `path` are folders that `here` lies in or is.
fn shared_parts(here: &str, path: &str) -> usize {
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
    use crate::object::{Listed, Version};

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

    /// Every path of the tree in walking order; folders end in `/`.
    fn paths(tree: &Tree) -> Vec<String> {
        fn walk(tree: &Tree, number: u32, above: &str, out: &mut Vec<String>) {
            if let Kind::Directory { children } = &tree.nodes[number as usize].kind {
                for child in children {
                    let node = &tree.nodes[*child as usize];
                    let is_directory = matches!(node.kind, Kind::Directory { .. });
                    out.push(format!("{above}{}{}", node.name, if is_directory { "/" } else { "" }));
                    walk(tree, *child, &format!("{above}{}/", node.name), out);
                }
            }
        }
        let mut out = Vec::new();
        walk(tree, 0, "", &mut out);
        out
    }

    fn paths_of(keys: &[(&str, u64)]) -> (Vec<String>, u64) {
        let tree = tree(&[listing("", keys)], |bytes| bytes <= 1 << 43);
        (paths(&tree), tree.awkward.count)
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
        for (keys, expected) in [
            (vec![("a//b", 1)], vec!["a/", "a/%2F/", "a/%2F/b"]),
            (vec![("/a", 1)], vec!["%2F/", "%2F/a"]),
            (vec![("a/", 1)], vec!["a/", "a/%2F"]),
            (vec![("./..", 1)], vec!["%2E/", "%2E/%2E%2E"]),
            (vec![("n\0l", 1)], vec!["n%00l"]),
            (vec![("a", 1), ("a/b", 1)], vec!["a/", "a/b", "a~object"]),
            (vec![("a", 1), ("a/", 0)], vec!["a/", "a~object"]),
            (
                vec![("a", 1), ("a!", 1), ("a/b", 1)],
                vec!["a/", "a/b", "a!", "a~object"],
            ),
            (
                vec![("a", 1), ("a/b", 1), ("a~object", 1)],
                vec!["a/", "a/b", "a~object", "a~object~object"],
            ),
            (vec![(long.as_str(), 1)], vec![cut.as_str()]),
            (vec![("huge", 1 << 44)], vec![]),
        ] {
            let (paths, awkward) = paths_of(&keys);
            assert_eq!(paths, expected, "{keys:?}");
            assert_eq!(awkward, 1, "{keys:?}");
        }
    }

    #[test]
    fn sources_stand_where_they_are_mounted() {
        let sources = [
            listing("", &[("x", 1)]),
            listing("deep/down", &[("y", 1)]),
            listing("empty", &[]),
        ];
        let tree = tree(&sources, |_| true);
        assert_eq!(paths(&tree), ["deep/", "deep/down/", "deep/down/y", "empty/", "x"]);
    }
}
