//! PostgreSQL by its own programs: `pg_dump` in the custom format, uncompressed, for each database, and `pg_dumpall --globals-only`.
//!
//! The custom format, because `pg_restore` can take it in parallel, select from it, and needs no trust in its content beyond SQL; not
//! compressed, because what is compressed anew each time is stored anew each time. A password stands in a password file that is made for
//! the run. Without one we connect as the operating system's user of the same name where we are root and the server is reached by its
//! socket: peer authentication.

mod archive;
mod dump;
mod restore;
mod script;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::account;
use crate::child::{Program, find};
use crate::fault::{Fault, Reason};
use crate::scratch::{Owner, Scratch};
use crate::secret::{Secret, SecretFile};
use crate::setting::{CONNECT, QUESTION, Setting};

pub use archive::Archive;
pub use dump::dump;
pub use restore::{Options, restore};

/// The kind, in words.
pub const KIND: &str = "postgresql";
/// The longest answer to a question, in bytes: a line of about 1 KiB for each database.
const ANSWER: u64 = 8 << 20;

/// Where a server is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name, an address, or the directory of the socket.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user of the server.
    pub user: String,
    /// His password.
    pub password: Option<SecretFile>,
    /// The installation whose `bin` holds the programs.
    pub package: Option<PathBuf>,
    /// The database in which questions about the whole server are asked.
    pub maintenance: String,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            host: "/run/postgresql".into(),
            port: 5432,
            user: "postgres".into(),
            password: None,
            package: None,
            maintenance: "postgres".into(),
        }
    }
}

/// What is backed up of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgresql {
    /// Where.
    pub server: Server,
    /// Which databases; all when it is empty.
    pub databases: Vec<String>,
    /// Also roles and table spaces.
    pub globals: bool,
    /// Patterns of tables whose content is left out; with `DATABASE:` in front only of that database.
    pub exclude_table_data: Vec<String>,
}

/// A way to ask a server.
pub struct Asker {
    server: Server,
    setting: Setting,
    user: Option<Owner>,
    password: Option<Arc<Secret>>,
    file: Option<PathBuf>,
    /// Settings of each connection.
    options: Option<String>,
    /// Holds the password file.
    scratch: Option<Scratch>,
}

impl Asker {
    /// Prepares it: reads the password, finds out as whom programs must run.
    ///
    /// # Errors
    /// The password cannot be read, or its file not be made.
    pub fn new(server: &Server, setting: &Setting) -> Result<Self, Fault> {
        let is_socket = server.host.starts_with('/');
        let user = (account::is_root() && is_socket && server.password.is_none())
            .then(|| account::named(&server.user))
            .flatten();
        let mut asker = Asker {
            server: server.clone(),
            setting: setting.clone(),
            user,
            password: None,
            file: None,
            options: None,
            scratch: None,
        };
        if let Some(file) = &server.password {
            let secret = file.read()?;
            let scratch = Scratch::new(&setting.scratch)?;
            let escaped =
                zeroize::Zeroizing::new(secret.expose().replace('\\', "\\\\").replace(':', "\\:"));
            let line = zeroize::Zeroizing::new(format!("*:*:*:*:{}\n", *escaped));
            asker.file = Some(scratch.file("pgpass", line.as_bytes(), None)?);
            asker.password = Some(Arc::new(secret));
            asker.scratch = Some(scratch);
        }
        Ok(asker)
    }

    /// With settings for each of its connections: `-c NAME=VALUE …`.
    #[must_use]
    pub fn with_options(mut self, options: &str) -> Self {
        self.options = Some(options.to_owned());
        self
    }

    /// The file with the password as PostgreSQL's clients want it, as long as this lives.
    pub fn passfile(&self) -> Option<&std::path::Path> {
        self.file.as_deref()
    }

    /// As whom programs run, when it is not as us.
    pub fn user(&self) -> Option<Owner> {
        self.user
    }

    /// One of PostgreSQL's programs, told how to connect.
    ///
    /// # Errors
    /// It is not installed.
    pub fn program(&self, name: &str) -> Result<Program, Fault> {
        let path = find(&[name], self.server.package.as_deref())?;
        let mut program = Program::new(&path)
            .args([
                "--host",
                &self.server.host,
                "--port",
                &self.server.port.to_string(),
                "--username",
                &self.server.user,
                "--no-password",
            ])
            .env("PGCONNECT_TIMEOUT", CONNECT.as_secs().to_string())
            .env("PGAPPNAME", "keepwatch")
            .env("PGTZ", "UTC")
            .env("HOME", "/nonexistent")
            .secret(self.password.clone())
            .user(self.user);
        // A file that nobody has, so that no other one is used.
        let none = PathBuf::from("/nonexistent/pgpass");
        program = program.env("PGPASSFILE", self.file.clone().unwrap_or(none));
        if let Some(options) = &self.options {
            program = program.env("PGOPTIONS", options.clone());
        }
        Ok(program)
    }

    /// The version of a program: `(major, as it says)`.
    ///
    /// # Errors
    /// It is not installed, or says no version.
    pub fn version(&self, name: &str) -> Result<(u32, String), Fault> {
        let path = find(&[name], self.server.package.as_deref())?;
        let out = Program::new(&path)
            .arg("--version")
            .output(&self.short(), 4096)?;
        let text = String::from_utf8_lossy(&out).trim().to_owned();
        let number = text
            .split_ascii_whitespace()
            .find(|w| w.starts_with(|c: char| c.is_ascii_digit()));
        let major =
            number.and_then(|n| n.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        match (number, major) {
            (Some(number), Some(major)) => Ok((major, number.to_owned())),
            _ => Err(Fault::new(
                Reason::Version,
                format!("{name} does not say its version"),
            )),
        }
    }

    /// For questions, which are answered soon or never.
    fn short(&self) -> Setting {
        let mut setting = self.setting.clone();
        setting.stall = setting.stall.min(QUESTION);
        setting
    }

    /// Runs SQL that answers with one JSON value.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub fn json<T: DeserializeOwned>(&self, database: &str, sql: &str) -> Result<T, Fault> {
        let out = self.sql(database, sql, &self.short())?;
        serde_json::from_slice(&out).map_err(|e| {
            Fault::new(
                Reason::Failed,
                format!("psql answers something unexpected: {e}"),
            )
        })
    }

    /// Runs SQL for what it does, with all the patience there is.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub fn execute(&self, database: &str, sql: &str) -> Result<(), Fault> {
        self.sql(database, sql, &self.setting).map(drop)
    }

    /// What a statement answers, unaligned.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub fn sql(&self, database: &str, sql: &str, setting: &Setting) -> Result<Vec<u8>, Fault> {
        self.program("psql")?
            .args([
                "--no-psqlrc",
                "--quiet",
                "--no-align",
                "--tuples-only",
                "--set=ON_ERROR_STOP=1",
            ])
            .arg(format!("--dbname={}", conninfo(database)))
            .arg(format!("--command={sql}"))
            .output(setting, ANSWER)
            .map_err(|e| self.explain(e))
    }

    /// See [`Server::explain`].
    pub fn explain(&self, fault: Fault) -> Fault {
        self.server.explain(fault)
    }
}

impl Server {
    /// Says in one sentence what PostgreSQL says in many ways.
    pub fn explain(&self, fault: Fault) -> Fault {
        let text = fault.text.as_str();
        let place = format!("PostgreSQL at {}, port {}", self.host, self.port);
        let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
        let user = &self.user;
        let (reason, sentence) = if fault.reason != Reason::Failed {
            return fault;
        } else if has(&[
            "password authentication failed",
            "no password supplied",
            "Peer authentication failed",
            "no pg_hba.conf entry",
            "permission denied",
        ]) {
            (Reason::Denied, format!("{place} refuses the user {user}"))
        } else if has(&["server version mismatch"]) {
            (
                Reason::Version,
                "pg_dump is older than the server".to_owned(),
            )
        } else if has(&["database \""]) && has(&["does not exist"]) {
            (Reason::NotThere, format!("{place} has no such database"))
        } else if has(&[
            "connection to server",
            "could not connect",
            "could not translate host name",
            "the database system is",
        ]) {
            (Reason::NoConnection, format!("{place} cannot be reached"))
        } else if has(&["No space left on device"]) {
            (Reason::NoSpace, format!("{place} has no space left"))
        } else {
            return fault;
        };
        Fault::new(reason, format!("{sentence} ({text})"))
    }
}

/// A database as a connection string, so that no name of one is taken for something else.
pub(crate) fn conninfo(database: &str) -> String {
    format!(
        "dbname='{}'",
        database.replace('\\', "\\\\").replace('\'', "\\'")
    )
}

/// The directory of the newest PostgreSQL of this host that holds a program.
pub(crate) fn installation(package: Option<&Path>, program: &str) -> Result<PathBuf, Fault> {
    let found = find(&[program], package);
    if package.is_some() {
        return found;
    }
    found.or_else(|e| {
        // Where Debian keeps what is no client.
        let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|d| {
                Some((
                    d.file_name().to_str()?.parse().ok()?,
                    d.path().join("bin").join(program),
                ))
            })
            .filter(|(_, p)| p.exists())
            .collect();
        versions.sort();
        versions.pop().map(|(_, p)| p).ok_or(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_databases_stay_names() {
        assert_eq!(conninfo("app"), "dbname='app'");
        assert_eq!(conninfo("x' host=evil"), "dbname='x\\' host=evil'");
        assert_eq!(
            conninfo("postgresql://evil/"),
            "dbname='postgresql://evil/'"
        );
    }
}
