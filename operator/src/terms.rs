//! On which terms a CacheRuntime lets sources be read: places, folders of nodes, its identity, its realms. Pure.

use kube::ResourceExt;
use penstock_crds::{CacheRuntime, KerberosRealm, Source};
use penstock_sources::{Allowed, Granted};

use crate::host_paths::{Held, HostPaths};
use crate::unusable::Unusable;

/// On which terms a CacheRuntime lets sources be read.
#[derive(Clone, Debug)]
pub struct Terms {
    runtime: String,
    allowed: Allowed,
    host_paths: HostPaths,
    granted: Granted,
    realms: Vec<KerberosRealm>,
    cache_nodes: u64,
}

impl Terms {
    /// Those of this CacheRuntime, of which the operator permits these folders of nodes.
    pub fn of(runtime: &CacheRuntime, host_paths: &[String]) -> Self {
        let origins = runtime.spec.origins.as_ref();
        Self {
            runtime: runtime.name_any(),
            allowed: Allowed::of(origins.map_or(&[], |origins| &origins.allowed)),
            host_paths: HostPaths::of(runtime, host_paths),
            granted: Granted::of(runtime.spec.workload_identity.as_ref()),
            realms: runtime.spec.kerberos.clone().unwrap_or_default().realms,
            cache_nodes: u64::from(runtime.spec.replicas.unsigned_abs()),
        }
    }

    /// How many cache nodes there are: each has its part of the limits.
    pub fn cache_nodes(&self) -> u64 {
        self.cache_nodes
    }

    /// Whether what a source names may be read.
    pub fn allows(&self, source: &Source) -> bool {
        self.check_place(source).is_ok()
    }

    /// Whether a source of this Dataset may be told to cache nodes.
    ///
    /// # Errors
    /// When not, and why.
    pub fn check(&self, source: &Source, dataset: &str) -> Result<(), Unusable> {
        self.check_place(source)?;
        match self.granted.refused(dataset, source) {
            None => Ok(()),
            Some(why) => Err(Unusable::NotGranted {
                path: source.path.clone(),
                runtime: self.runtime.clone(),
                why,
            }),
        }
    }

    /// Where tickets are for a source that is read as a principal of `realm`.
    ///
    /// # Errors
    /// When the CacheRuntime does not say that of this realm.
    pub fn realms_with(&self, source: &Source, realm: &str) -> Result<&[KerberosRealm], Unusable> {
        if !self.realms.iter().any(|known| known.name == realm) {
            return Err(Unusable::NoRealm {
                path: source.path.clone(),
                runtime: self.runtime.clone(),
                realm: realm.to_owned(),
            });
        }
        Ok(&self.realms)
    }

    fn check_place(&self, source: &Source) -> Result<(), Unusable> {
        if let Some(folder) = &source.folder {
            return self.held(source, &folder.path).map(|_| ());
        }
        match self.allowed.refused(source) {
            None => Ok(()),
            Some(place) => Err(Unusable::NotAllowed {
                path: source.path.clone(),
                place,
                runtime: self.runtime.clone(),
            }),
        }
    }

    /// Where in which folder that is listed the folder of nodes lies that a source names.
    ///
    /// # Errors
    /// When it may not be read.
    pub fn held(&self, source: &Source, folder: &str) -> Result<Held, Unusable> {
        let held = self.host_paths.holding(folder);
        held.map_err(|why| Unusable::FolderNotAllowed {
            path: source.path.clone(),
            folder: folder.to_owned(),
            why,
        })
    }
}
