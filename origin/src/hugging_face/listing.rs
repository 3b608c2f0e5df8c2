//! What a hub says of a repository: the commit of a revision, and the pages of its files. Pure.

use penstock_revision::{Listed, Version};
use serde::Deserialize;

/// The answer about a revision, as far as it is needed.
#[derive(Deserialize)]
struct Revision {
    sha: String,
}

/// Something in a repository.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    oid: String,
    #[serde(default)]
    size: u64,
    lfs: Option<Linked>,
}

/// A large file, of which git has only a note.
#[derive(Deserialize)]
struct Linked {
    oid: String,
    size: u64,
}

/// The commit in an answer. The error says what the server does wrong.
pub(super) fn commit(json: &[u8]) -> Result<String, String> {
    let Revision { sha } = serde_json::from_slice(json).map_err(not_understood)?;
    if !is_commit(&sha) {
        return Err("names a commit that is none".to_owned());
    }
    Ok(sha)
}

/// Whether a revision is a commit itself, which never stands for another.
pub(super) fn is_commit(revision: &str) -> bool {
    matches!(revision.len(), 40 | 64) && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The files of one page, whose keys are their whole paths. The error says what the server does wrong.
pub(super) fn page(json: &[u8]) -> Result<Vec<Listed>, String> {
    let entries: Vec<Entry> = serde_json::from_slice(json).map_err(not_understood)?;
    let files = entries.into_iter().filter(|entry| entry.kind == "file");
    let listed = files.map(
        |Entry {
             kind: _,
             path,
             oid,
             size,
             lfs,
         }| {
            let (oid, bytes) = lfs.map_or((oid, size), |Linked { oid, size }| (oid, size));
            Listed {
                key: path,
                bytes,
                modified_unix_nanos: 0,
                version: Version::ETag(oid),
            }
        },
    );
    Ok(listed.collect())
}

/// The target of the link that has the relation "next" (RFC 8288).
pub(super) fn next(links: &str) -> Option<&str> {
    let mut rest = links;
    loop {
        let (_, from) = rest.split_once('<')?;
        let (target, parameters) = from.split_once('>')?;
        let (parameters, others) = parameters.split_once(",").unwrap_or((parameters, ""));
        let is_next = |parameter: &str| matches!(parameter.trim(), "rel=\"next\"" | "rel=next");
        if parameters.split(';').any(is_next) {
            return Some(target);
        }
        rest = others;
    }
}

/// The place of the error in a text of others is of no use to anybody.
fn not_understood(error: serde_json::Error) -> String {
    format!(
        "answers what is not understood ({:?} error in its JSON)",
        error.classify()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_what_the_note_of_it_says() {
        let listed = page(
            br#"[{"type":"directory","oid":"d","size":0,"path":"a"},
                 {"type":"file","oid":"blob","size":3,"path":"a/small"},
                 {"type":"unknown","oid":"x","path":"a/module"},
                 {"type":"file","oid":"note","size":9,"path":"a/large","xetHash":"h",
                  "lfs":{"oid":"content","size":7000000000,"pointerSize":135}}]"#,
        );
        let file = |key: &str, bytes, oid: &str| Listed {
            key: key.to_owned(),
            bytes,
            modified_unix_nanos: 0,
            version: Version::ETag(oid.to_owned()),
        };
        let expected = vec![file("a/small", 3, "blob"), file("a/large", 7_000_000_000, "content")];
        assert_eq!(listed, Ok(expected));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for json in [
            "",
            "{}",
            "[{}]",
            r#"[{"type":"file","path":"a"}]"#,
            r#"[{"type":"file","path":"a","oid":"b","size":-1}]"#,
        ] {
            assert!(page(json.as_bytes()).is_err(), "{json}");
        }
        for json in [
            "[]",
            "{}",
            r#"{"sha":"main"}"#,
            r#"{"sha":"../../../../../../../../../../../../../x"}"#,
        ] {
            assert!(commit(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        for (links, target) in [
            (
                "<https://hub/a?cursor=b%2C>; rel=\"next\"",
                Some("https://hub/a?cursor=b%2C"),
            ),
            ("<https://hub/0>; rel=\"first\", </1>; title=x; rel=next", Some("/1")),
            ("<https://hub/0>; rel=\"prev\"", None),
            ("https://hub/0; rel=\"next\"", None),
            ("<", None),
            ("", None),
        ] {
            assert_eq!(next(links), target, "{links}");
        }
    }
}
