//! Lists of files with their checksums, as `sha256sum` and its like write them. Pure; it must not know where they come from.
//!
//! | a line | is |
//! |---|---|
//! | `HEX  path`, `HEX *path`, `HEX path` | a file |
//! | `SHA256 (path) = HEX`, `SHA256(path)= HEX` | a file, as BSD and OpenSSL write it |
//! | either with `\` before it | ... in whose path `\\`, `\n` and `\r` stand for a backslash and ends of lines |
//! | nothing but blanks, or begins with `#` | left out |
//!
//! Blanks before a line are left out, and a carriage return behind it. Each file is there once: of several kinds of checksums the
//! longest counts, and two of one kind are the same.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::limits::{MANIFEST_BYTES_MAX, MANIFEST_FILES_MAX, MANIFEST_LINE_BYTES_MAX};
use crate::sum::{Kind, Sum};

/// A manifest of which a part was read.
#[derive(Default)]
pub(super) struct Manifest {
    files: BTreeMap<String, Sum>,
    /// Of a line that has not ended yet.
    line: Vec<u8>,
    /// Lines that have ended.
    lines: u64,
    bytes: u64,
}

impl Manifest {
    /// The next piece of it. The error says what is wrong with it, for people.
    pub(super) fn read(&mut self, piece: &[u8]) -> Result<(), String> {
        self.bytes += piece.len() as u64;
        if self.bytes > MANIFEST_BYTES_MAX {
            return Err(format!(
                "has more than {MANIFEST_BYTES_MAX} bytes; make several sources of it"
            ));
        }
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.hold(&rest[..end])?;
            self.end_line()?;
            rest = &rest[end + 1..];
        }
        self.hold(rest)
    }

    /// All files, with their checksums, when nothing more comes.
    pub(super) fn end(mut self) -> Result<BTreeMap<String, Sum>, String> {
        self.end_line()?;
        Ok(self.files)
    }

    fn hold(&mut self, part: &[u8]) -> Result<(), String> {
        if self.line.len() + part.len() > MANIFEST_LINE_BYTES_MAX {
            return Err(self.wrong(&format!("has more than {MANIFEST_LINE_BYTES_MAX} bytes")));
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), String> {
        let line = std::mem::take(&mut self.line);
        let read = std::str::from_utf8(&line).map_err(|_| "is no UTF-8".to_owned());
        let read = read.and_then(|line| {
            // Some editors of Windows begin a file with it.
            let line = line
                .strip_prefix('\u{feff}')
                .filter(|_| self.lines == 0)
                .unwrap_or(line);
            file(line)
        });
        let added = read.and_then(|file| file.map_or(Ok(()), |(path, sum)| self.add(path, sum)));
        added.map_err(|what| self.wrong(&what))?;
        self.lines += 1;
        self.line = line;
        self.line.clear();
        Ok(())
    }

    fn add(&mut self, path: String, sum: Sum) -> Result<(), String> {
        let is_full = self.files.len() >= MANIFEST_FILES_MAX;
        match self.files.entry(path) {
            Entry::Vacant(_) if is_full => {
                return Err(format!(
                    "is one file too many: {MANIFEST_FILES_MAX} are read; make several sources of it"
                ));
            }
            Entry::Vacant(place) => {
                place.insert(sum);
            }
            Entry::Occupied(mut known) => {
                if known.get().kind() == sum.kind() && *known.get() != sum {
                    return Err(format!(
                        "gives another checksum of {:?} than a line before it",
                        known.key()
                    ));
                }
                if sum.is_stronger_than(known.get()) {
                    known.insert(sum);
                }
            }
        }
        Ok(())
    }

    fn wrong(&self, what: &str) -> String {
        format!("is no manifest: line {} {what}", self.lines + 1)
    }
}

/// The file of a line, if it is one of a file. The error says what the line does.
fn file(line: &str) -> Result<Option<(String, Sum)>, String> {
    let line = line.strip_suffix('\r').unwrap_or(line).trim_start_matches([' ', '\t']);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (is_escaped, line) = line.strip_prefix('\\').map_or((false, line), |line| (true, line));
    let parted = plain(line).map_or_else(|| tagged(line), |file| Ok(Some(file)))?;
    let (path, sum) = parted.ok_or("is no checksum with a path behind it, as `sha256sum` writes it")?;
    let path = if is_escaped { unescaped(path)? } else { path.to_owned() };
    let path = own_path(&path)?;
    Ok(Some((path, sum)))
}

/// `HEX  path`.
fn plain(line: &str) -> Option<(&str, Sum)> {
    let (digits, rest) = line.split_once([' ', '\t'])?;
    // The second one says how the file was read, text or binary, which is the same but on Windows. Some programs write only one.
    let path = rest.strip_prefix([' ', '*']).unwrap_or(rest);
    Some((path, Sum::read(digits)?))
}

/// `SHA256 (path) = HEX`; `Ok(None)` when it is nothing like that.
fn tagged(line: &str) -> Result<Option<(&str, Sum)>, String> {
    // A path may have brackets too.
    let parted = line.split_once('(').zip(line.rsplit_once(')'));
    let Some(((name, _), (before, digits))) = parted else {
        return Ok(None);
    };
    let Some(path) = before.get(name.len() + 1..) else {
        return Ok(None);
    };
    let Some(digits) = digits.trim().strip_prefix('=') else {
        return Ok(None);
    };
    let name = name.trim_end();
    let kind = Kind::named(name).ok_or_else(|| format!("has a checksum of a kind that is not known, {name:?}"))?;
    let sum = Sum::read(digits.trim_start()).filter(|sum| sum.kind() == kind);
    sum.map(|sum| Some((path, sum)))
        .ok_or_else(|| format!("has no checksum of {name} behind its path"))
}

fn unescaped(path: &str) -> Result<String, String> {
    let (mut out, mut characters) = (String::with_capacity(path.len()), path.chars());
    while let Some(character) = characters.next() {
        out.push(match character {
            '\\' => match characters.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('r') => '\r',
                _ => return Err(format!("has a backslash in {path:?} that stands for nothing")),
            },
            other => other,
        });
    }
    Ok(out)
}

/// A path as it is relative to the folder of the source.
fn own_path(path: &str) -> Result<String, String> {
    let mut own = path;
    while let Some(rest) = own.strip_prefix("./") {
        own = rest;
    }
    if super::is_path(own) {
        Ok(own.to_owned())
    } else {
        Err(format!(
            "names {path:?}, which is no path of a file in the folder of the source"
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::MANIFESTS_AT_ONCE;

    const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";
    const OTHER_MD5: &str = "00000000000000000000000000000000";
    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn read(text: &[u8]) -> Result<Vec<String>, String> {
        let mut manifest = Manifest::default();
        manifest.read(text)?;
        let files = manifest.end()?;
        Ok(files.iter().map(|(path, sum)| format!("{path} {sum}")).collect())
    }

    #[test]
    fn what_programs_write_is_read() {
        for (line, path) in [
            (format!("{SHA256}  a b"), "a b"),
            (format!("{SHA256} *a"), "a"),
            (format!("{SHA256} a"), "a"),
            (format!("{SHA256}\ta"), "a"),
            (format!("{SHA256}   a "), " a "),
            (format!("{SHA256}  **"), "**"),
            (format!("  {SHA256}  a"), "a"),
            (format!("{SHA256}  ././a/b"), "a/b"),
            (format!("{SHA256}  a\r"), "a"),
            (format!("\u{feff}{SHA256}  a"), "a"),
            (format!("\\{SHA256}  a\\\\b\\nc\\rd"), "a\\b\nc\rd"),
            (format!("{SHA256}  a\\b"), "a\\b"),
            (format!("{}  ..a/b..", SHA256.to_ascii_uppercase()), "..a/b.."),
            (format!("SHA256 (a) = {SHA256}"), "a"),
            (format!("SHA256 (a (1) = b) = {SHA256}"), "a (1) = b"),
            (format!("\\SHA256 (a\\\\b) = {SHA256}"), "a\\b"),
            (format!("SHA256(a)= {SHA256}"), "a"),
            (format!("SHA2-256(./é/ü)= {SHA256}\r"), "é/ü"),
        ] {
            let expected = Ok(vec![format!("{path} sha256:{SHA256}")]);
            assert_eq!(read(line.as_bytes()), expected, "{line:?}");
            assert_eq!(read(format!("{line}\n").as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn each_file_is_there_once_with_its_longest_checksum() {
        let text = format!(
            "# made by hand\n\n \t\n{MD5}  b\r\n{SHA256}  ./a\n{MD5}  a\n{SHA256} *a\n#{OTHER_MD5}  a\n\
             MD5 (c) = {MD5}\n{SHA256}  c\n"
        );
        let expected = ["a sha256:", "b md5:", "c sha256:"];
        let files = read(text.as_bytes()).unwrap();
        assert_eq!(files.len(), expected.len());
        assert!(
            files.iter().zip(expected).all(|(file, begin)| file.starts_with(begin)),
            "{files:?}"
        );
        assert_eq!(read(b""), Ok(vec![]));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let long = format!("{MD5}  {}", "a".repeat(MANIFEST_LINE_BYTES_MAX));
        let hash = |text: &str| format!("{MD5}  {text}");
        for (line, says) in [
            ("<!DOCTYPE html>".to_owned(), "is no checksum with a path behind it"),
            (MD5.to_owned(), "is no checksum with a path behind it"),
            (format!("{}  a", &MD5[1..]), "is no checksum with a path behind it"),
            (format!("SHA256 (a) {SHA256}"), "is no checksum with a path behind it"),
            (")(".to_owned(), "is no checksum with a path behind it"),
            (
                format!("BLAKE2b (a) = {SHA256}{SHA256}"),
                "a kind that is not known, \"BLAKE2b\"",
            ),
            (format!("SHA256 (a) = {MD5}"), "has no checksum of SHA256"),
            (hash("../a"), "names \"../a\", which is no path"),
            (hash("a/../b"), "which is no path"),
            (hash("a/./b"), "which is no path"),
            (hash("/a"), "which is no path"),
            (hash("a/"), "which is no path"),
            (hash("a//b"), "which is no path"),
            (hash("./"), "which is no path"),
            (hash(""), "which is no path"),
            (hash("a\0b"), "which is no path"),
            (format!("\\{MD5}  a\\tb"), "has a backslash in"),
            (format!("\\{MD5}  a\\"), "has a backslash in"),
            (long, "has more than"),
        ] {
            let error = read(format!("\n{line}\n{MD5}  fine\n").as_bytes()).unwrap_err();
            assert!(
                error.starts_with("is no manifest: line 2 ") && error.contains(says),
                "{line:?}: {error}"
            );
        }
        let error = read(b"\xff").unwrap_err();
        assert!(error.contains("line 1 is no UTF-8"), "{error}");
        let error = read(format!("{MD5}  a\n{OTHER_MD5}  a").as_bytes()).unwrap_err();
        assert!(error.contains("line 2 gives another checksum of \"a\""), "{error}");
    }

    #[test]
    fn the_largest_one_takes_a_tenth_of_the_memory_of_a_small_cache_node() {
        // Nodes of the tree are half full at least, and each path has a header of the heap.
        let entry = 2 * size_of::<(String, Sum)>() + 16;
        let bytes = MANIFESTS_AT_ONCE * (MANIFEST_FILES_MAX * entry + usize::try_from(MANIFEST_BYTES_MAX).unwrap());
        assert!(bytes <= (1 << 30) / 10, "{bytes}");
    }

    #[test]
    fn no_more_is_held_than_is_allowed() {
        let mut manifest = Manifest::default();
        let line = format!("#{}\n", "a".repeat(1022)).repeat(1024);
        let pieces = MANIFEST_BYTES_MAX / line.len() as u64;
        for _ in 0..pieces {
            manifest.read(line.as_bytes()).unwrap();
        }
        let error = manifest.read(b"#").unwrap_err();
        assert!(error.contains("has more than"), "{error}");
        let mut manifest = Manifest::default();
        for number in 0..MANIFEST_FILES_MAX {
            manifest.read(format!("{MD5}  {number}\n").as_bytes()).unwrap();
        }
        manifest.read(format!("{MD5}  7\n").as_bytes()).unwrap();
        let error = manifest.read(format!("{MD5}  more\n").as_bytes()).unwrap_err();
        assert!(error.contains("is one file too many"), "{error}");
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_make_the_same_manifest(
            text in "([ab#\\\\\r\n]|0123456789abcdef0123456789abcdef  a|\n){0,20}",
            lengths in prop::collection::vec(1usize..40, 0..40),
        ) {
            let mut manifest = Manifest::default();
            let mut rest = text.as_bytes();
            let mut pieces = lengths.into_iter();
            let mut read_all = || {
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(pieces.next().unwrap_or(usize::MAX).min(rest.len()));
                    manifest.read(piece)?;
                    rest = after;
                }
                Ok(())
            };
            let pieced: Result<(), String> = read_all();
            let pieced = pieced.and_then(|()| manifest.end());
            let pieced = pieced.map(|files| files.iter().map(|(path, sum)| format!("{path} {sum}")).collect::<Vec<_>>());
            prop_assert_eq!(pieced, read(text.as_bytes()));
        }
    }
}
