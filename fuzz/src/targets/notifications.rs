//! What stores send when objects change.

use penstock_notifications::{CHANGES_MAX, Said, read};

use crate::{Target, Trying};

pub const TARGET: Target = Target {
    name: "notifications",
    bytes_max: 4096,
    memory_max: 4 << 20,
    begin,
};

fn begin() -> Trying {
    let record = r#"{"Records":[{"eventSource":"aws:s3","s3":{"bucket":{"name":"b"},"object":{"key":"a+b%20"}}},{"s3":{"bucket":{"name":"b"},"object":{"key":"c%2B"}}}]}"#;
    let quoted = record.replace('"', "\\\"");
    let samples = [
        record.to_owned(),
        format!(r#"{{"Type":"Notification","TopicArn":"arn:t","Message":"{quoted}"}}"#),
        r#"{"Type":"SubscriptionConfirmation","TopicArn":"arn:t","SubscribeURL":"https://sns.r.amazonaws.com/?Action=x"}"#.to_owned(),
        r#"{"detail-type":"Object Created","detail":{"bucket":{"name":"b"},"object":{"key":"k"}}}"#.to_owned(),
        r#"{"message":{"attributes":{"bucketId":"b","objectId":"k"}}}"#.to_owned(),
        r#"{"kind":"storage#object","bucket":"b","name":"k"}"#.to_owned(),
        r#"[{"eventType":"Microsoft.Storage.BlobCreated","topic":"/storageAccounts/a","subject":"/blobServices/default/containers/c/blobs/k%20"}]"#.to_owned(),
        r#"{"type":"Microsoft.EventGrid.SubscriptionValidationEvent","data":{"validationCode":"1"}}"#.to_owned(),
        r#"{"bucket":"b","keys":["a/b"],"prefixes":["raw/"]}"#.to_owned(),
    ];
    Trying {
        samples: samples.map(String::into_bytes).to_vec(),
        read: Box::new(|input| match read(input) {
            Said::Changed(changes) => {
                assert!((1..=CHANGES_MAX).contains(&changes.len()));
                // Whatever is said to have changed was said.
                assert!(changes.iter().all(|change| change.start.len() <= input.len()));
            }
            Said::Confirm { topic: _, url } => {
                assert!(url.is_empty() || url.starts_with("https://sns.") && !url.contains(char::is_whitespace));
            }
            Said::Anything | Said::Nothing | Said::Validate(_) | Said::NotUnderstood => {}
        }),
    }
}
