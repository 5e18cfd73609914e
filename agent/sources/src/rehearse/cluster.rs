//! A private server of PostgreSQL on a data directory that came back from a base backup.
//!
//! Whoever rehearses brings the files and the log; here the server is started on them, and must get by without anything of the original host.
//!
//! - **Nothing of the original configuration counts**: settings, rules of access and names of users are files of ours, `postgresql.auto.conf` is made new. So nothing is preloaded, archived,
//!   listened to on an address, or asked of a primary; and no subscription of the restored catalogs takes changes away from the server that it belongs to.
//! - **The recovery** reads the log from `pg_wal`, opens the server on a timeline of its own, and may last as long as it moves.
//! - **Who asks**: which role is the superuser, nobody knows. So the server is stopped once, and one is made in single-user mode, which knows no roles.
//!
//! The socket lies in a directory that the server's user and we alone may enter; there no password is asked for.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Answer, START, Server, first_line, home, is_true, questions_of, tail, without_room};
use crate::child::{Program, find};
use crate::fault::{Fault, Reason};
use crate::postgresql::{self, Asker};
use crate::scratch::{Owner, Scratch, create, give, note_server};
use crate::setting::Setting;

/// How long it may take to end in good order after a recovery: it writes out what it holds in memory.
const CLOSE: Duration = Duration::from_secs(600);
/// How often it is looked whether the recovery moves.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes of what `pg_controldata` prints.
const CONTROL: u64 = 64 << 10;
/// Bytes of `postmaster.pid` that are read.
const STATUS: usize = 4096;

/// Scratch space for a cluster, and the programs of its version.
pub struct Cluster {
    scratch: Scratch,
    /// Where the scratch directory lies, for sentences.
    parent: PathBuf,
    home: PathBuf,
    data: PathBuf,
    bin: PathBuf,
    owner: Option<Owner>,
    major: u32,
}

/// What `pg_controldata` says that a recovery must not have less of.
struct Sizes {
    connections: u64,
    prepared: u64,
    locks: u64,
}

impl Cluster {
    /// Makes the scratch space. `version`: the major version of the server that was backed up.
    ///
    /// # Errors
    /// That version is not installed, or there is no place.
    pub fn new(package: Option<&Path>, version: &str, setting: &Setting) -> Result<Self, Fault> {
        let wrong = |said: &str| {
            Fault::new(
                Reason::Version,
                format!(
                    "the base backup is of PostgreSQL {version}, which alone can start it, and {said}"
                ),
            )
        };
        let debian = PathBuf::from("/usr/lib/postgresql").join(version);
        let postgres = match package {
            Some(_) => find(&["postgres"], package)?,
            None => find(&["postgres"], Some(&debian))
                .or_else(|_| postgresql::installation(None, "postgres"))?,
        };
        let bin = postgres.parent().unwrap_or(Path::new("/")).to_owned();
        let said = Program::new(&postgres)
            .arg("--version")
            .output(setting, CONTROL)?;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        let major: u32 = said
            .split_ascii_whitespace()
            .find(|w| w.starts_with(|c: char| c.is_ascii_digit()))
            .and_then(|w| w.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .ok_or_else(|| wrong(&format!("{} does not say its version", postgres.display())))?;
        if major.to_string() != version {
            return Err(wrong(&format!("{} is {said}", postgres.display())));
        }
        let scratch = Scratch::new(&setting.scratch)?;
        open(scratch.path())?;
        let (home, owner) = home(&scratch, &["postgres", "nobody"])?;
        let data = home.join("data");
        fs::create_dir(&data).map_err(|e| Fault::file("make", &data, &e))?;
        only_for(&data, owner)?;
        Ok(Cluster {
            scratch,
            parent: setting.scratch.clone(),
            home,
            data,
            bin,
            owner,
            major,
        })
    }

    /// The empty data directory, into which the base backup and its log are to be brought.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where the programs of its version lie.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Of whom the files must be, when we are root.
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Writes down a program that works in the scratch space, the leader of its process group: whoever sweeps ends it.
    pub fn note(&self, pid: u32) {
        if let Err(e) = note_server(self.scratch.path(), "program", pid) {
            tracing::warn!("{e}");
        }
    }

    /// Starts the server, which replays its log along these timelines to the end, and stops it when it has opened.
    ///
    /// # Errors
    /// It does not start, or finds something in the log that it cannot replay.
    pub fn recover(&self, timeline: u32, setting: &Setting) -> Result<(), Fault> {
        self.recover_it(timeline, setting)
            .map_err(|fault| without_room(fault, &self.parent, &self.scratch))
    }

    fn recover_it(&self, timeline: u32, setting: &Setting) -> Result<(), Fault> {
        let sizes = self.sizes(setting)?;
        self.configure(timeline, &sizes)?;
        let signal = self.data.join("recovery.signal");
        let mut server = Server::start(self.program(), &self.scratch, "recovery")?;
        let (mut seen, mut since) = (None, Instant::now());
        loop {
            setting.stop.check()?;
            if let Ok(Some(status)) = server.child.try_wait() {
                let why = self.why("recovery").unwrap_or_else(|| status.to_string());
                return Err(Fault::new(
                    Reason::Failed,
                    format!("PostgreSQL cannot be started on the restored base backup: {why}"),
                ));
            }
            if self.is_ready() && !signal.exists() {
                break;
            }
            let now = recovering(server.child.id());
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            if since.elapsed() >= setting.stall {
                return Err(Fault::new(
                    Reason::Stalled,
                    format!(
                        "the recovery of the restored base backup has not moved for {} s",
                        setting.stall.as_secs()
                    ),
                ));
            }
            std::thread::sleep(LOOK);
        }
        server.end_within(CLOSE);
        Ok(())
    }

    /// Starts the recovered server, asks, and ends it. A question may begin with `@NAME ` to mean one of several databases.
    ///
    /// # Errors
    /// It does not start again, or cannot be asked at all.
    pub fn ask(&self, questions: &[String], setting: &Setting) -> Result<Vec<Answer>, Fault> {
        self.ask_it(questions, setting)
            .map_err(|fault| without_room(fault, &self.parent, &self.scratch))
    }

    fn ask_it(&self, questions: &[String], setting: &Setting) -> Result<Vec<Answer>, Fault> {
        let role = self.superuser(setting)?;
        let mut server = Server::start(self.program(), &self.scratch, "postgresql")?;
        let place = postgresql::Server {
            host: self.home.display().to_string(),
            user: role,
            package: Some(match self.bin.ends_with("bin") {
                true => self.bin.parent().unwrap_or(&self.bin).to_owned(),
                false => self.bin.clone(),
            }),
            // Databases may be renamed or dropped; this one cannot.
            maintenance: "template1".into(),
            ..Default::default()
        };
        // What the catalogs say of roles and databases would be loaded into each connection.
        let mut options = "-c session_preload_libraries= -c local_preload_libraries=".to_owned();
        if self.major >= 17 {
            options += " -c event_triggers=off";
        }
        let asker = |setting: &Setting| -> Result<Asker, Fault> {
            Ok(Asker::new(&place, setting)?.with_options(&options))
        };
        server.until(&self.scratch, setting, START, |short| {
            asker(short)?
                .json::<bool>(&place.maintenance, "SELECT 'true'::json")
                .map(drop)
        })?;
        let asker = asker(setting)?;
        let databases: Option<Vec<String>> = asker.json(
            &place.maintenance,
            "SELECT coalesce(json_agg(datname ORDER BY datname = 'postgres', datname), 'null') FROM pg_database WHERE datallowconn AND NOT datistemplate",
        )?;
        let databases = databases.unwrap_or_default();
        let answers = questions_of(questions, &|of, sql| {
            let name = of.or(databases.first().map(String::as_str));
            let name = name.filter(|n| databases.iter().any(|d| d == n));
            let name = name.ok_or_else(|| {
                Fault::new(
                    Reason::NotThere,
                    format!(
                        "the base backup holds no database '{}'",
                        of.unwrap_or("that can be asked")
                    ),
                )
            })?;
            let out = asker.sql(name, sql, setting)?;
            Ok(is_true(&first_line(&out)))
        });
        server.end();
        Ok(answers)
    }

    /// Of a fault that came while files were brought: what it means for the place.
    pub fn explain(&self, fault: Fault) -> Fault {
        without_room(fault, &self.parent, &self.scratch)
    }

    fn program(&self) -> Program {
        Program::new(&self.bin.join("postgres"))
            .arg("-D")
            .arg(&self.data)
            .arg("-c")
            .arg(self.setting("config_file", "postgresql.conf"))
            .arg("-k")
            .arg(&self.home)
            .user(self.owner)
    }

    fn setting(&self, name: &str, file: &str) -> String {
        format!("{name}={}", self.scratch.path().join(file).display())
    }

    /// Everything that the server reads besides its data.
    fn configure(&self, timeline: u32, sizes: &Sizes) -> Result<(), Fault> {
        let file = |name: &str| -> Result<String, Fault> {
            let path = self.scratch.path().join(name).display().to_string();
            match path.chars().any(char::is_control) {
                true => Err(Fault::new(
                    Reason::Parameter,
                    "the path of the scratch directory has control characters",
                )),
                false => Ok(format!(
                    "'{}'",
                    path.replace('\\', "\\\\").replace('\'', "''")
                )),
            }
        };
        let mut text = format!(
            "hba_file = {}\nident_file = {}\n",
            file("pg_hba.conf")?,
            file("pg_ident.conf")?
        );
        for (name, value) in [
            ("listen_addresses", "''".to_owned()),
            ("port", "5432".to_owned()),
            ("unix_socket_permissions", "0700".to_owned()),
            ("ssl", "off".to_owned()),
            // It is thrown away.
            ("fsync", "off".to_owned()),
            ("full_page_writes", "off".to_owned()),
            ("synchronous_commit", "off".to_owned()),
            ("max_wal_size", "'4GB'".to_owned()),
            ("autovacuum", "off".to_owned()),
            ("log_line_prefix", "''".to_owned()),
            ("shared_preload_libraries", "''".to_owned()),
            // Nothing leaves it, and nothing comes from elsewhere.
            ("archive_mode", "off".to_owned()),
            ("wal_level", "replica".to_owned()),
            ("max_wal_senders", "0".to_owned()),
            ("max_logical_replication_workers", "0".to_owned()),
            // Where subscriptions stood is read at the start, and must have room.
            ("max_replication_slots", "256".to_owned()),
            // It opens when all is replayed; before that, settings of the original would have to be met.
            ("hot_standby", "off".to_owned()),
            // PostgreSQL wants a command, and takes from pg_wal what it does not bring.
            ("restore_command", "'false'".to_owned()),
            ("recovery_target_timeline", format!("'{timeline}'")),
            // Transactions that were prepared come back with their locks.
            ("max_connections", sizes.connections.max(20).to_string()),
            (
                "max_prepared_transactions",
                sizes.prepared.max(64).to_string(),
            ),
            ("max_locks_per_transaction", sizes.locks.max(64).to_string()),
        ] {
            text += &format!("{name} = {value}\n");
        }
        if self.major >= 18 {
            text += "max_active_replication_origins = 256\n";
        }
        self.scratch
            .file("postgresql.conf", text.as_bytes(), self.owner)?;
        self.scratch
            .file("pg_hba.conf", b"local all all trust\n", self.owner)?;
        self.scratch.file("pg_ident.conf", b"", self.owner)?;
        for name in [
            "postgresql.auto.conf",
            "standby.signal",
            "recovery.signal",
            "postmaster.pid",
        ] {
            let path = self.data.join(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Fault::file("remove", &path, &e));
                }
                _ => {}
            }
        }
        for name in ["postgresql.auto.conf", "recovery.signal"] {
            let path = self.data.join(name);
            create(&path).map_err(|e| Fault::file("write", &path, &e))?;
            give(&path, self.owner)?;
        }
        Ok(())
    }

    fn sizes(&self, setting: &Setting) -> Result<Sizes, Fault> {
        let out = Program::new(&self.bin.join("pg_controldata"))
            .arg(&self.data)
            .user(self.owner)
            .output(setting, CONTROL)?;
        let out = String::from_utf8_lossy(&out).into_owned();
        let number = |name: &str| {
            out.lines()
                .find_map(|l| {
                    l.strip_prefix(name)?
                        .strip_prefix(" setting:")?
                        .trim()
                        .parse()
                        .ok()
                })
                .unwrap_or(0)
        };
        Ok(Sizes {
            connections: number("max_connections"),
            prepared: number("max_prepared_xacts"),
            locks: number("max_locks_per_xact"),
        })
    }

    /// Makes a superuser whose name nobody has, and returns it.
    fn superuser(&self, setting: &Setting) -> Result<String, Fault> {
        let random = crate::chance::digits::<8>()?;
        let role = format!("keepwatch_drill_{}", *random);
        let mut running = Program::new(&self.bin.join("postgres"))
            .arg("--single")
            .arg("-D")
            .arg(&self.data)
            .arg("-c")
            .arg(self.setting("config_file", "postgresql.conf"))
            .arg("template1")
            .user(self.owner)
            .write(setting)?;
        writeln!(running, "CREATE ROLE {role} SUPERUSER LOGIN").map_err(Fault::from_io)?;
        running.end()?;
        Ok(role)
    }

    /// Whether it takes connections, as its own file says.
    fn is_ready(&self) -> bool {
        let text = fs::read(self.data.join("postmaster.pid")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[..text.len().min(STATUS)]).into_owned();
        text.lines().nth(7).is_some_and(|l| l.trim() == "ready")
    }

    /// What it says of its end.
    fn why(&self, name: &str) -> Option<String> {
        let log = tail(&self.scratch.path().join(format!("{name}.log"))).ok()?;
        complaint(&log)
    }
}

/// The first line of a log that says why a server of PostgreSQL ended.
fn complaint(log: &str) -> Option<String> {
    let fatal = |level: &str| {
        log.lines()
            .find_map(|l| Some(l.split_once(level)?.1.trim().to_owned()))
    };
    let text = fatal("PANIC:").or_else(|| fatal("FATAL:"))?;
    Some(crate::text::said(text.as_bytes(), &[]))
}

/// What tells that a recovery moves: the title of the process that does it names the segment, and it uses the processor.
fn recovering(server: u32) -> Option<(Vec<u8>, u64)> {
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some(at) = stat.rfind(')') else { continue };
        let fields: Vec<&str> = stat[at + 1..].split_ascii_whitespace().collect();
        // State, parent, …; the time in user mode and in the system are the 12th and 13th.
        if fields.get(1) != Some(&server.to_string().as_str()) {
            continue;
        }
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&title).contains("startup") {
            let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok());
            return Some((title, ticks(11)? + ticks(12)?));
        }
    }
    None
}

fn open(path: &Path) -> Result<(), Fault> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o711))
        .map_err(|e| Fault::file("open", path, &e))
}

fn only_for(path: &Path, owner: Option<Owner>) -> Result<(), Fault> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(|e| Fault::file("close", path, &e))?;
    give(path, owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_server_ended_is_its_first_fatal_line() {
        let log = "LOG:  starting PostgreSQL\nLOG:  invalid checkpoint record\nFATAL:  could not locate required checkpoint record\nHINT:  If you are restoring\nFATAL:  the database system is shutting down\n";
        assert_eq!(
            complaint(log).as_deref(),
            Some("could not locate required checkpoint record")
        );
        assert_eq!(
            complaint("FATAL:  a\n2026 PANIC:  b\n").as_deref(),
            Some("b")
        );
        assert_eq!(complaint("LOG:  all is well\n"), None);
    }

    #[test]
    fn only_a_process_of_the_server_counts() {
        assert_eq!(recovering(std::process::id()), None);
    }
}
