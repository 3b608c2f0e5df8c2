//! Calls of the NameNode that is active. It must not know what they are for.
//!
//! hdfs-native can look for that one itself, but it waits for a machine that is gone as long as the kernel does, and looks names
//! up without telling. So it knows one NameNode at a time, by its address.

use std::future::Future;
use std::net::SocketAddr;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, iter};

use futures::FutureExt;
use hdfs_native::{Client, ClientBuilder, HdfsError};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::relay::{Connects, Relay};
use super::sasl::{self, Failed, Session};
use crate::Network;
use crate::kerberos::{self, Identity};
use crate::limits::{CONNECT_MAX, DATA_NODE_SILENCE_MAX};
use crate::meter::Meter;
use crate::reach::{self, Reach};

/// Where hdfs-native finds no configuration. Told none, it would take what the environment names.
const NO_FOLDER: &str = "/dev/null";

/// The NameNodes of one name service.
pub(super) struct NameNodes {
    nodes: Vec<NameNode>,
    meter: Meter,
    /// With one that is asked.
    patience: Duration,
    /// Which one answered last.
    active: AtomicUsize,
}

/// As whom NameNodes are asked.
#[derive(Clone)]
pub(super) enum Who {
    /// Whoever it says, and is believed.
    Simple(String),
    /// A principal, which it shows.
    Kerberos(Arc<Identity>),
}

struct NameNode {
    place: Arc<Place>,
    /// None before it was reached and after it failed.
    client: Mutex<Option<Reached>>,
}

/// Where a NameNode is and who asks it.
struct Place {
    host: String,
    port: u16,
    who: Who,
    reach: Reach,
    patience: Duration,
}

struct Reached {
    address: SocketAddr,
    client: Held<Client>,
}

/// A client, or what it gave and what may still ask by it, with the port through which it speaks, if it has to.
#[derive(Clone)]
pub(super) struct Held<T> {
    value: T,
    relay: Option<Arc<Relay>>,
}

impl<T> Held<T> {
    fn by<U>(&self, value: U) -> Held<U> {
        let relay = self.relay.clone();
        Held { value, relay }
    }

    /// The same of a part of it.
    pub(super) fn map<U>(self, part: impl FnOnce(T) -> U) -> Held<U> {
        let Self { value, relay } = self;
        let value = part(value);
        Held { value, relay }
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Why a call was not answered.
pub(super) enum Failure {
    /// No NameNode is there and active; what each did, for people.
    Nobody(String),
    /// None of them may be reached; why not, for people.
    NotAllowed(String),
    /// There is no ticket for any of them.
    Kerberos(kerberos::Error),
    /// One refused.
    Refused(HdfsError),
}

impl NameNodes {
    /// Asks nobody yet. The error is a sentence.
    pub(super) fn new(names: &[String], who: &Who, network: &Network) -> Result<Self, String> {
        // Who waits for a read has no more patience than for one silence, and the others are to be asked within it.
        let patience = network.silence_max / (names.len() as u32 + 1);
        let node = |name: &String| NameNode::new(name, who, &network.reach, patience);
        let nodes = names.iter().map(node).collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            return Err("it has no NameNodes; name host:port of each".to_owned());
        }
        Ok(Self {
            patience,
            meter: network.meter.clone(),
            nodes,
            active: AtomicUsize::new(0),
        })
    }

    /// The same one is asked for more of what it answered.
    pub(super) async fn asks_more(&self) {
        self.meter.sending().await;
    }

    /// What the active one answers. `what` may be asked of several.
    pub(super) async fn call<T, F>(&self, what: impl Fn(Client) -> F) -> Result<Held<T>, Failure>
    where
        F: Future<Output = Result<T, HdfsError>>,
    {
        let first = self.active.load(Ordering::Relaxed);
        let (mut done, mut not_allowed) = (Vec::new(), Vec::new());
        for number in (0..self.nodes.len()).map(|step| (first + step) % self.nodes.len()) {
            let node = &self.nodes[number];
            let asking = Asking {
                node,
                active: &self.active,
                next: (number + 1) % self.nodes.len(),
            };
            let Place { host, port, who, .. } = &*node.place;
            let answer = match node.client().await {
                Ok(client) => {
                    self.meter.sending().await;
                    let answer = guarded(self.patience, what(client.value.clone())).await;
                    answer.map(|answer| client.by(answer))
                }
                Err(Failed::Broken(error)) => Err(HdfsError::IOError(error)),
                Err(Failed::Node(text)) => {
                    drop(asking);
                    done.push(format!("{host}:{port} {text}"));
                    continue;
                }
                Err(Failed::Identity(error)) => return Err(Failure::Kerberos(error)),
            };
            match answer {
                Err(error) if is_of_the_node(&error) => {
                    drop(asking);
                    not_allowed.extend(reach::not_allowed(&error));
                    done.push(format!("{host}:{port} {}", cause(&error, who)));
                }
                answer => {
                    std::mem::forget(asking);
                    self.active.store(number, Ordering::Relaxed);
                    return answer.map_err(Failure::Refused);
                }
            }
        }
        match not_allowed.first() {
            Some(why) if not_allowed.len() == done.len() => Err(Failure::NotAllowed(why.to_string())),
            _ => Err(Failure::Nobody(done.join(", "))),
        }
    }
}

/// A NameNode that is being asked. When that ends without an answer, also because nobody waits any more, another one is asked first
/// the next time, and its name may stand for another address by then.
struct Asking<'a> {
    node: &'a NameNode,
    active: &'a AtomicUsize,
    next: usize,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        *lock(&self.node.client) = None;
        self.active.store(self.next, Ordering::Relaxed);
    }
}

impl NameNode {
    fn new(name: &str, who: &Who, reach: &Reach, patience: Duration) -> Result<Self, String> {
        let parts = name
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = parts
            .filter(|(host, port)| !host.is_empty() && *port != 0)
            .ok_or_else(|| format!("{name:?} is no NameNode; write it as host:port, with the port of RPC"))?;
        let plain = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let place = Place {
            host: plain.unwrap_or(host).to_owned(),
            port,
            who: who.clone(),
            reach: reach.clone(),
            patience,
        };
        Ok(Self {
            place: Arc::new(place),
            client: Mutex::new(None),
        })
    }

    async fn client(&self) -> Result<Held<Client>, Failed> {
        let Place { host, who, reach, .. } = &*self.place;
        if let Some(Reached { address, client }) = &*lock(&self.client) {
            // Perhaps not any more.
            let may_be = reach.judge(host, address.ip(), Some(address.port()));
            return may_be
                .map(|()| client.clone())
                .map_err(|why| Failed::Broken(io::Error::other(why)));
        }
        let (address, asked, user, relay) = match who {
            Who::Simple(user) => {
                let (_, address) = self.place.reached().await?;
                (address, address, user.clone(), None)
            }
            Who::Kerberos(_) => {
                let session = self.place.connect().await?;
                let address = session.stream.peer_addr()?;
                let relay = Relay::new(session, self.place.clone()).await?;
                (address, relay.address, relay.word.clone(), Some(Arc::new(relay)))
            }
        };
        let client = Held {
            value: client(asked, who, &user).map_err(io::Error::other)?,
            relay,
        };
        *lock(&self.client) = Some(Reached {
            address,
            client: client.clone(),
        });
        Ok(client)
    }
}

impl Place {
    /// A connection with it, and its address.
    async fn reached(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let mut failed = io::Error::other("no address");
        for address in self.reach.look_up(&self.host, self.port).await? {
            match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok((stream, address)),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failed)
    }
}

impl Connects for Place {
    async fn connect(&self) -> Result<Session, Failed> {
        let Who::Kerberos(identity) = &self.who else {
            return Err(io::Error::other("nobody has to show who he is").into());
        };
        let until = Instant::now() + self.patience;
        let session = async {
            let (stream, _) = self.reached().await?;
            sasl::session(stream, &self.host, identity, until).await
        };
        let session = timeout_at(until, session).await;
        session.unwrap_or_else(|_| Err(Failed::Broken(io::ErrorKind::TimedOut.into())))
    }

    fn principal(&self) -> String {
        match &self.who {
            Who::Simple(user) => user.clone(),
            Who::Kerberos(identity) => identity.principal().to_string(),
        }
    }
}

/// The client of one NameNode.
fn client(asked: SocketAddr, who: &Who, user: &str) -> Result<Client, HdfsError> {
    let silence_max = DATA_NODE_SILENCE_MAX.as_millis().to_string();
    let builder = ClientBuilder::new()
        .with_url(format!("hdfs://{asked}"))
        .with_config_dir(NO_FOLDER)
        .with_config([
            ("dfs.client.socket-timeout", silence_max.as_str()),
            ("dfs.client.failover.max.attempts", "0"),
        ])
        .with_user(user);
    match who {
        Who::Simple(_) => builder.build(),
        Who::Kerberos(identity) => builder
            .with_config([
                // It shows its tokens to DataNodes only with both; which protection it is they say.
                ("hadoop.security.authentication", "kerberos"),
                ("dfs.data.transfer.protection", "privacy"),
            ])
            // Without one it would load a library to look for it.
            .with_kerberos_principal(identity.principal().to_string())
            .build(),
    }
}

/// With an end for what has none: hdfs-native waits for a NameNode without one, and panics at some of what no server should send.
pub(super) async fn guarded<T>(
    silence_max: Duration,
    what: impl Future<Output = Result<T, HdfsError>>,
) -> Result<T, HdfsError> {
    match timeout(silence_max, AssertUnwindSafe(what).catch_unwind()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(HdfsError::InternalError("it sent what no server should".to_owned())),
        Err(_) => Err(HdfsError::IOError(io::ErrorKind::TimedOut.into())),
    }
}

/// The name of a Java exception without its packages.
pub(super) fn exception(class: &str) -> &str {
    class.rsplit(['.', '$']).next().unwrap_or(class)
}

/// Whether another NameNode may do better.
fn is_of_the_node(error: &HdfsError) -> bool {
    match error {
        HdfsError::RPCError(class, _) => {
            matches!(exception(class), "StandbyException" | "ObserverRetryOnActiveException")
        }
        HdfsError::IOError(_)
        | HdfsError::FatalRPCError(..)
        | HdfsError::InternalError(_)
        | HdfsError::InvalidRPCResponse(_) => true,
        _ => false,
    }
}

/// What a NameNode did, for people: the rest of a sentence that begins with its name.
fn cause(error: &HdfsError, who: &Who) -> String {
    match error {
        HdfsError::RPCError(..) => "is not active".to_owned(),
        HdfsError::IOError(error) => match error.kind() {
            io::ErrorKind::TimedOut => "is silent".to_owned(),
            io::ErrorKind::ConnectionAborted | io::ErrorKind::UnexpectedEof => {
                match who {
                    Who::Simple(_) => {
                        "hung up, as one does that wants Kerberos: if it is one, give the source a keytab by credentialsSecretRef"
                    }
                    Who::Kerberos(_) => "hung up",
                }
                .to_owned()
            }
            _ => {
                let text = error.to_string();
                let line = text.lines().next().unwrap_or_default();
                iter::once("failed: ")
                    .flat_map(str::chars)
                    .chain(line.chars().take(200))
                    .collect()
            }
        },
        HdfsError::FatalRPCError(class, _) => format!("refuses to speak: {}", exception(class)),
        _ => "sends what is not understood".to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_node_is_a_host_and_a_port() {
        for (name, expected) in [
            ("nn.example.org:8020", Some(("nn.example.org", 8020))),
            ("10.0.0.1:9000", Some(("10.0.0.1", 9000))),
            ("[fd00::1]:8020", Some(("fd00::1", 8020))),
            ("nn", None),
            ("nn:", None),
            ("nn:0", None),
            ("nn:70000", None),
            (":8020", None),
        ] {
            let who = Who::Simple("hdfs".to_owned());
            let node = NameNode::new(name, &who, &Reach::default(), Duration::ZERO).ok();
            let got = node.as_ref().map(|node| (node.place.host.as_str(), node.place.port));
            assert_eq!(got, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn what_panics_is_an_error() {
        let broken = async { panic!("of a lying server") };
        let answer: Result<(), _> = guarded(Duration::from_secs(5), broken).await;
        assert!(matches!(answer, Err(HdfsError::InternalError(_))));
    }
}
