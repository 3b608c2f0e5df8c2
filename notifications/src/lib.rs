//! What stores and their go-betweens send when objects change, and what it says: pure. Nothing here decides who may say it.
//!
//! Every format is known by its own fields, not by where it comes from, and what nobody understands is said to be so: then all sources
//! are looked at, because news must not be lost.

mod azure;
mod gcs;
mod plain;
mod s3;
mod sns;

use serde_json::Value;

/// Changes in one notification; stores send one or some. More are a look at everything.
pub const CHANGES_MAX: usize = 1000;

/// JSON objects and lists in one, whatever is in them: an object in memory takes 600 bytes, where `{"":0},` are seven. Event Grid puts
/// some thousand into a mebibyte.
const BRACKETS_MAX: usize = 8192;

/// What a body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// These have changed.
    Changed(Vec<Change>),
    /// Anything may have changed: it is said so, or not said how.
    Anything,
    /// It is about nothing that could be listed, for example a test of the store.
    Nothing,
    /// SNS asks whether the owner of this address wants to be told of a topic; who opens the URL says yes.
    Confirm {
        /// The topic.
        topic: String,
        /// Of SNS itself, or empty.
        url: String,
    },
    /// Event Grid wants this code back.
    Validate(String),
    /// Nobody knows what it says.
    NotUnderstood,
}

/// Where an object has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The kind of store, and what it calls what it has objects in.
    pub place: Place,
    /// How the keys of the objects begin.
    pub start: String,
}

/// What holds the objects of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A bucket of S3 or a look-alike.
    S3(String),
    /// A bucket of Google Cloud Storage.
    Gcs(String),
    /// A container of Azure; without an account: of any.
    Azure {
        /// Name of the storage account.
        account: Option<String>,
        /// Name of the container.
        container: String,
    },
    /// Any of these with this name, or any at all.
    Any(Option<String>),
}

/// What `body` says.
pub fn read(body: &[u8]) -> Said {
    if body.trim_ascii().is_empty() {
        return Said::Anything;
    }
    let Some(value) = parsed(body) else {
        return Said::NotUnderstood;
    };
    let said = sns::read(&value)
        .or_else(|| of_store(&value))
        .or_else(|| plain::read(&value))
        .unwrap_or(Said::NotUnderstood);
    match said {
        Said::Changed(changes) if changes.is_empty() => Said::Nothing,
        // More than anybody remembers one by one.
        Said::Changed(changes) if changes.len() > CHANGES_MAX => Said::Anything,
        said => said,
    }
}

/// The value in a body or in a text inside of one, when it is one of a size that anybody would send.
fn parsed(text: &[u8]) -> Option<Value> {
    let brackets = text.iter().filter(|byte| matches!(byte, b'{' | b'['));
    if brackets.count() > BRACKETS_MAX {
        return None;
    }
    serde_json::from_slice(text).ok()
}

/// What a store says, as it is or inside of what SNS forwards.
fn of_store(value: &Value) -> Option<Said> {
    s3::read(value)
        .or_else(|| gcs::read(value))
        .or_else(|| azure::read(value))
}

/// The text at a path of names.
fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |value, name| value.get(name))?.as_str()
}

/// A key as it is written, and as it is when it is written as in a URL: who reads it cannot know, and looking at both costs little.
fn both_ways(place: &Place, key: &str, decoded: Option<String>) -> Vec<Change> {
    let mut keys = vec![key.to_owned()];
    keys.extend(decoded.filter(|decoded| decoded != key));
    let change = |start| Change {
        place: place.clone(),
        start,
    };
    keys.into_iter().map(change).collect()
}

/// As in a form: a plus sign is a blank. `None` for what is no UTF-8.
fn decoded_form(key: &str) -> Option<String> {
    decoded_url(&key.replace('+', " "))
}

fn decoded_url(key: &str) -> Option<String> {
    percent_encoding::percent_decode_str(key)
        .decode_utf8()
        .ok()
        .map(|key| key.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn changed(said: &Said) -> Vec<(Place, &str)> {
        match said {
            Said::Changed(changes) => changes
                .iter()
                .map(|change| (change.place.clone(), change.start.as_str()))
                .collect(),
            other => panic!("nothing changed: {other:?}"),
        }
    }

    #[test]
    fn what_nobody_understands_is_said_to_be_so() {
        for body in ["", " \n", "{\"all\": true}"] {
            assert_eq!(read(body.as_bytes()), Said::Anything, "{body:?}");
        }
        for body in [
            "null",
            "[]",
            "{}",
            "hello",
            "{\"Records\": 5}",
            "{\"Records\": [{\"s3\": {}}]}",
            "{\"keys\": \"a\"}",
            "{\"Type\": \"Notification\", \"Message\": \"hello\"}",
            "{\"message\": {\"attributes\": {}}}",
            "[{\"eventType\": \"Microsoft.Storage.BlobCreated\", \"subject\": \"/elsewhere\"}]",
        ] {
            assert_eq!(read(body.as_bytes()), Said::NotUnderstood, "{body}");
        }
        assert_eq!(read(b"\xff"), Said::NotUnderstood);
    }

    #[test]
    fn what_would_take_much_memory_is_not_taken_apart() {
        let test = |count: usize| {
            let event = r#"{"Event": "s3:TestEvent", "Bucket": "b", "more": [%]}"#;
            event.replace('%', &vec![r#"{"":0}"#; count - 2].join(","))
        };
        assert_eq!(read(test(BRACKETS_MAX).as_bytes()), Said::Nothing);
        assert_eq!(read(test(BRACKETS_MAX + 1).as_bytes()), Said::NotUnderstood);
        let wrapped = |inside: String| {
            let message =
                serde_json::json!({"Type": "Notification", "TopicArn": "arn:aws:sns:r:1:t", "Message": inside});
            // One that hides what is in it.
            message.to_string().replace("{\\", "\\u007b\\")
        };
        assert_eq!(read(wrapped(test(BRACKETS_MAX)).as_bytes()), Said::Nothing);
        assert_eq!(read(wrapped(test(BRACKETS_MAX + 1)).as_bytes()), Said::NotUnderstood);
    }

    #[test]
    fn more_changes_than_are_remembered_are_anything() {
        let keys: Vec<String> = (0..=CHANGES_MAX).map(|number| number.to_string()).collect();
        let body = serde_json::to_vec(&serde_json::json!({ "keys": keys })).unwrap();
        assert_eq!(read(&body), Said::Anything);
        assert_eq!(read(b"{\"keys\": []}"), Said::Nothing);
    }
}
