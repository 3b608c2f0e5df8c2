//! A blocking connection of a client of the bench, with or without TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::Result;
use penstock_tls::Identity;
use rustls::{ClientConnection, StreamOwned};

/// What is spoken on.
pub trait ClientStream: Read + Write + Send {}

impl<T: Read + Write + Send> ClientStream for T {}

/// Connects, over TLS with an identity.
///
/// # Errors
/// When nobody listens.
pub fn connect(server: SocketAddr, identity: Option<&Identity>) -> Result<Box<dyn ClientStream>> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    Ok(match identity {
        None => Box::new(stream),
        Some(identity) => {
            let connection = ClientConnection::new(identity.client_config(), server.ip().into())?;
            Box::new(StreamOwned::new(connection, stream))
        }
    })
}
