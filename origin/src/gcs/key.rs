//! What tokens for Google are made of: the file of credentials that it gives, or what this process is. It must not know what is asked
//! with them.
//!
//! A service account signs its own tokens ("Self-signed JWT", google.aip.dev/auth/4111), so nobody has to be asked for one; a user has
//! a token that opens tokens. Other kinds of files lead to files, programs or services of the machine, which a cache node must not follow.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use reqwest::Url;
use reqwest::header::HeaderValue;
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SigningKey;
use serde::Deserialize;
use serde_json::json;

use super::process;
use crate::OriginError;
use crate::bearer::{Giver, Keeper, Token};
use crate::limits::GCS_TOKEN_LIFETIME;
use crate::transport::Client;
use crate::workload_identity::WorkloadIdentity;

/// What a token may be used for.
pub(super) const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_only";
/// What gives tokens to users, where their file does not say it.
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";

/// Makes tokens and keeps them.
pub(super) struct Key {
    basis: Basis,
    keeper: Keeper,
}

enum Basis {
    File(File),
    Process(WorkloadIdentity),
}

/// A file of credentials that was understood.
pub(super) enum File {
    Account(Account),
    User(Giver),
}

pub(super) struct Account {
    email: String,
    key_id: String,
    key: Arc<dyn SigningKey>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Written {
    ServiceAccount {
        client_email: String,
        private_key: String,
        #[serde(default)]
        private_key_id: String,
    },
    AuthorizedUser {
        client_id: String,
        client_secret: String,
        refresh_token: String,
        token_uri: Option<String>,
    },
    #[serde(other)]
    Other,
}

impl Key {
    /// From the text of a file. The error is a sentence, and quotes nothing of it.
    pub(super) fn read(json: &str) -> Result<Self, String> {
        Ok(Self::of(Basis::File(File::read(json)?)))
    }

    /// That of this process.
    pub(super) fn of_process(identity: WorkloadIdentity) -> Self {
        Self::of(Basis::Process(identity))
    }

    fn of(basis: Basis) -> Self {
        let keeper = Keeper::default();
        Self { basis, keeper }
    }

    /// What says who asks the source at `place`.
    pub(super) async fn authorization(&self, client: &Client, place: &str) -> Result<HeaderValue, OriginError> {
        let get = async {
            match &self.basis {
                Basis::File(file) => file.token(client, place).await,
                Basis::Process(identity) => process::token(identity, place).await,
            }
        };
        self.keeper.token(Instant::now(), get).await
    }

    /// Whether to ask again, with another token, an origin that does not take this one.
    pub(super) async fn is_worth_another(&self, used: &HeaderValue) -> bool {
        self.keeper.is_worth_another(Instant::now(), |kept| kept == used).await
    }
}

impl File {
    /// From the text of the file. The error is a sentence, and quotes nothing of it.
    pub(super) fn read(json: &str) -> Result<Self, String> {
        let file = serde_json::from_str(json).map_err(|_| {
            "its credentials are no key file of Google; put the JSON that Google gives for a service account into credentials.json \
             of the Secret of the source"
        })?;
        match file {
            Written::ServiceAccount {
                client_email,
                private_key,
                private_key_id,
            } => Ok(Self::Account(Account {
                email: client_email,
                key_id: private_key_id,
                key: signing_key(&private_key).ok_or(
                    "the private key in its credentials is no RSA key in PEM; have Google give a new key of the service account",
                )?,
            })),
            Written::AuthorizedUser {
                client_id,
                client_secret,
                refresh_token,
                token_uri,
            } => {
                let url = Url::parse(token_uri.as_deref().unwrap_or(TOKEN_URL))
                    .map_err(|_| "the token_uri in its credentials is no URL; take it out of credentials.json")?;
                let fields = [
                    ("grant_type", "refresh_token"),
                    ("client_id", client_id.as_str()),
                    ("client_secret", client_secret.as_str()),
                    ("refresh_token", refresh_token.as_str()),
                ];
                Ok(Self::User(Giver::new(url, &fields)))
            }
            Written::Other => {
                Err(
                    "its credentials are of a kind that leads to files or services of the machine, which cache nodes do not follow; \
                     use the key of a service account"
                        .to_owned(),
                )
            }
        }
    }

    /// A new token for the source at `place`.
    pub(super) async fn token(&self, client: &Client, place: &str) -> Result<Token, OriginError> {
        match self {
            Self::Account(account) => account.token(place),
            Self::User(giver) => giver.token(client, place).await,
        }
    }
}

impl Account {
    fn token(&self, place: &str) -> Result<Token, OriginError> {
        let text = self.signed(Timestamp::now());
        let token = text.and_then(|text| Token::new(&text, GCS_TOKEN_LIFETIME, Instant::now()));
        token.ok_or_else(|| {
            OriginError::Invalid(format!(
                "{place}: the private key in its credentials does not sign; have Google give a new key of the service account"
            ))
        })
    }

    /// A token that is good from `now` on.
    fn signed(&self, now: Timestamp) -> Option<String> {
        let Self { email, key_id, key } = self;
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": key_id});
        let made = now.as_second();
        let until = made + GCS_TOKEN_LIFETIME.as_secs() as i64;
        let claims = json!({"iss": email, "sub": email, "scope": SCOPE, "iat": made, "exp": until});
        let encoded = |part: serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encoded(header), encoded(claims));
        let signer = key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])?;
        let signature = signer.sign(message.as_bytes()).ok()?;
        Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// `None` when it is no RSA key.
fn signing_key(pem: &str) -> Option<Arc<dyn SigningKey>> {
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?;
    let key = any_supported_type(&der).ok()?;
    key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
        .is_some()
        .then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made for this test; opens nothing.
    const PEM: &str = include_str!("../../tests/origin/service-account.pem");
    /// A key on a curve, likewise.
    const PEM_OF_CURVE: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg2/Icvmu8z5b9f5m+\n8dCocGviREJOliGVFW+qgp5uTgKhRANCAAT2KfZJ85Kk5e5M0L562AXjUZJrVo4H\nSpNTdj1+YHyIXOAjmXT82cuX6PeSmk76dpb/Xn8rIBaTh+ATxPgA/n9T\n-----END PRIVATE KEY-----\n";

    fn file(kind: &str, fields: serde_json::Value) -> String {
        let mut file = fields;
        file["type"] = kind.into();
        file.to_string()
    }

    #[test]
    fn a_service_account_signs_its_own_tokens() {
        let json = file(
            "service_account",
            json!({"client_email": "me@project", "private_key": PEM, "private_key_id": "k1", "token_uri": "https://elsewhere/"}),
        );
        let File::Account(account) = File::read(&json).unwrap() else {
            panic!("a service account")
        };
        let token = account.signed("2026-11-27T10:00:00Z".parse().unwrap()).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            panic!("{token}")
        };
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let read = |part: &str| serde_json::from_slice::<serde_json::Value>(&decoded(part)).unwrap();
        assert_eq!(read(header), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        let seconds = 1_795_773_600;
        assert_eq!(
            read(claims),
            json!({"iss": "me@project", "sub": "me@project", "scope": SCOPE, "iat": seconds, "exp": seconds + 3600})
        );
        // The key stands behind 24 bytes that say what it is (RFC 8017, A.1.1).
        let public = account.key.public_key().unwrap();
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let mut algorithms = algorithms.mapping.iter();
        let (_, algorithms) = algorithms
            .find(|(scheme, _)| *scheme == SignatureScheme::RSA_PKCS1_SHA256)
            .unwrap();
        let verified =
            |message: &str| algorithms[0].verify_signature(&public[24..], message.as_bytes(), &decoded(signature));
        assert!(verified(&format!("{header}.{claims}")).is_ok());
        assert!(verified(&format!("{header}.{header}")).is_err());
    }

    #[test]
    fn what_is_no_key_file_or_leads_into_the_machine_is_refused_without_a_word_of_it() {
        let external = json!({
            "audience": "hush", "subject_token_type": "hush", "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": {"file": "/etc/hush"},
        });
        for (json, says) in [
            ("hush".to_owned(), "no key file of Google"),
            ("{}".to_owned(), "no key file of Google"),
            ("[1]".to_owned(), "no key file of Google"),
            (
                file("service_account", json!({"client_email": "hush"})),
                "no key file of Google",
            ),
            (
                file(
                    "service_account",
                    json!({"client_email": "hush", "private_key": "hush"}),
                ),
                "no RSA key",
            ),
            (
                file(
                    "service_account",
                    json!({"client_email": "hush", "private_key": PEM_OF_CURVE}),
                ),
                "no RSA key",
            ),
            (
                file(
                    "authorized_user",
                    json!({"client_id": "hush", "client_secret": "hush", "refresh_token": "hush", "token_uri": "hush"}),
                ),
                "no URL",
            ),
            (file("external_account", external), "files or services of the machine"),
            (
                file("impersonated_service_account", json!({"source_credentials": {}})),
                "files or services of the machine",
            ),
            (file("hush", json!({})), "files or services of the machine"),
        ] {
            let error = Key::read(&json).err().unwrap();
            assert!(error.contains(says) && !error.contains("hush"), "{json}: {error}");
        }
    }
}
