//! Redis and Valkey: the server's own snapshot, received as a replica receives it.
//!
//! We connect, authenticate, and ask to be synchronized (`SYNC`). Because we do not claim to understand streams without a length, the
//! server writes a snapshot to its disk and sends it with its length, at once and without the delay by which it waits for more replicas.
//! (That snapshot stays in its directory, as after `BGSAVE`.) What arrives is an RDB file: its length, its end mark and its CRC-64 must be right. Then we go. No program is needed, and the password
//! goes through the socket only.

mod rdb;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::about::About;
use crate::check::{Check as _, Checked};
use crate::dump::{Body, Part, Parts};
use crate::fault::{Fault, Reason, plain};
use crate::restore::{Report, Stored};
use crate::scratch::{Scratch, create};
use crate::secret::SecretFile;
use crate::setting::{CONNECT, Setting};
use crate::text::said;

pub use rdb::Rdb;

/// The kind, in words.
pub const KIND: &str = "redis";
/// The longest answer to a question, in bytes.
const ANSWER: usize = 256 << 10;
/// The longest line, in bytes.
const LINE: usize = 1024;
/// How often somebody who waits looks whether he is asked to stop.
const LOOK: Duration = Duration::from_millis(250);

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redis {
    /// Its socket.
    pub socket: Option<PathBuf>,
    /// Its name or address, when there is no socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The user, for a server with access lists.
    pub user: Option<String>,
    /// The password.
    pub password: Option<SecretFile>,
}

impl Default for Redis {
    fn default() -> Self {
        Redis {
            socket: None,
            host: "127.0.0.1".into(),
            port: 6379,
            user: None,
            password: None,
        }
    }
}

impl Redis {
    fn place(&self) -> String {
        match &self.socket {
            Some(socket) => format!("the Redis server at {}", socket.display()),
            None => format!("the Redis server at {}, port {}", self.host, self.port),
        }
    }
}

enum Wire {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection, with a deadline on each wait.
pub struct Connection {
    wire: Wire,
    place: String,
    setting: Setting,
    buffer: Vec<u8>,
    at: usize,
}

impl Connection {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// Nobody listens, or the password is wrong.
    pub fn open(server: &Redis, setting: &Setting) -> Result<Self, Fault> {
        let place = server.place();
        let secret = server.password.as_ref().map(SecretFile::read).transpose()?;
        let unreached = |e: io::Error| {
            Fault::new(
                Reason::NoConnection,
                format!("{place} cannot be reached: {}", plain(&e)),
            )
        };
        let wire = match &server.socket {
            Some(socket) => UnixStream::connect(socket).map(Wire::Unix),
            None => (server.host.as_str(), server.port)
                .to_socket_addrs()
                .and_then(|addresses| {
                    let mut last =
                        io::Error::new(io::ErrorKind::NotFound, "its name has no address");
                    for address in addresses.take(8) {
                        match TcpStream::connect_timeout(&address, CONNECT) {
                            Ok(stream) => return Ok(Wire::Tcp(stream)),
                            Err(e) => last = e,
                        }
                    }
                    Err(last)
                }),
        }
        .map_err(unreached)?;
        match &wire {
            Wire::Unix(s) => s
                .set_read_timeout(Some(LOOK))
                .and_then(|()| s.set_write_timeout(Some(CONNECT))),
            Wire::Tcp(s) => s
                .set_read_timeout(Some(LOOK))
                .and_then(|()| s.set_write_timeout(Some(CONNECT))),
        }
        .map_err(unreached)?;
        let mut connection = Connection {
            wire,
            place,
            setting: setting.clone(),
            buffer: Vec::new(),
            at: 0,
        };
        if let Some(secret) = &secret {
            let words: Vec<&str> = match &server.user {
                Some(user) => vec!["AUTH", user, secret.expose()],
                None => vec!["AUTH", secret.expose()],
            };
            connection.ask(&words).map_err(|mut e| {
                e.text = said(e.text.as_bytes(), &[secret]);
                e
            })?;
        }
        Ok(connection)
    }

    fn send(&mut self, words: &[&str]) -> Result<(), Fault> {
        let mut bytes = zeroize::Zeroizing::new(format!("*{}\r\n", words.len()).into_bytes());
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        let written = match &mut self.wire {
            Wire::Unix(s) => s.write_all(&bytes),
            Wire::Tcp(s) => s.write_all(&bytes),
        };
        written.map_err(|e| {
            Fault::new(
                Reason::NoConnection,
                format!("{} went away: {}", self.place, plain(&e)),
            )
        })
    }

    /// Some bytes, as soon as there are any; none at the end.
    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        if self.at < self.buffer.len() {
            let n = buffer.len().min(self.buffer.len() - self.at);
            buffer[..n].copy_from_slice(&self.buffer[self.at..self.at + n]);
            self.at += n;
            return Ok(n);
        }
        let began = Instant::now();
        loop {
            let read = match &mut self.wire {
                Wire::Unix(s) => s.read(buffer),
                Wire::Tcp(s) => s.read(buffer),
            };
            match read {
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    self.setting.stop.check()?;
                    if began.elapsed() >= self.setting.stall {
                        return Err(Fault::new(
                            Reason::Stalled,
                            format!(
                                "{} sent nothing for {} s",
                                self.place,
                                self.setting.stall.as_secs()
                            ),
                        ));
                    }
                }
                Err(e) => {
                    return Err(Fault::new(
                        Reason::NoConnection,
                        format!("{} went away: {}", self.place, plain(&e)),
                    ));
                }
            }
        }
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        if self.at == self.buffer.len() {
            let mut buffer = [0; 4096];
            let n = self.some(&mut buffer)?;
            if n == 0 {
                return Err(Fault::new(
                    Reason::NoConnection,
                    format!("{} closed the connection", self.place),
                ));
            }
            self.buffer = buffer[..n].to_vec();
            self.at = 0;
        }
        let byte = self.buffer[self.at];
        self.at += 1;
        Ok(byte)
    }

    /// A line without its end. Empty lines, by which a server that is busy says that it lives, are passed over.
    fn line(&mut self) -> Result<String, Fault> {
        let mut line = Vec::new();
        let began = Instant::now();
        loop {
            match self.byte()? {
                b'\n' if line.is_empty() => {
                    self.setting.stop.check()?;
                    if began.elapsed() >= self.setting.stall {
                        return Err(Fault::new(
                            Reason::Stalled,
                            format!(
                                "{} prepares a snapshot for longer than {} s",
                                self.place,
                                self.setting.stall.as_secs()
                            ),
                        ));
                    }
                }
                b'\n' => break,
                b'\r' => {}
                _ if line.len() >= LINE => {
                    return Err(Fault::new(
                        Reason::Failed,
                        format!("{} does not speak as Redis does", self.place),
                    ));
                }
                byte => line.push(byte),
            }
        }
        let text = String::from_utf8_lossy(&line).into_owned();
        match text.strip_prefix('-') {
            None => Ok(text),
            Some(error) => {
                let error = said(error.as_bytes(), &[]);
                let reason = match error.split(' ').next().unwrap_or_default() {
                    "NOAUTH" | "WRONGPASS" | "NOPERM" => Reason::Denied,
                    "LOADING" | "MASTERDOWN" => Reason::NoConnection,
                    _ if error.contains("invalid password")
                        || error.contains("without any password") =>
                    {
                        Reason::Denied
                    }
                    _ => Reason::Failed,
                };
                Err(Fault::new(
                    reason,
                    format!("{} answers: {error}", self.place),
                ))
            }
        }
    }

    /// Asks, and takes a text as the answer.
    ///
    /// # Errors
    /// The server says no, or goes away.
    pub fn ask(&mut self, words: &[&str]) -> Result<String, Fault> {
        self.send(words)?;
        self.answer()
    }

    /// One text of an answer.
    fn answer(&mut self) -> Result<String, Fault> {
        let line = self.line()?;
        let Some(length) = line.strip_prefix('$') else {
            return Ok(line.get(1..).unwrap_or_default().to_owned());
        };
        let length: usize = length
            .parse()
            .ok()
            .filter(|n| *n <= ANSWER)
            .ok_or_else(|| {
                Fault::new(
                    Reason::Failed,
                    format!("{} answers with too much", self.place),
                )
            })?;
        let mut text = Vec::with_capacity(length);
        while text.len() < length + 2 {
            text.push(self.byte()?);
        }
        text.truncate(length);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// How many keys an answer to `INFO` speaks of.
pub fn keys(info: &str) -> u64 {
    info.lines()
        .filter_map(|l| {
            l.strip_prefix("db")?
                .split_once(":keys=")?
                .1
                .split(',')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum()
}

/// Begins a dump.
///
/// # Errors
/// The server cannot be reached, refuses, or is still loading.
pub fn dump(source: &Redis, setting: &Setting) -> Result<Box<dyn Parts>, Fault> {
    let mut connection = Connection::open(source, setting)?;
    let info = connection.ask(&["INFO"])?;
    if field(&info, "loading") == Some("1") {
        return Err(Fault::new(
            Reason::NoConnection,
            format!("{} is still loading its data", connection.place),
        ));
    }
    let mut about = About::new(KIND);
    about.server_version = field(&info, "valkey_version")
        .or(field(&info, "redis_version"))
        .map(str::to_owned);
    if field(&info, "role") == Some("slave") && field(&info, "master_link_status") == Some("down") {
        about.notes.push(
            "the server is a replica that has lost its master: what it holds may be old".into(),
        );
    }
    let keys: BTreeMap<String, u64> = info
        .lines()
        .filter_map(|l| {
            let (db, rest) = l.strip_prefix("db")?.split_once(":keys=")?;
            Some((db.to_owned(), rest.split(',').next()?.parse().ok()?))
        })
        .collect();
    Ok(Box::new(Dump {
        connection: Some(connection),
        server: source.clone(),
        setting: setting.clone(),
        keys,
        about,
    }))
}

struct Dump {
    connection: Option<Connection>,
    server: Redis,
    setting: Setting,
    keys: BTreeMap<String, u64>,
    about: About,
}

impl Parts for Dump {
    fn next(&mut self) -> Result<Option<Part>, Fault> {
        let Some(mut connection) = self.connection.take() else {
            return Ok(None);
        };
        connection.send(&["SYNC"])?;
        let head = connection
            .line()
            .map_err(|fault| self.why_no_snapshot(fault))?;
        let end = match head
            .strip_prefix('$')
            .map(|h| (h.strip_prefix("EOF:"), h.parse::<u64>()))
        {
            Some((Some(mark), _)) if mark.len() == 40 => End::Mark(mark.as_bytes().to_vec()),
            Some((None, Ok(length))) => End::Length(length),
            _ => {
                return Err(Fault::new(
                    Reason::Failed,
                    format!(
                        "{} answers something unexpected instead of a snapshot: {}",
                        connection.place,
                        said(head.as_bytes(), &[])
                    ),
                ));
            }
        };
        let body: Box<dyn Body> = Box::new(Snapshot {
            connection,
            end,
            held: Vec::new(),
            is_over: false,
        });
        Ok(Some(Part {
            name: "dump.rdb".into(),
            what: "snapshot",
            of: None,
            details: json!({"keys": self.keys}),
            body: Checked::over(body, Rdb::default(), "the snapshot of Redis"),
        }))
    }

    fn about(&mut self) -> About {
        self.about.clone()
    }
}

impl Dump {
    /// A server that cannot write its snapshot closes the connection, and says why in its own log only.
    fn why_no_snapshot(&self, fault: Fault) -> Fault {
        if fault.reason != Reason::NoConnection {
            return fault;
        }
        let asked = Connection::open(&self.server, &self.setting).and_then(|mut connection| {
            let info = connection.ask(&["INFO"])?;
            connection.send(&["CONFIG", "GET", "dir"])?;
            let has_dir = connection.line().is_ok_and(|l| l == "*2");
            let dir = match has_dir && connection.answer().is_ok() {
                true => connection.answer().ok(),
                false => None,
            };
            Ok((info, dir))
        });
        let Ok((info, dir)) = asked else { return fault };
        if field(&info, "rdb_last_bgsave_status") != Some("err") {
            return fault;
        }
        let place = self.server.place();
        let is_here = self.server.socket.is_some() || is_loopback(&self.server.host);
        let needed = field(&info, "used_memory").and_then(|n| n.parse::<u64>().ok());
        let room = dir.filter(|_| is_here).and_then(|dir| {
            let s = rustix::fs::statvfs(&dir).ok()?;
            Some((dir, s.f_bavail.saturating_mul(s.f_frsize)))
        });
        match (room, needed) {
            (Some((dir, free)), Some(needed)) if free < needed => Fault::new(
                Reason::NoSpace,
                format!(
                    "{place} could not write its snapshot: not enough space in {dir}, where {free} bytes are free and its data takes {needed} in memory"
                ),
            ),
            _ => Fault::new(
                Reason::Failed,
                format!("{place} could not write its snapshot; its log says why"),
            ),
        }
    }
}

/// Whether a server of this name shares our file systems.
fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|a| a.is_loopback())
}

enum End {
    /// After so many bytes.
    Length(u64),
    /// With these bytes.
    Mark(Vec<u8>),
}

/// A snapshot on its way.
struct Snapshot {
    connection: Connection,
    end: End,
    /// The last bytes, which may be the mark.
    held: Vec<u8>,
    is_over: bool,
}

impl Read for Snapshot {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.is_over {
            return Ok(0);
        }
        let early = |place: &str| {
            Fault::new(
                Reason::NotWhole,
                format!("{place} went away in the middle of its snapshot"),
            )
            .into_io()
        };
        match &mut self.end {
            End::Length(left) => {
                if *left == 0 {
                    self.is_over = true;
                    return Ok(0);
                }
                let most = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                let n = self
                    .connection
                    .some(&mut buffer[..most])
                    .map_err(Fault::into_io)?;
                if n == 0 {
                    return Err(early(&self.connection.place));
                }
                *left -= n as u64;
                Ok(n)
            }
            End::Mark(mark) => loop {
                let mut some = [0; 16 << 10];
                let room = buffer.len().min(some.len());
                let n = self
                    .connection
                    .some(&mut some[..room])
                    .map_err(Fault::into_io)?;
                if n == 0 {
                    return Err(early(&self.connection.place));
                }
                self.held.extend_from_slice(&some[..n]);
                if self.held.ends_with(mark) {
                    self.held.truncate(self.held.len() - mark.len());
                    self.is_over = true;
                }
                let keep = if self.is_over { 0 } else { mark.len() };
                let n = self.held.len().saturating_sub(keep).min(buffer.len());
                if n > 0 || self.is_over {
                    buffer[..n].copy_from_slice(&self.held[..n]);
                    self.held.drain(..n);
                    if self.is_over && !self.held.is_empty() {
                        // The rest does not fit; it is given by the next call.
                        self.end = End::Length(self.held.len() as u64);
                        self.connection.buffer = std::mem::take(&mut self.held);
                        self.connection.at = 0;
                        self.is_over = false;
                    }
                    return Ok(n);
                }
            },
        }
    }
}

impl Body for Snapshot {
    fn finish(self: Box<Self>) -> Result<(), Fault> {
        Ok(())
    }
}

/// What is restored, and where to.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file that the server reads when it starts: `dump.rdb` in its directory.
    pub file: PathBuf,
    /// Whether a file that is there is replaced.
    pub replace: bool,
}

/// Restores: lays down the file from which the server starts. The server must not run: it would overwrite the file when it ends.
///
/// # Errors
/// What stands in the way, or what failed.
pub fn restore(
    stored: &dyn Stored,
    about: &About,
    server: Option<&Redis>,
    options: &Options,
    setting: &Setting,
) -> Result<Report, Fault> {
    let item = about
        .all("snapshot")
        .next()
        .ok_or_else(|| Fault::new(Reason::NotThere, "the snapshot holds nothing of Redis"))?;
    stored.there(item)?;
    let to = options.file.as_path();
    let dir = to.parent().filter(|d| d.is_dir()).ok_or_else(|| {
        Fault::new(
            Reason::NotThere,
            format!(
                "there is no directory for {}; nothing was touched",
                to.display()
            ),
        )
    })?;
    if let Some(server) = server {
        if !matches!(Connection::open(server, setting), Err(e) if e.reason == Reason::NoConnection)
        {
            return Err(Fault::new(
                Reason::InTheWay,
                format!(
                    "{} runs, and would overwrite the file when it ends; stop it first; nothing was touched",
                    server.place()
                ),
            ));
        }
    }
    if fs::symlink_metadata(to).is_ok() && !options.replace {
        return Err(Fault::new(
            Reason::InTheWay,
            format!(
                "{} is there already; replace it with --replace; nothing was touched",
                to.display()
            ),
        ));
    }
    let free = rustix::fs::statvfs(dir).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize));
    if free < item.bytes {
        return Err(Fault::new(
            Reason::NoSpace,
            format!(
                "not enough space for {}: {} bytes are needed, {free} are free; nothing was touched",
                to.display(),
                item.bytes
            ),
        ));
    }
    let mut report = Report::default();
    if dir.join("appendonlydir").exists() || dir.join("appendonly.aof").exists() {
        report.notes.push(format!(
            "{} holds an append-only file, which the server prefers to the snapshot: start it once with appendonly no, then switch it on by CONFIG SET appendonly yes",
            dir.display()
        ));
    }
    lay_down(stored, &item.name, to, dir)?;
    report.restored.push(to.display().to_string());
    report.bytes = item.bytes;
    Ok(report)
}

fn lay_down(stored: &dyn Stored, name: &str, to: &Path, dir: &Path) -> Result<(), Fault> {
    let scratch = Scratch::new(dir)?;
    let path = scratch.path().join("dump.rdb");
    let failed = |e: io::Error| Fault::file("write", &path, &e);
    let file = create(&path).map_err(failed)?;
    let mut out = Looking(file, Rdb::default());
    stored.write(name, &mut out)?;
    out.1.end().map_err(|why| {
        Fault::new(
            Reason::NotWhole,
            format!("the snapshot of Redis is not whole: {why}"),
        )
    })?;
    // The server's user is whoever owns its directory, unless a file says more.
    let like = fs::metadata(to)
        .or_else(|_| fs::metadata(dir))
        .map_err(failed)?;
    if rustix::process::geteuid().is_root() {
        chown(&path, Some(like.uid()), Some(like.gid())).map_err(failed)?;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).map_err(failed)?;
    out.0.sync_all().map_err(failed)?;
    fs::rename(&path, to).map_err(failed)?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(failed)
}

struct Looking(File, Rdb);

impl Write for Looking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.feed(bytes).map_err(|why| {
            Fault::new(
                Reason::NotWhole,
                format!("the snapshot of Redis is damaged: {why}"),
            )
            .into_io()
        })?;
        self.0.write_all(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
