//! Asks the KDCs of a realm, one after the other, over TCP. It must not know what.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{Error, cause};
use crate::limits::{KDC_ANSWER_BYTES_MAX, KDC_SILENCE_MAX};
use crate::reach::{self, Reach};

/// Where KDCs listen by themselves.
const PORT: u16 = 88;

/// Which KDCs each realm has.
pub(super) struct Realms {
    realms: BTreeMap<String, Kdcs>,
    reach: Reach,
}

#[derive(Default)]
struct Kdcs {
    all: Vec<Kdc>,
    /// Which one answered last.
    first: AtomicUsize,
}

struct Kdc {
    host: String,
    port: u16,
}

impl Realms {
    /// Of `REALM/host` or `REALM/host:port` of each.
    pub(super) fn new(kdcs: &[String], reach: &Reach) -> Result<Self, Error> {
        let mut realms: BTreeMap<String, Kdcs> = BTreeMap::new();
        for kdc in kdcs {
            let (realm, kdc) = kdc.split_once('/').unwrap_or(("", kdc));
            realms.entry(realm.to_owned()).or_default().all.push(Kdc::new(kdc)?);
        }
        Ok(Self {
            realms,
            reach: reach.clone(),
        })
    }

    /// What the first KDC of the realm says that says something; the one that answered last is asked first. All get their part of
    /// the time until `until`, so that it ends before, and says which were silent.
    pub(super) async fn ask(&self, realm: &str, request: &[u8], until: Instant) -> Result<Vec<u8>, Error> {
        let kdcs = self.realms.get(realm);
        let kdcs = kdcs.ok_or_else(|| Error::UnknownRealm(realm.to_owned()))?;
        let (mut done, mut not_allowed) = (Vec::new(), Vec::new());
        let (first, count) = (kdcs.first.load(Ordering::Relaxed), kdcs.all.len());
        for step in 0..count {
            let number = (first + step) % count;
            let kdc = &kdcs.all[number];
            let parts = (count - step + 1) as u32;
            let silence_max = KDC_SILENCE_MAX.min(until.saturating_duration_since(Instant::now()) / parts);
            let asked = timeout(silence_max, kdc.ask(&self.reach, request)).await;
            match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(answer) => {
                    kdcs.first.store(number, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => {
                    not_allowed.extend(reach::not_allowed(&error));
                    done.push(format!("{}:{} {}", kdc.host, kdc.port, cause(&error)));
                }
            }
        }
        let realm = realm.to_owned();
        match not_allowed.first() {
            Some(why) if not_allowed.len() == done.len() => Err(Error::NotAllowed {
                realm,
                why: why.to_string(),
            }),
            _ => Err(Error::Unreachable {
                realm,
                done: done.join(", "),
            }),
        }
    }
}

impl Kdc {
    /// Of `host`, `host:port` or `[address]:port`.
    fn new(name: &str) -> Result<Self, Error> {
        let wrong = || Error::Invalid(format!("{name:?} is no KDC; write it as host or host:port"));
        let (host, port) = match name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, "")) => (address, PORT),
            Some((address, port)) => (
                address,
                port.strip_prefix(':')
                    .and_then(|port| port.parse().ok())
                    .ok_or_else(wrong)?,
            ),
            None => match name.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, port.parse().map_err(|_| wrong())?),
                _ => (name, PORT),
            },
        };
        if host.is_empty() || port == 0 {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }

    async fn ask(&self, reach: &Reach, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = connect(&self.host, self.port, reach).await?;
        let length = u32::try_from(request.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), request].concat()).await?;
        let length = stream.read_u32().await? as usize;
        if length > KDC_ANSWER_BYTES_MAX {
            return Err(io::Error::other("it sends more than a ticket has"));
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }
}

async fn connect(host: &str, port: u16, reach: &Reach) -> io::Result<TcpStream> {
    let mut failed = io::Error::other("no address");
    for address in reach.look_up(host, port).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let named = format!("A.ORG/{}", listener.local_addr().unwrap());
        (listener, named)
    }

    #[tokio::test]
    async fn the_kdc_that_answered_last_is_asked_first() {
        let ((dead, dead_name), (alive, alive_name)) = (listener().await, listener().await);
        let asked_of_dead = Arc::new(AtomicUsize::new(0));
        let count = asked_of_dead.clone();
        let hanging_up = tokio::spawn(async move {
            while dead.accept().await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let answering = tokio::spawn(async move {
            while let Ok((mut stream, _)) = alive.accept().await {
                let length = stream.read_u32().await.unwrap() as usize;
                let mut request = vec![0; length];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(&[0, 0, 0, 1, 7]).await.unwrap();
            }
        });
        let realms = Realms::new(&[dead_name, alive_name], &Reach::default()).unwrap();
        for _ in 0..3 {
            let until = Instant::now() + Duration::from_secs(20);
            assert_eq!(realms.ask("A.ORG", b"request", until).await, Ok(vec![7]));
        }
        assert_eq!(asked_of_dead.load(Ordering::Relaxed), 1);
        hanging_up.abort();
        answering.abort();
    }

    #[tokio::test]
    async fn all_kdcs_are_asked_and_named_before_the_time_is_over() {
        let ((_one, one_name), (_two, two_name)) = (listener().await, listener().await);
        let realms = Realms::new(&[one_name.clone(), two_name.clone()], &Reach::default()).unwrap();
        let patience = Duration::from_secs(1);
        let asked = timeout(patience, realms.ask("A.ORG", b"request", Instant::now() + patience)).await;
        let error = asked.unwrap().unwrap_err().to_string();
        for name in [one_name, two_name] {
            let says = format!("{} is silent", name.trim_start_matches("A.ORG/"));
            assert!(error.contains(&says), "{error}");
        }
    }

    #[test]
    fn a_kdc_is_a_host_with_or_without_a_port() {
        for (name, expected) in [
            ("kdc.a.org", Some(("kdc.a.org", 88))),
            ("kdc.a.org:750", Some(("kdc.a.org", 750))),
            ("10.0.0.1:88", Some(("10.0.0.1", 88))),
            ("[fd00::1]:750", Some(("fd00::1", 750))),
            ("[fd00::1]", Some(("fd00::1", 88))),
            ("fd00::1", Some(("fd00::1", 88))),
            ("", None),
            (":88", None),
            ("kdc:", None),
            ("kdc:0", None),
        ] {
            let kdc = Kdc::new(name).ok();
            let got = kdc.as_ref().map(|kdc| (kdc.host.as_str(), kdc.port));
            assert_eq!(got, expected, "{name}");
        }
    }
}
