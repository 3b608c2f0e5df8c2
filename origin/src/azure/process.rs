//! The tokens of this process for Azure: as an application that trusts the token of a service account ("Microsoft Entra Workload ID"), or
//! that has a secret. It must not know what is asked with them.

use super::access::{fields, token_url};
use crate::OriginError;
use crate::bearer::{Giver, Token};
use crate::workload_identity::WorkloadIdentity;

const CLIENT: &str = "AZURE_CLIENT_ID";
const TENANT: &str = "AZURE_TENANT_ID";
const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
const SECRET: &str = "AZURE_CLIENT_SECRET";

/// What the proof is (RFC 7523).
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

const ADVICE: &str = "check the federated credential of the application: it names issuer, namespace and name of the cache nodes' service \
     account";

/// A new token for the source at `place`, of this authority unless the environment names another one.
pub(super) async fn token(identity: &WorkloadIdentity, authority: &str, place: &str) -> Result<Token, OriginError> {
    let needed = |name| {
        identity.variable(name).ok_or_else(|| {
            OriginError::Denied(format!(
                "{place}: {name} is not set, so the cache nodes are no application of Azure; set azure.workload.identity/client-id in \
                 serviceAccountAnnotations, and azure.workload.identity/use: \"true\" in podLabels, of spec.workloadIdentity of the \
                 CacheRuntime"
            ))
        })
    };
    let (client, tenant) = (needed(CLIENT)?, needed(TENANT)?);
    let authority = identity.variable("AZURE_AUTHORITY_HOST").unwrap_or(authority);
    let url = token_url(authority, tenant).ok_or_else(|| {
        OriginError::Denied(format!(
            "{place}: AZURE_AUTHORITY_HOST and {TENANT} are no URL; correct them in the environment"
        ))
    })?;
    let giver = match (identity.variable(TOKEN_FILE), identity.variable(SECRET)) {
        (None, Some(secret)) => Giver::new(url, &fields(client, &[("client_secret", secret)])),
        _ => {
            needed(TOKEN_FILE)?;
            let token = identity.file(TOKEN_FILE, place).await?;
            let proof = [("client_assertion_type", ASSERTION), ("client_assertion", &token)];
            Giver::new(url, &fields(client, &proof))
        }
    };
    giver.advising(ADVICE).token(&identity.client, place).await
}
