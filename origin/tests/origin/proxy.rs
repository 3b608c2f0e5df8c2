//! A proxy between a client and its server that does to connections what networks and overloaded servers do.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What becomes of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They pass.
    None,
    /// Connections are closed as soon as they are made.
    Refused,
    /// Each connection breaks off after so many bytes.
    CutAfter(usize),
    /// ... and sends no more, but stays.
    SilentAfter(usize),
    /// They pass, a little at a time.
    Trickle,
    /// Each request gets this instead of the server's answer (HTTP).
    Answer(&'static str),
}

/// The proxy; ends when dropped.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listening: JoinHandle<()>,
}

struct Shared {
    fault: Mutex<Fault>,
    connections: AtomicUsize,
}

impl Proxy {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            fault: Mutex::new(Fault::None),
            connections: AtomicUsize::new(0),
        });
        let for_each = shared.clone();
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                for_each.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(client, server, for_each.clone()));
            }
        });
        Self {
            address,
            shared,
            listening,
        }
    }

    /// From now on, for new connections.
    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = fault;
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Each connection ends with its first error, which is what it is for.
async fn serve(mut client: TcpStream, server: SocketAddr, shared: Arc<Shared>) {
    let fault = *shared.fault.lock().unwrap();
    match fault {
        Fault::Refused => {}
        Fault::Answer(text) => {
            let mut request = [0; 16 << 10];
            if client.read(&mut request).await.is_ok() {
                let _ = client.write_all(text.as_bytes()).await;
                let _ = client.shutdown().await;
            }
        }
        _ => {
            let Ok(server) = TcpStream::connect(server).await else {
                return;
            };
            let (mut from_client, to_client) = client.into_split();
            let (from_server, mut to_server) = server.into_split();
            let asking = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            answer(from_server, to_client, fault).await;
            asking.abort();
        }
    }
}

async fn answer(mut server: tokio::net::tcp::OwnedReadHalf, mut client: tokio::net::tcp::OwnedWriteHalf, fault: Fault) {
    let mut sent = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let most = match fault {
            Fault::CutAfter(after) => after - sent,
            Fault::SilentAfter(after) if after == sent => {
                // Until the client gives up and closes.
                std::future::pending::<()>().await;
                unreachable!("it never ends")
            }
            Fault::SilentAfter(after) => after - sent,
            Fault::Trickle => {
                tokio::time::sleep(Duration::from_millis(2)).await;
                700
            }
            _ => buffer.len(),
        };
        let most = most.min(buffer.len());
        if most == 0 {
            return;
        }
        let Ok(read @ 1..) = server.read(&mut buffer[..most]).await else {
            return;
        };
        if client.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        sent += read;
    }
}
