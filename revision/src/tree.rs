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
//! | an object over 256 TiB, a key over 16 KiB, a version over 8 KiB, a marker of a folder whose path is too long | left out |

use std::cmp::{Ordering, Reverse};
use std::collections::HashSet;
use std::fmt::Write;

use crate::limits::{
    EXAMPLE_CHARACTERS_MAX, EXAMPLES_MAX, KEY_BYTES_MAX, NAME_BYTES_MAX, OBJECT_BYTES_MAX, PATH_BYTES_MAX,
    SOURCE_PATH_BYTES_MAX, VERSION_BYTES_MAX,
};
use crate::object::{Listed, SourceListing, Version};

/// How many keys had to be changed or left out, with examples for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Awkward {
    /// All of them.
    pub count: u64,
    /// Those of them that are not in the tree.
    pub left_out: u64,
    /// `key: what was done`; first those that were left out, then in the order of the tree.
    pub examples: Vec<String>,
}

impl Awkward {
    fn note(&mut self, key: &str, done: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(format!("{:?}: {}", cut(key), done()));
        }
    }
}

fn cut(text: &str) -> String {
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
    /// Which object.
    File(ObjectNumber),
}

/// Number of the source and number within its listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObjectNumber {
    pub(crate) source: u16,
    pub(crate) object: u32,
}

impl ObjectNumber {
    pub(crate) fn of(self, sources: &[SourceListing]) -> &Listed {
        &sources[self.source as usize].objects[self.object as usize]
    }
}

/// All nodes; a folder stands before what is in it.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: Vec<Node>,
    pub(crate) awkward: Awkward,
}

/// The tree of the listings, of which there are at most 65,535.
pub(crate) fn tree(sources: &[SourceListing]) -> Result<Tree, BadSourcePath> {
    let (mut entries, mut left_out) = entries(sources)?;
    entries.sort_unstable_by(|a, b| order(a, b, sources));
    leave_out_twins(&mut entries, sources, &mut left_out);
    rename_collisions(&mut entries, sources);
    let awkward = awkward(&entries, left_out, sources);
    Ok(Tree {
        nodes: nodes(&entries),
        awkward,
    })
}

struct Entry {
    /// NUL between the parts: as NUL is the smallest byte, bytewise order is the order of a walk, and what is in a folder
    /// comes right behind the folder's own path.
    path: String,
    is_folder: bool,
    /// What it is there for; `None` for the folder in which a source stands.
    object: Option<ObjectNumber>,
    /// Whether the path is not the one that the key looks like.
    changed: bool,
}

/// An object that is not in the tree, and why.
type LeftOut = (ObjectNumber, &'static str);

fn entries(sources: &[SourceListing]) -> Result<(Vec<Entry>, Vec<LeftOut>), BadSourcePath> {
    let mut entries = Vec::with_capacity(sources.iter().map(|source| source.objects.len()).sum());
    let mut left_out = Vec::new();
    for (source_number, source) in (0..).zip(sources) {
        let mount = mount(&source.path)?;
        if !mount.is_empty() {
            entries.push(Entry {
                path: mount.clone(),
                is_folder: true,
                object: None,
                changed: false,
            });
        }
        for (object_number, object) in (0..).zip(&source.objects) {
            let number = ObjectNumber {
                source: source_number,
                object: object_number,
            };
            match entry(&mount, number, object) {
                Ok(entry) => entries.extend(entry),
                Err(reason) => left_out.push((number, reason)),
            }
        }
    }
    Ok((entries, left_out))
}

fn mount(path: &str) -> Result<String, BadSourcePath> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let bad = |part: &&str| part.len() > NAME_BYTES_MAX || matches!(*part, "." | "..") || part.contains('\0');
    if path.len() > SOURCE_PATH_BYTES_MAX || parts.iter().any(bad) {
        return Err(BadSourcePath { path: cut(path) });
    }
    Ok(parts.join("\0"))
}

/// The entry for an object; `Ok(None)` when the tree has what it stands for anyway.
fn entry(mount: &str, number: ObjectNumber, listed: &Listed) -> Result<Option<Entry>, &'static str> {
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
    Ok(Some(Entry {
        path,
        is_folder: folder.is_some(),
        object: Some(number),
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

/// By path; of one path folders first, then the object that keeps the name.
fn order(a: &Entry, b: &Entry, sources: &[SourceListing]) -> Ordering {
    a.path
        .cmp(&b.path)
        .then_with(|| claim(a, sources).cmp(&claim(b, sources)))
}

/// The lowest one keeps the name.
fn claim<'a>(entry: &Entry, sources: &'a [SourceListing]) -> impl Ord + use<'a> {
    let object = entry.object.map(|number| {
        let Listed {
            key,
            bytes,
            modified_unix_nanos,
            version,
        } = number.of(sources);
        let version = match version {
            Version::None | Version::Modified(_) => "",
            Version::ETag(text) | Version::Id(text) => text,
        };
        (number.source, key, Reverse((*modified_unix_nanos, *bytes, version)))
    });
    (!entry.is_folder, entry.changed, object)
}

/// One listing may name a key twice, for example when it changed in between. Twins stand side by side, the newest first.
fn leave_out_twins(entries: &mut Vec<Entry>, sources: &[SourceListing], left_out: &mut Vec<LeftOut>) {
    entries.dedup_by(|later, kept| match (later.object, kept.object) {
        (Some(twin), Some(first)) if !later.is_folder && !kept.is_folder => {
            let same = twin.source == first.source && twin.of(sources).key == first.of(sources).key;
            if same {
                left_out.push((twin, "left out: listed twice, the newer one counts"));
            }
            same
        }
        _ => false,
    });
}

/// Gives a name of its own to each file whose path is a folder's or another file's.
fn rename_collisions(entries: &mut [Entry], sources: &[SourceListing]) {
    let mut taken = HashSet::new();
    let mut renamed = Vec::new();
    for at in colliding(entries) {
        let Some(number) = entries[at].object else { continue };
        let identity = &sources[number.source as usize].identity;
        let path = other_names(&entries[at].path, identity, &number.of(sources).key)
            .find(|path| !has_path(entries, path) && !taken.contains(path));
        if let Some(path) = path {
            taken.insert(path.clone());
            renamed.push((at, path));
        }
    }
    if renamed.is_empty() {
        return;
    }
    for (at, path) in renamed {
        entries[at].path = path;
        entries[at].changed = true;
    }
    entries.sort_unstable_by(|a, b| order(a, b, sources));
}

/// Numbers of the files whose path is a folder's or that of another file before it.
fn colliding(entries: &[Entry]) -> Vec<usize> {
    let mut colliding = Vec::new();
    // Walking backwards, whether something lies below a path is known before the entries that have this path.
    let mut is_folder = false;
    for at in (0..entries.len()).rev() {
        let path = &entries[at].path;
        if let Some(next) = entries.get(at + 1).filter(|next| next.path != *path) {
            is_folder = is_below(&next.path, path);
        }
        let same_as_before = at > 0 && entries[at - 1].path == *path;
        if !entries[at].is_folder && (is_folder || same_as_before) {
            colliding.push(at);
        }
    }
    colliding.reverse();
    colliding
}

/// Whether `path` lies in the folder `folder`.
fn is_below(path: &str, folder: &str) -> bool {
    path.as_bytes().get(folder.len()) == Some(&0) && path.starts_with(folder)
}

/// Whether a file or a folder of the sorted entries has this path.
fn has_path(entries: &[Entry], path: &str) -> bool {
    let at = entries.partition_point(|entry| entry.path.as_str() < path);
    entries
        .get(at)
        .is_some_and(|entry| entry.path == path || is_below(&entry.path, path))
}

/// Names for an object whose own name is taken: without end, so that one of them is free.
fn other_names(path: &str, identity: &str, key: &str) -> impl Iterator<Item = String> {
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

fn awkward(entries: &[Entry], mut left_out: Vec<LeftOut>, sources: &[SourceListing]) -> Awkward {
    let mut awkward = Awkward::default();
    left_out.sort_unstable_by_key(|(number, reason)| (number.source, &number.of(sources).key, *reason));
    for (number, reason) in left_out {
        awkward.left_out += 1;
        awkward.note(&number.of(sources).key, || reason.to_owned());
    }
    for entry in entries.iter().filter(|entry| entry.changed) {
        let path = entry.path.replace('\0', "/");
        // A marker of a folder has no object any more; its path says enough.
        let key = entry.object.map_or(path.as_str(), |number| &number.of(sources).key);
        awkward.note(key, || format!("is {:?}", cut(&path)));
    }
    awkward
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
    for Entry {
        path,
        is_folder,
        object,
        changed: _,
    } in entries
    {
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
            let is_file = end == path.len() && !is_folder;
            nodes.push(match object {
                Some(object) if is_file => Node {
                    name: name.into(),
                    kind: Kind::File(*object),
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
        let tree = tree(&[listing("", keys)]).unwrap();
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
    fn sources_stand_where_they_are_mounted() {
        let sources = [
            listing("", &[("x", 1)]),
            listing("deep/down", &[("y", 1)]),
            listing("empty", &[]),
        ];
        let tree = tree(&sources).unwrap();
        assert_eq!(paths(&tree), ["deep/", "deep/down/", "deep/down/y", "empty/", "x"]);
    }
}
