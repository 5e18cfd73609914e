//! MySQL and MariaDB by their own programs: a dump for each database, and the users.
//!
//! Each database is dumped in one transaction, so that nothing is locked; what tables without transactions hold may change meanwhile,
//! and that is told. The password stands in an option file that is made for the run, and no other option file is read. A dump ends with a
//! line that says so: without it, it is not whole, whatever the exit status. A database is restored under any name, since its dump does
//! not say its own.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::about::{About, Item};
use crate::check::{Checked, EndLine};
use crate::child::{Program, Running, find};
use crate::dump::{Body, Explained, Part, Parts};
use crate::fault::{Fault, Reason};
use crate::restore::{Report, Stored};
use crate::scratch::Scratch;
use crate::secret::{Secret, SecretFile};
use crate::setting::{CONNECT, QUESTION, Setting};
use crate::text::component;

/// The kind, in words.
pub const KIND: &str = "mysql";
/// The last line of a dump.
const END: &str = "-- Dump completed";
/// The longest answer to a question, in bytes.
const ANSWER: u64 = 8 << 20;
/// What belongs to the server.
const SYSTEM: &[&str] = &["information_schema", "performance_schema", "mysql", "sys"];

/// Where a server is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its socket.
    pub socket: Option<PathBuf>,
    /// Its name or address, when there is no socket.
    pub host: Option<String>,
    /// Its port.
    pub port: u16,
    /// The user of the server.
    pub user: String,
    /// His password.
    pub password: Option<SecretFile>,
    /// The installation whose `bin` holds the programs.
    pub package: Option<PathBuf>,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            socket: None,
            host: None,
            port: 3306,
            user: "root".into(),
            password: None,
            package: None,
        }
    }
}

/// What is backed up of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mysql {
    /// Where.
    pub server: Server,
    /// Which databases; all when it is empty.
    pub databases: Vec<String>,
    /// Also the users, where the program can dump them.
    pub users: bool,
    /// In one transaction.
    pub single_transaction: bool,
}

/// A way to ask a server.
pub struct Asker {
    server: Server,
    setting: Setting,
    options: PathBuf,
    password: Option<Arc<Secret>>,
    _scratch: Scratch,
}

/// A value in an option file.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

impl Asker {
    /// Prepares it.
    ///
    /// # Errors
    /// The password cannot be read, or the option file not be made.
    pub fn new(server: &Server, setting: &Setting) -> Result<Self, Fault> {
        let password = server
            .password
            .as_ref()
            .map(SecretFile::read)
            .transpose()?
            .map(Arc::new);
        let mut text =
            zeroize::Zeroizing::new(format!("[client]\nuser={}\n", quoted(&server.user)));
        match (&server.socket, &server.host) {
            (Some(socket), _) => {
                *text += &format!(
                    "protocol=socket\nsocket={}\n",
                    quoted(&socket.to_string_lossy())
                )
            }
            (None, Some(host)) => {
                *text += &format!(
                    "protocol=tcp\nhost={}\nport={}\n",
                    quoted(host),
                    server.port
                )
            }
            (None, None) => {}
        }
        if let Some(password) = &password {
            let value = zeroize::Zeroizing::new(quoted(password.expose()));
            *text += &format!("password={}\n", *value);
        }
        let scratch = Scratch::new(&setting.scratch)?;
        let options = scratch.file("my.cnf", text.as_bytes(), None)?;
        Ok(Asker {
            server: server.clone(),
            setting: setting.clone(),
            options,
            password,
            _scratch: scratch,
        })
    }

    fn program(&self, names: &[&str]) -> Result<Program, Fault> {
        let path = find(names, self.server.package.as_deref())?;
        let mut first = std::ffi::OsString::from("--defaults-file=");
        first.push(&self.options);
        Ok(Program::new(&path)
            .arg(first)
            .env("HOME", "/nonexistent")
            .secret(self.password.clone()))
    }

    fn client(&self) -> Result<Program, Fault> {
        Ok(self
            .program(&["mariadb", "mysql"])?
            .arg(format!("--connect-timeout={}", CONNECT.as_secs()))
            .arg("--default-character-set=utf8mb4"))
    }

    fn dumper(&self) -> Result<Program, Fault> {
        self.program(&["mariadb-dump", "mysqldump"])
    }

    /// Rows of texts.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, Fault> {
        self.rows_of(None, sql)
    }

    /// The same, in a database.
    ///
    /// # Errors
    /// It cannot be reached, or refuses.
    pub fn rows_of(&self, database: Option<&str>, sql: &str) -> Result<Vec<Vec<String>>, Fault> {
        let mut setting = self.setting.clone();
        setting.stall = setting.stall.min(QUESTION);
        let out = self
            .client()?
            .args(["--batch", "--skip-column-names"])
            .args(database.map(|d| format!("--database={d}")))
            .arg(format!("--execute={sql}"))
            .output(&setting, ANSWER)
            .map_err(|e| self.explain(e))?;
        let text = String::from_utf8_lossy(&out);
        Ok(text
            .lines()
            .map(|l| l.split('\t').map(unescaped).collect())
            .collect())
    }

    fn explain(&self, fault: Fault) -> Fault {
        self.server.explain(fault)
    }

    fn place(&self) -> String {
        self.server.place()
    }
}

impl Server {
    fn place(&self) -> String {
        match (&self.socket, &self.host) {
            (Some(socket), _) => format!("the server at {}", socket.display()),
            (None, Some(host)) => format!("the server at {host}, port {}", self.port),
            (None, None) => "the server at the usual socket".to_owned(),
        }
    }

    /// Says in one sentence what the server says in many ways.
    fn explain(&self, fault: Fault) -> Fault {
        if fault.reason != Reason::Failed {
            return fault;
        }
        let text = &fault.text;
        let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
        let place = self.place();
        let (reason, sentence) = if has(&[
            "ERROR 1045",
            "error: 1045",
            "ERROR 1698",
            "error: 1698",
            "Access denied",
            "ERROR 1227",
        ]) {
            (
                Reason::Denied,
                format!("{place} refuses the user {}", self.user),
            )
        } else if has(&["ERROR 1049", "error: 1049", "Unknown database"]) {
            (Reason::NotThere, format!("{place} has no such database"))
        } else if has(&[
            "ERROR 2002",
            "ERROR 2003",
            "ERROR 2005",
            "error: 2002",
            "error: 2003",
            "error: 2005",
            "ERROR 2013",
            "error: 2013",
            "ERROR 2026",
        ]) {
            (
                Reason::NoConnection,
                format!("{place} cannot be reached, or went away"),
            )
        } else if has(&["ERROR 1114", "ERROR 1021", "Errcode: 28", "No space left"]) {
            (Reason::NoSpace, format!("{place} has no space left"))
        } else {
            return fault;
        };
        Fault::new(reason, format!("{sentence} ({text})"))
    }
}

/// As the client writes a text in batch mode.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('0') => out.push('\0'),
            Some(other) => out.push(other),
            None => out.push('\\'),
        }
    }
    out
}

fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

struct Database {
    name: String,
    details: Value,
}

fn databases(asker: &Asker) -> Result<Vec<Database>, Fault> {
    let rows = asker.rows(
        "SELECT s.schema_name, s.default_character_set_name, s.default_collation_name, \
         (SELECT count(*) FROM information_schema.tables t WHERE t.table_schema = s.schema_name), \
         (SELECT coalesce(sum(data_length + index_length), 0) FROM information_schema.tables t WHERE t.table_schema = s.schema_name) \
         FROM information_schema.schemata s ORDER BY 1",
    )?;
    let database = |row: Vec<String>| match &row[..] {
        [name, charset, collation, tables, bytes] if !SYSTEM.contains(&name.as_str()) => {
            Some(Database {
                name: name.clone(),
                details: json!({
                    "charset": charset,
                    "collation": collation,
                    "tables": tables.parse::<u64>().unwrap_or_default(),
                    "bytes": bytes.parse::<f64>().unwrap_or_default() as u64,
                }),
            })
        }
        _ => None,
    };
    Ok(rows.into_iter().filter_map(database).collect())
}

/// Begins a dump.
///
/// # Errors
/// A program is missing, the server does not answer, a database is not there.
pub fn dump(source: &Mysql, setting: &Setting) -> Result<Box<dyn Parts>, Fault> {
    let asker = Asker::new(&source.server, setting)?;
    let program = find(
        &["mariadb-dump", "mysqldump"],
        source.server.package.as_deref(),
    )?;
    let said = Program::new(&program)
        .arg("--version")
        .output(setting, 4096)?;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let is_mariadb = said.contains("MariaDB");
    let version = asker.rows("SELECT version()")?.into_iter().flatten().next();
    let mut there = databases(&asker)?;
    if !source.databases.is_empty() {
        for wanted in &source.databases {
            if !there.iter().any(|d| d.name == *wanted) {
                return Err(Fault::new(
                    Reason::NotThere,
                    format!(
                        "{} has no database '{wanted}', or does not show it to {}",
                        asker.place(),
                        source.server.user
                    ),
                ));
            }
        }
        there.retain(|d| source.databases.contains(&d.name));
    }
    let mut about = About::new(KIND);
    about.server_version = version;
    about.program_version = said
        .split_once("Ver ")
        .map(|(_, v)| v.to_owned())
        .or(Some(said));
    let loose = asker.rows(
        "SELECT table_schema, table_name, engine FROM information_schema.tables WHERE table_type = 'BASE TABLE' \
         AND engine NOT IN ('InnoDB', 'MEMORY', 'SEQUENCE') ORDER BY 1, 2",
    )?;
    let loose: Vec<String> = loose
        .into_iter()
        .filter(|r| there.iter().any(|d| r.first() == Some(&d.name)))
        .map(|r| {
            format!(
                "{} ({})",
                r[..2.min(r.len())].join("."),
                r.get(2).map_or("", String::as_str)
            )
        })
        .collect();
    if source.single_transaction && !loose.is_empty() {
        let more = if loose.len() > 10 { " and others" } else { "" };
        about.notes.push(format!(
            "tables without transactions are not of one moment with the rest: {}{more}",
            loose
                .iter()
                .take(10)
                .cloned()
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    let users = source.users && is_mariadb;
    if source.users && !is_mariadb {
        about
            .notes
            .push("mysqldump cannot dump users: they are not in this backup".into());
    }
    if there.is_empty() && !users {
        return Err(Fault::new(
            Reason::NotThere,
            format!("{} has no databases", asker.place()),
        ));
    }
    Ok(Box::new(Dump {
        source: source.clone(),
        setting: setting.clone(),
        asker,
        is_mariadb,
        users,
        there: there.into(),
        about,
    }))
}

struct Dump {
    source: Mysql,
    setting: Setting,
    asker: Asker,
    is_mariadb: bool,
    users: bool,
    there: VecDeque<Database>,
    about: About,
}

impl Dump {
    fn explained(&self, running: Running) -> Box<dyn Body> {
        let server = self.source.server.clone();
        Explained::boxed(Box::new(running), move |fault| server.explain(fault))
    }
}

impl Parts for Dump {
    fn next(&mut self) -> Result<Option<Part>, Fault> {
        if std::mem::take(&mut self.users) {
            let running = self
                .asker
                .dumper()?
                .args(["--system=users", "--insert-ignore", "--skip-dump-date"])
                .read(&self.setting)?;
            return Ok(Some(Part {
                name: "users.sql".into(),
                what: "users",
                of: None,
                details: Value::Null,
                body: Checked::over(
                    self.explained(running),
                    EndLine::new(END),
                    "the dump of users",
                ),
            }));
        }
        let Some(Database { name, details }) = self.there.pop_front() else {
            return Ok(None);
        };
        let mut program = self.asker.dumper()?.args([
            "--quick",
            "--routines",
            "--triggers",
            "--events",
            "--hex-blob",
            "--skip-dump-date",
            "--default-character-set=utf8mb4",
        ]);
        if self.source.single_transaction {
            program = program.arg("--single-transaction");
        }
        if !self.is_mariadb {
            program = program.args(["--set-gtid-purged=OFF", "--no-tablespaces"]);
        }
        let running = self.explained(program.arg("--").arg(&name).read(&self.setting)?);
        Ok(Some(Part {
            name: format!("{}.sql", component(&name)),
            what: "database",
            details,
            body: Checked::over(
                running,
                EndLine::new(END),
                format!("the dump of the database '{name}'"),
            ),
            of: Some(name),
        }))
    }

    fn about(&mut self) -> About {
        self.about.clone()
    }
}

/// What is restored, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which databases, and under which names; all under their own when it is empty.
    pub databases: BTreeMap<String, String>,
    /// Users.
    pub users: bool,
    /// Whether databases that hold something are replaced.
    pub replace: bool,
}

/// Restores. All that could stand in the way is looked at before anything is touched.
///
/// # Errors
/// What stands in the way, or what failed.
pub fn restore(
    stored: &dyn Stored,
    about: &About,
    server: &Server,
    options: &Options,
    setting: &Setting,
) -> Result<Report, Fault> {
    let asker = Asker::new(server, setting)?;
    let there = databases(&asker)?;
    let own = |item: &Item| item.of.clone().unwrap_or_default();
    let chosen = about.chosen("database", &options.databases)?;
    let users: Vec<&Item> = about.all("users").filter(|_| options.users).collect();
    for item in &users {
        stored.there(item)?;
    }
    for (item, name) in &chosen {
        stored.there(item)?;
        if SYSTEM.contains(&name.as_str()) {
            return Err(Fault::new(
                Reason::InTheWay,
                format!("'{name}' belongs to the server; nothing was touched"),
            ));
        }
        let holds = there
            .iter()
            .any(|d| d.name == *name && d.details["tables"] != json!(0));
        if holds && !options.replace {
            return Err(Fault::new(
                Reason::InTheWay,
                format!(
                    "the database '{name}' exists and is not empty; restore under another name with --database {}=NAME, or replace it with --replace; nothing was touched",
                    own(item)
                ),
            ));
        }
    }
    let mut report = Report::default();
    for item in users {
        self::users(stored, item, &asker, setting, &mut report)
            .map_err(|e| e.during("restore the users"))?;
        report.restored.push("users".into());
    }
    for (item, name) in chosen {
        let database = identifier(&name);
        let existed = there.iter().any(|d| d.name == name);
        if existed {
            asker.rows(&format!("DROP DATABASE {database}"))?;
        }
        let mut make = format!("CREATE DATABASE {database}");
        for (word, key) in [("CHARACTER SET", "charset"), ("COLLATE", "collation")] {
            if let Some(value) = item.details[key].as_str() {
                make += &format!(" {word} {}", literal(value));
            }
        }
        let restored = asker
            .rows(&make)
            .and_then(|_| feed(stored, item, &name, &asker, setting))
            .and_then(|()| {
                let tables = databases(&asker)?
                    .into_iter()
                    .find(|d| d.name == name)
                    .map(|d| d.details["tables"].clone());
                match tables == item.details.get("tables").cloned() {
                    true => Ok(()),
                    false => Err(Fault::new(
                        Reason::NotWhole,
                        "it has another number of tables than the database that was dumped",
                    )),
                }
            });
        if let Err(e) = restored {
            let dropped = asker.rows(&format!("DROP DATABASE IF EXISTS {database}"));
            let state = match dropped {
                Ok(_) => "what was restored of it is dropped again".to_owned(),
                Err(left) => format!("what was restored of it could not be dropped either: {left}"),
            };
            return Err(Fault::new(e.reason, format!("{e}; {state}"))
                .during(format!("restore the database '{name}'")));
        }
        report.restored.push(format!("database {name}"));
        report.bytes += item.bytes;
    }
    Ok(report)
}

/// Users that are there stay as they are; what cannot be granted is told.
fn users(
    stored: &dyn Stored,
    item: &Item,
    asker: &Asker,
    setting: &Setting,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut running = asker
        .client()?
        .args(["--batch", "--binary-mode", "--force"])
        .write(setting)?;
    stored
        .write(&item.name, &mut running)
        .map_err(|e| asker.explain(e))?;
    let status = running.wait()?;
    let complaints = running.complaints();
    let of_statements = complaints
        .lines()
        .filter(|l| l.starts_with("ERROR") && l.contains(" at line "));
    let before = report.notes.len();
    report
        .notes
        .extend(of_statements.map(|l| format!("users: {}", crate::text::said(l.as_bytes(), &[]))));
    match status.success() || report.notes.len() > before {
        true => Ok(()),
        false => Err(asker.explain(Fault::new(
            Reason::Failed,
            crate::text::said(complaints.as_bytes(), &[]),
        ))),
    }
}

/// In binary mode the client knows no commands of its own: a dump cannot start a shell.
fn feed(
    stored: &dyn Stored,
    item: &Item,
    database: &str,
    asker: &Asker,
    setting: &Setting,
) -> Result<(), Fault> {
    let mut running = asker
        .client()?
        .args(["--batch", "--binary-mode"])
        .arg(format!("--database={database}"))
        .write(setting)?;
    stored
        .write(&item.name, &mut running)
        .map_err(|e| asker.explain(e))?;
    running.end().map_err(|e| asker.explain(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_and_read_back() {
        assert_eq!(quoted("a\"b\\c#"), "\"a\\\"b\\\\c#\"");
        assert_eq!(unescaped("a\\tb\\\\n\\n"), "a\tb\\n\n");
        assert_eq!(identifier("a`b"), "`a``b`");
        assert_eq!(literal("a'\\"), "'a''\\\\'");
    }
}
