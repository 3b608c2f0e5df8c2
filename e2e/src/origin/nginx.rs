//! Files behind nginx, as most web servers are: ranges, ETags, pages that link to the files; with TLS and a password if wanted. Or
//! another server behind it, which does not speak TLS itself.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Running, free_address_on, listening, tool};

/// Folder of what is served within the server's.
const FILES: &str = "files";

/// What it asks of its clients beyond a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct NginxOptions<'a> {
    /// PEM files of its certificate, with those that lead to an authority, and of its key; without them it speaks plain HTTP.
    pub tls: Option<(&'a Path, &'a Path)>,
    /// Name and password of who may read (RFC 7617); without them all may. nginx knows no colons in either.
    pub login: Option<(&'a str, &'a str)>,
    /// A server that is asked everything, as the client asks it, in place of the files.
    pub behind: Option<SocketAddr>,
}

/// A running nginx with the files of a folder; ended when dropped.
///
/// Its ETag is made of the time of the last change, in whole seconds, and of the length: a file that is written again within
/// the second with as many bytes keeps its ETag, so a test sets the time.
pub struct Nginx {
    /// Where it listens.
    pub address: SocketAddr,
    scheme: &'static str,
    _process: Running,
    folder: tempfile::TempDir,
}

impl Nginx {
    /// On any address of this machine.
    ///
    /// # Errors
    /// When it does not start, for example because of a certificate that it cannot read.
    pub fn on(ip: IpAddr, options: NginxOptions<'_>) -> Result<Self> {
        let (folder, address) = (tempfile::tempdir()?, free_address_on(ip)?);
        std::fs::create_dir(folder.path().join(FILES))?;
        let configuration = folder.path().join("nginx.conf");
        std::fs::write(&configuration, configured(folder.path(), address, options)?)?;
        let child = Command::new(tool("nginx")?)
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&configuration)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for whoever started it, who ends it when its readers are gone.
            .process_group(0)
            .spawn()
            .context("start nginx")?;
        let server = Self {
            address,
            scheme: if options.tls.is_some() { "https" } else { "http" },
            _process: Running(child),
            folder,
        };
        listening(address)?;
        Ok(server)
    }

    /// The URL of the folder, with a slash at its end.
    pub fn url(&self) -> String {
        format!("{}://{}/", self.scheme, self.address)
    }

    /// Its files, which may be written to.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join(FILES)
    }
}

fn configured(folder: &Path, address: SocketAddr, options: NginxOptions<'_>) -> Result<String> {
    let NginxOptions { tls, login, behind } = options;
    let (mut server, mut listen) = (String::new(), address.to_string());
    if let Some((certificate, key)) = tls {
        listen.push_str(" ssl");
        writeln!(server, "ssl_certificate \"{}\";", certificate.display())?;
        writeln!(server, "ssl_certificate_key \"{}\";", key.display())?;
    }
    if let Some((name, password)) = login {
        ensure!(
            !format!("{name}{password}").contains([':', '\n']),
            "a name or password that nginx cannot have"
        );
        let file = folder.join("logins");
        std::fs::write(&file, format!("{name}:{{PLAIN}}{password}\n"))?;
        writeln!(server, "auth_basic files;")?;
        writeln!(server, "auth_basic_user_file \"{}\";", file.display())?;
    }
    if let Some(behind) = behind {
        // Addresses, hosts and headers as they were signed, and bodies as they come.
        writeln!(
            server,
            "location / {{ proxy_pass http://{behind}; proxy_http_version 1.1; proxy_set_header Host $http_host; \
             proxy_set_header Connection \"\"; proxy_buffering off; \
             proxy_request_buffering off; client_max_body_size 0; }}"
        )?;
    }
    let mut temporary = String::new();
    for what in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(temporary, "{what}_temp_path temporary;")?;
    }
    // One process, so that nothing is left when it is killed; in its own folder, whatever Debian's nginx was built with.
    Ok(format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\n\
         http {{\naccess_log off;\ndefault_type application/octet-stream;\ncharset utf-8;\n{temporary}\
         server {{\nlisten {listen};\nroot {FILES};\nautoindex on;\n{server}}}\n}}\n"
    ))
}
