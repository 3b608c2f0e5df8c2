//! An HTTP/1.1 proxy in front of an origin that counts what the origin really served: which bytes of which key, how
//! often. It forwards bytes as they are, so request signatures stay valid.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

/// One response with object bytes.
#[derive(Clone, Debug)]
pub struct Served {
    /// Path of the request, still percent-encoded, without the query.
    pub path: String,
    /// Offset of the first byte in the object.
    pub first: u64,
    /// How many bytes of the body went out.
    pub bytes: u64,
}

#[derive(Default)]
struct Counts {
    served: Vec<Served>,
    requests: BTreeMap<String, u64>,
    refused: bool,
    lists_held: bool,
    /// Who asked for a listing since it was reset, the last one last.
    listers: Vec<IpAddr>,
}

/// What all connections share, and who waits until it changes.
#[derive(Default)]
struct Shared {
    counts: Mutex<Counts>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running proxy; ends with the process.
#[derive(Clone)]
pub struct CountingProxy {
    /// Where clients connect.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl CountingProxy {
    /// Listens on `listen` and forwards to `origin`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn start(listen: SocketAddr, origin: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
        let proxy = Self {
            address: listener.local_addr()?,
            shared: Arc::default(),
        };
        let shared = proxy.shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = shared.clone();
                // A connection that breaks is the client's to repeat; what was forwarded is counted.
                thread::spawn(move || forward(&client, origin, &shared));
            }
        });
        Ok(proxy)
    }

    /// Forgets what was counted so far.
    pub fn reset(&self) {
        let mut counts = self.lock();
        counts.served.clear();
        counts.requests.clear();
        counts.listers.clear();
    }

    /// While `true`, every connection is closed at once: the origin is gone.
    pub fn refuse(&self, refuse: bool) {
        self.lock().refused = refuse;
    }

    /// While `true`, requests for listings wait: nothing is asked of the origin.
    pub fn hold_lists(&self, hold: bool) {
        self.lock().lists_held = hold;
        self.shared.changed.notify_all();
    }

    /// Who asked for a listing since the last reset, held or not, the last one last.
    pub fn listers(&self) -> Vec<IpAddr> {
        self.lock().listers.clone()
    }

    /// Object bytes served since the last reset.
    pub fn bytes(&self) -> u64 {
        self.lock().served.iter().map(|served| served.bytes).sum()
    }

    /// How many requests of each kind (`GET object`, `GET list`, `HEAD`, ...) were forwarded.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.lock().requests.clone()
    }

    /// Every byte that was served more than once, as `(path, first byte, bytes)`.
    pub fn repeated(&self) -> Vec<Served> {
        let mut by_path: BTreeMap<String, Vec<Served>> = BTreeMap::new();
        for served in &self.lock().served {
            by_path.entry(served.path.clone()).or_default().push(served.clone());
        }
        let mut repeated = Vec::new();
        for ranges in by_path.values_mut() {
            ranges.sort_by_key(|range| range.first);
            let mut upto = 0;
            for range in ranges {
                let end = range.first + range.bytes;
                if range.first < upto && range.bytes > 0 {
                    repeated.push(Served {
                        bytes: upto.min(end) - range.first,
                        ..range.clone()
                    });
                }
                upto = upto.max(end);
            }
        }
        repeated
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.shared.lock()
    }
}

fn forward(client: &TcpStream, origin: SocketAddr, shared: &Shared) -> Result<()> {
    let upstream = TcpStream::connect(origin)?;
    // Head and body are written apart: without this each small answer waits 40 ms for a delayed acknowledgement.
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let (mut from_client, mut from_origin) = (BufReader::new(client), BufReader::new(&upstream));
    loop {
        let Some(request) = read_head(&mut from_client)? else {
            return Ok(());
        };
        let lock = || shared.lock();
        if lock().refused {
            bail!("refused");
        }
        let mut words = request.first_line.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let is_list = query.contains("list-type=") || query.contains("delimiter=");
        if is_list {
            let mut counts = lock();
            counts.listers.push(client.peer_addr()?.ip());
            let held = shared.changed.wait_while(counts, |counts| counts.lists_held);
            drop(held.unwrap_or_else(PoisonError::into_inner));
        }
        (&upstream).write_all(&request.bytes)?;
        copy_body(&request, &mut from_client, &mut &upstream, |_| {})?;
        let response = read_head(&mut from_origin)?.context("the origin closed the connection")?;
        (&*client).write_all(&response.bytes)?;
        let kind = if method == "GET" {
            if is_list { "GET list" } else { "GET object" }
        } else {
            method
        };
        *lock().requests.entry(kind.to_owned()).or_default() += 1;
        let is_object = kind == "GET object"
            && response
                .first_line
                .split(' ')
                .nth(1)
                .is_some_and(|s| s.starts_with('2'));
        if method == "HEAD" {
            continue;
        }
        let at = is_object.then(|| {
            let mut counts = lock();
            counts.served.push(Served {
                path: path.to_owned(),
                first: response.first_byte(),
                bytes: 0,
            });
            counts.served.len() - 1
        });
        copy_body(&response, &mut from_origin, &mut &*client, |bytes| {
            if let Some(at) = at
                && let Some(served) = lock().served.get_mut(at)
            {
                served.bytes += bytes;
            }
        })?;
    }
}

struct Head {
    bytes: Vec<u8>,
    first_line: String,
    fields: BTreeMap<String, String>,
}

impl Head {
    fn first_byte(&self) -> u64 {
        let range = self
            .fields
            .get("content-range")
            .and_then(|range| range.strip_prefix("bytes "));
        range
            .and_then(|range| range.split('-').next())
            .and_then(|first| first.parse().ok())
            .unwrap_or(0)
    }
}

fn read_head(from: &mut impl BufRead) -> Result<Option<Head>> {
    let (mut bytes, mut first_line, mut fields) = (Vec::new(), String::new(), BTreeMap::new());
    loop {
        let start = bytes.len();
        from.read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        ensure!(bytes.len() > start && bytes.len() < 1 << 16, "a head that does not end");
        let line = String::from_utf8_lossy(&bytes[start..]).trim_end().to_owned();
        match line.split_once(':') {
            _ if line.is_empty() => {
                return Ok(Some(Head {
                    bytes,
                    first_line,
                    fields,
                }));
            }
            _ if first_line.is_empty() => first_line = line,
            Some((name, value)) => {
                fields.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => bail!("a header line without a colon: {line}"),
        }
    }
}

fn copy_body(head: &Head, from: &mut impl BufRead, to: &mut impl Write, mut counted: impl FnMut(u64)) -> Result<()> {
    if head.first_line.contains(" 304 ") || head.first_line.contains(" 204 ") {
        return Ok(());
    }
    if let Some(length) = head.fields.get("content-length") {
        return copy_exact(length.parse()?, from, to, &mut counted);
    }
    if !head
        .fields
        .get("transfer-encoding")
        .is_some_and(|how| how.contains("chunked"))
    {
        return Ok(());
    }
    loop {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line)?;
        to.write_all(&line)?;
        let text = String::from_utf8_lossy(&line);
        let bytes = u64::from_str_radix(text.trim().split(';').next().unwrap_or(""), 16).context("a chunk's length")?;
        copy_exact(bytes, from, to, &mut counted)?;
        let mut end = [0; 2];
        from.read_exact(&mut end)?;
        to.write_all(&end)?;
        if bytes == 0 {
            return Ok(());
        }
    }
}

fn copy_exact(mut left: u64, from: &mut impl Read, to: &mut impl Write, counted: &mut impl FnMut(u64)) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let want = left.min(buffer.len() as u64) as usize;
        let got = from.read(&mut buffer[..want])?;
        ensure!(got > 0, "the body ended {left} bytes early");
        // Counted first: whoever has the bytes may look at the count.
        counted(got as u64);
        to.write_all(&buffer[..got])?;
        left -= got as u64;
    }
    Ok(())
}
