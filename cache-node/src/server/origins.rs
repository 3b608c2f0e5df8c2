//! The clients of origins that a node has: one for each configuration that it was told, with its keys, and none else.

use std::collections::HashMap;
use std::sync::Arc;

use penstock_protocol::control::cache_node as wire;

use crate::origin::http::{HttpConfig, HttpOrigin};
use crate::origin::s3::{Credentials, S3Config, S3Origin};
use crate::origin::{Origin, OriginError};

/// The clients. Connections survive a new configuration that names the same source.
#[derive(Default)]
pub(super) struct Origins(HashMap<Config, Arc<dyn Origin>>);

/// All that makes a client what it is.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Config {
    S3(S3Config),
    Http(HttpConfig),
}

impl Origins {
    /// The client of a source: the one that is there, or a new one that is not remembered.
    ///
    /// # Errors
    /// When the source makes no sense.
    pub(super) fn client(&self, source: &wire::Source) -> Result<Arc<dyn Origin>, OriginError> {
        self.of(&Config::of(source)?)
    }

    /// Remembers the clients of these sources and forgets all others, with their keys.
    pub(super) fn keep_only<'a>(&mut self, sources: impl IntoIterator<Item = &'a wire::Source>) {
        // Who asks for the client of a source that makes no sense is told.
        let configs = sources.into_iter().filter_map(|source| Config::of(source).ok());
        let kept = configs.filter_map(|config| Some((config.clone(), self.of(&config).ok()?)));
        self.0 = kept.collect();
    }

    fn of(&self, config: &Config) -> Result<Arc<dyn Origin>, OriginError> {
        match self.0.get(config) {
            Some(origin) => Ok(origin.clone()),
            None => config.client(),
        }
    }
}

impl Config {
    fn of(source: &wire::Source) -> Result<Self, OriginError> {
        let wire::Source { path, origin } = source;
        match origin {
            Some(wire::source::Origin::S3(s3)) => Ok(Self::S3(s3_config(s3.clone()))),
            Some(wire::source::Origin::Http(wire::Http { url, files })) => Ok(Self::Http(HttpConfig {
                url: url.clone(),
                files: files.clone(),
            })),
            None => Err(OriginError::Invalid(format!(
                "the source at {path:?} has no origin that this version knows"
            ))),
        }
    }

    fn client(&self) -> Result<Arc<dyn Origin>, OriginError> {
        Ok(match self.clone() {
            Self::S3(config) => Arc::new(S3Origin::new(config)?),
            Self::Http(config) => Arc::new(HttpOrigin::new(config)?),
        })
    }
}

fn s3_config(s3: wire::S3) -> S3Config {
    let wire::S3 {
        bucket,
        prefix,
        region,
        endpoint,
        credentials,
        virtual_host_style,
    } = s3;
    let credentials = credentials.map(
        |wire::Credentials {
             access_key_id,
             secret_access_key,
             session_token,
         }| {
            Credentials {
                access_key_id,
                secret_access_key,
                session_token,
            }
        },
    );
    S3Config {
        bucket,
        prefix,
        region,
        endpoint,
        virtual_host_style,
        credentials,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(secret: &str) -> wire::Source {
        let credentials = wire::Credentials {
            access_key_id: "id".into(),
            secret_access_key: secret.into(),
            session_token: String::new(),
        };
        let s3 = wire::S3 {
            bucket: "bucket".into(),
            credentials: Some(credentials),
            ..Default::default()
        };
        wire::Source {
            path: String::new(),
            origin: Some(wire::source::Origin::S3(s3)),
        }
    }

    #[test]
    fn clients_stay_while_they_are_named_whatever_keys_others_of_the_same_bucket_have() {
        let (one, two) = (source("one"), source("two"));
        let mut origins = Origins::default();
        origins.keep_only([&one, &two]);
        let before = [origins.client(&one).unwrap(), origins.client(&two).unwrap()];
        assert!(!Arc::ptr_eq(&before[0], &before[1]));
        origins.keep_only([&two, &one]);
        let after = [origins.client(&one).unwrap(), origins.client(&two).unwrap()];
        assert!(Arc::ptr_eq(&before[0], &after[0]) && Arc::ptr_eq(&before[1], &after[1]));
    }

    #[test]
    fn a_client_that_is_not_named_any_more_goes_with_its_keys() {
        let (one, two) = (source("one"), source("two"));
        let mut origins = Origins::default();
        origins.keep_only([&one, &two]);
        let gone = Arc::downgrade(&origins.client(&one).unwrap());
        origins.keep_only([&two]);
        assert!(gone.upgrade().is_none());
        // One for a build of a source that is not told yet is not kept either.
        drop(origins.client(&one).unwrap());
        assert_eq!(origins.0.len(), 1);
    }
}
