//! `penstock stat`.

use anyhow::Result;
use penstock_revision::{Package, Version};
use serde_json::{Value, json};

use crate::args::{Output, Stat};
use crate::dataset_file::DatasetFile;
use crate::listing::{Kind, Tree};
use crate::{local, out, text};

/// Prints what is known of a dataset, or of one path of it.
///
/// # Errors
/// When the dataset cannot be listed or has no such path.
pub async fn run(arguments: Stat) -> Result<()> {
    let Stat { which, path, output } = arguments;
    let dataset = DatasetFile::read(&which)?.local()?;
    let package = local::revision(None, local::list(&dataset.sources).await?, dataset.ownership).await?;
    let facts = if path.trim_matches('/').is_empty() {
        of_dataset(&dataset.name, &package)
    } else {
        of_path(&path, package)?
    };
    match output {
        Output::Json => {
            let facts: serde_json::Map<_, _> = facts.into_iter().collect();
            out::print(&format!("{}\n", json!(facts)))
        }
        Output::Text => {
            let lines = facts.iter().map(|(name, value)| line(name, value) + "\n");
            out::print(&lines.collect::<String>())
        }
    }
}

type Facts = Vec<(String, Value)>;

fn of_dataset(name: &str, package: &Package) -> Facts {
    let summary = package.summary();
    let facts = [
        ("dataset", json!(name)),
        ("sources", json!(package.sources())),
        ("files", json!(summary.files)),
        ("directories", json!(summary.directories)),
        ("bytes", json!(summary.bytes)),
        ("awkwardKeys", json!(summary.awkward.count)),
    ];
    facts.map(|(name, value)| (name.to_owned(), value)).into()
}

fn of_path(path: &str, package: Package) -> Result<Facts> {
    let tree = Tree::of(package)?;
    let entry = tree.entry(path)?;
    let mut facts = vec![
        ("path", json!(entry.path)),
        ("kind", json!(entry.kind)),
        ("mode", json!(format!("{:04o}", entry.permissions))),
        ("modified", json!(entry.modified)),
    ];
    if entry.kind == Kind::File {
        facts.insert(2, ("bytes", json!(entry.bytes)));
    }
    if let Some((source, object)) = tree.object(path)? {
        facts.push(("source", json!(source)));
        facts.push(("key", json!(object.key)));
        let version = match object.version {
            Version::ETag(text) | Version::Id(text) => json!(text),
            Version::None | Version::Modified(_) => Value::Null,
        };
        facts.push(("etag", version));
    }
    Ok(facts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

fn line(name: &str, value: &Value) -> String {
    let shown = match value {
        Value::String(value) => text::name(value),
        Value::Number(number) if name == "bytes" => {
            let bytes = number.as_u64().unwrap_or(0);
            format!("{} ({})", text::count(bytes), text::bytes(bytes))
        }
        Value::Number(number) => text::count(number.as_u64().unwrap_or(0)),
        Value::Array(values) => {
            let values: Vec<_> = values.iter().filter_map(Value::as_str).map(text::name).collect();
            values.join(", ")
        }
        _ => "-".into(),
    };
    format!("{name:>12}  {shown}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_is_a_line_for_a_person() {
        for (name, value, expected) in [
            ("bytes", json!(1_048_576), "       bytes  1,048,576 (1.0 MiB)"),
            ("files", json!(3008), "       files  3,008"),
            (
                "sources",
                json!(["s3://a/", "s3://b/"]),
                "     sources  s3://a/, s3://b/",
            ),
            ("etag", Value::Null, "        etag  -"),
        ] {
            assert_eq!(line(name, &value), expected);
        }
    }
}
