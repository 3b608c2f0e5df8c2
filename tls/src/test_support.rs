//! An authority that gives certificates to whoever asks.

use std::path::Path;
use std::{fs, io};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

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
        self.sign(named(names).map_err(io::Error::other)?, folder)
    }

    /// The same, of an identity that was good until the end of 2020.
    ///
    /// # Errors
    /// As that.
    pub fn identify_expired(&self, names: &[&str], folder: &Path) -> io::Result<()> {
        let mut parameters = named(names).map_err(io::Error::other)?;
        (parameters.not_before, parameters.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 12, 31));
        self.sign(parameters, folder)
    }

    /// The certificate by which others know it, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    fn sign(&self, parameters: CertificateParams, folder: &Path) -> io::Result<()> {
        let signed = || {
            let key = KeyPair::generate()?;
            Ok((parameters.signed_by(&key, &self.0)?, key))
        };
        let (certificate, key) = signed().map_err(|error: rcgen::Error| io::Error::other(error))?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("tls.crt"), certificate.pem())?;
        fs::write(folder.join("tls.key"), key.serialize_pem())?;
        fs::write(folder.join("ca.crt"), self.0.pem())
    }
}

fn named(names: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names)
}
