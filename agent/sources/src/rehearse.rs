//! Rehearsed restores: a private server on scratch data, a restore into it, and questions that it must answer.
//!
//! A server of ours listens on a socket in a private directory only, runs in a process group of its own, and ends with the rehearsal. It is
//! written down in the scratch directory: when the rehearsal is killed, whoever uses scratch space next ends the server and removes its data.

pub mod cluster;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::about::About;
use crate::account;
use crate::child::{Program, find};
use crate::fault::{Fault, Reason};
use crate::restore::{Report, Stored};
use crate::scratch::{Owner, Scratch, give, note_server};
use crate::secret::SecretFile;
use crate::setting::Setting;
use crate::{mysql, postgresql, qdrant, redis, sqlite};

/// How long a server may take to start.
const START: Duration = Duration::from_secs(60);
/// How long one question may take while it starts.
const ASK: Duration = Duration::from_secs(10);
/// How long it may take to end before it is killed.
const END: Duration = Duration::from_secs(10);

/// Into what it is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A private server of PostgreSQL.
    Postgresql(Option<PathBuf>),
    /// A private server of MariaDB or MySQL.
    Mysql(Option<PathBuf>),
    /// Files in scratch space.
    Sqlite,
    /// A private Redis server.
    Redis(Option<PathBuf>),
    /// A private Qdrant server.
    Qdrant(Option<PathBuf>),
}

impl Stage {
    /// The kind of dump that it takes.
    pub fn kind(&self) -> &'static str {
        match self {
            Stage::Postgresql(_) => postgresql::KIND,
            Stage::Mysql(_) => mysql::KIND,
            Stage::Sqlite => sqlite::KIND,
            Stage::Redis(_) => redis::KIND,
            Stage::Qdrant(_) => qdrant::KIND,
        }
    }
}

/// Asks, in one of several databases.
type Asked<'a> = dyn Fn(Option<&str>, &str) -> Result<bool, Fault> + 'a;

/// A question and what came of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Answer {
    /// What was asked.
    pub question: String,
    /// Whether it is so.
    pub holds: bool,
    /// What stands against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a rehearsal came to.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Rehearsal {
    /// What was restored.
    pub report: Report,
    /// How long the restore took, in seconds, the start of its server included.
    pub restore_seconds: f64,
    /// All questions, in order.
    pub answers: Vec<Answer>,
}

/// Restores into scratch space, and asks. A question may begin with `@NAME ` to mean one of several databases. Where a question cannot be
/// asked it does not hold.
///
/// # Errors
/// It cannot be restored.
pub fn rehearse(
    stage: &Stage,
    stored: &dyn Stored,
    about: &About,
    questions: &[String],
    setting: &Setting,
) -> Result<Rehearsal, Fault> {
    if matches!(stage, Stage::Qdrant(_)) && !questions.is_empty() {
        return Err(Fault::new(
            Reason::Parameter,
            "Qdrant answers no questions in SQL; its drill compares the number of points of each collection",
        ));
    }
    let scratch = Scratch::new(&setting.scratch)?;
    on_scratch(&scratch, stage, stored, about, questions, setting)
        .map_err(|fault| without_room(fault, &setting.scratch, &scratch))
}

/// A full disk makes servers fail in many ways, and what their clients see is often only that they went away: their logs say it.
fn without_room(fault: Fault, parent: &Path, scratch: &Scratch) -> Fault {
    // As the system says it, and as MariaDB does.
    const SAID: &[&str] = &[
        "No space left on device",
        "error 28",
        "Errcode: 28",
        "out of disk space",
        "ERROR 1114",
        "ERROR 1021",
    ];
    let says = |text: &str| SAID.iter().any(|s| text.contains(s));
    let logs = fs::read_dir(scratch.path());
    let in_a_log = || {
        let logs = logs.into_iter().flatten().flatten().map(|e| e.path());
        let mut logs = logs.filter(|p| p.extension().is_some_and(|e| e == "log"));
        logs.any(|p| tail(&p).is_ok_and(|t| says(&t)))
    };
    if fault.reason != Reason::NoSpace && !says(&fault.text) && !in_a_log() {
        return fault;
    }
    let cause = fault.text.split("; ").find(|part| says(part));
    let cause = cause.unwrap_or(&fault.text);
    Fault::new(
        Reason::NoSpace,
        format!(
            "no space left in the scratch directory {}, where all of it is restored: {cause}",
            parent.display()
        ),
    )
}

/// The end of a file: at most 64 KiB.
fn tail(path: &Path) -> std::io::Result<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    const TAIL: u64 = 64 << 10;
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn on_scratch(
    scratch: &Scratch,
    stage: &Stage,
    stored: &dyn Stored,
    about: &About,
    questions: &[String],
    setting: &Setting,
) -> Result<Rehearsal, Fault> {
    let began = Instant::now();
    // Its own scratch files lie beside the server's, and go with them.
    let mut inner = setting.clone();
    inner.scratch = scratch.path().join("f");
    fs::create_dir(&inner.scratch).map_err(|e| Fault::file("make", &inner.scratch, &e))?;
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o711))
        .map_err(|e| Fault::file("open", scratch.path(), &e))?;
    fs::set_permissions(&inner.scratch, fs::Permissions::from_mode(0o711))
        .map_err(|e| Fault::file("open", &inner.scratch, &e))?;
    let ask_all = |asked: &Asked<'_>| questions_of(questions, asked);
    let first = |of: Option<&str>| -> Result<String, Fault> {
        of.or_else(|| {
            about.all("database").find_map(|i| {
                i.of.as_deref()
                    .filter(|d| *d != "postgres" || about.all("database").count() == 1)
            })
        })
        .map(str::to_owned)
        .ok_or_else(|| Fault::new(Reason::NotThere, "the dump holds no database"))
    };
    let (report, seconds, answers) = match stage {
        Stage::Postgresql(package) => {
            let (server, place) = postgresql_server(scratch, package.as_deref(), &inner)?;
            let options = postgresql::Options {
                globals: true,
                replace: true,
                jobs: 2,
                no_tablespaces: true,
                ..Default::default()
            };
            let report = postgresql::restore(stored, about, &place, &options, &inner)?;
            let seconds = began.elapsed();
            let asker = postgresql::Asker::new(&place, &inner)?;
            let answers = ask_all(&|of, sql| {
                let out = asker.sql(&first(of)?, sql, &inner)?;
                Ok(is_true(&first_line(&out)))
            });
            server.end();
            (report, seconds, answers)
        }
        Stage::Mysql(package) => {
            let (server, place) = mysql_server(scratch, package.as_deref(), &inner)?;
            let report = mysql::restore(stored, about, &place, &mysql::Options::default(), &inner)?;
            let seconds = began.elapsed();
            let asker = mysql::Asker::new(&place, &inner)?;
            let answers = ask_all(&|of, sql| {
                let rows = asker.rows_of(Some(&first(of)?), sql)?;
                Ok(is_true(
                    rows.first()
                        .and_then(|r| r.first())
                        .map_or("", String::as_str),
                ))
            });
            server.end();
            (report, seconds, answers)
        }
        Stage::Sqlite => {
            let mut options = sqlite::Options::default();
            for (i, item) in about.all("database").enumerate() {
                options.files.insert(
                    item.of.clone().unwrap_or_default(),
                    scratch.path().join(format!("{i}.db")),
                );
            }
            let report = sqlite::restore(stored, about, &options, &inner)?;
            let seconds = began.elapsed();
            let answers = ask_all(&|of, sql| {
                let name = first(of)?;
                let file = options.files.get(&name).ok_or_else(|| {
                    Fault::new(
                        Reason::NotThere,
                        format!("the dump holds no database '{name}'"),
                    )
                })?;
                sqlite::holds(file, sql)
            });
            (report, seconds, answers)
        }
        Stage::Redis(package) => {
            let file = scratch.path().join("dump.rdb");
            let report = redis::restore(
                stored,
                about,
                None,
                &redis::Options {
                    file,
                    replace: false,
                },
                &inner,
            )?;
            let (server, place) = redis_server(scratch, package.as_deref(), &inner)?;
            let seconds = began.elapsed();
            let mut connection = redis::Connection::open(&place, &inner)?;
            let had: u64 = about
                .all("snapshot")
                .filter_map(|i| i.details["keys"].as_object())
                .flat_map(|k| k.values())
                .filter_map(serde_json::Value::as_u64)
                .sum();
            let has = redis::keys(&connection.ask(&["INFO", "keyspace"])?);
            // Keys expire and come while a snapshot is made.
            let mut answers = vec![Answer {
                question: format!(
                    "it holds keys: {had} were counted when it was dumped, {has} are there"
                ),
                holds: had == 0 || has > 0,
                why: None,
            }];
            answers.extend(ask_all(&|_, command| {
                let words: Vec<&str> = command.split_ascii_whitespace().collect();
                let mut connection = redis::Connection::open(&place, &inner)?;
                Ok(is_true(&connection.ask(&words)?))
            }));
            server.end();
            (report, seconds, answers)
        }
        Stage::Qdrant(package) => {
            let (server, place) = qdrant_server(scratch, package.as_deref(), &inner)?;
            let report =
                qdrant::restore(stored, about, &place, &qdrant::Options::default(), &inner)?;
            let seconds = began.elapsed();
            let answers = qdrant::counts(&place, about, &inner)?
                .into_iter()
                .map(|count| {
                    let (had, holds) = count.judged();
                    Answer {
                        question: format!(
                            "the collection '{}' holds its points: {had} were counted when it was dumped, {} are there",
                            count.collection, count.has
                        ),
                        holds,
                        why: None,
                    }
                })
                .collect();
            server.end();
            (report, seconds, answers)
        }
    };
    Ok(Rehearsal {
        report,
        restore_seconds: seconds.as_secs_f64(),
        answers,
    })
}

/// Asks all questions, each in the database that it names.
fn questions_of(questions: &[String], asked: &Asked<'_>) -> Vec<Answer> {
    let each = questions.iter().map(|question| {
        let (of, sql) = match question.strip_prefix('@').and_then(|q| q.split_once(' ')) {
            Some((of, sql)) => (Some(of), sql),
            None => (None, question.as_str()),
        };
        let answer = asked(of, sql);
        Answer {
            question: question.clone(),
            holds: matches!(answer, Ok(true)),
            why: answer.err().map(|e| e.text),
        }
    });
    each.collect()
}

/// The first line of what a client prints.
fn first_line(out: &[u8]) -> String {
    let out = String::from_utf8_lossy(out);
    out.lines().next().unwrap_or_default().to_owned()
}

/// What a database calls true.
fn is_true(text: &str) -> bool {
    let text = text.trim();
    matches!(text, "t" | "true" | "on" | "yes" | "OK" | "PONG")
        || text.parse::<f64>().is_ok_and(|n| n != 0.0 && !n.is_nan())
}

/// A server of ours. Dropped, it is ended.
struct Server {
    child: Child,
    name: &'static str,
}

impl Server {
    fn start(program: Program, scratch: &Scratch, name: &'static str) -> Result<Self, Fault> {
        let child = program.serve(&scratch.path().join(format!("{name}.log")))?;
        let server = Server { child, name };
        note_server(scratch.path(), name, server.child.id())?;
        Ok(server)
    }

    /// Waits until it answers, `most` at longest.
    fn until(
        &mut self,
        scratch: &Scratch,
        setting: &Setting,
        most: Duration,
        mut answers: impl FnMut(&Setting) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let began = Instant::now();
        let most = most.min(setting.stall);
        let mut short = setting.clone();
        short.stall = most.min(ASK);
        loop {
            setting.stop.check()?;
            // One that has ended is not asked: somebody else may have taken its port.
            let ended = self.child.try_wait().ok().flatten();
            let why = match ended {
                Some(_) => None,
                None => match answers(&short) {
                    Ok(()) => return Ok(()),
                    Err(why) => Some(why.text),
                },
            };
            if ended.is_some() || began.elapsed() >= most {
                let log = tail(&scratch.path().join(format!("{}.log", self.name)));
                let said = crate::text::said(log.unwrap_or_default().as_bytes(), &[]);
                let said = Some(said).filter(|s| !s.is_empty());
                let (how, reason) = match ended {
                    Some(status) => (format!("ended at once ({status})"), Reason::Failed),
                    None => (
                        format!("does not answer after {} s", most.as_secs()),
                        Reason::Stalled,
                    ),
                };
                let why = said.or(why).map_or(String::new(), |why| format!(": {why}"));
                return Err(Fault::new(
                    reason,
                    format!(
                        "the private server '{}' of the rehearsal {how}{why}",
                        self.name
                    ),
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// In good order.
    fn end(self) {
        self.end_within(END);
    }

    /// In good order, which may last.
    fn end_within(mut self, most: Duration) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // Fast for PostgreSQL, and understood by the others.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < most {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        crate::child::kill_group(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory for a server that may not run as root.
fn home(scratch: &Scratch, names: &[&str]) -> Result<(PathBuf, Option<Owner>), Fault> {
    let owner = match account::is_root() {
        false => None,
        true => Some(
            names
                .iter()
                .find_map(|n| account::named(n))
                .ok_or_else(|| {
                    Fault::new(
                        Reason::NotThere,
                        "there is no user as whom the private server could run",
                    )
                })?,
        ),
    };
    let path = scratch.path().join("s");
    // Nobody else of this host reaches the socket, behind which no password is asked for.
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .map_err(|e| Fault::file("make", &path, &e))?;
    give(&path, owner)?;
    // The path of a socket has 107 bytes at most.
    if path.as_os_str().len() > 85 {
        return Err(Fault::new(
            Reason::Parameter,
            format!(
                "the scratch directory {} has too long a path for a socket; name another with --scratch",
                scratch.path().display()
            ),
        ));
    }
    Ok((path, owner))
}

fn postgresql_server(
    scratch: &Scratch,
    package: Option<&Path>,
    setting: &Setting,
) -> Result<(Server, postgresql::Server), Fault> {
    let initdb = postgresql::installation(package, "initdb")?;
    let bin = initdb.parent().unwrap_or(Path::new("/")).to_owned();
    let (home, owner) = home(scratch, &["postgres", "nobody"])?;
    let data = home.join("data");
    Program::new(&initdb)
        .args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-sync",
            "--no-instructions",
            "-D",
        ])
        .arg(&data)
        .env("LC_ALL", "C.UTF-8")
        .user(owner)
        .run(setting)?;
    let program = Program::new(&bin.join("postgres"))
        .arg("-D")
        .arg(&data)
        .args([
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
            "-c",
            "full_page_writes=off",
            "-c",
            "max_wal_size=4GB",
            "-c",
            "autovacuum=off",
            "-p",
            "5432",
        ])
        .arg("-k")
        .arg(&home)
        .user(owner);
    let mut server = Server::start(program, scratch, "postgresql")?;
    let place = postgresql::Server {
        host: home.display().to_string(),
        package: bin
            .parent()
            .filter(|_| package.is_some() || bin.ends_with("bin"))
            .map(Path::to_owned),
        ..Default::default()
    };
    server.until(scratch, setting, START, |short| {
        postgresql::Asker::new(&place, short)?
            .json::<bool>("postgres", "SELECT 'true'::json")
            .map(drop)
    })?;
    Ok((server, place))
}

fn mysql_server(
    scratch: &Scratch,
    package: Option<&Path>,
    setting: &Setting,
) -> Result<(Server, mysql::Server), Fault> {
    let install = find(&["mariadb-install-db", "mysql_install_db"], package)?;
    let (home, owner) = home(scratch, &["mysql", "nobody"])?;
    let (data, socket, temporary) = (home.join("data"), home.join("s"), home.join("tmp"));
    fs::create_dir(&temporary).map_err(|e| Fault::file("make", &temporary, &e))?;
    give(&temporary, owner)?;
    let option = |name: &str, value: &Path| {
        let mut word = std::ffi::OsString::from(name);
        word.push(value);
        word
    };
    Program::new(&install)
        .args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ])
        .arg(option("--datadir=", &data))
        .arg(option("--tmpdir=", &temporary))
        .user(owner)
        .run(setting)?;
    let program = Program::new(&find(&["mariadbd", "mysqld"], package)?)
        .args([
            "--no-defaults",
            "--skip-networking",
            "--innodb-flush-log-at-trx-commit=0",
            "--event-scheduler=OFF",
            "--local-infile=0",
        ])
        .arg(option("--datadir=", &data))
        .arg(option("--tmpdir=", &temporary))
        .arg(option("--socket=", &socket))
        .user(owner);
    let mut server = Server::start(program, scratch, "mysql")?;
    let place = mysql::Server {
        socket: Some(socket),
        package: package.map(Path::to_owned),
        ..Default::default()
    };
    server.until(scratch, setting, START, |short| {
        mysql::Asker::new(&place, short)?.rows("SELECT 1").map(drop)
    })?;
    Ok((server, place))
}

fn redis_server(
    scratch: &Scratch,
    package: Option<&Path>,
    setting: &Setting,
) -> Result<(Server, redis::Redis), Fault> {
    let (home, owner) = home(scratch, &["redis", "valkey", "nobody"])?;
    let (from, to) = (scratch.path().join("dump.rdb"), home.join("dump.rdb"));
    fs::rename(&from, &to).map_err(|e| Fault::file("move", &from, &e))?;
    give(&to, owner)?;
    let socket = home.join("s");
    let program = Program::new(&find(&["redis-server", "valkey-server"], package)?)
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--dir"])
        .arg(&home)
        .arg("--unixsocket")
        .arg(&socket)
        .user(owner);
    let mut server = Server::start(program, scratch, "redis")?;
    let place = redis::Redis {
        socket: Some(socket),
        ..Default::default()
    };
    server.until(scratch, setting, START, |short| {
        let info = redis::Connection::open(&place, short)?.ask(&["INFO", "persistence"])?;
        match info.contains("loading:0") {
            true => Ok(()),
            false => Err(Fault::new(Reason::NoConnection, "it is still loading")),
        }
    })?;
    Ok((server, place))
}

fn qdrant_server(
    scratch: &Scratch,
    package: Option<&Path>,
    setting: &Setting,
) -> Result<(Server, qdrant::Server), Fault> {
    let program = find(&["qdrant"], package)?;
    let (home, owner) = home(scratch, &["qdrant", "nobody"])?;
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .map_err(|e| Fault::new(Reason::Failed, format!("no free port: {e}")))?
        .port();
    // Its port is open to everybody on this host, and what lies behind it to none of them: whoever asks needs a key that only we have.
    let key = crate::chance::digits::<32>()?;
    let path = |name: &str| serde_json::Value::from(home.join(name).display().to_string());
    let text = zeroize::Zeroizing::new(format!(
        "service:\n  host: 127.0.0.1\n  http_port: {port}\n  grpc_port: null\n  api_key: \"{}\"\nstorage:\n  storage_path: {}\n  snapshots_path: {}\ntelemetry_disabled: true\n",
        *key,
        path("storage"),
        path("snapshots"),
    ));
    let config = scratch.file("qdrant.yaml", text.as_bytes(), owner)?;
    let key = scratch.file("qdrant.key", key.as_bytes(), None)?;
    let program = Program::new(&program)
        .arg("--config-path")
        .arg(config)
        .directory(&home)
        .user(owner);
    let mut server = Server::start(program, scratch, "qdrant")?;
    let place = qdrant::Server {
        url: format!("http://127.0.0.1:{port}"),
        key: Some(SecretFile(key)),
    };
    // Its version it tells everybody; the list of collections only whom it knows.
    server.until(scratch, setting, START, |short| {
        qdrant::collections(&place, short).map(drop)
    })?;
    Ok((server, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn true_is_what_databases_call_true() {
        for yes in ["t", "true", "1", "42", "-1", " t ", "0.5"] {
            assert!(is_true(yes), "{yes}");
        }
        for no in ["f", "false", "0", "", "NULL", "0.0", "x", "nan"] {
            assert!(!is_true(no), "{no}");
        }
    }
}
