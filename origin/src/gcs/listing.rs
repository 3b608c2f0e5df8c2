//! What Google Cloud Storage says in JSON: the pages of a listing and the reason of an error. Pure.

use penstock_revision::{Listed, Version};
use serde::Deserialize;

/// The fields of an answer that are read.
pub(super) const FIELDS: &str = "nextPageToken,items(name,size,timeCreated,generation)";

/// One page of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Their keys are whole.
    pub(super) objects: Vec<Listed>,
    /// What to ask for next.
    pub(super) next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    next_page_token: Option<String>,
    #[serde(default)]
    items: Vec<Object>,
}

/// Numbers of 64 bits are texts in this API.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    name: String,
    size: String,
    generation: String,
    /// When this generation was written; `updated` is also when its metadata changed.
    time_created: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    error: Reasons,
}

#[derive(Deserialize)]
struct Reasons {
    #[serde(default)]
    errors: Vec<Reason>,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    reason: String,
}

/// The page in an answer. The error says what the server does wrong.
pub(super) fn page(json: &[u8]) -> Result<Page, String> {
    let Answer { next_page_token, items } = serde_json::from_slice(json).map_err(|error| {
        format!(
            "lists what is not understood ({:?} error at byte {})",
            error.classify(),
            error.column()
        )
    })?;
    let objects = items.into_iter().map(
        |Object {
             name,
             size,
             generation,
             time_created,
         }| {
            let is_number = !generation.is_empty() && generation.bytes().all(|byte| byte.is_ascii_digit());
            let (Ok(bytes), true) = (size.parse(), is_number) else {
                return Err(format!("lists {name} with a length or a generation that is no number"));
            };
            Ok(Listed {
                key: name,
                bytes,
                modified_unix_nanos: time_created.map_or(0, |time| unix_nanos(&time)),
                version: Version::Id(generation),
            })
        },
    );
    Ok(Page {
        objects: objects.collect::<Result<_, _>>()?,
        next: next_page_token.filter(|token| !token.is_empty()),
    })
}

/// The reason of an error, for example "notFound"; "" when there is none.
pub(super) fn error_reason(json: &[u8]) -> String {
    let refusal: Result<Refusal, _> = serde_json::from_slice(json);
    let Ok(Refusal {
        error: Reasons { errors, status },
    }) = refusal
    else {
        return String::new();
    };
    let is_reason =
        |text: &String| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let reason = errors.into_iter().next().map(|Reason { reason }| reason);
    let reason = reason.filter(|reason| !reason.is_empty()).unwrap_or(status);
    Some(reason).filter(is_reason).unwrap_or_default()
}

/// 0 for what is no time or lies beyond 2262.
fn unix_nanos(time: &str) -> i64 {
    let time: Option<jiff::Timestamp> = time.parse().ok();
    time.and_then(|time| i64::try_from(time.as_nanosecond()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_understood() {
        let object = r#"{"name": "a b", "size": "5", "generation": "1767323045678901", "timeCreated": "2026-01-02T03:04:05.678Z"}"#;
        let expected = Listed {
            key: "a b".into(),
            bytes: 5,
            modified_unix_nanos: 1_767_323_045_678_000_000,
            version: Version::Id("1767323045678901".into()),
        };
        for (json, objects, next) in [
            ("{}".to_owned(), vec![], None),
            (
                r#"{"kind": "storage#objects", "nextPageToken": ""}"#.to_owned(),
                vec![],
                None,
            ),
            (
                r#"{"nextPageToken": "n/+="}"#.to_owned(),
                vec![],
                Some("n/+=".to_owned()),
            ),
            (format!(r#"{{"items": [{object}]}}"#), vec![expected], None),
        ] {
            assert_eq!(page(json.as_bytes()), Ok(Page { objects, next }), "{json}");
        }
        let timeless = page(br#"{"items": [{"name": "a", "size": "0", "generation": "1"}]}"#).unwrap();
        assert_eq!(timeless.objects[0].modified_unix_nanos, 0);
    }

    #[test]
    fn a_page_that_makes_no_sense_is_refused() {
        for json in [
            "",
            "<html>",
            "[]",
            r#"{"items": {}}"#,
            r#"{"items": [{"size": "1", "generation": "1"}]}"#,
            r#"{"items": [{"name": "a", "generation": "1"}]}"#,
            r#"{"items": [{"name": "a", "size": "1"}]}"#,
            r#"{"items": [{"name": "a", "size": "-1", "generation": "1"}]}"#,
            r#"{"items": [{"name": "a", "size": "1", "generation": ""}]}"#,
            r#"{"items": [{"name": "a", "size": "1", "generation": "1&alt=json"}]}"#,
        ] {
            assert!(page(json.as_bytes()).is_err(), "{json:?}");
        }
    }

    #[test]
    fn the_reason_of_an_error_is_found_and_nothing_else_of_it_is_passed_on() {
        for (json, reason) in [
            (
                r#"{"error": {"code": 404, "message": "hush", "errors": [{"message": "hush", "domain": "global", "reason": "notFound"}]}}"#,
                "notFound",
            ),
            (
                r#"{"error": {"code": 401, "status": "UNAUTHENTICATED"}}"#,
                "UNAUTHENTICATED",
            ),
            (r#"{"error": {"errors": [{}], "status": "ABORTED"}}"#, "ABORTED"),
            (r#"{"error": {"errors": [{"reason": "a secret"}]}}"#, ""),
            (r#"{"error": "hush"}"#, ""),
            ("No such object: b/o", ""),
            ("", ""),
        ] {
            assert_eq!(error_reason(json.as_bytes()), reason, "{json:?}");
        }
    }
}
