//! HDFS: NameNodes and a DataNode of Hadoop's own code in one process, which `e2e/origins/hdfs/MiniHdfs.java` starts and
//! which obeys the lines that this writes to it.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Realm, Running, free_address_on, tool};

/// 5 s on a machine with two cores that builds, 14 s on one that does more.
const START_SECONDS_MAX: Duration = Duration::from_secs(120);
/// Far more than a small file needs.
const ANSWER_SECONDS_MAX: Duration = Duration::from_secs(60);

/// A running HDFS, ended when dropped. Without Kerberos it is as Hadoop is when nothing is configured, and the user who runs it is its
/// superuser; others read what they may. Files have blocks of 1 MiB.
pub struct HdfsCluster {
    /// Where the NameNodes answer RPC. The first is the active one until `make_active`.
    pub rpc: Vec<SocketAddr>,
    /// Where they answer `WebHDFS`, in the same order.
    pub http: Vec<SocketAddr>,
    asked: Mutex<Asked>,
    _process: Running,
    folder: tempfile::TempDir,
}

/// One line in, one line out.
struct Asked {
    lines: ChildStdin,
    answers: Receiver<String>,
}

impl HdfsCluster {
    /// With one NameNode, on any address of this machine, which clients must reach.
    ///
    /// # Errors
    /// When it does not start.
    pub fn on(ip: IpAddr) -> Result<Self> {
        Self::with(ip, 1, &[])
    }

    /// With two NameNodes, of which one is active and the other answers that it is not.
    ///
    /// # Errors
    /// When it does not start.
    pub fn of_two_on(ip: IpAddr) -> Result<Self> {
        Self::with(ip, 2, &[])
    }

    /// With Kerberos: it is `hdfs/localhost` of the realm, and what is said is kept as `protection` says (authentication, integrity or
    /// privacy, as Hadoop calls it).
    ///
    /// # Errors
    /// When it does not start.
    pub fn with_kerberos_on(ip: IpAddr, realm: &Realm, protection: &str) -> Result<Self> {
        const SERVICE: &str = "hdfs/localhost";
        let keytab = realm.keytab(SERVICE)?;
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a name of text");
        let (configuration, keytab) = (text(&realm.configuration())?, text(&keytab)?);
        let principal = realm.principal(SERVICE);
        Self::with(ip, 1, &["kerberos", &configuration, &principal, &keytab, protection])
    }

    fn with(ip: IpAddr, name_nodes: usize, kerberos: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let addresses = || (0..name_nodes).map(|_| free_address_on(ip)).collect::<Result<Vec<_>>>();
        let (rpc, http) = (addresses()?, addresses()?);
        let ports = rpc.iter().zip(&http).flat_map(|(rpc, http)| [rpc.port(), http.port()]);
        let mut child = Command::new(tool("hdfs")?)
            .arg(folder.path())
            .arg(ip.to_string())
            .args(ports.map(|port| port.to_string()))
            .args(kerberos)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C is for whoever started it, who ends it when its readers are gone.
            .process_group(0)
            .spawn()
            .context("start HDFS")?;
        let (lines, out) = (child.stdin.take(), child.stdout.take());
        let process = Running(child);
        let (sender, answers) = channel();
        let out = BufReader::new(out.context("its output")?);
        // Ends with the process.
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let asked = Asked {
            lines: lines.context("its input")?,
            answers,
        };
        let said = asked.answer(START_SECONDS_MAX)?;
        ensure!(said == "up", "HDFS does not start: {said}");
        Ok(Self {
            rpc,
            http,
            asked: Mutex::new(asked),
            _process: process,
            folder,
        })
    }

    /// Makes a file, or overwrites it, and the folders above it. The path begins with a slash.
    ///
    /// # Errors
    /// When HDFS refuses, for example a name with a colon.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.write("put", path, bytes)
    }

    /// Makes a file longer.
    ///
    /// # Errors
    /// When HDFS refuses, for example because there is no such file.
    pub fn append(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.write("append", path, bytes)
    }

    /// Removes a file, or a folder with what is in it.
    ///
    /// # Errors
    /// When HDFS refuses, for example because there is none.
    pub fn remove(&self, path: &str) -> Result<()> {
        self.ask(&["rm", path])
    }

    /// Gives a file or folder another path.
    ///
    /// # Errors
    /// When HDFS refuses, for example because something has that path.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.ask(&["mv", from, to])
    }

    /// Gives a file or folder to a user, with these permissions.
    ///
    /// # Errors
    /// When HDFS refuses, for example because there is none.
    pub fn own(&self, path: &str, user: &str, mode: u32) -> Result<()> {
        self.ask(&["own", user, &format!("{mode:o}"), path])
    }

    /// Makes this one of the NameNodes the active one, and the other not.
    ///
    /// # Errors
    /// When there is no such NameNode.
    pub fn make_active(&self, name_node: usize) -> Result<()> {
        self.ask(&["active", &name_node.to_string()])
    }

    fn write(&self, how: &str, path: &str, bytes: &[u8]) -> Result<()> {
        let file = tempfile::NamedTempFile::new_in(self.folder.path())?;
        std::fs::write(&file, bytes)?;
        self.ask(&[how, file.path().to_str().context("a name of text")?, path])
    }

    fn ask(&self, words: &[&str]) -> Result<()> {
        let parted = |word: &&str| !word.contains(['\t', '\n', '\r']);
        ensure!(
            words.iter().all(parted),
            "{words:?}: such a name cannot be handed to HDFS here"
        );
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(asked.lines, "{}", words.join("\t"))?;
        let said = asked.answer(ANSWER_SECONDS_MAX)?;
        ensure!(said == "done", "{words:?}: {said}");
        Ok(())
    }
}

impl Asked {
    fn answer(&self, deadline: Duration) -> Result<String> {
        self.answers
            .recv_timeout(deadline)
            .context("HDFS does not answer, or ended")
    }
}
