//! Applies the objects that one of ours owns: looks first whether a name is taken, and writes only what is not as it was applied
//! last. Does not know what they are: those who make them do.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::apply;
use crate::context::Context;
use crate::error::Error;

/// What was applied last, in memory, by the UID of its owner: a new leader applies everything once.
#[derive(Default)]
pub struct Memory(Mutex<HashMap<String, HashMap<String, Mark>>>);

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
        let owner = desired.owner_references().first();
        let owner_uid = owner.map(|owner| owner.uid.clone()).unwrap_or_default();
        let key = key::<K>(&desired.name_any());
        if let Some(live) = live.filter(|live| context.applied.holds(&owner_uid, &key, &Mark::of(&desired, live))) {
            return Ok(live);
        }
        let applied = apply::apply_with(&api, step, &desired).await?;
        context.applied.keep(owner_uid, key, Mark::of(&desired, &applied));
        Ok(applied)
    }

    /// The same one, that should be so instead.
    pub fn wanted(self, desired: K) -> Self {
        Self { desired, ..self }
    }
}

/// Deletes the object of this name, if it is there and of the owner with this UID.
///
/// # Errors
/// When the API server cannot be asked, or refuses.
pub async fn delete<K>(name: &str, namespace: &str, owner_uid: &str, context: &Context) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let found = api
        .get_opt(name)
        .await
        .map_err(Error::api("look at an object of ours"))?;
    let ours = found.filter(|found| is_ours(found, owner_uid));
    if let Some(ours) = ours.filter(|ours| ours.meta().deletion_timestamp.is_none()) {
        apply::delete_this(&api, &ours).await?;
    }
    context.applied.forget_one(owner_uid, &key::<K>(name));
    Ok(())
}

/// Owners are in one namespace, and what they own is there too.
fn key<K: Resource<DynamicType = ()>>(name: &str) -> String {
    format!("{} {name}", K::kind(&()))
}

impl Memory {
    /// An owner is gone, and with it all that it had.
    pub fn forget(&self, owner_uid: &str) {
        self.lock().remove(owner_uid);
    }

    fn holds(&self, owner_uid: &str, key: &str, mark: &Mark) -> bool {
        let owners = self.lock();
        owners.get(owner_uid).and_then(|marks| marks.get(key)) == Some(mark)
    }

    fn keep(&self, owner_uid: String, key: String, mark: Mark) {
        self.lock().entry(owner_uid).or_default().insert(key, mark);
    }

    fn forget_one(&self, owner_uid: &str, key: &str) {
        if let Some(marks) = self.lock().get_mut(owner_uid) {
            marks.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, HashMap<String, Mark>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    use crate::context::tests::context;
    use crate::fake_api::FakeApi;

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
            !memory.holds("u", "pool", &Mark::of(&desired, &live("a", 1, "1"))),
            "never applied"
        );
        memory.keep("u".into(), "pool".into(), Mark::of(&desired, &live("a", 1, "1")));
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
            assert_eq!(memory.holds("u", "pool", &Mark::of(&desired, &live)), holds, "{what}");
        }
    }

    #[tokio::test]
    async fn what_is_gone_is_not_remembered() {
        let api = FakeApi::default();
        let context = context(api.client());
        let owned = |owner: &str, name: &str| {
            let owner = json!({"apiVersion": "penstock.io/v1alpha1", "kind": "Dataset", "name": "d", "uid": owner});
            set(1, json!({"name": name, "namespace": "n", "ownerReferences": [owner]}))
        };
        for (owner, name) in [("one", "a"), ("one", "b"), ("two", "c")] {
            let child = Child::look(owned(owner, name), "n", &context).await.unwrap();
            child.apply("apply a StatefulSet", &context).await.unwrap();
        }
        let remembered = || {
            let owners = context.applied.lock();
            owners.values().map(HashMap::len).sum::<usize>()
        };
        assert_eq!(remembered(), 3);
        delete::<StatefulSet>("a", "n", "one", &context).await.unwrap();
        assert_eq!((remembered(), api.kinds().len()), (2, 2));
        context.applied.forget("two");
        assert_eq!(remembered(), 1);
        context.applied.forget("one");
        assert!(context.applied.lock().is_empty(), "an owner leaves nothing");
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
