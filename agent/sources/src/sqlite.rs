//! SQLite by its online backup: a copy of one moment, in scratch space, checked, then streamed.
//!
//! A database in WAL mode is read in one transaction, so that writers neither wait nor make the copy begin anew. In the older modes a
//! reader holds writers up, so the copy goes in steps, and begins anew when somebody wrote in between; after [`ANEW`] times it is taken in
//! one step. This is the one source that needs a copy: the file itself changes while it is read.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use serde_json::json;

use crate::about::{About, Item};
use crate::check::{Checked, NotEmpty};
use crate::dump::{Body, Part, Parts};
use crate::fault::{Fault, Reason};
use crate::restore::{Report, Stored};
use crate::scratch::{Scratch, create};
use crate::setting::Setting;
use crate::text::component;

/// The kind, in words.
pub const KIND: &str = "sqlite";
/// Pages copied in one step.
const STEP: i32 = 2048;
/// How often a copy may begin anew.
const ANEW: u32 = 3;
/// How long somebody else's lock is waited for.
const BUSY: Duration = Duration::from_secs(30);

/// What is backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sqlite {
    /// The files: absolute paths.
    pub databases: Vec<PathBuf>,
}

/// Begins a dump.
///
/// # Errors
/// A file is not there.
pub fn dump(source: &Sqlite, setting: &Setting) -> Result<Box<dyn Parts>, Fault> {
    for path in &source.databases {
        let about =
            fs::metadata(path).map_err(|e| Fault::file("back up the database", path, &e))?;
        if !about.is_file() {
            return Err(Fault::new(
                Reason::NotThere,
                format!("{} is no file", path.display()),
            ));
        }
    }
    let mut about = About::new(KIND);
    about.program_version = Some(rusqlite::version().to_owned());
    Ok(Box::new(Dump {
        left: source.databases.clone().into(),
        setting: setting.clone(),
        about,
    }))
}

struct Dump {
    left: VecDeque<PathBuf>,
    setting: Setting,
    about: About,
}

impl Parts for Dump {
    fn next(&mut self) -> Result<Option<Part>, Fault> {
        let Some(path) = self.left.pop_front() else {
            return Ok(None);
        };
        let shown = path.display().to_string();
        let meta =
            fs::metadata(&path).map_err(|e| Fault::file("back up the database", &path, &e))?;
        let needed = meta.len() + fs::metadata(with(&path, "-wal")).map_or(0, |m| m.len());
        let free = rustix::fs::statvfs(&self.setting.scratch)
            .map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize));
        if free < needed {
            return Err(Fault::new(
                Reason::NoSpace,
                format!(
                    "not enough space in {} for a copy of {shown}: {needed} bytes are needed, {free} are free",
                    self.setting.scratch.display()
                ),
            ));
        }
        let scratch = Scratch::new(&self.setting.scratch)?;
        let copy = scratch.path().join("copy.db");
        copy_of(&path, &copy, &self.setting)
            .map_err(|e| e.during(format!("copy the database {shown}")))?;
        check(&copy, &self.setting)
            .map_err(|e| e.during(format!("back up the database {shown}")))?;
        let file = File::open(&copy).map_err(|e| Fault::file("read", &copy, &e))?;
        let body: Box<dyn Body> = Box::new(Copied {
            file,
            _scratch: scratch,
        });
        let name: Vec<String> = path
            .components()
            .filter_map(|c| match c {
                std::path::Component::Normal(n) => {
                    Some(component(&String::from_utf8_lossy(n.as_bytes())))
                }
                _ => None,
            })
            .collect();
        Ok(Some(Part {
            name: name.join("/"),
            what: "database",
            of: Some(shown.clone()),
            details: json!({"mode": meta.mode() & 0o7777, "uid": meta.uid(), "gid": meta.gid()}),
            body: Checked::over(body, NotEmpty::default(), format!("the database {shown}")),
        }))
    }

    fn about(&mut self) -> About {
        self.about.clone()
    }
}

struct Copied {
    file: File,
    _scratch: Scratch,
}

impl std::io::Read for Copied {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Body for Copied {
    fn finish(self: Box<Self>) -> Result<(), Fault> {
        Ok(())
    }
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn explain(e: rusqlite::Error) -> Fault {
    let text = e.to_string();
    let reason = match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Reason::Stalled,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Reason::NotWhole,
        Some(
            ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::AuthorizationForStatementDenied,
        ) => Reason::Denied,
        Some(ErrorCode::DiskFull) => Reason::NoSpace,
        _ => Reason::Failed,
    };
    Fault::new(reason, text)
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, Fault> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(explain)?;
    connection.busy_timeout(BUSY).map_err(explain)?;
    Ok(connection)
}

fn copy_of(path: &Path, copy: &Path, setting: &Setting) -> Result<(), Fault> {
    let from = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    drop(create(copy).map_err(|e| Fault::file("write", copy, &e))?);
    let mut to = open(copy, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    to.pragma_update(None, "synchronous", "OFF")
        .map_err(explain)?;
    let mode: String = from
        .query_row("PRAGMA journal_mode", [], |r| r.get(0))
        .map_err(explain)?;
    if mode == "wal" {
        // Held to the end: the copy is of this moment.
        from.execute_batch("BEGIN").map_err(explain)?;
    }
    // Begins the transaction, and tells a file that is no database at once.
    let _: i64 = from
        .query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))
        .map_err(explain)?;
    let pages: i64 = from
        .query_row("PRAGMA page_count", [], |r| r.get(0))
        .map_err(explain)?;
    if pages == 0 {
        return Err(Fault::new(
            Reason::NotWhole,
            "it is empty: nothing was ever written to it",
        ));
    }
    let backup = Backup::new(&from, &mut to).map_err(explain)?;
    let (mut step, mut anew, mut left) = (STEP, 0, i32::MAX);
    let mut moved = Instant::now();
    loop {
        setting.stop.check()?;
        match backup.step(step).map_err(explain)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {
                let now = backup.progress().remaining;
                if now >= left {
                    anew += 1;
                    if anew >= ANEW {
                        step = -1;
                    }
                }
                left = now;
                moved = Instant::now();
            }
            _ => {
                if moved.elapsed() >= setting.stall.min(BUSY) {
                    return Err(Fault::new(
                        Reason::Stalled,
                        format!(
                            "somebody has held it locked for {} s",
                            moved.elapsed().as_secs()
                        ),
                    ));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// `PRAGMA integrity_check` must have nothing to say.
///
/// # Errors
/// What it says.
pub fn check(path: &Path, setting: &Setting) -> Result<(), Fault> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let stop = setting.stop.clone();
    connection.progress_handler(100_000, Some(move || stop.is_asked()));
    let said: Vec<String> = connection
        .prepare("PRAGMA integrity_check(10)")
        .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect())
        .map_err(|e| match setting.stop.check() {
            Err(stopped) => stopped,
            Ok(()) => explain(e),
        })?;
    match &said[..] {
        [ok] if ok == "ok" => Ok(()),
        _ => Err(Fault::new(
            Reason::NotWhole,
            format!(
                "its integrity check fails: {}",
                crate::text::said(said.join("\n").as_bytes(), &[])
            ),
        )),
    }
}

/// One question whose first answer decides: true, or a number other than zero.
///
/// # Errors
/// It cannot be asked.
pub fn holds(path: &Path, sql: &str) -> Result<bool, Fault> {
    let connection = open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let value: rusqlite::types::Value = connection
        .query_row(sql, [], |r| r.get(0))
        .map_err(explain)?;
    Ok(match value {
        rusqlite::types::Value::Integer(n) => n != 0,
        rusqlite::types::Value::Real(n) => n != 0.0,
        rusqlite::types::Value::Text(t) => t == "true" || t == "t",
        _ => false,
    })
}

/// What is restored, and where to.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which databases, and to which files.
    pub files: BTreeMap<String, PathBuf>,
    /// Whether files that are there are replaced.
    pub replace: bool,
}

/// Restores. A file appears whole or not at all.
///
/// # Errors
/// What stands in the way, or what failed.
pub fn restore(
    stored: &dyn Stored,
    about: &About,
    options: &Options,
    setting: &Setting,
) -> Result<Report, Fault> {
    let mut chosen: Vec<(&Item, &Path)> = Vec::new();
    for (of, to) in &options.files {
        let item = about
            .all("database")
            .find(|i| i.of.as_ref() == Some(of))
            .ok_or_else(|| {
                let has: Vec<&str> = about
                    .all("database")
                    .filter_map(|i| i.of.as_deref())
                    .collect();
                Fault::new(
                    Reason::NotThere,
                    format!(
                        "the snapshot has no database '{of}'; it has {}",
                        has.join(", ")
                    ),
                )
            })?;
        chosen.push((item, to));
    }
    for (item, to) in &chosen {
        stored.there(item)?;
        let dir = to.parent().filter(|d| d.is_dir()).ok_or_else(|| {
            Fault::new(
                Reason::NotThere,
                format!(
                    "there is no directory for {}; nothing was touched",
                    to.display()
                ),
            )
        })?;
        let free =
            rustix::fs::statvfs(dir).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize));
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
        if fs::symlink_metadata(to).is_err() {
            continue;
        }
        if !options.replace {
            return Err(Fault::new(
                Reason::InTheWay,
                format!(
                    "{} is there already; restore it elsewhere, or replace it with --replace; nothing was touched",
                    to.display()
                ),
            ));
        }
        // Whoever has it open would go on writing to the old one.
        let free = open(to, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(|c| {
            c.busy_timeout(Duration::from_secs(1)).map_err(explain)?;
            c.execute_batch("BEGIN EXCLUSIVE; ROLLBACK")
                .map_err(explain)
        });
        if let Err(e) = free.or_else(|e| {
            if e.reason == Reason::NotWhole {
                Ok(())
            } else {
                Err(e)
            }
        }) {
            return Err(Fault::new(
                Reason::InTheWay,
                format!(
                    "{} is in use: {e}; stop what uses it; nothing was touched",
                    to.display()
                ),
            ));
        }
    }
    let mut report = Report::default();
    for (item, to) in chosen {
        one(stored, item, to, setting)
            .map_err(|e| e.during(format!("restore {}", to.display())))?;
        report.restored.push(to.display().to_string());
        report.bytes += item.bytes;
    }
    Ok(report)
}

fn one(stored: &dyn Stored, item: &Item, to: &Path, setting: &Setting) -> Result<(), Fault> {
    // Beside it, so that it can be renamed; private until it is whole.
    let dir = to.parent().unwrap_or(Path::new("/"));
    let scratch = Scratch::new(dir)?;
    let path = scratch.path().join("restored.db");
    let failed = |e: std::io::Error| Fault::file("write", &path, &e);
    let mut file = create(&path).map_err(failed)?;
    stored.write(&item.name, &mut file)?;
    check(&path, setting)?;
    let old = fs::metadata(to).ok();
    let number = |key: &str| {
        item.details[key]
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
    };
    let (mode, uid, gid) = match &old {
        Some(m) => (m.mode() & 0o777, Some(m.uid()), Some(m.gid())),
        None => (
            number("mode").unwrap_or(0o600) & 0o777,
            number("uid"),
            number("gid"),
        ),
    };
    if rustix::process::geteuid().is_root() {
        chown(&path, uid, gid).map_err(failed)?;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    // What belongs to the old file would be taken for a part of the new one.
    for suffix in ["-wal", "-shm", "-journal"] {
        match fs::remove_file(with(to, suffix)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Fault::file("remove", &with(to, suffix), &e));
            }
            _ => {}
        }
    }
    fs::rename(&path, to).map_err(failed)?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::Dumping;
    use crate::setting::Stop;
    use std::io::{Read as _, Write};
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Memory(BTreeMap<String, Vec<u8>>);

    impl Stored for Memory {
        fn length(&self, name: &str) -> Option<u64> {
            self.0.get(name).map(|b| b.len() as u64)
        }
        fn write(&self, name: &str, out: &mut dyn Write) -> Result<u64, Fault> {
            out.write_all(&self.0[name]).map_err(Fault::from_io)?;
            Ok(self.0[name].len() as u64)
        }
    }

    fn dumped(paths: &[&Path], scratch: &Path) -> Result<(Memory, About), Fault> {
        let source = Sqlite {
            databases: paths.iter().map(|p| p.to_path_buf()).collect(),
        };
        let setting = Setting::new(scratch);
        let mut dumping = Dumping::new("s", dump(&source, &setting)?);
        let mut all = BTreeMap::new();
        while let Some(mut stream) = dumping.next_stream()? {
            let mut bytes = Vec::new();
            stream
                .body
                .read_to_end(&mut bytes)
                .map_err(Fault::from_io)?;
            stream.body.finish()?;
            all.insert(stream.name.strip_prefix("s/").unwrap().to_owned(), bytes);
        }
        let about = About::parse(&all[crate::about::NAME])?;
        Ok((Memory(all), about))
    }

    fn make(path: &Path, mode: &str, rows: u32) -> Connection {
        let c = Connection::open(path).unwrap();
        c.busy_timeout(BUSY).unwrap();
        c.execute_batch(&format!(
            "PRAGMA journal_mode={mode}; CREATE TABLE t (a INTEGER, b BLOB); BEGIN;"
        ))
        .unwrap();
        for i in 0..rows {
            c.execute("INSERT INTO t VALUES (?1, randomblob(500))", [i])
                .unwrap();
        }
        c.execute_batch("COMMIT").unwrap();
        c
    }

    #[test]
    fn a_copy_is_of_one_moment_while_others_write() {
        for mode in ["wal", "delete"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("app.db");
            make(&path, mode, 20_000);
            let stop = AtomicBool::new(false);
            let (memory, about) = std::thread::scope(|scope| {
                scope.spawn(|| {
                    // Each transaction keeps the sum: a torn copy would not.
                    let c = Connection::open(&path).unwrap();
                    c.busy_timeout(BUSY).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        c.execute_batch("BEGIN IMMEDIATE; UPDATE t SET a = a + 1 WHERE rowid % 7 = 0; UPDATE t SET a = a - 1 WHERE rowid % 7 = 0 ; INSERT INTO t VALUES (5, randomblob(500)), (-5, randomblob(500)); COMMIT").unwrap();
                    }
                });
                let result = dumped(&[&path], dir.path());
                stop.store(true, Ordering::Relaxed);
                result.unwrap()
            });
            let to = dir.path().join("back.db");
            let options = Options {
                files: [(path.display().to_string(), to.clone())].into(),
                replace: false,
            };
            restore(&memory, &about, &options, &Setting::new(dir.path())).unwrap();
            assert!(
                holds(
                    &to,
                    "SELECT sum(a) = 19999 * 10000 AND count(*) >= 20000 FROM t"
                )
                .unwrap(),
                "{mode}"
            );
            // Nothing is left beside it.
            let left: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .filter(|n| n.contains("scratch"))
                .collect();
            assert_eq!(left, Vec::<String>::new());
        }
    }

    #[test]
    fn what_is_there_is_not_overwritten_unless_told_and_not_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        drop(make(&path, "wal", 10));
        let (memory, about) = dumped(&[&path], dir.path()).unwrap();
        let setting = Setting::new(dir.path());
        let mut options = Options {
            files: [(path.display().to_string(), path.clone())].into(),
            replace: false,
        };
        assert_eq!(
            restore(&memory, &about, &options, &setting)
                .unwrap_err()
                .reason,
            Reason::InTheWay
        );
        options.replace = true;
        {
            let user = Connection::open(&path).unwrap();
            user.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1, 2)")
                .unwrap();
            assert_eq!(
                restore(&memory, &about, &options, &setting)
                    .unwrap_err()
                    .reason,
                Reason::InTheWay
            );
        }
        let c = Connection::open(&path).unwrap();
        c.execute_batch("DELETE FROM t").unwrap();
        drop(c);
        restore(&memory, &about, &options, &setting).unwrap();
        assert!(holds(&path, "SELECT count(*) = 10 FROM t").unwrap());
    }

    #[test]
    fn what_is_damaged_empty_or_no_database_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        assert_eq!(
            dumped(&[&path], dir.path()).err().unwrap().reason,
            Reason::NotThere
        );
        fs::write(&path, b"").unwrap();
        assert_eq!(
            dumped(&[&path], dir.path()).err().unwrap().reason,
            Reason::NotWhole
        );
        fs::write(&path, [7; 9000]).unwrap();
        assert_eq!(
            dumped(&[&path], dir.path()).err().unwrap().reason,
            Reason::NotWhole
        );
        fs::remove_file(&path).unwrap();
        drop(make(&path, "delete", 2000));
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 20_000].fill(0xee);
        fs::write(&path, &bytes).unwrap();
        let e = dumped(&[&path], dir.path()).err().unwrap();
        assert_eq!(e.reason, Reason::NotWhole, "{e}");
        assert!(e.text.contains("app.db"), "{e}");
        // A restore of something damaged leaves what was there.
        let (mut memory, about) = {
            let good = dir.path().join("good.db");
            drop(make(&good, "delete", 100));
            dumped(&[&good], dir.path()).unwrap()
        };
        let of = about.streams[0].of.clone().unwrap();
        let bytes = memory.0.get_mut(&about.streams[0].name).unwrap();
        let n = bytes.len();
        bytes[n - 5000..].fill(0xee);
        let to = dir.path().join("to.db");
        let options = Options {
            files: [(of, to.clone())].into(),
            replace: false,
        };
        assert!(restore(&memory, &about, &options, &Setting::new(dir.path())).is_err());
        assert!(!to.exists());
    }

    #[test]
    fn somebody_else_s_lock_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let c = make(&path, "delete", 10);
        c.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let stop = Stop::default();
        let mut setting = Setting::new(dir.path());
        setting.stall = Duration::from_millis(200);
        setting.stop = stop;
        let from = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        from.busy_timeout(Duration::from_millis(1)).unwrap();
        // The usual patience is half a minute; here only what is said of it is looked at.
        let e = explain(
            from.query_row("SELECT count(*) FROM t", [], |r| r.get::<_, i64>(0))
                .unwrap_err(),
        );
        assert_eq!(e.reason, Reason::Stalled);
    }
}
