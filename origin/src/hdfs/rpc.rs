//! The few messages of Hadoop's RPC with which a connection begins. It must not know what they are for.
//!
//! Source: RpcHeader.proto, IpcConnectionContext.proto, and of the frames the class ipc.Client of Hadoop 3.4.

use std::io;

use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt};

/// With what a connection begins: version 9, no class of service, SASL.
pub(super) const GREETING: [u8; 7] = [b'h', b'r', b'p', b'c', 9, 0, 0xdf];
/// Of what is said about who asks.
const SASL_CALL: i32 = -33;
const KIND_OF_MESSAGES: i32 = 2;

#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestHeader {
    #[prost(int32, optional, tag = "1")]
    kind: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    operation: Option<i32>,
    #[prost(sint32, required, tag = "3")]
    pub(super) call: i32,
    #[prost(bytes = "vec", required, tag = "4")]
    client: Vec<u8>,
    #[prost(sint32, optional, tag = "5")]
    retries: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResponseHeader {
    #[prost(uint32, required, tag = "1")]
    call: u32,
    /// 0 is success.
    #[prost(int32, required, tag = "2")]
    pub(super) status: i32,
    #[prost(string, optional, tag = "4")]
    pub(super) exception: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Sasl {
    #[prost(uint32, optional, tag = "1")]
    version: Option<u32>,
    #[prost(enumeration = "State", required, tag = "2")]
    pub(super) state: i32,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(super) token: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "4")]
    pub(super) ways: Vec<Way>,
}

/// A way to show who one is.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Way {
    #[prost(string, required, tag = "1")]
    pub(super) method: String,
    #[prost(string, required, tag = "2")]
    pub(super) mechanism: String,
    #[prost(string, optional, tag = "3")]
    pub(super) protocol: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(super) server: Option<String>,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub(super) challenge: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum State {
    Success = 0,
    Negotiate = 1,
    Initiate = 2,
    Challenge = 3,
    Response = 4,
    Wrap = 5,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ConnectionContext {
    #[prost(message, optional, tag = "2")]
    pub(super) user: Option<User>,
    #[prost(string, optional, tag = "3")]
    pub(super) protocol: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct User {
    #[prost(string, optional, tag = "1")]
    pub(super) effective: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) real: Option<String>,
}

impl Sasl {
    pub(super) fn new(state: State, token: Option<Vec<u8>>, ways: Vec<Way>) -> Self {
        Self {
            version: None,
            state: state.into(),
            token,
            ways,
        }
    }

    /// A frame of a client.
    pub(super) fn asked(&self) -> Vec<u8> {
        let header = RequestHeader {
            kind: Some(KIND_OF_MESSAGES),
            operation: Some(0),
            call: SASL_CALL,
            client: Vec::new(),
            retries: Some(-1),
        };
        frame(&header, self)
    }

    /// A frame of a server.
    pub(super) fn answered(&self) -> Vec<u8> {
        let header = ResponseHeader {
            call: SASL_CALL.cast_unsigned(),
            status: 0,
            exception: None,
        };
        frame(&header, self)
    }
}

/// A frame of two messages.
pub(super) fn frame(header: &impl Message, message: &impl Message) -> Vec<u8> {
    let content = [
        header.encode_length_delimited_to_vec(),
        message.encode_length_delimited_to_vec(),
    ]
    .concat();
    [&(content.len() as u32).to_be_bytes()[..], &content].concat()
}

/// The two messages of a frame.
pub(super) fn messages<H: Message + Default, M: Message + Default>(mut frame: &[u8]) -> io::Result<(H, M)> {
    let header = H::decode_length_delimited(&mut frame)?;
    Ok((header, M::decode_length_delimited(&mut frame)?))
}

/// The header of a frame, if the rest is nothing that is known.
pub(super) fn header<H: Message + Default>(mut frame: &[u8]) -> io::Result<H> {
    Ok(H::decode_length_delimited(&mut frame)?)
}

/// The next frame.
pub(super) async fn read_frame(from: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await? as usize;
    if length > bytes_max {
        return Err(io::Error::other("a frame is larger than any should be"));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame).await?;
    Ok(frame)
}
