//! A YAML file with several Kubernetes objects, as people keep it in git: cut into documents, each with its kind and
//! name, each parsed on its own so that an error carries the line of the whole file. Must not know what a Dataset is.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// One document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// `apiVersion`, or nothing.
    pub api_version: String,
    /// `kind`, or nothing.
    pub kind: String,
    /// `metadata.name`, or nothing.
    pub name: String,
    /// `metadata.namespace`, or nothing.
    pub namespace: String,
    // Empty lines stand for what was before, so that the parser counts lines as the reader does.
    text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
}

impl Document {
    /// The documents of `text`; empty ones are left out.
    ///
    /// # Errors
    /// The parser's sentence with line and column, when one is no YAML or no Kubernetes object.
    pub fn all(text: &str) -> Result<Vec<Self>, String> {
        let mut documents = Vec::new();
        for text in cut(text) {
            if text
                .lines()
                .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
            {
                continue;
            }
            let Head {
                api_version,
                kind,
                metadata: Metadata { name, namespace },
            } = parse(&text)?;
            documents.push(Self {
                api_version,
                kind,
                name,
                namespace,
                text,
            });
        }
        Ok(documents)
    }

    /// The document as a `T`.
    ///
    /// # Errors
    /// The parser's sentence with line and column.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        parse(&self.text)
    }
}

/// YAML knows no other meaning of `---` at the begin of a line, not even within a block of text.
fn cut(text: &str) -> Vec<String> {
    let (mut documents, mut at) = (Vec::new(), String::new());
    for (number, line) in text.lines().enumerate() {
        let is_border = line == "---" || line.starts_with("--- ") || line.starts_with("---\t");
        if is_border {
            documents.push(std::mem::replace(&mut at, "\n".repeat(number)));
            at.push_str(&line[3..]);
        } else {
            at.push_str(line);
        }
        at.push('\n');
    }
    documents.push(at);
    documents
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_cut_at_their_borders() {
        let text = "# a comment\n---\nkind: A\nmetadata: {name: a, namespace: n}\n--- # b\nkind: B\n---\n\n";
        let documents = Document::all(text).unwrap();
        let seen: Vec<_> = documents.iter().map(|d| (d.kind.as_str(), d.name.as_str())).collect();
        assert_eq!(seen, [("A", "a"), ("B", "")]);
    }

    #[test]
    fn an_error_carries_the_line_of_the_whole_file() {
        let error = Document::all("kind: A\n---\nkind: B\nmetadata: [wrong]\n").unwrap_err();
        assert!(error.contains("line 4"), "{error}");
    }
}
