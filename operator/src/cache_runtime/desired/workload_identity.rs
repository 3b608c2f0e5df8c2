//! By what clouds know the cache nodes of a CacheRuntime: annotations of their service account, and labels of their pods. Pure.

use std::collections::BTreeMap;

use penstock_crds::CacheRuntime;
use serde_json::{Value, json};

use crate::names::{IDENTITY_ANNOTATION, digest};

/// With what a cloud looks at to know who its pods are. Their tokens for it come in volumes of the cloud's own, so that of the API is
/// not needed.
pub(super) fn service_account(runtime: &CacheRuntime, metadata: &Value) -> Value {
    let mut metadata = metadata.clone();
    if let Some(annotations) = annotations(runtime) {
        metadata["annotations"] = json!(annotations);
    }
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "automountServiceAccountToken": false})
}

/// Labels and annotations of the cache nodes' pods, which have `own` labels whatever else is asked for.
pub(super) fn pod_metadata(runtime: &CacheRuntime, own: BTreeMap<String, String>) -> Value {
    let identity = runtime.spec.workload_identity.as_ref();
    let mut labels = identity.map_or_else(BTreeMap::new, |identity| identity.pod_labels.clone());
    labels.extend(own);
    let mut metadata = json!({"labels": labels});
    // Clouds look at the service account when a pod is made, so another one needs other pods.
    if let Some(annotations) = annotations(runtime) {
        metadata["annotations"] = json!({IDENTITY_ANNOTATION: digest(&json!(annotations).to_string())});
    }
    metadata
}

/// Those of the service account, if there are any.
fn annotations(runtime: &CacheRuntime) -> Option<&BTreeMap<String, String>> {
    let identity = runtime.spec.workload_identity.as_ref();
    identity
        .map(|identity| &identity.service_account_annotations)
        .filter(|annotations| !annotations.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache_runtime::desired::tests::{facts, runtime};
    use crate::cache_runtime::desired::{Children, children};
    use crate::names::runtime_labels;

    #[test]
    fn clouds_see_what_was_asked_for_on_the_service_account_and_the_pods_and_selectors_see_ours() {
        let made = |identity: Value| {
            let mut runtime = runtime(json!([{"name": "a", "medium": "SSD", "capacity": "1Gi"}]));
            runtime.spec.workload_identity = serde_json::from_value(identity).unwrap();
            let Children {
                service_account,
                stateful_set,
                ..
            } = children(&runtime, &[], &facts()).unwrap();
            let set = stateful_set.spec.unwrap();
            let pod = set.template.metadata.unwrap();
            assert_eq!(set.selector.match_labels, Some(runtime_labels("pool")));
            assert_eq!(set.template.spec.unwrap().service_account_name.as_deref(), Some("pool"));
            assert_eq!(service_account.automount_service_account_token, Some(false));
            (
                service_account.metadata.annotations,
                pod.labels.unwrap(),
                pod.annotations,
            )
        };
        let own = runtime_labels("pool");
        // Pods of a pool without one stay as they are.
        assert_eq!(made(Value::Null), (None, own.clone(), None));
        assert_eq!(made(json!({"datasets": ["*"]})), (None, own.clone(), None));
        let azure = |client: &str| {
            let (annotations, labels) = (
                json!({"azure.workload.identity/client-id": client}),
                json!({"azure.workload.identity/use": "true", "app.kubernetes.io/component": "operator"}),
            );
            made(json!({"serviceAccountAnnotations": annotations, "podLabels": labels}))
        };
        let (annotations, labels, one) = azure("one");
        assert_eq!(annotations.unwrap()["azure.workload.identity/client-id"], "one");
        let mut expected = own;
        expected.insert("azure.workload.identity/use".into(), "true".into());
        assert_eq!(labels, expected);
        // Another identity needs other pods, the same one does not.
        assert_ne!(azure("two").2, one);
        assert_eq!(azure("one").2, one);
    }
}
