//! Where the keys of an origin come from on a machine without Kubernetes: the Secret of the same file that the source
//! names, else the environment, else nowhere (an anonymous bucket).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use penstock_cache_node::origin::s3::Credentials;
use serde::Deserialize;

use crate::documents::Document;

/// The names of the keys, in a Secret and in the environment alike.
pub const ACCESS_KEY: &str = "AWS_ACCESS_KEY_ID";
/// See [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "AWS_SECRET_ACCESS_KEY";
/// See [`ACCESS_KEY`]; only temporary keys have one.
pub const SESSION_TOKEN: &str = "AWS_SESSION_TOKEN";

/// Why there are no credentials; the sentence says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Named, but in neither place.
    #[error(
        "credentialsSecretRef names the Secret {name:?}, but the file has no such Secret (it has {found}) and the \
         environment has no {ACCESS_KEY}: add a Secret document of that name to the file, or export {ACCESS_KEY} and \
         {SECRET_KEY}"
    )]
    NotFound {
        /// Name of the Secret.
        name: String,
        /// The Secrets that the file has.
        found: String,
    },
    /// A Secret or the environment has one key without the other.
    #[error("{place} has {has} but no {lacks}: both are needed")]
    Incomplete {
        /// `Secret "x"` or `the environment`.
        place: String,
        /// The key that is there.
        has: &'static str,
        /// The key that is not.
        lacks: &'static str,
    },
    /// A Secret without the keys that are looked for.
    #[error("Secret {name:?} has no {ACCESS_KEY} and {SECRET_KEY}; its keys are: {found}")]
    OtherKeys {
        /// Name of the Secret.
        name: String,
        /// Names of its keys.
        found: String,
    },
    /// `data` of a Secret is base64.
    #[error("Secret {name:?}: data.{key} is not base64 of a text; write plain text under stringData instead of data")]
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

/// The credentials of a source that names the Secret `secret_name`, or none.
///
/// # Errors
/// See [`CredentialsError`].
pub fn resolve(
    secret_name: Option<&str>,
    documents: &[Document],
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Credentials>, CredentialsError> {
    if let Some(name) = secret_name
        && let Some(document) = documents.iter().find(|d| d.kind == "Secret" && d.name == name)
    {
        return from_secret(name, document).map(Some);
    }
    let value = |key: &str| environment(key).filter(|value| !value.is_empty());
    match (pair("the environment", value)?, secret_name) {
        (None, Some(name)) => Err(CredentialsError::NotFound {
            name: name.to_owned(),
            found: listed(documents.iter().filter(|d| d.kind == "Secret").map(|d| d.name.as_str())),
        }),
        (found, _) => Ok(found),
    }
}

fn from_secret(name: &str, document: &Document) -> Result<Credentials, CredentialsError> {
    let Secret { data, string_data } = document.parse().map_err(|reason| CredentialsError::NotASecret {
        name: name.to_owned(),
        reason,
    })?;
    let mut values = BTreeMap::new();
    for (key, encoded) in data {
        let text = base64(&encoded).and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(|| CredentialsError::NotBase64 {
            name: name.to_owned(),
            key: key.clone(),
        })?;
        // A newline at the end is what `base64 <<<` and editors add; no key has one.
        values.insert(key, text.trim_end_matches(['\r', '\n']).to_owned());
    }
    // As in Kubernetes: stringData wins.
    values.extend(string_data);
    pair(&format!("Secret {name:?}"), |key| values.get(key).cloned())?.ok_or_else(|| CredentialsError::OtherKeys {
        name: name.to_owned(),
        found: listed(values.keys().map(String::as_str)),
    })
}

fn pair(place: &str, value: impl Fn(&str) -> Option<String>) -> Result<Option<Credentials>, CredentialsError> {
    let incomplete = |has, lacks| CredentialsError::Incomplete {
        place: place.to_owned(),
        has,
        lacks,
    };
    match (value(ACCESS_KEY), value(SECRET_KEY)) {
        (Some(access_key_id), Some(secret_access_key)) => Ok(Some(Credentials {
            access_key_id,
            secret_access_key,
            session_token: value(SESSION_TOKEN).unwrap_or_default(),
        })),
        (Some(_), None) => Err(incomplete(ACCESS_KEY, SECRET_KEY)),
        (None, Some(_)) => Err(incomplete(SECRET_KEY, ACCESS_KEY)),
        (None, None) => Ok(None),
    }
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
metadata: {name: half}
stringData: {AWS_ACCESS_KEY_ID: id}
---
kind: Secret
metadata: {name: other}
stringData: {user: id, password: key}
---
kind: Secret
metadata: {name: raw}
data: {AWS_ACCESS_KEY_ID: id, AWS_SECRET_ACCESS_KEY: key!}
";

    fn resolved(name: Option<&str>, environment: &[(&str, &str)]) -> Result<Option<Credentials>, CredentialsError> {
        let documents = Document::all(FILE).unwrap();
        resolve(name, &documents, |key| {
            environment
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    fn credentials(session_token: &str) -> Option<Credentials> {
        Some(Credentials {
            access_key_id: "id".into(),
            secret_access_key: "key".into(),
            session_token: session_token.into(),
        })
    }

    #[test]
    fn the_secret_of_the_file_comes_before_the_environment() {
        let environment = [(ACCESS_KEY, "other"), (SECRET_KEY, "other")];
        assert_eq!(resolved(Some("plain"), &environment), Ok(credentials("token")));
        assert_eq!(resolved(Some("encoded"), &environment), Ok(credentials("")));
    }

    #[test]
    fn the_environment_stands_in_for_a_secret_that_is_not_in_the_file() {
        let environment = [(ACCESS_KEY, "id"), (SECRET_KEY, "key")];
        assert_eq!(resolved(Some("elsewhere"), &environment), Ok(credentials("")));
        assert_eq!(resolved(None, &environment), Ok(credentials("")));
    }

    #[test]
    fn without_a_secret_and_without_an_environment_the_bucket_is_read_anonymously() {
        assert_eq!(resolved(None, &[]), Ok(None));
        assert_eq!(resolved(None, &[(ACCESS_KEY, ""), (SECRET_KEY, "")]), Ok(None));
    }

    #[test]
    fn what_is_missing_is_said() {
        for (name, environment, sentence) in [
            (
                Some("elsewhere"),
                vec![],
                "names the Secret \"elsewhere\", but the file has no such Secret (it has plain",
            ),
            (
                Some("half"),
                vec![],
                "Secret \"half\" has AWS_ACCESS_KEY_ID but no AWS_SECRET_ACCESS_KEY",
            ),
            (Some("other"), vec![], "its keys are: password, user"),
            (Some("raw"), vec![], "data.AWS_ACCESS_KEY_ID is not base64"),
            (
                None,
                vec![(SECRET_KEY, "key")],
                "the environment has AWS_SECRET_ACCESS_KEY but no AWS_ACCESS_KEY_ID",
            ),
        ] {
            let error = resolved(name, &environment).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }
}
