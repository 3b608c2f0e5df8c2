//! Shows a NameNode who asks, by Kerberos, and is shown who it is. It must not know what is asked after that.
//!
//! A NameNode says first which ways there are, and which service it is. One that takes everybody at his word is not spoken to: it
//! would read as whom it was told, and its owner meant something else. The service must be on the host that the source names, unless
//! it names an address: else whoever has any key of the realm could pass itself off as the NameNode. For the same reason it may be
//! none that is well known for something else, as a web server of that host. What NameNodes are called is up to each site
//! (`dfs.namenode.kerberos.principal`), so there is no list of what they may be.

use std::io;
use std::net::IpAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::rpc::{self, ResponseHeader, Sasl, State, Way};
use crate::kerberos::{self, Context, Identity, Layer};
use crate::limits::{RPC_FRAME_BYTES_MAX, SASL_FRAME_BYTES_MAX};

/// What of messages the NameNode offers (RFC 4752): as they are, signed, encrypted.
const PLAIN: u8 = 1;
const SIGNED: u8 = 2;
const SEALED: u8 = 4;
/// How long what is sent may be, in its three bytes.
const LENGTH_MAX: [u8; 3] = [0xff; 3];

/// What is no NameNode, in lower case: services of machines and of Kerberos itself, and those of Hadoop that have names of their own.
const OTHERS: [&str; 25] = [
    "http",
    "host",
    "restrictedkrbhost",
    "krbtgt",
    "kadmin",
    "kiprop",
    "ldap",
    "gc",
    "dns",
    "cifs",
    "nfs",
    "smtp",
    "imap",
    "postgres",
    "mssqlsvc",
    "termsrv",
    "wsman",
    "dn",
    "jn",
    "yarn",
    "mapred",
    "hive",
    "hbase",
    "zookeeper",
    "kafka",
];
/// No name of DNS is longer.
const NAME_BYTES_MAX: usize = 255;

/// A connection on which it is settled who speaks.
pub(super) struct Session {
    pub(super) stream: TcpStream,
    /// None when messages are sent as they are.
    pub(super) kept: Option<(Context, Layer)>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum Failed {
    /// The connection broke.
    Broken(io::Error),
    /// It is something with this NameNode; the rest of a sentence that begins with its name.
    Node(String),
    /// It would be the same with every NameNode.
    Identity(kerberos::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl From<kerberos::Error> for Failed {
    fn from(error: kerberos::Error) -> Self {
        match error {
            kerberos::Error::NoService(_) => Self::Node(format!("is not known: {error}")),
            kerberos::Error::Service(_) => Self::Node(format!("cannot be asked: {error}")),
            error => Self::Identity(error),
        }
    }
}

/// Settles it on a new connection with the NameNode of `host`. KDCs that are silent are left before `until`.
pub(super) async fn session(
    mut stream: TcpStream,
    host: &str,
    identity: &Identity,
    until: Instant,
) -> Result<Session, Failed> {
    stream.set_nodelay(true)?;
    let hello = Sasl::new(State::Negotiate, None, Vec::new());
    stream.write_all(&[&rpc::GREETING[..], &hello.asked()].concat()).await?;
    let offered = answer(&mut stream).await?;
    if offered.state() != State::Negotiate {
        return Err(odd());
    }
    let way = kerberos_of(offered.ways)?;
    let (protocol, server) = service(&way, host)?;
    let (mut context, token) = identity.context(protocol, server, until).await?;
    let way = Way {
        challenge: None,
        ..way.clone()
    };
    let begun = Sasl::new(State::Initiate, Some(token), vec![way]);
    stream.write_all(&begun.asked()).await?;

    let token = challenge(&mut stream).await?;
    context.accept(&token).map_err(of_node)?;
    respond(&mut stream, Vec::new()).await?;

    let token = challenge(&mut stream).await?;
    let offered = context.unwrap(Layer::Signed, &token).map_err(of_node)?;
    let (chosen, layer) = layer(&offered)?;
    let lengths = if layer.is_some() { LENGTH_MAX } else { [0; 3] };
    let wanted = [&[chosen][..], &lengths].concat();
    let token = context.wrap(Layer::Signed, &wanted).map_err(of_node)?;
    respond(&mut stream, token).await?;

    if answer(&mut stream).await?.state() != State::Success {
        return Err(odd());
    }
    Ok(Session {
        stream,
        kept: layer.map(|layer| (context, layer)),
    })
}

impl Session {
    /// A message as it is sent.
    pub(super) fn wrapped(context: &mut Context, layer: Layer, message: &[u8]) -> io::Result<Vec<u8>> {
        let token = context.wrap(layer, message).map_err(io::Error::other)?;
        Ok(Sasl::new(State::Wrap, Some(token), Vec::new()).asked())
    }

    /// What is in a frame that came.
    pub(super) fn unwrapped(context: &mut Context, layer: Layer, frame: &[u8]) -> io::Result<Vec<u8>> {
        let (_, sasl): (ResponseHeader, Sasl) = rpc::messages(frame)?;
        if sasl.state() != State::Wrap {
            return Err(io::Error::other("it answers as nobody should hear it"));
        }
        context
            .unwrap(layer, &sasl.token.unwrap_or_default())
            .map_err(io::Error::other)
    }
}

fn kerberos_of(ways: Vec<Way>) -> Result<Way, Failed> {
    let is_simple = ways.iter().any(|way| way.method == "SIMPLE");
    let way = ways
        .into_iter()
        .find(|way| way.method == "KERBEROS" && way.mechanism == "GSSAPI");
    way.ok_or_else(|| {
        Failed::Node(if is_simple {
            "takes everybody at his word and knows no Kerberos; take credentialsSecretRef away from the source and set `user`, or have \
             the NameNode want Kerberos"
                .to_owned()
        } else {
            "offers no Kerberos".to_owned()
        })
    })
}

/// The strongest of what is offered, as everybody chooses it.
fn layer(offered: &[u8]) -> Result<(u8, Option<Layer>), Failed> {
    let [layers, _, _, _] = offered else {
        return Err(odd());
    };
    match layers {
        layers if layers & SEALED != 0 => Ok((SEALED, Some(Layer::Sealed))),
        layers if layers & SIGNED != 0 => Ok((SIGNED, Some(Layer::Signed))),
        layers if layers & PLAIN != 0 => Ok((PLAIN, None)),
        _ => Err(odd()),
    }
}

/// Which service the NameNode of `host` says that it is.
fn service<'a>(way: &'a Way, host: &str) -> Result<(&'a str, &'a str), Failed> {
    let protocol = way.protocol.as_deref().unwrap_or_default();
    let server = way.server.as_deref().unwrap_or_default();
    let is_name = |name: &str| {
        (1..=NAME_BYTES_MAX).contains(&name.len())
            && name
                .chars()
                .all(|c| c.is_ascii_graphic() && !matches!(c, '/' | '@' | '\\'))
    };
    if !is_name(protocol) || !is_name(server) {
        return Err(Failed::Node(
            "does not say which service of which host it is; check dfs.namenode.kerberos.principal".to_owned(),
        ));
    }
    if OTHERS.contains(&protocol.to_ascii_lowercase().as_str()) {
        return Err(Failed::Node(format!(
            "says that it is {protocol}/{server}, which is no name node's principal; check nameNodes, and give name nodes a principal \
             as hdfs/{server} if that is theirs"
        )));
    }
    if !is_on(server, host) {
        return Err(Failed::Node(format!(
            "says that it is {protocol}/{server}; name it by that host in nameNodes, or by its address"
        )));
    }
    Ok((protocol, server))
}

/// Whether a service that is on `server` may be behind the name of `host`. A short name stands for no longer one: every domain has some
/// host of that name.
fn is_on(server: &str, host: &str) -> bool {
    host.parse::<IpAddr>().is_ok() || server.eq_ignore_ascii_case(host.trim_end_matches('.'))
}

async fn challenge(stream: &mut TcpStream) -> Result<Vec<u8>, Failed> {
    let sasl = answer(stream).await?;
    if sasl.state() != State::Challenge {
        return Err(odd());
    }
    sasl.token.ok_or_else(odd)
}

async fn respond(stream: &mut TcpStream, token: Vec<u8>) -> io::Result<()> {
    let response = Sasl::new(State::Response, Some(token), Vec::new());
    stream.write_all(&response.asked()).await
}

async fn answer(stream: &mut TcpStream) -> Result<Sasl, Failed> {
    let frame = rpc::read_frame(stream, SASL_FRAME_BYTES_MAX).await?;
    let header: ResponseHeader = rpc::header(&frame)?;
    if header.status != 0 {
        let exception = header.exception.unwrap_or_default();
        return Err(Failed::Node(format!(
            "refuses the ticket ({}); check its clock and its own keytab, its log says why",
            super::name_nodes::exception(&exception)
        )));
    }
    let (_, sasl): (ResponseHeader, Sasl) = rpc::messages(&frame)?;
    Ok(sasl)
}

fn odd() -> Failed {
    Failed::Node("answers as no NameNode with Kerberos does".to_owned())
}

fn of_node(error: kerberos::Error) -> Failed {
    Failed::Node(format!("does not show who it is: {error}"))
}

/// The largest frame of a NameNode.
pub(super) const FRAME_BYTES_MAX: usize = RPC_FRAME_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_on_the_host_that_was_named() {
        for (server, host, expected) in [
            ("nn1.a.org", "nn1.a.org", true),
            ("NN1.a.org", "nn1.A.org.", true),
            ("nn1", "nn1", true),
            ("nn1.a.org", "nn1", false),
            ("nn1.evil.org", "nn1", false),
            ("nn1.a.org", "10.0.0.1", true),
            ("nn1.a.org", "fd00::1", true),
            ("nn1.a.org", "nn", false),
            ("nn1.a.org", "nn2.a.org", false),
            ("nn1.a.org.evil.org", "nn1.a.org", false),
            ("evil.org", "nn1", false),
            ("", "nn1", false),
        ] {
            assert_eq!(is_on(server, host), expected, "{server} {host}");
        }
    }

    #[test]
    fn a_service_that_is_no_name_node_is_refused_also_by_an_address() {
        let said = |protocol: &str, server: &str| Way {
            protocol: Some(protocol.to_owned()),
            server: Some(server.to_owned()),
            ..Way::default()
        };
        for protocol in ["nn", "hdfs", "hadoop-prod"] {
            let way = said(protocol, "nn1.a.org");
            assert_eq!(service(&way, "10.0.0.1").unwrap(), (protocol, "nn1.a.org"));
        }
        let long = "n".repeat(256);
        for (protocol, server, says) in [
            ("HTTP", "nn1.a.org", "is no name node's principal"),
            ("http", "nn1.a.org", "is no name node's principal"),
            ("host", "nn1.a.org", "is no name node's principal"),
            ("krbtgt", "A.ORG", "is no name node's principal"),
            ("hdfs", "é.a.org", "does not say which service"),
            ("hdfs", &long, "does not say which service"),
            ("hdfs", "", "does not say which service"),
            ("", "nn1.a.org", "does not say which service"),
        ] {
            let failed = service(&said(protocol, server), "10.0.0.1").unwrap_err();
            assert!(
                matches!(&failed, Failed::Node(text) if text.contains(says)),
                "{failed:?}"
            );
        }
        let failed = service(&said("nn", "nn2.a.org"), "nn1.a.org").unwrap_err();
        assert!(
            matches!(&failed, Failed::Node(text) if text.contains("name it by that host")),
            "{failed:?}"
        );
    }

    #[test]
    fn only_kerberos_is_taken_and_the_strongest_layer() {
        let way = |method: &str, mechanism: &str| Way {
            method: method.to_owned(),
            mechanism: mechanism.to_owned(),
            ..Way::default()
        };
        let token = || way("TOKEN", "DIGEST-MD5");
        let kerberos = || way("KERBEROS", "GSSAPI");
        assert_eq!(kerberos_of(vec![token(), kerberos()]).unwrap(), kerberos());
        assert_eq!(kerberos_of(vec![way("SIMPLE", ""), kerberos()]).unwrap(), kerberos());
        for (ways, says) in [
            (vec![way("SIMPLE", "")], "takes everybody at his word"),
            (vec![token()], "offers no Kerberos"),
        ] {
            let failed = kerberos_of(ways).unwrap_err();
            assert!(
                matches!(&failed, Failed::Node(text) if text.contains(says)),
                "{failed:?}"
            );
        }
        for (layers, expected) in [(7, 4), (3, 2), (1, 1), (5, 4)] {
            assert_eq!(layer(&[layers, 1, 2, 3]).unwrap().0, expected);
        }
        assert!(layer(&[0, 1, 2, 3]).is_err() && layer(&[7]).is_err());
    }
}
