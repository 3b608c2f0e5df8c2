//! Where the keys of an origin come from on a machine without Kubernetes: the Secret of the same file that the source
//! names, else the environment, else nowhere (an anonymous bucket).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use penstock_sources::{Keys, Looked};
use serde::Deserialize;

use crate::documents::Document;

/// Why there are no credentials; the sentence says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Named, but in neither place.
    #[error(
        "credentialsSecretRef names the Secret {name:?}, but the file has no such Secret (it has {found}) and the \
         environment has no {first}: add a Secret document of that name to the file, or export {needed}"
    )]
    NotFound {
        /// Name of the Secret.
        name: String,
        /// The Secrets that the file has.
        found: String,
        /// The first key that is looked for.
        first: &'static str,
        /// The keys that are needed.
        needed: &'static str,
    },
    /// A Secret without any key that is looked for.
    #[error("Secret {name:?} has no {needed}; its keys are: {found}")]
    OtherKeys {
        /// Name of the Secret.
        name: String,
        /// The keys that are needed.
        needed: &'static str,
        /// Names of its keys.
        found: String,
    },
    /// `data` of a Secret is base64.
    #[error("Secret {name:?}: data.{key} is not base64; write plain text under stringData instead of data")]
    NotBase64 {
        /// Name of the Secret.
        name: String,
        /// Name of the key.
        key: String,
    },
    /// The Secret cannot be read at all.
    #[error("Secret {name:?}: {reason}")]
    NotASecret {
        /// Name of the Secret.
        name: String,
        /// The parser's sentence.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Secret {
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    string_data: BTreeMap<String, String>,
}

/// The keys for a source that names the Secret `secret_name`, or none. Whether they are complete is for whoever uses them.
///
/// # Errors
/// See [`CredentialsError`].
pub fn resolve(
    secret_name: Option<&str>,
    Looked { keys, needed, is_sent }: Looked,
    documents: &[Document],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Keys>, CredentialsError> {
    if let Some(name) = secret_name
        && let Some(document) = documents.iter().find(|d| d.kind == "Secret" && d.name == name)
    {
        let found = from_secret(name, document)?;
        if keys.iter().any(|key| found.contains_key(*key)) {
            return Ok(Some(found));
        }
        return Err(CredentialsError::OtherKeys {
            name: name.to_owned(),
            needed,
            found: listed(found.keys().map(String::as_str)),
        });
    }
    let value = |key: &&'static str| {
        let value = environment(key).filter(|value| !value.is_empty())?;
        Some(((*key).to_owned(), value.into_bytes()))
    };
    // Names like `password` are not for the environment.
    let keys = keys
        .iter()
        .filter(|key| key.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
    let is_meant = secret_name.is_some() || !is_sent;
    let found: Keys = keys.clone().filter(|_| is_meant).filter_map(value).collect();
    match (found.is_empty(), secret_name) {
        (false, _) => Ok(Some(found)),
        (true, None) => Ok(None),
        (true, Some(name)) => Err(CredentialsError::NotFound {
            name: name.to_owned(),
            found: listed(documents.iter().filter(|d| d.kind == "Secret").map(|d| d.name.as_str())),
            first: keys.clone().next().unwrap_or(&"such key"),
            needed,
        }),
    }
}

fn from_secret(name: &str, document: &Document) -> Result<Keys, CredentialsError> {
    let Secret { data, string_data } = document.parse().map_err(|reason| CredentialsError::NotASecret {
        name: name.to_owned(),
        reason,
    })?;
    let mut values = Keys::new();
    for (key, encoded) in data {
        let bytes = base64(&encoded).ok_or_else(|| CredentialsError::NotBase64 {
            name: name.to_owned(),
            key: key.clone(),
        })?;
        values.insert(key, bytes);
    }
    // As in Kubernetes: stringData wins.
    values.extend(string_data.into_iter().map(|(key, text)| (key, text.into_bytes())));
    Ok(values)
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}

/// The bytes of a base64 text, as `data` of a Secret has it; white space is skipped.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "kind: Secret
metadata: {name: plain}
stringData: {AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: key, AWS_SESSION_TOKEN: token}
---
kind: Secret
metadata: {name: encoded}
data: {AWS_ACCESS_KEY_ID: aWQ=, AWS_SECRET_ACCESS_KEY: a2V5Cg==}
---
kind: Secret
metadata: {name: other}
stringData: {user: id}
---
kind: Secret
metadata: {name: raw}
data: {AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: key!}
";

    fn resolved(name: Option<&str>, environment: &[(&str, &str)]) -> Result<Option<Keys>, CredentialsError> {
        resolved_for(false, name, environment)
    }

    fn resolved_for(
        is_sent: bool,
        name: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Result<Option<Keys>, CredentialsError> {
        let documents = Document::all(FILE).unwrap();
        let looked = Looked {
            keys: &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "password"],
            needed: "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            is_sent,
        };
        resolve(name, looked, &documents, |key| {
            environment
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    fn id_of(keys: Result<Option<Keys>, CredentialsError>) -> Option<String> {
        let id = keys.unwrap()?["AWS_ACCESS_KEY_ID"].clone();
        Some(String::from_utf8(id).unwrap())
    }

    #[test]
    fn the_secret_of_the_file_comes_before_the_environment() {
        let environment = [("AWS_ACCESS_KEY_ID", "other")];
        for name in ["plain", "encoded"] {
            assert_eq!(id_of(resolved(Some(name), &environment)).as_deref(), Some("id"));
        }
    }

    #[test]
    fn the_environment_stands_in_for_a_secret_that_is_not_in_the_file() {
        let environment = [("AWS_ACCESS_KEY_ID", "other"), ("password", "x")];
        for name in [Some("elsewhere"), None] {
            let keys = resolved(name, &environment).unwrap().unwrap();
            assert_eq!(keys, Keys::from([("AWS_ACCESS_KEY_ID".into(), "other".into())]));
        }
    }

    #[test]
    fn what_would_be_sent_to_whom_the_file_names_is_not_taken_from_the_environment_unasked() {
        let environment = [("AWS_ACCESS_KEY_ID", "other")];
        assert_eq!(resolved_for(true, None, &environment), Ok(None));
        assert!(resolved_for(true, Some("elsewhere"), &environment).unwrap().is_some());
    }

    #[test]
    fn without_a_secret_and_without_an_environment_the_bucket_is_read_anonymously() {
        assert_eq!(resolved(None, &[]), Ok(None));
        assert_eq!(resolved(None, &[("AWS_ACCESS_KEY_ID", "")]), Ok(None));
    }

    #[test]
    fn what_is_missing_is_said() {
        for (name, sentence) in [
            (
                "elsewhere",
                "names the Secret \"elsewhere\", but the file has no such Secret (it has plain",
            ),
            ("other", "its keys are: user"),
            ("raw", "data.AWS_ACCESS_KEY_ID is not base64"),
        ] {
            let error = resolved(Some(name), &[]).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }
}
