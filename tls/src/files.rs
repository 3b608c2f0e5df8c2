//! The files of an identity.

use std::fs;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why a folder is no identity.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: {cause}; the folder needs tls.crt and tls.key (who this part is) and ca.crt (whom it trusts), in PEM, like a Secret of cert-manager",
    path.display()
)]
pub struct NoIdentity {
    path: PathBuf,
    cause: String,
}

pub(crate) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
}

/// The bytes of all of them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Vec<u8>,
}

type Parsed = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, RootCertStore);

impl Files {
    pub(crate) fn of(folder: &Path) -> Self {
        Self {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
            authority: folder.join("ca.crt"),
        }
    }

    pub(crate) fn read(&self) -> Result<Contents, NoIdentity> {
        let read = |path: &Path| fs::read(path).map_err(|error| no_identity(path, &error));
        Ok(Contents {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            authority: read(&self.authority)?,
        })
    }

    pub(crate) fn parsed(&self, contents: &Contents) -> Result<Parsed, NoIdentity> {
        let own = certificates(&self.certificate, &contents.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|error| no_identity(&self.key, &error))?;
        let mut authorities = RootCertStore::empty();
        for authority in certificates(&self.authority, &contents.authority)? {
            authorities
                .add(authority)
                .map_err(|error| no_identity(&self.authority, &error))?;
        }
        Ok((own, key, authorities))
    }

    /// Certificate and key do not work together.
    pub(crate) fn useless(&self, error: &rustls::Error) -> NoIdentity {
        no_identity(&self.certificate, error)
    }

    pub(crate) fn useless_authority(&self, error: &dyn std::error::Error) -> NoIdentity {
        no_identity(&self.authority, error)
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, NoIdentity> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if all.is_empty() => Err(NoIdentity {
            path: path.to_owned(),
            cause: "has no certificate".to_owned(),
        }),
        Ok(all) => Ok(all),
        Err(error) => Err(no_identity(path, &error)),
    }
}

fn no_identity(path: &Path, error: &dyn std::error::Error) -> NoIdentity {
    NoIdentity {
        path: path.to_owned(),
        cause: error.to_string(),
    }
}
