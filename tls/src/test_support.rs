//! An authority that gives certificates to whoever asks.

use std::path::Path;
use std::{fs, io};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// The authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one, which nobody trusts yet.
    ///
    /// # Errors
    /// When there is no key to be had.
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?))
    }

    /// Writes an identity for these names and addresses to a folder.
    ///
    /// # Errors
    /// When a name is none, or the folder cannot be written.
    pub fn identify(&self, names: &[&str], folder: &Path) -> io::Result<()> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let signed = || {
            let key = KeyPair::generate()?;
            Ok((CertificateParams::new(names)?.signed_by(&key, &self.0)?, key))
        };
        let (certificate, key) = signed().map_err(|error: rcgen::Error| io::Error::other(error))?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("tls.crt"), certificate.pem())?;
        fs::write(folder.join("tls.key"), key.serialize_pem())?;
        fs::write(folder.join("ca.crt"), self.0.pem())
    }
}
