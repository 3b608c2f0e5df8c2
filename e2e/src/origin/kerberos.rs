//! A realm of Kerberos: MIT's own KDC, from Debian, in a folder of its own.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};

use super::{Running, free_address_on, listening};

/// A running KDC, ended when dropped.
pub struct Realm {
    /// Its name.
    pub name: String,
    /// Where it listens, for TCP.
    pub kdc: SocketAddr,
    folder: tempfile::TempDir,
    keytabs: AtomicU64,
    _process: Running,
}

impl Realm {
    /// With this name on any address of the machine; without a principal yet.
    ///
    /// # Errors
    /// When it does not start.
    pub fn on(ip: IpAddr, name: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (kdc, own) = (free_address_on(ip)?, folder.path().display());
        std::fs::write(
            folder.path().join("krb5.conf"),
            format!(
                "[libdefaults]\n default_realm = {name}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n rdns = false\n \
                 udp_preference_limit = 1\n[realms]\n {name} = {{\n  kdc = {kdc}\n }}\n"
            ),
        )?;
        std::fs::write(
            folder.path().join("kdc.conf"),
            format!(
                "[kdcdefaults]\n kdc_listen = \"\"\n kdc_tcp_listen = {kdc}\n[realms]\n {name} = {{\n  database_name = {own}/principal\n  \
                 key_stash_file = {own}/stash\n  acl_file = {own}/acl\n  supported_enctypes = aes256-cts:normal aes128-cts:normal\n \
                 default_principal_flags = +preauth\n }}\n[logging]\n kdc = FILE:{own}/log\n"
            ),
        )?;
        let realm = |program: &str| {
            let mut command = Command::new(program);
            command
                .env("KRB5_CONFIG", folder.path().join("krb5.conf"))
                .env("KRB5_KDC_PROFILE", folder.path().join("kdc.conf"))
                .args(["-r", name]);
            command
        };
        succeeds(realm("/usr/sbin/kdb5_util").args(["create", "-s", "-P", "of nobody"]))?;
        let process = realm("/usr/sbin/krb5kdc")
            .arg("-n")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start krb5kdc")?;
        let process = Running(process);
        listening(kdc)?;
        Ok(Self {
            name: name.to_owned(),
            kdc,
            folder,
            keytabs: AtomicU64::new(0),
            _process: process,
        })
    }

    /// Name of a principal with the realm's.
    pub fn principal(&self, name: &str) -> String {
        format!("{name}@{}", self.name)
    }

    /// The file that says where the KDC is.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("krb5.conf")
    }

    /// A keytab of a principal, which is made if it is not there. Those before it are worth nothing after that.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn keytab(&self, name: &str) -> Result<PathBuf> {
        if !self.admin(&format!("getprinc {name}"))?.contains("Principal:") {
            self.admin(&format!("addprinc -randkey {name}"))?;
        }
        // The program takes no file that is there and empty.
        let keytab = self
            .folder
            .path()
            .join(format!("{}.keytab", self.keytabs.fetch_add(1, Ordering::Relaxed)));
        self.admin(&format!("ktadd -k {} {name}", keytab.display()))?;
        ensure!(keytab.exists(), "kadmin.local made no keytab");
        Ok(keytab)
    }

    /// What `kadmin.local` says to a line.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn admin(&self, line: &str) -> Result<String> {
        let mut child = Command::new("/usr/sbin/kadmin.local")
            .env("KRB5_CONFIG", self.configuration())
            .env("KRB5_KDC_PROFILE", self.folder.path().join("kdc.conf"))
            .args(["-r", &self.name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start kadmin.local")?;
        let mut lines = child.stdin.take().context("its input")?;
        writeln!(lines, "{line}")?;
        drop(lines);
        let said = child.wait_with_output()?;
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }
}

fn succeeds(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("start {command:?}"))?;
    ensure!(
        done.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}
