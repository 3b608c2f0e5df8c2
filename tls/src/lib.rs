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

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{AlertDescription, ClientConfig, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::files::Files;
pub use crate::files::NoIdentity;

/// How long files are believed before they are read again: certificates are renewed days before they end.
const BELIEVED: Duration = Duration::from_secs(60);

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

    /// The same, for tests, that reads its files again when they were read so long ago.
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

    /// Greets whoever has connected. Whoever calls it limits the time.
    ///
    /// # Errors
    /// When it does not speak TLS, or cannot prove that it belongs to us.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TcpStream, ServerConnection)> {
        let greeted = TlsAcceptor::from(self.server_config()).accept(stream).await?;
        Ok(greeted.into_inner())
    }

    /// Greets whom this end has connected to as `host:port`: its certificate is for that host. Whoever calls it limits the time.
    /// Whether the other end accepts us is known with its first answer: see [`refusal`].
    ///
    /// # Errors
    /// When it does not speak TLS, or is somebody else.
    pub async fn connect(&self, address: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host(address).to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(self.client_config()).connect(name, stream).await
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
        // Who resumes is not looked at again, for as long as it goes on to resume.
        server.send_tls13_tickets = 0;
        client.resumption = Resumption::disabled();
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

/// The host of a `host:port`.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    // An address of IPv6.
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// What the other end says of us when it ends a connection because it does not accept who we are; `None` for any other error.
pub fn refusal(error: &io::Error) -> Option<&'static str> {
    let error = error.get_ref()?.downcast_ref()?;
    match error {
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => Some("it has expired"),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => Some("there is none"),
        rustls::Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            Some("it is of an authority that is not in its ca.crt")
        }
        rustls::Error::AlertReceived(alert) if is_about_certificates(*alert) => Some("it is of no use"),
        _ => None,
    }
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_stands_before_the_port() {
        for (address, of) in [
            ("pool-0.pool:7070", "pool-0.pool"),
            ("10.0.0.1:7070", "10.0.0.1"),
            ("[fd00::1]:7070", "fd00::1"),
        ] {
            assert_eq!(host(address), of);
        }
    }
}
