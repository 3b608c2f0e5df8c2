//! `penstock cache files`.

use std::io::{self, BufWriter, Write};

use anyhow::{Result, anyhow, bail};
use penstock_protocol::control::cache_node::{EntriesReply, EntriesRequest, TreeEntry};

use crate::args::{Asked, CacheFiles, Output};
use crate::commands::ls::line;
use crate::listing::{Entry, Kind};
use crate::pool::{Pool, hex, sentence};
use crate::text;

/// Prints what the newest revision of a Dataset has at a path, as it comes.
///
/// # Errors
/// When no cache node answers, there is no such Dataset or path, or the list breaks off.
pub async fn run(arguments: CacheFiles) -> Result<()> {
    write(arguments, &mut BufWriter::new(io::stdout().lock())).await
}

async fn write(arguments: CacheFiles, out: &mut impl Write) -> Result<()> {
    let CacheFiles {
        asked: Asked { address, output },
        dataset,
        path,
        long,
        recursive,
    } = arguments;
    let mut pool = Pool::at(&address).await?;
    let request = EntriesRequest {
        dataset: pool.dataset(&dataset)?,
        path: path.clone(),
        is_recursive: recursive,
    };
    let refused = |status: tonic::Status| anyhow!(sentence(&status));
    let mut parts = pool.asked.entries(request).await.map_err(refused)?.into_inner();
    let mut count = 0;
    while let Some(part) = parts.message().await.map_err(refused)? {
        let EntriesReply {
            revision,
            entries,
            is_done,
        } = part;
        for entry in entries.into_iter().map(entry) {
            match output {
                Output::Text => writeln!(out, "{}", line(&entry, &path, recursive, long))?,
                Output::Json => {
                    let before = if count == 0 { "{\"entries\":[" } else { "," };
                    write!(out, "{before}{}", serde_json::to_string(&entry)?)?;
                }
            }
            count += 1;
        }
        if is_done {
            if output == Output::Json {
                let before = if count == 0 { "{\"entries\":[" } else { "" };
                writeln!(out, "{before}],\"revision\":\"{}\"}}", hex(&revision))?;
            }
            return Ok(out.flush()?);
        }
    }
    bail!(
        "the list broke off after {} entries: who takes nothing for a minute gets no more of it",
        text::count(count)
    )
}

fn entry(entry: TreeEntry) -> Entry {
    let TreeEntry {
        path,
        is_folder,
        bytes,
        modified_unix_nanos,
    } = entry;
    Entry {
        path,
        kind: if is_folder { Kind::Directory } else { Kind::File },
        bytes,
        modified: text::time(modified_unix_nanos),
        permissions: 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fake_cache_node::{self, FakeCacheNode};

    fn part(names: &[&str], is_done: bool) -> EntriesReply {
        let entry = |name: &&str| TreeEntry {
            path: format!("train/{name}"),
            is_folder: *name == "deep",
            bytes: 12,
            modified_unix_nanos: 0,
        };
        EntriesReply {
            revision: vec![0xab; 2],
            entries: names.iter().map(entry).collect(),
            is_done,
        }
    }

    async fn written(parts: Vec<EntriesReply>, output: Output, recursive: bool) -> Result<String> {
        let fake = FakeCacheNode::named("pool-0");
        fake.set(|answers| {
            answers.listed.datasets = vec![fake_cache_node::dataset("vision/imagenet")];
            answers.entries = parts;
        });
        let arguments = CacheFiles {
            asked: Asked {
                address: fake_cache_node::serve(fake.clone()).await,
                output,
            },
            dataset: "imagenet".into(),
            path: "train".into(),
            long: recursive,
            recursive,
        };
        let mut out = Vec::new();
        write(arguments, &mut out).await?;
        let asked = fake.set(|answers| answers.asked.pop());
        assert_eq!(asked, Some(("vision/imagenet".into(), "train".into())));
        Ok(String::from_utf8(out)?)
    }

    #[tokio::test]
    async fn all_parts_are_one_list_for_a_person_and_for_a_program() {
        let parts = || vec![part(&["a", "deep"], false), part(&["z"], false), part(&[], true)];
        let shown = written(parts(), Output::Text, false).await.unwrap();
        assert_eq!(shown, "a\ndeep/\nz\n");
        let shown = written(parts(), Output::Text, true).await.unwrap();
        assert!(
            shown.ends_with("             12  1970-01-01T00:00:00Z  train/z\n"),
            "{shown}"
        );
        let shown: Value = serde_json::from_str(&written(parts(), Output::Json, false).await.unwrap()).unwrap();
        assert_eq!(shown["revision"], "abab");
        assert_eq!(
            shown["entries"][1],
            json!({"path": "train/deep", "kind": "directory", "bytes": 12, "modified": "1970-01-01T00:00:00Z"})
        );
        let empty = written(vec![part(&[], true)], Output::Json, false).await.unwrap();
        assert_eq!(empty, "{\"entries\":[],\"revision\":\"abab\"}\n");
    }

    #[tokio::test]
    async fn a_list_that_breaks_off_is_an_error() {
        let error = written(vec![part(&["a"], false)], Output::Text, false).await;
        let said = error.err().unwrap().to_string();
        assert!(said.contains("broke off after 1 entries"), "{said}");
    }
}
