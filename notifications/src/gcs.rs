//! Google Cloud Storage: messages of Pub/Sub, pushed with or without their wrapper, and CloudEvents of Eventarc.

use serde_json::Value;

use crate::{Change, Place, Said, text};

pub(super) fn read(value: &Value) -> Option<Said> {
    let of_message = |name| text(value, &["message", "attributes", name]);
    let (bucket, key) = match (of_message("bucketId"), of_message("objectId")) {
        (Some(bucket), Some(key)) => (bucket, key),
        // The object itself, which is the payload of both.
        _ if text(value, &["kind"]) == Some("storage#object") => (text(value, &["bucket"])?, text(value, &["name"])?),
        _ => return None,
    };
    Some(Said::Changed(vec![Change {
        place: Place::Gcs(bucket.to_owned()),
        start: key.to_owned(),
    }]))
}

#[cfg(test)]
mod tests {
    use crate::tests::changed;
    use crate::{Place, read};

    #[test]
    fn messages_say_it_in_attributes_and_objects_by_themselves() {
        let pushed = r#"{"message": {"attributes": {"bucketId": "my-bucket", "eventTime": "2024-01-02T03:04:05.678901Z",
            "eventType": "OBJECT_FINALIZE", "notificationConfig": "projects/_/buckets/my-bucket/notificationConfigs/1",
            "objectGeneration": "1762", "objectId": "raw/a b+c%20.csv", "payloadFormat": "NONE"},
            "messageId": "2070443601311540", "publishTime": "2024-01-02T03:04:05.9Z"},
            "subscription": "projects/myproject/subscriptions/mysubscription"}"#;
        let object = r#"{"kind": "storage#object", "id": "my-bucket/raw/a b+c%20.csv/1762", "name": "raw/a b+c%20.csv",
            "bucket": "my-bucket", "generation": "1762", "size": "5"}"#;
        for body in [pushed, object] {
            let said = read(body.as_bytes());
            assert_eq!(changed(&said), [(Place::Gcs("my-bucket".into()), "raw/a b+c%20.csv")]);
        }
    }
}
