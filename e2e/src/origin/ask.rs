//! One request to a server, so that tests can put, change and delete what it has. In HTTP/1.0, where an answer ends with its
//! connection; it must not know what the servers are.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

/// Far more than a server on this machine needs.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(60);

/// All but what no server could mean otherwise, RFC 3986 section 2.3.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A name as it is written in a query or as one part of a path.
pub(super) fn escaped(name: &str) -> PercentEncode<'_> {
    utf8_percent_encode(name, ESCAPED)
}

/// A name whose slashes part folders, as it is written in a path.
pub(super) fn escaped_path(name: &str) -> String {
    let parts: Vec<String> = name.split('/').map(|part| escaped(part).to_string()).collect();
    parts.join("/")
}

/// Sends a request with these header lines, and gives the body of the answer.
///
/// # Errors
/// When there is no answer, or one other than 2xx; with what it says.
pub(super) fn ask(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Vec<u8>> {
    let what = || format!("{method} {target} of {address}");
    let mut server = TcpStream::connect(address).with_context(what)?;
    server.set_read_timeout(Some(ANSWER_SECONDS_MAX))?;
    let mut head = format!("{method} {target} HTTP/1.0\r\nHost: {address}\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    server.write_all(head.as_bytes()).with_context(what)?;
    server.write_all(body).with_context(what)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).with_context(what)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = answer.split_off(end.with_context(what)? + 4);
    let head = String::from_utf8_lossy(&answer);
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(
        status.starts_with('2'),
        "{}: {head}{}",
        what(),
        String::from_utf8_lossy(&body)
    );
    Ok(body)
}
