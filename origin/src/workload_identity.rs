//! The identity that a cloud gives to this process: to a pod by its service account, to a program by who runs it. What the clouds make
//! of that stands beside their origins.
//!
//! Whom to ask, and with which file, says the environment of the process alone, never a source. So what is asked here is bound by no
//! [`Reach`], and the authorities of a source do not count.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::limits::TOKEN_SILENCE_MAX;
use crate::transport::{self, Client};
use crate::{Network, OriginError, Reach};

/// Variables of an environment; clones share them. Their values may be secrets, so its text has their names only.
#[derive(Clone, Default)]
pub struct Environment(Arc<BTreeMap<String, String>>);

impl Environment {
    /// That of this process. What is no text counts for nothing.
    pub fn of_process() -> Self {
        let texts =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        texts.collect()
    }

    fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?.as_str();
        (!value.is_empty()).then_some(value)
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(Arc::new(variables.into_iter().collect()))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// Who asks for what says who this process is.
pub(super) struct WorkloadIdentity {
    environment: Environment,
    pub(super) client: Client,
}

impl WorkloadIdentity {
    /// In the environment of this network. Asks nobody yet; the error is a sentence.
    pub(super) fn new(network: &Network) -> Result<Self, String> {
        let client = transport::client(&Network {
            silence_max: network.silence_max.min(TOKEN_SILENCE_MAX),
            reach: Reach::everything(),
            ..Network::default()
        })?;
        let environment = network.environment.clone();
        Ok(Self { environment, client })
    }

    /// The value of a variable; one that is empty is as good as none.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name)
    }

    /// The text of the file that a variable names, as it is now: tokens in files are exchanged while a pod runs.
    pub(super) async fn file(&self, name: &str, place: &str) -> Result<String, OriginError> {
        let path = self.variable(name).unwrap_or_default();
        let text = tokio::fs::read_to_string(path).await.map_err(|error| error.to_string());
        let text = text.map(|text| text.trim().to_owned());
        let why = match text {
            Ok(text) if !text.is_empty() => return Ok(text),
            Ok(_) => "it is empty".to_owned(),
            Err(why) => why,
        };
        Err(OriginError::Denied(format!(
            "{place}: the file {path}, which {name} names, cannot be read ({why}); look at the volumes of the cache nodes' pods"
        )))
    }
}
