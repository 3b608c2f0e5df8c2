//! Lends hdfs-native connections on which a NameNode knows who asks.
//!
//! hdfs-native speaks to NameNodes by sockets that it opens itself, and for Kerberos calls a library that a static program cannot load.
//! So it is sent to a port of the machine that only this process knows how to use: whoever connects there says a word that is new for
//! each relay. What it sends goes on over a connection that `sasl` has made, signed or encrypted where the NameNode wants that. It
//! goes without Kerberos to DataNodes: they want the tokens that the NameNode gave, which it knows by itself.
//!
//! *Guarantees*: nothing of what hdfs-native sends reaches a NameNode that has not shown who it is.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::rpc::{self, ConnectionContext, RequestHeader, Sasl, State, User, Way};
use super::sasl::{FRAME_BYTES_MAX, Failed, Session};
use crate::limits::{CONNECT_MAX, RELAY_PIECE_BYTES, SASL_FRAME_BYTES_MAX};

/// Makes another connection with the NameNode.
pub(super) trait Connects: Send + Sync + 'static {
    /// One on which it is settled who asks.
    fn connect(&self) -> impl Future<Output = Result<Session, Failed>> + Send;
    /// As whom the NameNode is asked.
    fn principal(&self) -> String;
}

/// A port to which hdfs-native connects. Connections that it lent stay when it goes. It must not go before the last client that may
/// connect there: the port could be somebody else's by then.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    /// What is said there as the name of the user.
    pub(super) word: String,
    accepting: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Relay {
    /// Lends this connection first, and new ones after that.
    pub(super) async fn new(first: Session, others: Arc<impl Connects>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let word = format!("{:032x}", rand::random::<u128>());
        let said = word.clone();
        let first = Mutex::new(Some(first));
        let accepting = tokio::spawn(async move {
            let first = Arc::new(first);
            while let Ok((local, _)) = listener.accept().await {
                let (first, others, word) = (first.clone(), others.clone(), said.clone());
                tokio::spawn(async move {
                    if let Err(error) = lend(local, &word, &first, &*others).await {
                        tracing::debug!(%error, "a connection with a NameNode ended");
                    }
                });
            }
        });
        Ok(Self {
            address,
            word,
            accepting,
        })
    }
}

async fn lend(
    mut local: TcpStream,
    word: &str,
    first: &Mutex<Option<Session>>,
    others: &impl Connects,
) -> io::Result<()> {
    local.set_nodelay(true)?;
    let said = timeout(CONNECT_MAX, greeted(&mut local, word));
    let (header, mut context) = said.await.map_err(|_| io::ErrorKind::TimedOut)??;
    let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
    let session = match first {
        Some(session) => session,
        None => others.connect().await.map_err(|failed| match failed {
            Failed::Broken(error) => error,
            failed => io::Error::other(format!("{failed:?}")),
        })?,
    };
    // As Hadoop's own clients say it: a name that is not the principal's would ask to act for somebody else.
    context.user = Some(User {
        effective: Some(others.principal()),
        real: None,
    });
    let begun = rpc::frame(&header, &context);
    let Session { mut stream, kept } = session;
    // In both cases either end ends it: hdfs-native goes away without a word from a NameNode that is silent.
    let Some((mut context, layer)) = kept else {
        stream.write_all(&begun).await?;
        let (mut from_node, mut to_node) = stream.split();
        let (mut from_local, mut to_local) = local.split();
        return tokio::select! {
            ended = copy(&mut from_local, &mut to_node) => ended.map(drop),
            ended = copy(&mut from_node, &mut to_local) => ended.map(drop),
        };
    };
    stream
        .write_all(&Session::wrapped(&mut context, layer, &begun)?)
        .await?;
    let context = Mutex::new(context);
    let locked = || context.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut from_node, mut to_node) = stream.split();
    let (mut from_local, mut to_local) = local.split();
    let asks = async {
        let mut piece = vec![0; RELAY_PIECE_BYTES];
        loop {
            let length = from_local.read(&mut piece).await?;
            if length == 0 {
                return Ok(());
            }
            let frame = Session::wrapped(&mut locked(), layer, &piece[..length])?;
            to_node.write_all(&frame).await?;
        }
    };
    let answers = async {
        loop {
            let frame = rpc::read_frame(&mut from_node, FRAME_BYTES_MAX).await?;
            let message = Session::unwrapped(&mut locked(), layer, &frame)?;
            to_local.write_all(&message).await?;
        }
    };
    tokio::select! {
        ended = asks => ended,
        ended = answers => ended,
    }
}

/// Who connects is told that nothing has to be shown here, and says the word.
async fn greeted(local: &mut TcpStream, word: &str) -> io::Result<(RequestHeader, ConnectionContext)> {
    let stranger = || io::Error::other("somebody else connected");
    let mut greeting = [0; rpc::GREETING.len()];
    local.read_exact(&mut greeting).await?;
    let (_, asked): (RequestHeader, Sasl) = rpc::messages(&rpc::read_frame(local, SASL_FRAME_BYTES_MAX).await?)?;
    if greeting != rpc::GREETING || asked.state() != State::Negotiate {
        return Err(stranger());
    }
    let way = Way {
        method: "SIMPLE".to_owned(),
        ..Way::default()
    };
    let offered = Sasl::new(State::Negotiate, None, vec![way]);
    local.write_all(&offered.answered()).await?;
    let (_, begun): (RequestHeader, Sasl) = rpc::messages(&rpc::read_frame(local, SASL_FRAME_BYTES_MAX).await?)?;
    let frame = rpc::read_frame(local, SASL_FRAME_BYTES_MAX).await?;
    let (header, context): (RequestHeader, ConnectionContext) = rpc::messages(&frame)?;
    let said = context.user.as_ref().and_then(|user| user.effective.as_deref());
    if begun.state() != State::Initiate || said != Some(word) {
        return Err(stranger());
    }
    Ok((header, context))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Connects for Nobody {
        async fn connect(&self) -> Result<Session, Failed> {
            Err(io::Error::other("there is one connection").into())
        }

        fn principal(&self) -> String {
            "reader@A.ORG".to_owned()
        }
    }

    /// Both ends of a connection that was lent.
    async fn lent() -> (Relay, TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut node, _) = listener.accept().await.unwrap();
        let relay = Relay::new(Session { stream, kept: None }, Arc::new(Nobody))
            .await
            .unwrap();
        let mut local = TcpStream::connect(relay.address).await.unwrap();
        let hello = Sasl::new(State::Negotiate, None, Vec::new()).asked();
        let begins = Sasl::new(State::Initiate, None, Vec::new()).asked();
        let context = ConnectionContext {
            user: Some(User {
                effective: Some(relay.word.clone()),
                real: None,
            }),
            protocol: None,
        };
        let context = rpc::frame(&RequestHeader::default(), &context);
        let said = [&rpc::GREETING[..], &hello, &begins, &context].concat();
        local.write_all(&said).await.unwrap();
        rpc::read_frame(&mut local, SASL_FRAME_BYTES_MAX).await.unwrap();
        let frame = rpc::read_frame(&mut node, SASL_FRAME_BYTES_MAX).await.unwrap();
        let (_, context): (RequestHeader, ConnectionContext) = rpc::messages(&frame).unwrap();
        assert_eq!(context.user.unwrap().effective.as_deref(), Some("reader@A.ORG"));
        (relay, local, node)
    }

    async fn is_over(stream: &mut TcpStream) -> bool {
        let mut piece = [0];
        let read = timeout(CONNECT_MAX, stream.read(&mut piece)).await;
        matches!(read, Ok(Ok(0)))
    }

    #[tokio::test]
    async fn either_end_ends_a_connection_that_was_lent() {
        // The NameNode holds its end open and says nothing.
        let (_relay, mut local, mut node) = lent().await;
        local.shutdown().await.unwrap();
        assert!(is_over(&mut local).await && is_over(&mut node).await);

        let (_relay, mut local, mut node) = lent().await;
        node.shutdown().await.unwrap();
        assert!(is_over(&mut node).await && is_over(&mut local).await);
    }
}
