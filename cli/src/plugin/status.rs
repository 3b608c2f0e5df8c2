//! `kubectl penstock status`: how a Dataset is, of what its status says.

use anyhow::Result;
use penstock_crds::{Dataset, DatasetStatus};

use crate::args::Output;
use crate::{out, text};

/// Prints it.
///
/// # Errors
/// When it cannot be written.
pub fn print(dataset: &Dataset, output: Output) -> Result<()> {
    out::print(&match output {
        Output::Json => format!("{}\n", serde_json::to_string(&dataset.status)?),
        Output::Text => text_of(dataset),
    })
}

fn text_of(dataset: &Dataset) -> String {
    let name = dataset.metadata.name.as_deref().unwrap_or_default();
    let namespace = dataset.metadata.namespace.as_deref().unwrap_or_default();
    let mut facts = vec![("dataset", format!("{namespace}/{name}"))];
    let Some(status) = &dataset.status else {
        facts.push((
            "ready",
            "the operator has not looked at it yet: see whether it runs".into(),
        ));
        return text::facts(&facts);
    };
    let DatasetStatus {
        observed_generation,
        conditions,
        revision,
        runtime,
        cache_nodes: _,
        size: _,
        cached_bytes,
        cached: _,
        last_handled_refresh: _,
    } = status;
    let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    if let Some(revision) = revision {
        facts.push((
            "revision",
            format!("{:.12}, built {}", revision.id, revision.created_at),
        ));
        let (files, size) = (bytes(revision.files), bytes(revision.bytes));
        facts.push(("files", format!("{}, {}", text::count(files), text::bytes(size))));
        let cached = bytes(cached_bytes.unwrap_or(0));
        facts.push((
            "cached",
            format!("{} ({})", text::bytes(cached), text::share(cached, size)),
        ));
    } else {
        facts.push(("revision", "none yet".into()));
    }
    if let Some(at) = revision.as_ref().and_then(|revision| revision.observed_at.as_ref()) {
        facts.push(("looked at", at.0.to_string()));
    }
    facts.push(("runtime", runtime.clone().unwrap_or_else(|| "none yet".into())));
    if *observed_generation != dataset.metadata.generation {
        facts.push((
            "outdated",
            "the operator has not seen the last change of the spec yet".into(),
        ));
    }
    let rows: Vec<[String; 4]> = conditions
        .iter()
        .map(|condition| {
            [
                &condition.type_,
                &condition.status,
                &condition.reason,
                &condition.message,
            ]
            .map(|cell| text::name(cell))
        })
        .collect();
    let table = text::table(["CONDITION", "IS", "REASON", "MESSAGE"], &rows);
    format!("{}\n{table}", text::facts(&facts))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn dataset(status: Value) -> Dataset {
        serde_json::from_value(json!({
            "apiVersion": "penstock.io/v1alpha1", "kind": "Dataset",
            "metadata": {"name": "imagenet", "namespace": "vision", "generation": 2},
            "spec": {"sources": [{"s3": {"bucket": "b"}}]}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_person_sees_what_it_has_and_each_condition_with_its_sentence() {
        let condition = |kind: &str, is: &str, reason: &str, message: &str| json!({"type": kind, "status": is, "reason": reason, "message": message, "lastTransitionTime": "2026-11-27T10:00:00Z"});
        let shown = text_of(&dataset(json!({
            "observedGeneration": 2, "runtime": "pool", "cachedBytes": 1 << 30,
            "conditions": [
                condition("Ready", "True", "Ready", "the claim can be mounted"),
                condition("SourceReachable", "False", "AccessDenied", "s3://b/ refused \u{1b}[2Jthe keys"),
            ],
            "revision": {
                "id": "ab".repeat(32), "space": "00", "files": 1_281_167, "bytes": 4_i64 << 30, "sourcesDigest": "0",
                "createdAt": "2026-11-27T09:00:00Z", "observedAt": "2026-11-27T10:00:00Z",
            },
        })));
        assert_eq!(
            shown,
            "     dataset  vision/imagenet
    revision  abababababab, built 2026-11-27T09:00:00Z
       files  1,281,167, 4.0 GiB
      cached  1.0 GiB (25 %)
   looked at  2026-11-27T10:00:00Z
     runtime  pool

CONDITION        IS     REASON        MESSAGE
Ready            True   Ready         the claim can be mounted
SourceReachable  False  AccessDenied  s3://b/ refused \\u{1b}[2Jthe keys
"
        );
    }

    #[test]
    fn what_is_not_there_yet_is_said() {
        let mut new = dataset(json!({"observedGeneration": 1}));
        let shown = text_of(&new);
        for said in [
            "revision  none yet",
            "runtime  none yet",
            "has not seen the last change",
        ] {
            assert!(shown.contains(said), "{shown}");
        }
        new.status = None;
        let shown = text_of(&new);
        assert!(shown.contains("the operator has not looked at it yet"), "{shown}");
    }
}
