//! Applies the objects that one of ours owns: looks first whether a name is taken, and writes only what is not as it was applied
//! last. Does not know what they are: those who make them do.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::apply;
use crate::context::Context;
use crate::error::Error;

/// What was applied last, in memory: a new leader applies everything once.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<String, Mark>>);

/// Which desired state was applied, and what the object was afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    desired: u64,
    uid: Option<String>,
    /// Its generation, or for kinds without one the version; another one means that somebody changed it.
    version: Option<String>,
}

impl Mark {
    fn of<K: Resource + Serialize>(desired: &K, live: &K) -> Self {
        let mut hasher = DefaultHasher::new();
        // Serialising our own types cannot fail.
        serde_json::to_string(desired).unwrap_or_default().hash(&mut hasher);
        let generation = live.meta().generation.map(|generation| generation.to_string());
        Self {
            desired: hasher.finish(),
            uid: live.uid(),
            version: generation.or_else(|| live.resource_version()),
        }
    }
}

/// One child: as it should be, and as it is.
pub struct Child<K> {
    api: Api<K>,
    desired: K,
    live: Option<K>,
}

impl<K> Child<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
{
    /// Looks at it.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub async fn look(desired: K, namespace: &str, context: &Context) -> Result<Self, Error> {
        let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
        let live = api.get_opt(&desired.name_any()).await;
        let live = live.map_err(Error::api("look at an object of ours"))?;
        Ok(Self { api, desired, live })
    }

    /// Its kind and name when it is there and not of the owner with this UID.
    pub fn taken(&self, owner_uid: &str) -> Option<String> {
        let live = self.live.as_ref().filter(|live| !is_ours(*live, owner_uid))?;
        Some(format!("{} {}", K::kind(&()), live.name_any()))
    }

    /// Writes it unless it is as it was applied last.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn apply(self, step: &'static str, context: &Context) -> Result<K, Error> {
        let Self { api, desired, live } = self;
        let key = format!("{} {:?} {}", K::kind(&()), desired.namespace(), desired.name_any());
        if let Some(live) = live.filter(|live| context.applied.holds(&key, &Mark::of(&desired, live))) {
            return Ok(live);
        }
        let applied = apply::apply_with(&api, step, &desired).await?;
        context.applied.keep(key, Mark::of(&desired, &applied));
        Ok(applied)
    }
}

impl Memory {
    fn holds(&self, key: &str, mark: &Mark) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key) == Some(mark)
    }

    fn keep(&self, key: String, mark: Mark) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, mark);
    }
}

/// Whether the owner with this UID has it.
pub fn is_ours(object: &impl Resource, owner_uid: &str) -> bool {
    object
        .meta()
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == owner_uid)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSet;
    use serde_json::{Value, json};

    use super::*;

    fn set(replicas: i32, metadata: Value) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": metadata,
            "spec": {"replicas": replicas, "serviceName": "s", "selector": {}, "template": {}},
        }))
        .unwrap()
    }

    #[test]
    fn a_child_is_written_again_only_when_it_or_what_is_wanted_has_changed() {
        let memory = Memory::default();
        let desired = set(1, json!({"name": "pool"}));
        let live = |uid: &str, generation: i64, version: &str| {
            set(
                1,
                json!({"name": "pool", "uid": uid, "generation": generation, "resourceVersion": version}),
            )
        };
        assert!(
            !memory.holds("pool", &Mark::of(&desired, &live("a", 1, "1"))),
            "never applied"
        );
        memory.keep("pool".into(), Mark::of(&desired, &live("a", 1, "1")));
        for (what, desired, live, holds) in [
            ("nothing", set(1, json!({"name": "pool"})), live("a", 1, "1"), true),
            ("its status", set(1, json!({"name": "pool"})), live("a", 1, "2"), true),
            ("its spec", set(1, json!({"name": "pool"})), live("a", 2, "3"), false),
            (
                "it was made anew",
                set(1, json!({"name": "pool"})),
                live("b", 1, "1"),
                false,
            ),
            (
                "what is wanted",
                set(2, json!({"name": "pool"})),
                live("a", 1, "1"),
                false,
            ),
        ] {
            assert_eq!(memory.holds("pool", &Mark::of(&desired, &live)), holds, "{what}");
        }
    }

    #[test]
    fn an_object_without_our_owner_reference_is_somebody_elses() {
        let owned = |uid: &str| {
            let owner =
                json!({"apiVersion": "penstock.io/v1alpha1", "kind": "CacheRuntime", "name": "pool", "uid": uid});
            set(1, json!({"name": "pool", "ownerReferences": [owner]}))
        };
        assert!(is_ours(&owned("u"), "u"));
        assert!(!is_ours(&owned("before"), "u"));
        assert!(!is_ours(&set(1, json!({"name": "pool"})), "u"));
    }
}
