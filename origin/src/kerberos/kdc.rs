//! Asks the KDCs of a realm, one after the other, over TCP. It must not know what.

use std::collections::BTreeMap;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Error, cause};
use crate::limits::{KDC_ANSWER_BYTES_MAX, KDC_SILENCE_MAX};
use crate::reach::{self, Reach};

/// Where KDCs listen by themselves.
const PORT: u16 = 88;

/// Which KDCs each realm has.
pub(super) struct Realms {
    realms: BTreeMap<String, Vec<Kdc>>,
    reach: Reach,
}

struct Kdc {
    host: String,
    port: u16,
}

impl Realms {
    /// Of `REALM/host` or `REALM/host:port` of each.
    pub(super) fn new(kdcs: &[String], reach: &Reach) -> Result<Self, Error> {
        let mut realms: BTreeMap<String, Vec<Kdc>> = BTreeMap::new();
        for kdc in kdcs {
            let (realm, kdc) = kdc.split_once('/').unwrap_or(("", kdc));
            realms.entry(realm.to_owned()).or_default().push(Kdc::new(kdc)?);
        }
        Ok(Self {
            realms,
            reach: reach.clone(),
        })
    }

    /// What the first KDC of the realm says that says something.
    pub(super) async fn ask(&self, realm: &str, request: &[u8]) -> Result<Vec<u8>, Error> {
        let kdcs = self.realms.get(realm);
        let kdcs = kdcs.ok_or_else(|| Error::UnknownRealm(realm.to_owned()))?;
        let (mut done, mut not_allowed) = (Vec::new(), Vec::new());
        for kdc in kdcs {
            let asked = timeout(KDC_SILENCE_MAX, kdc.ask(&self.reach, request)).await;
            match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(answer) => return Ok(answer),
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
    use super::*;

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
