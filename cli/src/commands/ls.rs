//! `penstock ls`.

use std::io::{BufWriter, Write};

use anyhow::Result;
use penstock_revision::Unversioned;
use serde_json::json;

use crate::args::{Ls, Output};
use crate::dataset_file::DatasetFile;
use crate::listing::{Entry, Kind, Tree};
use crate::{local, text};

/// Prints what the dataset has at a path at this moment.
///
/// # Errors
/// When the dataset cannot be listed or has no such path.
pub async fn run(arguments: Ls) -> Result<()> {
    let Ls {
        which,
        path,
        long,
        recursive,
        output,
    } = arguments;
    let dataset = DatasetFile::read(&which)?.local()?;
    let package = local::revision(None, local::list(&dataset.sources).await?, dataset.ownership).await?;
    let (awkward, unversioned) = (package.summary().awkward.clone(), package.summary().unversioned.clone());
    let entries = Tree::of(package)?.entries(&path, recursive)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    if output == Output::Json {
        let document = json!({
            "entries": entries,
            "awkwardKeys": {"count": awkward.count, "caseTwins": awkward.case_twins, "examples": awkward.examples},
            "unversioned": unversioned,
        });
        serde_json::to_writer(&mut out, &document)?;
        writeln!(out)?;
    } else {
        for entry in &entries {
            writeln!(out, "{}", line(entry, &path, recursive, long))?;
        }
    }
    out.flush()?;
    if awkward.count + awkward.case_twins > 0 && output == Output::Text {
        let (count, twins) = (text::count(awkward.count), text::count(awkward.case_twins));
        eprintln!(
            "{count} keys cannot be names of files and were given others or left out, {twins} names differ from others only in case, \
             for example:"
        );
        for example in &awkward.examples {
            eprintln!("  {}", text::name(example));
        }
    }
    if output == Output::Text {
        for Unversioned { source, files, example } in &unversioned {
            eprintln!(
                "of {} files of {source} nothing shows that they change, which allowUnversioned accepts, for example {}",
                text::count(*files),
                text::name(example)
            );
        }
    }
    Ok(())
}

/// An entry as `ls` shows it that was asked for `path`.
pub fn line(entry: &Entry, path: &str, recursive: bool, long: bool) -> String {
    let below = entry.path.strip_prefix(path.trim_matches('/')).unwrap_or(&entry.path);
    let below = below.trim_start_matches('/');
    // A file that was named itself has nothing below it.
    let shown = if recursive || below.is_empty() {
        &entry.path
    } else {
        below
    };
    let end = if entry.kind == Kind::Directory { "/" } else { "" };
    let name = format!("{}{end}", text::name(shown));
    if long {
        let bytes = match entry.kind {
            Kind::File => entry.bytes.to_string(),
            Kind::Directory => "-".into(),
        };
        format!("{bytes:>15}  {}  {name}", entry.modified)
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: path.into(),
            kind,
            bytes: 12,
            modified: "2026-11-24T13:05:00Z".into(),
            permissions: 0o444,
        }
    }

    #[test]
    fn a_line_is_what_ls_would_print() {
        for (path, kind, at, recursive, long, expected) in [
            ("a/b.txt", Kind::File, "a", false, false, "b.txt"),
            ("a/b.txt", Kind::File, "/a/", false, false, "b.txt"),
            ("a/b.txt", Kind::File, "a/b.txt", false, false, "a/b.txt"),
            ("a/sub", Kind::Directory, "a", false, false, "sub/"),
            ("a/b.txt", Kind::File, "a", true, false, "a/b.txt"),
            (
                "b.txt",
                Kind::File,
                "",
                false,
                true,
                "             12  2026-11-24T13:05:00Z  b.txt",
            ),
        ] {
            assert_eq!(line(&entry(path, kind), at, recursive, long), expected);
        }
    }
}
