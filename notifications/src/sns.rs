//! What SNS wraps around what a store says, and how it asks whether somebody wants to be told.
//!
//! We open no URL that came from outside. Who set up the subscription confirms it; only URLs of SNS are shown to them.

use serde_json::Value;

use crate::{Said, of_store, parsed, text};

pub(super) fn read(value: &Value) -> Option<Said> {
    let topic = text(value, &["TopicArn"])?;
    match text(value, &["Type"])? {
        "Notification" => {
            let inside = parsed(text(value, &["Message"])?.as_bytes());
            Some(
                inside
                    .and_then(|inside| of_store(&inside))
                    .unwrap_or(Said::NotUnderstood),
            )
        }
        "SubscriptionConfirmation" => {
            let url = text(value, &["SubscribeURL"]).filter(|url| is_of_sns(url));
            Some(Said::Confirm {
                topic: topic.to_owned(),
                url: url.unwrap_or_default().to_owned(),
            })
        }
        "UnsubscribeConfirmation" => Some(Said::Nothing),
        _ => None,
    }
}

/// `https://sns.REGION.amazonaws.com/...`, and the same in China.
fn is_of_sns(url: &str) -> bool {
    let rest = url.strip_prefix("https://sns.").unwrap_or_default();
    let Some((host, _)) = rest.split_once('/') else {
        return false;
    };
    let region = host
        .strip_suffix(".amazonaws.com")
        .or_else(|| host.strip_suffix(".amazonaws.com.cn"));
    let is_region = |region: &str| !region.is_empty() && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic());
    region.is_some_and(is_region) && is_plain
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::is_of_sns;
    use crate::tests::changed;
    use crate::{Place, Said, read};

    fn body(kind: &str, more: &serde_json::Value) -> Vec<u8> {
        let mut body = json!({
            "Type": kind, "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic", "Timestamp": "2012-05-02T00:54:06.655Z",
            "SignatureVersion": "1", "Signature": "EXAMPLEw6JRN...",
            "SigningCertURL": "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem",
        });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::to_vec(&body).unwrap()
    }

    #[test]
    fn what_a_store_says_is_found_inside() {
        let record =
            json!({"Records": [{"eventSource": "aws:s3", "s3": {"bucket": {"name": "b"}, "object": {"key": "a+b"}}}]});
        let said = read(&body(
            "Notification",
            &json!({"Subject": "Amazon S3 Notification", "Message": record.to_string()}),
        ));
        assert_eq!(changed(&said), [(Place::S3("b".into()), "a b")]);
        let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"});
        assert_eq!(
            read(&body("Notification", &json!({"Message": test.to_string()}))),
            Said::Nothing
        );
        assert_eq!(
            read(&body("Notification", &json!({"Message": "hello"}))),
            Said::NotUnderstood
        );
        assert_eq!(read(&body("UnsubscribeConfirmation", &json!({}))), Said::Nothing);
    }

    #[test]
    fn a_subscription_is_confirmed_by_people_and_only_at_sns() {
        let url = "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:us-west-2:123456789012:MyTopic&Token=2336412f37";
        let confirm = |url: &str| {
            read(&body(
                "SubscriptionConfirmation",
                &json!({"Token": "2336412f37", "SubscribeURL": url}),
            ))
        };
        let topic = "arn:aws:sns:us-west-2:123456789012:MyTopic".to_owned();
        let expected = |url: &str| Said::Confirm {
            topic: topic.clone(),
            url: url.to_owned(),
        };
        assert_eq!(confirm(url), expected(url));
        assert_eq!(confirm("https://169.254.169.254/latest"), expected(""));
        for (url, is_one) in [
            (url, true),
            (
                "https://sns.cn-north-1.amazonaws.com.cn/?Action=ConfirmSubscription",
                true,
            ),
            ("http://sns.us-west-2.amazonaws.com/", false),
            ("https://sns.us-west-2.amazonaws.com.evil.example/", false),
            ("https://sns.evil.example#.amazonaws.com/", false),
            ("https://sns.a@b.amazonaws.com/", false),
            ("https://sns..amazonaws.com/", false),
            ("https://sns.us-west-2.amazonaws.com", false),
            ("https://sns.us-west-2.amazonaws.com/\nfake: log", false),
        ] {
            assert_eq!(is_of_sns(url), is_one, "{url}");
        }
    }
}
