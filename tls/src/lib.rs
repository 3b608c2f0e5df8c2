//! TLS between the parts of Penstock: each proves who it is with a certificate of one authority, and accepts whoever can do so
//! too.
//!
//! TLS 1.3 only, AES-128 first: with it one core seals what it can copy. Must not know what is said on a connection.

mod files;
#[cfg(feature = "test-support")]
pub mod test_support;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::files::Files;
pub use crate::files::NoIdentity;

/// How long two parts may take to greet each other: a round trip and two signatures, on a node that is very busy.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// How long files are believed before they are read again: certificates are renewed days before they end.
const BELIEVED: Duration = Duration::from_secs(60);

/// What is spoken below: a certificate of ours does not open a connection of another protocol.
const PROTOCOL: &[u8] = b"penstock-bulk";

/// Who a part is, and whom it trusts; as it lies in a folder, also after that was renewed.
pub struct Identity {
    files: Files,
    believed: Duration,
    current: Mutex<Current>,
}

struct Current {
    read: Instant,
    configs: Configs,
}

#[derive(Clone)]
struct Configs {
    of: files::Contents,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Identity {
    /// The identity in a folder with `tls.crt`, `tls.key` and `ca.crt` in PEM: the volume of a Secret that cert-manager wrote.
    ///
    /// # Errors
    /// When one of them is missing or of no use.
    pub fn open(folder: &Path) -> Result<Arc<Self>, NoIdentity> {
        Self::believing(folder, BELIEVED)
    }

    /// The same that reads its files again when they were read so long ago.
    ///
    /// # Errors
    /// Those of [`Identity::open`].
    pub fn believing(folder: &Path, believed: Duration) -> Result<Arc<Self>, NoIdentity> {
        let files = Files::of(folder);
        let current = Current {
            read: Instant::now(),
            configs: Configs::read(&files)?,
        };
        Ok(Arc::new(Self {
            files,
            believed,
            current: Mutex::new(current),
        }))
    }

    /// Greets whoever has connected.
    ///
    /// # Errors
    /// When it does not speak TLS, or cannot prove that it belongs to us.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TcpStream, ServerConnection)> {
        let accepting = TlsAcceptor::from(self.server_config()).accept(stream);
        Ok(in_time(accepting).await?.into_inner())
    }

    /// Greets whom this end has connected to as `host:port`: its certificate is for that host.
    ///
    /// # Errors
    /// When it does not speak TLS, is somebody else, or does not accept us.
    pub async fn connect(&self, address: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        in_time(TlsConnector::from(self.client_config()).connect(name, stream)).await
    }

    /// For whoever connects in its own way.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.configs().client
    }

    /// For whoever accepts in its own way.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.configs().server
    }

    /// Those of the files, as they were not long ago.
    fn configs(&self) -> Configs {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.read.elapsed() >= self.believed {
            current.read = Instant::now();
            match Configs::renewed(&self.files, &current.configs) {
                Ok(configs) => current.configs = configs,
                // Half of them may be new, and the rest soon.
                Err(error) => tracing::warn!(%error, "read a renewed certificate; the one before is used"),
            }
        }
        current.configs.clone()
    }
}

impl Configs {
    fn read(files: &Files) -> Result<Self, NoIdentity> {
        Self::of(files, files.read()?)
    }

    /// The same when the files are: they remember who has been here.
    fn renewed(files: &Files, before: &Self) -> Result<Self, NoIdentity> {
        let contents = files.read()?;
        if contents == before.of {
            return Ok(before.clone());
        }
        Self::of(files, contents)
    }

    fn of(files: &Files, contents: files::Contents) -> Result<Self, NoIdentity> {
        let (own, key, authorities) = files.parsed(&contents)?;
        let (provider, authorities) = (Arc::new(provider()), Arc::new(authorities));
        let verifier = WebPkiClientVerifier::builder_with_provider(authorities.clone(), provider.clone())
            .build()
            .map_err(|error| files.useless_authority(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| files.useless(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(own.clone(), key.clone_key())
            .map_err(|error| files.useless(&error))?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| files.useless(&error))?
            .with_root_certificates(authorities)
            .with_client_auth_cert(own, key)
            .map_err(|error| files.useless(&error))?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self {
            of: contents,
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }
}

fn provider() -> CryptoProvider {
    use ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    }
}

async fn in_time<T>(greeting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let greeted = timeout(HANDSHAKE_MAX, greeting).await;
    greeted.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the other end said nothing of TLS in time",
        ))
    })
}
