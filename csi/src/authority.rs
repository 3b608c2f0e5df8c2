//! Lets the kubelet register the driver: a filter between its connection and the gRPC server that gives each request the
//! authority `localhost`.
//!
//! The kubelet's registration client dials the path of the socket, and gRPC for Go sends that path, percent-encoded, as
//! `:authority`. The HTTP/2 library below tonic refuses it as malformed with PROTOCOL_ERROR (RFC 9113 §8.3.1 asks for a
//! host), and no option turns that off. Only HEADERS frames are touched; everything else passes as it is.

use std::io;

use loona_hpack::{Decoder, Encoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;

/// What a client sends before its first frame (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
/// The default of SETTINGS_MAX_FRAME_SIZE, which the server does not raise.
const FRAME_BYTES_MAX: usize = 16 << 10;
/// Bytes that wait between the filter and the server.
const PIPE_BYTES: usize = 64 << 10;

const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The connection as the server should see it. Ends when either side does.
pub fn corrected(stream: UnixStream) -> DuplexStream {
    let (server, filter) = tokio::io::duplex(PIPE_BYTES);
    tokio::spawn(async move {
        let (mut from_client, mut to_client) = stream.into_split();
        let (mut from_server, mut to_server) = tokio::io::split(filter);
        let requests = async {
            let passed = pass_requests(&mut from_client, &mut to_server).await;
            // The server sees the end of its input, whatever the reason.
            to_server.shutdown().await.and(passed)
        };
        let answers = async {
            let copied = tokio::io::copy(&mut from_server, &mut to_client).await;
            to_client.shutdown().await.and(copied.map(drop))
        };
        let (requests, answers) = tokio::join!(requests, answers);
        if let Err(error) = requests.and(answers) {
            tracing::debug!(%error, "a connection of the kubelet ended");
        }
    });
    server
}

async fn pass_requests(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    from.read_exact(&mut preface).await?;
    to.write_all(&preface).await?;
    let (mut decoder, mut encoder) = (Decoder::new(), Encoder::new());
    let mut header = [0; FRAME_HEADER_BYTES];
    loop {
        match from.read_exact(&mut header).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is too long"));
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).await?;
        if header[3] == HEADERS {
            body = headers(&mut header, &body, &mut decoder, &mut encoder)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "headers that make no sense"))?;
        }
        to.write_all(&header).await?;
        to.write_all(&body).await?;
    }
}

/// The body of a HEADERS frame with the authority corrected; padding and priority, which mean nothing here, are dropped.
fn headers(
    header: &mut [u8; FRAME_HEADER_BYTES],
    body: &[u8],
    decoder: &mut Decoder<'_>,
    encoder: &mut Encoder<'_>,
) -> Option<Vec<u8>> {
    let flags = header[4];
    if flags & END_HEADERS == 0 {
        return None;
    }
    let (padding, mut block) = match flags & PADDED {
        0 => (0, body),
        _ => (usize::from(*body.first()?), &body[1..]),
    };
    if flags & PRIORITY != 0 {
        block = block.get(5..)?;
    }
    let block = block.get(..block.len().checked_sub(padding)?)?;
    let mut fields = decoder.decode(block).ok()?;
    for (name, value) in &mut fields {
        if name == b":authority" {
            *value = b"localhost".to_vec();
        }
    }
    let block = encoder.encode(fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
    header[..3].copy_from_slice(&u32::try_from(block.len()).ok()?.to_be_bytes()[1..]);
    header[4] = flags & !(PADDED | PRIORITY);
    Some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_authority_is_changed() {
        let fields: [(&[u8], &[u8]); 4] = [
            (b":method", b"POST"),
            (b":path", b"/pluginregistration.Registration/GetInfo"),
            (b":authority", b"%2Fvar%2Flib%2Fkubelet%2Fx.sock"),
            (b"te", b"trailers"),
        ];
        let block = Encoder::new().encode(fields);
        let padded = [&[2][..], &[0; 5], &block, &[0, 0]].concat();
        for (flags, body) in [(END_HEADERS, block.clone()), (END_HEADERS | PADDED | PRIORITY, padded)] {
            let mut header = [0, 0, 0, HEADERS, flags, 0, 0, 0, 1];
            let out = headers(&mut header, &body, &mut Decoder::new(), &mut Encoder::new()).unwrap();
            assert_eq!((usize::from(header[2]), header[4]), (out.len(), END_HEADERS));
            let mut expected = fields.map(|(name, value)| (name.to_vec(), value.to_vec()));
            expected[2].1 = b"localhost".to_vec();
            assert_eq!(Decoder::new().decode(&out).unwrap(), expected);
        }
    }

    #[test]
    fn cut_headers_are_refused_and_never_panic() {
        for length in 0..8 {
            let mut header = [0, 0, length, HEADERS, END_HEADERS | PADDED | PRIORITY, 0, 0, 0, 1];
            let _ = headers(
                &mut header,
                &vec![0xff; length.into()],
                &mut Decoder::new(),
                &mut Encoder::new(),
            );
        }
    }
}
