//! A lane: one connection to a cache node with one request at a time. Whoever drops it in the middle of an answer closes it.
//!
//! A peer that is silent is slow or hung, and only another connection tells which. The lane asks for that and does not know
//! how it is found out.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use penstock_protocol::frame::{FrameError, HEADER_BYTES, Header, Kind, TEXT_BYTES_MAX};
use penstock_tls::Identity;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::limits::{ANSWER_MAX, BODY_SILENCE_MAX, CONNECT_MAX, GREETING_MAX, SILENCE_BEFORE_PROBE};
use crate::probe::Verdict;

/// The id of a refusal that is about the connection: the peer could not read the request. Requests begin at 1.
const CONNECTION_ID: u64 = 0;

/// Begins to find out whether the peer at an address still answers.
pub(crate) type Doubt = Box<dyn Fn(SocketAddr) -> Verdict + Send + Sync>;

pub(crate) struct Lane {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    peer: SocketAddr,
    /// `None` when whoever uses the lane limits its time.
    doubt: Option<Doubt>,
    next_id: u64,
}

/// Why a lane is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error(
        "its greeting of TLS failed: {0}; it needs --tls with a certificate for this name, of the authority in our ca.crt"
    )]
    Greeting(io::Error),
    #[error("it does not accept our certificate: {0}; look at the folder of --tls")]
    NotAccepted(&'static str),
    #[error("the connection broke: {0}")]
    Closed(io::Error),
    #[error("no answer in time")]
    Late,
    #[error("no answer, and {0}")]
    Hung(String),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the peer sent {0}")]
    Nonsense(&'static str),
    /// The peer's own words about the connection, for example that it does not speak our version.
    #[error("{0}")]
    Refused(String),
}

impl LaneError {
    fn closed(error: io::Error) -> Self {
        penstock_tls::refusal(&error).map_or(Self::Closed(error), Self::NotAccepted)
    }
}

impl Lane {
    /// Connects to a member of the ring at an address, over TLS with an identity.
    pub(crate) async fn connect(
        (member, address): (&str, &str),
        identity: Option<&Identity>,
        doubt: Option<Doubt>,
    ) -> Result<Self, LaneError> {
        let connecting = timeout(CONNECT_MAX, TcpStream::connect(address));
        let stream = connecting
            .await
            .map_err(|_| LaneError::Late)?
            .map_err(LaneError::Connect)?;
        stream.set_nodelay(true).map_err(LaneError::Connect)?;
        let peer = stream.peer_addr().map_err(LaneError::Connect)?;
        let stream = match identity {
            None => Either::Left(stream),
            Some(identity) => {
                let greeted = timeout(GREETING_MAX, identity.connect(member, stream)).await;
                let greeted = greeted.map_err(|_| LaneError::Late)?;
                Either::Right(Box::new(greeted.map_err(LaneError::Greeting)?))
            }
        };
        Ok(Self {
            stream,
            peer,
            doubt,
            next_id: CONNECTION_ID + 1,
        })
    }

    /// Sends a request and returns the header of its answer.
    pub(crate) async fn ask(&mut self, request: &Header) -> Result<Header, LaneError> {
        let request = Header {
            request_id: self.next_id,
            ..*request
        };
        self.next_id += 1;
        self.stream
            .write_all(&request.encode())
            .await
            .map_err(LaneError::closed)?;
        self.stream.flush().await.map_err(LaneError::closed)?;
        let mut bytes = [0; HEADER_BYTES];
        self.fill(&mut bytes, ANSWER_MAX).await?;
        let reply = Header::decode(&bytes)?;
        if reply.kind == Kind::Error && reply.request_id == CONNECTION_ID {
            return Err(LaneError::Refused(self.text(reply.length).await?));
        }
        let same = reply.request_id == request.request_id
            && reply.address == request.address
            && reply.revision == request.revision;
        if same {
            Ok(reply)
        } else {
            Err(LaneError::Nonsense("an answer to something else"))
        }
    }

    /// Reads the next bytes of an answer.
    pub(crate) async fn body(&mut self, into: &mut [u8]) -> Result<(), LaneError> {
        self.fill(into, BODY_SILENCE_MAX).await
    }

    /// Reads the text of an error.
    pub(crate) async fn text(&mut self, length: u32) -> Result<String, LaneError> {
        if length > TEXT_BYTES_MAX {
            return Err(LaneError::Nonsense("a text that is too long"));
        }
        let mut bytes = vec![0; length as usize];
        self.body(&mut bytes).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn fill(&mut self, into: &mut [u8], silence_max: Duration) -> Result<(), LaneError> {
        let mut rest = into;
        while !rest.is_empty() {
            let got = self.hear(rest, silence_max).await?;
            if got == 0 {
                return Err(LaneError::Closed(io::ErrorKind::UnexpectedEof.into()));
            }
            rest = &mut rest[got..];
        }
        Ok(())
    }

    /// Waits for bytes as long as the peer answers probes, at most `silence_max`.
    async fn hear(&mut self, into: &mut [u8], silence_max: Duration) -> Result<usize, LaneError> {
        let silent_since = Instant::now();
        let mut reading = pin!(self.stream.read(into));
        while silent_since.elapsed() < silence_max {
            if let Ok(read) = timeout(SILENCE_BEFORE_PROBE, &mut reading).await {
                return read.map_err(LaneError::closed);
            }
            let Some(doubt) = &self.doubt else { continue };
            let verdict = doubt(self.peer);
            tokio::select! {
                biased;
                read = &mut reading => return read.map_err(LaneError::closed),
                said = verdict.wait() => said.map_err(LaneError::Hung)?,
            }
        }
        Err(LaneError::Late)
    }
}
