//! Azure: events of Event Grid, in its own schema (an array) or as CloudEvents (one, or an array), and the code that it wants back.

use serde_json::Value;

use crate::{Change, Place, Said, both_ways, decoded_url, text};

const CONTAINERS: &str = "/blobServices/default/containers/";
const VALIDATION: &str = "Microsoft.EventGrid.SubscriptionValidationEvent";

pub(super) fn read(value: &Value) -> Option<Said> {
    let events = match value {
        Value::Array(events) if !events.is_empty() => events.as_slice(),
        Value::Object(_) => std::slice::from_ref(value),
        _ => return None,
    };
    let mut changes = Vec::new();
    for event in events {
        let kind = kind(event)?;
        if kind == VALIDATION {
            return Some(Said::Validate(text(event, &["data", "validationCode"])?.to_owned()));
        }
        // It has two names, and is about everything below both.
        if kind.ends_with("Renamed") {
            return Some(Said::Anything);
        }
        changes.extend(changed(event)?);
    }
    Some(Said::Changed(changes))
}

fn kind(event: &Value) -> Option<&str> {
    let kind = text(event, &["eventType"]).or_else(|| text(event, &["type"]))?;
    (kind.starts_with("Microsoft.Storage.") || kind == VALIDATION).then_some(kind)
}

fn changed(event: &Value) -> Option<Vec<Change>> {
    let below = text(event, &["subject"])?.strip_prefix(CONTAINERS)?;
    let (container, key) = below.split_once("/blobs/")?;
    let topic = text(event, &["topic"]).or_else(|| text(event, &["source"]));
    let account = topic.and_then(|topic| topic.split_once("/storageAccounts/"));
    let place = Place::Azure {
        account: account.map(|(_, account)| account.split(['/', '#']).next().unwrap_or_default().to_owned()),
        container: container.to_owned(),
    };
    Some(both_ways(&place, key, decoded_url(key)))
}

#[cfg(test)]
mod tests {
    use crate::tests::changed;
    use crate::{Place, Said, read};

    const TOPIC: &str =
        "/subscriptions/1/resourceGroups/Storage/providers/Microsoft.Storage/storageAccounts/my-account";

    fn place(account: Option<&str>) -> Place {
        Place::Azure {
            account: account.map(str::to_owned),
            container: "test-container".to_owned(),
        }
    }

    fn event(kind: &str, key: &str) -> String {
        format!(
            r#"{{"topic": "{TOPIC}", "subject": "/blobServices/default/containers/test-container/blobs/{key}",
            "eventType": "Microsoft.Storage.{kind}", "eventTime": "2017-06-26T18:41:00.9584103Z",
            "id": "831e1650-001e-001b-66ab-eeb76e069631", "data": {{"api": "PutBlockList", "eTag": "0x8D4BCC2E4835CD0",
            "contentType": "text/plain", "contentLength": 524288, "blobType": "BlockBlob",
            "url": "https://my-account.blob.core.windows.net/test-container/{key}"}}, "dataVersion": "", "metadataVersion": "1"}}"#
        )
    }

    #[test]
    fn both_schemas_name_container_and_blob() {
        let body = format!(
            "[{}, {}]",
            event("BlobCreated", "raw/new-file.txt"),
            event("BlobDeleted", "a%20b")
        );
        assert_eq!(
            changed(&read(body.as_bytes())),
            [
                (place(Some("my-account")), "raw/new-file.txt"),
                (place(Some("my-account")), "a%20b"),
                (place(Some("my-account")), "a b"),
            ]
        );
        let cloud_event = format!(
            r#"{{"specversion": "1.0", "type": "Microsoft.Storage.BlobCreated", "source": "{TOPIC}",
            "id": "9aeb0fdf-c01e-0131-0922-9eb54906e209", "time": "2019-11-18T15:13:39.4589254Z",
            "subject": "/blobServices/default/containers/test-container/blobs/blobs/x", "data": {{"api": "PutBlockList"}}}}"#
        );
        for body in [cloud_event.clone(), format!("[{cloud_event}]")] {
            assert_eq!(
                changed(&read(body.as_bytes())),
                [(place(Some("my-account")), "blobs/x")]
            );
        }
        let without = cloud_event.replace(TOPIC, "elsewhere");
        assert_eq!(changed(&read(without.as_bytes())), [(place(None), "blobs/x")]);
    }

    #[test]
    fn what_has_two_names_is_looked_for_everywhere() {
        let body = format!("[{}]", event("DirectoryRenamed", "new"));
        assert_eq!(read(body.as_bytes()), Said::Anything);
    }

    #[test]
    fn the_code_of_a_new_subscription_is_found() {
        let body = r#"[{"id": "2d1781af-3a4c-4d7c-bd0c-e34b19da4e66", "topic": "/subscriptions/xxxxxxxx", "subject": "",
            "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6",
            "validationUrl": "https://rp-eastus2.eventgrid.azure.net:553/eventsubscriptions/myeventsub/validate?id=0000"},
            "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "eventTime": "2022-10-28T04:23:35.1981776Z"}]"#;
        let code = "512d38b6-c7b8-40c8-89fe-f46f9e9622b6".to_owned();
        assert_eq!(read(body.as_bytes()), Said::Validate(code));
    }
}
