//! The code of a refusal in XML, as S3, Azure and AWS's token service write it. Pure.

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    code: Option<String>,
    /// Where the token service has it.
    error: Option<Inner>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inner {
    code: String,
}

/// For example "NoSuchBucket"; "" when there is none. Nothing else of a refusal is passed on.
pub(super) fn error_code(xml: &[u8]) -> String {
    let refusal: Result<Refusal, _> = quick_xml::de::from_reader(xml);
    let is_code = |code: &String| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    refusal
        .ok()
        .and_then(|Refusal { code, error }| code.or(error.map(|error| error.code)))
        .filter(is_code)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_error_is_found_and_nothing_else_of_it_is_passed_on() {
        for (text, code) in [
            (
                "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Key>k</Key></Error>",
                "NoSuchKey",
            ),
            (
                "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>BlobNotFound</Code><Message>m\nRequestId:1</Message></Error>",
                "BlobNotFound",
            ),
            (
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>AccessDenied</Code></Error>\
                 <RequestId>1</RequestId></ErrorResponse>",
                "AccessDenied",
            ),
            ("<Error><Code>a secret</Code></Error>", ""),
            ("<html>", ""),
            ("", ""),
        ] {
            assert_eq!(error_code(text.as_bytes()), code, "{text:?}");
        }
    }
}
