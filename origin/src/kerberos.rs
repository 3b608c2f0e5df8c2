//! Who a source is for Kerberos: a principal with a key of its own, which gets tickets for services from the KDCs that the owner of the
//! cache nodes names. It must not know which service, nor what is said to it.
//!
//! This is RFC 4120 for a client with a keytab, and of its ways of encryption the two that every realm of today has, RFC 3962. It is
//! our own because the library that everybody has loads itself at run time, which a static program cannot do, and because a call of it
//! waits for the network on the thread that made it.
//!
//! *Guarantees*: no KDC is asked whom nobody named for the realm, nor at an address that may not be reached. A key is sent to nobody,
//! and nothing is delegated. An answer counts only if it was made with the principal's key, or with that of a ticket which came so.

mod context;
mod kdc;
mod keytab;
mod messages;
mod principal;

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use penstock_protocol::control::cache_node as wire;
use tokio::time::Instant;

pub(crate) use self::context::{Context, Layer};
use self::kdc::Realms;
use self::keytab::Keytab;
use self::messages::{Expected, Ticket, Wrong};
pub(crate) use self::principal::Principal;
use crate::limits::REFERRALS_MAX;
use crate::reach::{self, Reach};

/// Why there is no ticket; each is the end of a sentence that begins with what was to be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The principal or the keytab is none.
    #[error("{0}")]
    Invalid(String),
    /// Nobody named a KDC of the realm.
    #[error(
        "the Kerberos realm {0} has no KDC here; name one in spec.kerberos.realms of the CacheRuntime (without Kubernetes: in krb5.conf)"
    )]
    UnknownRealm(String),
    /// A KDC may not be reached.
    #[error("a KDC of the Kerberos realm {realm} may not be reached: {why}")]
    NotAllowed {
        /// The realm.
        realm: String,
        /// Why not.
        why: String,
    },
    /// No KDC answers.
    #[error(
        "no KDC of the Kerberos realm {realm} answers ({done}); check them, name resolution and the network from the cache nodes"
    )]
    Unreachable {
        /// The realm.
        realm: String,
        /// What each did.
        done: String,
    },
    /// The KDC does not let the principal in.
    #[error("{0}")]
    Denied(String),
    /// The KDC knows no such service.
    #[error("the KDC knows no service {0}; check that the name node is named as its own principal has it")]
    NoService(String),
    /// It gives no ticket for this one; another service may do better.
    #[error("{0}")]
    Service(String),
    /// The other clock is too far away.
    #[error("the clocks of here and of the KDC or the name node are more than 5 minutes apart; set them by NTP")]
    Clocks,
    /// What came is not what Kerberos says.
    #[error("{0} sent what is not understood")]
    Garbled(&'static str),
}

/// One principal with its key.
pub(crate) struct Identity {
    principal: Principal,
    keytab: Keytab,
    realms: Realms,
    /// The ticket for tickets.
    granting: Mutex<Option<Ticket>>,
}

impl Identity {
    /// Asks nobody yet.
    ///
    /// # Errors
    /// When there is no such principal, or the keytab has no key of it.
    pub(crate) fn new(key: &wire::KerberosKey, kdcs: &[String], reach: &Reach) -> Result<Self, Error> {
        let wire::KerberosKey { principal, keytab } = key;
        let principal: Principal = principal.parse().map_err(Error::Invalid)?;
        let keytab = BASE64_STANDARD.decode(keytab).unwrap_or_default();
        let keytab = Keytab::of(&principal, &keytab).map_err(Error::Invalid)?;
        Ok(Self {
            principal,
            keytab,
            realms: Realms::new(kdcs, reach)?,
            granting: Mutex::new(None),
        })
    }

    /// Its name.
    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// A new context with a service, and the token with which it begins. KDCs that are silent are left before `until`.
    ///
    /// # Errors
    /// When there is no ticket for it.
    pub(crate) async fn context(&self, service: &str, host: &str, until: Instant) -> Result<(Context, Vec<u8>), Error> {
        let ticket = self.ticket(&[service, host], until).await?;
        Context::new(&ticket, unix_micros()).map_err(|wrong| told(wrong, &self.principal))
    }

    async fn ticket(&self, service: &[&str], until: Instant) -> Result<Ticket, Error> {
        let kept = self.kept();
        let is_kept = kept.is_some();
        let granting = match kept {
            Some(granting) => granting,
            None => self.granting(until).await?,
        };
        match self.ticket_by(granting, service, until).await {
            // What was kept may be worth nothing after the KDC began anew.
            Err(Error::Denied(_) | Error::Service(_)) if is_kept => {
                let granting = self.granting(until).await?;
                self.ticket_by(granting, service, until).await
            }
            done => done,
        }
    }

    /// The one that is kept, in the first half of its life: a connection that was made with it in its last moment would be refused.
    fn kept(&self) -> Option<Ticket> {
        let now = unix_micros() / 1_000_000;
        let granting = self.granting.lock().unwrap_or_else(PoisonError::into_inner);
        granting.clone().filter(|ticket| ticket.is_young(now))
    }

    async fn granting(&self, until: Instant) -> Result<Ticket, Error> {
        let (realm, nonce) = (self.principal.realm(), rand::random::<u32>() >> 1);
        let key = self.keytab.best();
        let request = messages::first_request(&self.principal, self.keytab.etypes(), key, unix_micros(), nonce)
            .map_err(|wrong| told(wrong, &self.principal))?;
        let answer = self.realms.ask(realm, &request, until).await?;
        let client = &self.principal;
        let expected = Expected::First { client, nonce };
        let ticket = self.keytab.by_etype(|key| messages::ticket(&answer, expected, key));
        let ticket = ticket.map_err(|wrong| told(wrong, &self.principal))?;
        *self.granting.lock().unwrap_or_else(PoisonError::into_inner) = Some(ticket.clone());
        Ok(ticket)
    }

    /// A ticket for a service by one for tickets, by way of other realms if the KDC says so.
    async fn ticket_by(&self, mut granting: Ticket, service: &[&str], until: Instant) -> Result<Ticket, Error> {
        let client = &self.principal;
        let mut realm = client.realm().to_owned();
        for _ in 0..=REFERRALS_MAX {
            let nonce = rand::random::<u32>() >> 1;
            let request = messages::next_request(&granting, &realm, service, unix_micros(), nonce);
            let request =
                request.map_err(|_| Error::Service(format!("{:?} is no name of a service", service.join("/"))))?;
            let answer = self.realms.ask(&realm, &request, until).await?;
            let expected = Expected::Next {
                client,
                realm: &realm,
                service,
                nonce,
            };
            let ticket = messages::ticket(&answer, expected, granting.key());
            let ticket = ticket.map_err(|wrong| {
                let service = Principal::new(service.iter().map(|part| (*part).to_owned()).collect(), realm.clone());
                told_of_service(wrong, client, &service)
            })?;
            match ticket.referral() {
                None => return Ok(ticket),
                Some(next) => realm = next,
            }
            granting = ticket;
        }
        Err(Error::Service(format!(
            "the KDCs send on and on from realm to realm for {}; name the KDC of its realm",
            service.join("/")
        )))
    }
}

/// What a KDC said when it was asked for a service. Most of it is something with the account of that: another NameNode has another one.
fn told_of_service(wrong: Wrong, principal: &Principal, service: &Principal) -> Error {
    Error::Service(match wrong {
        Wrong::Refused(messages::CLOCKS | messages::KEY_EXPIRED | messages::LOCKED) => return told(wrong, principal),
        Wrong::Refused(messages::NO_SERVICE) => return Error::NoService(service.to_string()),
        Wrong::Refused(messages::NO_ETYPE) => format!(
            "the KDC has no key of {service} for aes256-cts-hmac-sha1-96 or aes128-cts-hmac-sha1-96; let the account have one, and make \
             the keytab of the name node anew"
        ),
        Wrong::Refused(code) => {
            format!("the KDC gives {principal} no ticket for {service} (error {code} of RFC 4120); its log says why")
        }
        Wrong::Garbled => format!("the KDC sent what is not understood when it was asked for {service}"),
    })
}

/// What a KDC or a service said of a principal, for people.
fn told(wrong: Wrong, principal: &Principal) -> Error {
    let code = match wrong {
        Wrong::Garbled => return Error::Garbled("the KDC"),
        Wrong::Refused(code) => code,
    };
    Error::Denied(match code {
        messages::CLOCKS => return Error::Clocks,
        messages::NO_PRINCIPAL => format!(
            "the KDC knows no principal {principal}; check `principal` of the Secret, and that the keytab is of this realm"
        ),
        messages::WRONG_KEY | messages::BAD_INTEGRITY => format!(
            "the keytab of {principal} has another key than the KDC; make a new keytab, put it into the Secret, and know that making one \
             ends those before it"
        ),
        messages::LOCKED => {
            format!("the principal {principal} is locked or has expired; have the realm's administrator renew it")
        }
        messages::KEY_EXPIRED => {
            format!("the key of {principal} has expired; make a new keytab, and put it into the Secret")
        }
        messages::NO_ETYPE => format!(
            "the KDC has no key of {principal} for the encryption of the keytab; let the account have aes256-cts-hmac-sha1-96 or \
             aes128-cts-hmac-sha1-96, and make a new keytab"
        ),
        code => format!("the KDC refuses {principal} (error {code} of RFC 4120); its log says why"),
    })
}

/// Reads these bytes as whatever a KDC or a service may send, decrypted or not, and as a keytab. For tests.
#[cfg(feature = "test-support")]
pub fn read_anything(input: &[u8]) {
    messages::anything::read(input);
    context::read_anything(input);
    if let Ok(principal) = "reader@A.ORG".parse() {
        // What it says of one that is wrong is no longer than that.
        let wrong = Keytab::of(&principal, input).err();
        assert!(wrong.is_none_or(|wrong| wrong.len() < 1000 + 2 * input.len()));
    }
}

/// Something of each to begin with. For tests.
#[cfg(feature = "test-support")]
pub fn samples() -> Vec<Vec<u8>> {
    messages::anything::samples()
}

fn unix_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// What a KDC did when it could not be asked.
fn cause(error: &std::io::Error) -> String {
    if let Some(why) = reach::not_allowed(error) {
        return why.to_string();
    }
    match error.kind() {
        std::io::ErrorKind::TimedOut => "is silent".to_owned(),
        std::io::ErrorKind::UnexpectedEof => "hung up".to_owned(),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("failed: {}", line.chars().take(200).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kdc_says_is_told_with_what_to_do() {
        let principal: Principal = "reader@A.ORG".parse().unwrap();
        for (wrong, says) in [
            (Wrong::Refused(6), "knows no principal reader@A.ORG"),
            (Wrong::Refused(14), "let the account have aes256-cts-hmac-sha1-96"),
            (
                Wrong::Refused(18),
                "is locked or has expired; have the realm's administrator renew it",
            ),
            (Wrong::Refused(23), "has expired; make a new keytab"),
            (Wrong::Refused(24), "another key than the KDC; make a new keytab"),
            (Wrong::Refused(31), "another key than the KDC"),
            (Wrong::Refused(37), "more than 5 minutes apart; set them by NTP"),
            (Wrong::Refused(60), "refuses reader@A.ORG (error 60 of RFC 4120)"),
            (Wrong::Garbled, "the KDC sent what is not understood"),
        ] {
            let text = told(wrong, &principal).to_string();
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_one_service_is_told_of_it() {
        let principal: Principal = "reader@A.ORG".parse().unwrap();
        let service: Principal = "nn/nn1.a.org@A.ORG".parse().unwrap();
        for (wrong, says) in [
            (Wrong::Refused(14), "no key of nn/nn1.a.org@A.ORG for aes256"),
            (
                Wrong::Refused(31),
                "no ticket for nn/nn1.a.org@A.ORG (error 31 of RFC 4120)",
            ),
            (Wrong::Garbled, "asked for nn/nn1.a.org@A.ORG"),
        ] {
            let told = told_of_service(wrong, &principal, &service);
            assert!(matches!(&told, Error::Service(text) if text.contains(says)), "{told:?}");
        }
        let unknown = told_of_service(Wrong::Refused(7), &principal, &service);
        assert_eq!(unknown, Error::NoService("nn/nn1.a.org@A.ORG".to_owned()));
        for code in [18, 23, 37] {
            let wrong = Wrong::Refused(code);
            assert_eq!(told_of_service(wrong, &principal, &service), told(wrong, &principal));
        }
    }

    #[test]
    fn nobody_is_asked_for_a_realm_that_nobody_named() {
        let key = wire::KerberosKey {
            principal: "reader@A.ORG".to_owned(),
            keytab: BASE64_STANDARD.encode(keytab::tests::keytab(&[("reader@A.ORG", 1, 18, 32)])),
        };
        let kdcs = ["B.ORG/127.0.0.1:1".to_owned()];
        let identity = Identity::new(&key, &kdcs, &Reach::default()).unwrap();
        let context = futures::executor::block_on(identity.context("nn", "host", Instant::now()));
        assert_eq!(context.err(), Some(Error::UnknownRealm("A.ORG".to_owned())));
    }
}
