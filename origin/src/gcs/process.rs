//! The tokens of this process for Google: of the file that its environment names, else of the metadata server, which knows the service
//! account of a pod of GKE ("Workload Identity Federation for GKE") or of a machine. It must not know what is asked with them.

use std::time::Instant;

use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, Request, Url};

use super::key::{File, SCOPE};
use crate::OriginError;
use crate::bearer::{Asked, Token, given};
use crate::workload_identity::WorkloadIdentity;

const FILE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const HOST: &str = "GCE_METADATA_HOST";
const HOST_DEFAULT: &str = "metadata.google.internal";
/// Only who can set it is answered, which a browser or a redirect cannot.
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");

const ADVICE: &str = "check that the cache nodes' service account may act for one of Google, or has roles itself";

/// A new token for the source at `place`.
pub(super) async fn token(identity: &WorkloadIdentity, place: &str) -> Result<Token, OriginError> {
    if identity.variable(FILE).is_some() {
        let json = identity.file(FILE, place).await?;
        let file = File::read(&json).map_err(|why| OriginError::Denied(format!("{place}: {why} ({FILE})")))?;
        return file.token(&identity.client, place).await;
    }
    let host = identity.variable(HOST).unwrap_or(HOST_DEFAULT);
    let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token?scopes={SCOPE}");
    let url = Url::parse(&url)
        .map_err(|error| OriginError::Denied(format!("{place}: {HOST} is no host ({error}); correct it")))?;
    let mut request = Request::new(Method::GET, url);
    request.headers_mut().insert(FLAVOR, HeaderValue::from_static("Google"));
    let asked = Asked {
        place,
        host,
        advice: ADVICE,
    };
    let asked_at = Instant::now();
    let body = asked.answer(&identity.client, request).await?;
    asked.read(given(&body, asked_at))
}
