//! What says who asks: a signature with the key of the account ("Authorize with Shared Key", Azure Storage REST), a query that somebody
//! signed with it, or a token of an application. It must not know what the answers mean.

use std::collections::BTreeMap;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use penstock_protocol::control::cache_node as wire;
use percent_encoding::utf8_percent_encode;
use reqsign_core::hash::base64_hmac_sha256;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Request, Url};

use super::process;
use crate::OriginError;
use crate::bearer::{Giver, Keeper};
use crate::transport::{Client, VALUE};
use crate::workload_identity::WorkloadIdentity;

const DATE: HeaderName = HeaderName::from_static("x-ms-date");

/// What a token of an application is for.
const SCOPE: &str = "https://storage.azure.com/.default";
/// Who gives tokens, by the end of the host names of a cloud; the first is everybody's.
const AUTHORITIES: [(&str, &str); 3] = [
    (".core.windows.net", "https://login.microsoftonline.com"),
    (".core.usgovcloudapi.net", "https://login.microsoftonline.us"),
    (".core.chinacloudapi.cn", "https://login.chinacloudapi.cn"),
];

/// What says who asks.
pub(super) enum Access {
    Everybody,
    Account { name: String, key: Vec<u8> },
    Query(String),
    Application { basis: Basis, keeper: Keeper },
}

/// Of what an application is known.
pub(super) enum Basis {
    Secret(Box<Giver>),
    /// Of what the environment says, at this authority if it names none.
    Process(WorkloadIdentity, &'static str),
}

impl Access {
    /// For a service whose URLs begin with `base`. The error is a sentence, and quotes nothing of the key.
    pub(super) fn new(key: Option<wire::AzureKey>, account: &str, base: &str) -> Result<Self, String> {
        let Some(wire::AzureKey {
            account_key,
            sas_token,
            tenant_id,
            client_id,
            client_secret,
        }) = key
        else {
            return Ok(Self::Everybody);
        };
        if !account_key.is_empty() {
            let key = STANDARD.decode(account_key);
            let key = key.map_err(
                |_| "the key of the account is no Base64; correct AZURE_STORAGE_KEY in the Secret of the source",
            )?;
            let name = account.to_owned();
            return Ok(Self::Account { name, key });
        }
        if !sas_token.is_empty() {
            let query = sas_token.strip_prefix('?').unwrap_or(&sas_token);
            if !query.split('&').any(|part| part.starts_with("sig=")) {
                return Err(
                    "the shared access signature has no part `sig=`; correct AZURE_STORAGE_SAS_TOKEN in the Secret of the source"
                        .to_owned(),
                );
            }
            return Ok(Self::Query(query.to_owned()));
        }
        if tenant_id.is_empty() || client_id.is_empty() || client_secret.is_empty() {
            return Err("its Secret has neither a key of the account, nor a shared access signature, nor all three of an application".to_owned());
        }
        let url = token_url(authority(base), &tenant_id);
        let url =
            url.ok_or("the tenant of the application is none; correct AZURE_TENANT_ID in the Secret of the source")?;
        let fields = fields(&client_id, &[("client_secret", &client_secret)]);
        Ok(Self::of(Basis::Secret(Box::new(Giver::new(url, &fields)))))
    }

    /// That of this process, for a service whose URLs begin with `base`.
    pub(super) fn of_process(identity: WorkloadIdentity, base: &str) -> Self {
        Self::of(Basis::Process(identity, authority(base)))
    }

    fn of(basis: Basis) -> Self {
        let keeper = Keeper::default();
        Self::Application { basis, keeper }
    }

    /// Whether to ask again, signed anew, a service that does not know who asked with these headers.
    pub(super) async fn is_worth_another(&self, used: &HeaderMap) -> bool {
        let Self::Application { keeper, .. } = self else {
            return false;
        };
        let is_it = |kept: &HeaderValue| used.get(header::AUTHORIZATION) == Some(kept);
        keeper.is_worth_another(Instant::now(), is_it).await
    }

    pub(super) fn is_for_everybody(&self) -> bool {
        matches!(self, Self::Everybody)
    }

    /// Has the request, which is complete, say who asks the source at `place`.
    pub(super) async fn sign(&self, request: &mut Request, client: &Client, place: &str) -> Result<(), OriginError> {
        match self {
            Self::Everybody => {}
            Self::Account { name, key } => {
                let unsigned =
                    || OriginError::Invalid(format!("{place} has a name that no header can hold; correct it"));
                let date = header_date(Timestamp::now()).ok_or_else(unsigned)?;
                request.headers_mut().insert(DATE, date);
                let text = text_to_sign(name, request.url(), request.headers());
                let authorization = format!("SharedKey {name}:{}", base64_hmac_sha256(key, text.as_bytes()));
                let mut authorization = HeaderValue::try_from(authorization).map_err(|_| unsigned())?;
                authorization.set_sensitive(true);
                request.headers_mut().insert(header::AUTHORIZATION, authorization);
            }
            Self::Query(signed) => {
                let query = match request.url().query() {
                    Some(query) => format!("{query}&{signed}"),
                    None => signed.clone(),
                };
                request.url_mut().set_query(Some(&query));
            }
            Self::Application { basis, keeper } => {
                let get = async {
                    match basis {
                        Basis::Secret(giver) => giver.token(client, place).await,
                        Basis::Process(identity, authority) => process::token(identity, authority, place).await,
                    }
                };
                let authorization = keeper.token(Instant::now(), get).await?;
                request.headers_mut().insert(header::AUTHORIZATION, authorization);
            }
        }
        Ok(())
    }
}

/// Who gives tokens for a service whose URLs begin with `base`.
fn authority(base: &str) -> &'static str {
    let host = Url::parse(base).ok().and_then(|url| url.host_str().map(str::to_owned));
    let host = host.unwrap_or_default();
    let own = AUTHORITIES.iter().find(|(end, _)| host.ends_with(end));
    let (_, authority) = own.unwrap_or(&AUTHORITIES[0]);
    authority
}

/// Where that is done for a tenant; `None` when it is none.
pub(super) fn token_url(authority: &str, tenant: &str) -> Option<Url> {
    let authority = authority.trim_end_matches('/');
    let text = format!("{authority}/{}/oauth2/v2.0/token", utf8_percent_encode(tenant, VALUE));
    Url::parse(&text).ok().filter(|url| url.as_str() == text)
}

/// What an application says that is known by `proof`.
pub(super) fn fields<'a>(client: &'a str, proof: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![("grant_type", "client_credentials"), ("client_id", client)];
    fields.extend(proof);
    fields.push(("scope", SCOPE));
    fields
}

fn header_date(now: Timestamp) -> Option<HeaderValue> {
    let text = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now).ok()?;
    HeaderValue::try_from(text).ok()
}

/// What the signature of a GET request without a body is of.
fn text_to_sign(account: &str, url: &Url, headers: &HeaderMap) -> String {
    let value = |name: &HeaderName| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let mut text = "GET\n".to_owned();
    let standard = [
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_LENGTH,
        HeaderName::from_static("content-md5"),
        header::CONTENT_TYPE,
        header::DATE,
        header::IF_MODIFIED_SINCE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_UNMODIFIED_SINCE,
        header::RANGE,
    ];
    for name in &standard {
        text += value(name);
        text.push('\n');
    }
    let own: BTreeMap<_, _> = headers.keys().map(|name| (name.as_str(), value(name))).collect();
    for (name, value) in own.into_iter().filter(|(name, _)| name.starts_with("x-ms-")) {
        text += &format!("{name}:{}\n", value.trim());
    }
    text += &format!("/{account}{}", url.path());
    let query: BTreeMap<_, _> = url
        .query_pairs()
        .map(|(name, value)| (name.to_lowercase(), value))
        .collect();
    for (name, value) in query {
        text += &format!("\n{name}:{value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "https://acc.blob.core.windows.net";

    fn key(fields: [&str; 5]) -> Option<wire::AzureKey> {
        let [account_key, sas_token, tenant_id, client_id, client_secret] = fields.map(str::to_owned);
        Some(wire::AzureKey {
            account_key,
            sas_token,
            tenant_id,
            client_id,
            client_secret,
        })
    }

    #[test]
    fn what_is_signed_is_what_the_service_signs() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect()
        };
        // As in "Authorize with Shared Key", with a query in another order, and a range.
        let url = Url::parse(&format!("{BASE}/c?restype=container&comp=list&Prefix=a%20b%2F%2B")).unwrap();
        let listing = headers(&[
            ("x-ms-version", "2022-11-02"),
            ("x-ms-date", "Fri, 26 Jun 2026 23:39:12 GMT"),
        ]);
        assert_eq!(
            text_to_sign("acc", &url, &listing),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2026 23:39:12 GMT\nx-ms-version:2022-11-02\n/acc/c\ncomp:list\n\
             prefix:a b/+\nrestype:container"
        );
        let url = Url::parse("http://127.0.0.1:10000/acc/c/a%20b//%C3%A9").unwrap();
        let read = headers(&[("range", "bytes=0-1"), ("if-match", "\"0x8D\""), ("x-ms-version", "v")]);
        assert_eq!(
            text_to_sign("acc", &url, &read),
            "GET\n\n\n\n\n\n\n\n\"0x8D\"\n\n\nbytes=0-1\nx-ms-version:v\n/acc/acc/c/a%20b//%C3%A9"
        );
    }

    #[tokio::test]
    async fn a_signed_query_is_added_as_it_is() {
        for (token, target, expected) in [
            ("?sv=1&sig=a%2Bb%3D", "/c/b", "/c/b?sv=1&sig=a%2Bb%3D"),
            ("sig=x", "/c?comp=list", "/c?comp=list&sig=x"),
        ] {
            let access = Access::new(key(["", token, "", "", ""]), "acc", BASE).unwrap();
            let url = Url::parse(&format!("{BASE}{target}")).unwrap();
            let mut request = Request::new(reqwest::Method::GET, url);
            access.sign(&mut request, &client(), "place").await.unwrap();
            assert_eq!(request.url().as_str(), format!("{BASE}{expected}"));
        }
    }

    fn client() -> Client {
        crate::transport::client(&crate::Network::default()).unwrap()
    }

    #[test]
    fn an_application_asks_the_authority_of_its_cloud() {
        for (base, authority) in [
            (BASE, "https://login.microsoftonline.com"),
            (
                "https://acc.blob.core.chinacloudapi.cn",
                "https://login.chinacloudapi.cn",
            ),
            (
                "https://acc.blob.core.usgovcloudapi.net",
                "https://login.microsoftonline.us",
            ),
            ("http://127.0.0.1:10000/acc", "https://login.microsoftonline.com"),
        ] {
            let Ok(Access::Application {
                basis: Basis::Secret(giver),
                ..
            }) = Access::new(key(["", "", "ten ant", "me", "s&+"]), "acc", base)
            else {
                panic!("an application")
            };
            let form = "grant_type=client_credentials&client_id=me&client_secret=s%26%2B&scope=https%3A%2F%2Fstorage.azure.com%2F.default";
            assert_eq!(
                giver.question(),
                (format!("{authority}/ten%20ant/oauth2/v2.0/token").as_str(), form)
            );
        }
    }

    #[test]
    fn the_first_of_several_keys_counts_and_what_is_none_is_refused_without_a_word_of_it() {
        assert!(matches!(Access::new(None, "acc", BASE), Ok(Access::Everybody)));
        let all = ["aHVzaA==", "sig=x", "t", "c", "s"];
        assert!(matches!(Access::new(key(all), "acc", BASE), Ok(Access::Account { .. })));
        let all = ["", "sig=x", "t", "c", "s"];
        assert!(matches!(Access::new(key(all), "acc", BASE), Ok(Access::Query(_))));
        for (fields, says) in [
            (["hush!", "", "", "", ""], "no Base64"),
            (["", "sv=hush", "", "", ""], "no part `sig=`"),
            (["", "", "", "", ""], "neither"),
            (["", "", "hush", "hush", ""], "neither"),
            (["", "", "..", "hush", "hush"], "AZURE_TENANT_ID"),
        ] {
            let error = Access::new(key(fields), "acc", BASE).err().unwrap();
            assert!(error.contains(says) && !error.contains("hush"), "{error}");
        }
    }
}
