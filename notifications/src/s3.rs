//! S3 and its look-alikes: records of the store itself, and events of EventBridge.
//!
//! Records have keys as forms have them, a blank as a plus sign; not all look-alikes do so. EventBridge has them as they are.

use serde_json::Value;

use crate::{Change, Place, Said, both_ways, decoded_form, text};

pub(super) fn read(value: &Value) -> Option<Said> {
    if text(value, &["Event"]) == Some("s3:TestEvent") {
        return Some(Said::Nothing);
    }
    if let Some(records) = value.get("Records").and_then(Value::as_array) {
        let changes: Option<Vec<Vec<Change>>> = records.iter().map(record).collect();
        return Some(changes.map_or(Said::NotUnderstood, |changes| Said::Changed(changes.concat())));
    }
    let bucket = text(value, &["detail", "bucket", "name"])?;
    let key = text(value, &["detail", "object", "key"])?;
    Some(Said::Changed(vec![Change {
        place: Place::S3(bucket.to_owned()),
        start: key.to_owned(),
    }]))
}

fn record(record: &Value) -> Option<Vec<Change>> {
    let place = Place::S3(text(record, &["s3", "bucket", "name"])?.to_owned());
    let key = text(record, &["s3", "object", "key"])?;
    let decoded = decoded_form(key);
    if text(record, &["eventSource"]) == Some("aws:s3")
        && let Some(start) = decoded
    {
        return Some(vec![Change { place, start }]);
    }
    Some(both_ways(&place, key, decoded))
}

#[cfg(test)]
mod tests {
    use crate::tests::changed;
    use crate::{Place, Said, read};

    fn bucket(name: &str) -> Place {
        Place::S3(name.to_owned())
    }

    #[test]
    fn records_of_aws_have_keys_as_in_a_form() {
        let body = r#"{"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-west-2",
            "eventTime": "1970-01-01T00:00:00.000Z", "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"}, "requestParameters": {"sourceIPAddress": "127.0.0.1"},
            "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8"},
            "s3": {"s3SchemaVersion": "1.0", "configurationId": "testConfigRule",
              "bucket": {"name": "amzn-s3-demo-bucket", "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                "arn": "arn:aws:s3:::amzn-s3-demo-bucket"},
              "object": {"key": "red+flower%2B%C3%A4.jpg", "size": 1024, "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko", "sequencer": "0055AED6DCD90281E5"}}}]}"#;
        let said = read(body.as_bytes());
        assert_eq!(
            changed(&said),
            [(bucket("amzn-s3-demo-bucket"), "red flower+\u{e4}.jpg")]
        );
    }

    #[test]
    fn keys_of_look_alikes_are_looked_at_both_ways() {
        let minio = r#"{"EventName": "s3:ObjectCreated:Put", "Key": "images/my photo+1.jpg", "Records": [
            {"eventVersion": "2.0", "eventSource": "minio:s3", "awsRegion": "", "eventTime": "2024-01-02T03:04:05.678Z",
             "eventName": "s3:ObjectCreated:Put", "s3": {"s3SchemaVersion": "1.0", "configurationId": "Config",
             "bucket": {"name": "images", "ownerIdentity": {"principalId": "minio"}, "arn": "arn:aws:s3:::images"},
             "object": {"key": "my+photo%2B1.jpg", "size": 2, "eTag": "b1946ac9", "sequencer": "17A1"}}}]}"#;
        assert_eq!(
            changed(&read(minio.as_bytes())),
            [
                (bucket("images"), "my+photo%2B1.jpg"),
                (bucket("images"), "my photo+1.jpg")
            ]
        );
        let ceph = r#"{"Records": [{"eventVersion": "2.1", "eventSource": "ceph:s3", "awsRegion": "us-east-1",
            "eventName": "ObjectRemoved:Delete", "s3": {"bucket": {"name": "mybucket1", "id": "503a4c37"},
            "object": {"key": "myimage1.jpg", "size": "1024", "versionId": ""}}, "eventId": "", "opaqueData": "me@example.com"}]}"#;
        assert_eq!(changed(&read(ceph.as_bytes())), [(bucket("mybucket1"), "myimage1.jpg")]);
    }

    #[test]
    fn eventbridge_has_keys_as_they_are() {
        let body = r#"{"version": "0", "id": "17793124-05d4-b198-2fde-7ededc63b103", "detail-type": "Object Created",
            "source": "aws.s3", "account": "111122223333", "time": "2021-11-12T00:00:00Z", "region": "ca-central-1",
            "resources": ["arn:aws:s3:::amzn-s3-demo-bucket1"], "detail": {"version": "0",
            "bucket": {"name": "amzn-s3-demo-bucket1"}, "object": {"key": "a+b%20c", "size": 5, "etag": "b1946ac92492d",
            "version-id": "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e", "sequencer": "617f08299329d189"},
            "request-id": "N4N7GDK58NMKJ12R", "requester": "123456789012", "reason": "PutObject"}}"#;
        assert_eq!(
            changed(&read(body.as_bytes())),
            [(bucket("amzn-s3-demo-bucket1"), "a+b%20c")]
        );
    }

    #[test]
    fn a_test_of_the_store_is_about_nothing() {
        let body = r#"{"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2014-10-13T15:57:02.089Z",
            "Bucket": "amzn-s3-demo-bucket", "RequestId": "5582815E1AEA5ADF", "HostId": "8cLeGAmw098X5cv4Zkwc"}"#;
        assert_eq!(read(body.as_bytes()), Said::Nothing);
    }
}
