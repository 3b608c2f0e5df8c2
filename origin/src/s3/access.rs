//! What says who asks a bucket. It must not know what is asked.

use std::time::Instant;

use penstock_protocol::control::cache_node as wire;
use reqsign_aws_v4::Credential;

use super::role;
use crate::bearer::Keeper;
use crate::workload_identity::WorkloadIdentity;
use crate::{Network, OriginError, refusal};

/// What servers say of keys that others may take the place of.
const OVER: [&str; 4] = [
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidAccessKeyId",
];

/// What says who asks.
pub(super) enum Access {
    Everybody,
    Keys(Credential),
    Role {
        identity: WorkloadIdentity,
        keeper: Keeper<Credential>,
    },
}

impl Access {
    /// Asks nobody yet. The error is a sentence.
    pub(super) fn new(
        keys: Option<&wire::AwsKeys>,
        workload_identity: bool,
        network: &Network,
    ) -> Result<Self, String> {
        if workload_identity {
            return Ok(Self::Role {
                identity: WorkloadIdentity::new(network)?,
                keeper: Keeper::default(),
            });
        }
        let Some(wire::AwsKeys {
            access_key_id,
            secret_access_key,
            session_token,
        }) = keys
        else {
            return Ok(Self::Everybody);
        };
        if access_key_id.is_empty() || secret_access_key.is_empty() {
            return Err("an access key or its secret is empty; correct the Secret of the source".to_owned());
        }
        Ok(Self::Keys(Credential {
            access_key_id: access_key_id.clone(),
            secret_access_key: secret_access_key.clone(),
            session_token: (!session_token.is_empty()).then(|| session_token.clone()),
            expires_in: None,
        }))
    }

    /// The keys with which the source at `place` is asked now, if there are any.
    pub(super) async fn keys(&self, place: &str) -> Result<Option<Credential>, OriginError> {
        match self {
            Self::Everybody => Ok(None),
            Self::Keys(keys) => Ok(Some(keys.clone())),
            Self::Role { identity, keeper } => keeper
                .token(Instant::now(), role::keys(identity, place))
                .await
                .map(Some),
        }
    }

    /// Whether to ask again, with other keys, a server that said this to these.
    pub(super) async fn is_worth_others(&self, used: Option<&Credential>, said: &[u8]) -> bool {
        let (Self::Role { keeper, .. }, Some(used)) = (self, used) else {
            return false;
        };
        let is_it = |kept: &Credential| kept.access_key_id == used.access_key_id;
        OVER.contains(&refusal::error_code(said).as_str()) && keeper.is_worth_another(Instant::now(), is_it).await
    }
}
