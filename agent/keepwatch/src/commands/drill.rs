//! `drill`: a rehearsed restore with proof. What was restored is removed again; what a killed drill left, the next one removes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use keepwatch_engine::dump;
use keepwatch_engine::lookup::Lookup;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::restore::{self, Options, Overwrite};
use keepwatch_engine::snapshots::{SnapshotRecord, SnapshotSet};
use keepwatch_model::duration::{human_duration, parse_duration};
use keepwatch_model::size::{human_bytes, parse_size};
use keepwatch_sources::child::Program;
use keepwatch_sources::fault::{Fault, Reason};
use keepwatch_sources::rehearse::{Answer, Stage, rehearse};
use keepwatch_sources::scratch::Scratch;
use keepwatch_sources::setting::{Setting, Stop};
use keepwatch_sources::spec::Spec;
use serde_json::json;

use super::source_args::failure;
use super::source_restore::{InSnapshot, labels};
use super::wal::rehearse::Base;
use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::jobs::ConfiguredArgs;
use crate::output::{count, escape, print_after, print_json_after, tell};
use crate::select::{FilterArgs, pick};

/// Rehearse a restore, and prove it
#[derive(Args)]
#[command(
    long_about = "Rehearse a restore, and prove it. Needs an identity.\n\nThe newest snapshot, or the one that is named, is restored into scratch space: files into a directory, databases into a private server that is started for it, base backups of PostgreSQL with their log into one that replays it. Then it must answer what was asked, within the time that was promised. Everything is removed again.",
    after_help = "Examples:
  keepwatch drill app                                   what the configuration says of the drill 'app'
  keepwatch drill --repo R --identity F --target directory --expect-min-files 1000
  keepwatch drill --repo R --identity F --target postgresql --expect-sql 'SELECT count(*) > 100 FROM users'
  keepwatch drill --repo R --identity F --target directory -- /usr/bin/test -e home/me/notes.txt

Exit status 1: it could not be restored, or something is not as it was expected."
)]
pub struct DrillArgs {
    /// Do what this drill of the configuration says, with a record
    #[arg(value_name = "NAME", conflicts_with_all = ["target", "snapshot", "argv"], required_unless_present = "target")]
    pub name: Option<String>,
    /// Into what: directory, postgresql, mysql, sqlite, redis, qdrant or command; with options as KIND?KEY=VALUE
    #[arg(long, value_name = "KIND")]
    pub target: Option<String>,
    /// Which snapshot: latest, the beginning of an id, or a time
    #[arg(long, value_name = "SNAPSHOT", default_value = "latest")]
    pub snapshot: String,
    /// At least so many files
    #[arg(long, value_name = "N")]
    pub expect_min_files: Option<u64>,
    /// At least so many bytes
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub expect_min_bytes: Option<u64>,
    /// A question that must be answered with true; '@NAME ' in front asks in that database (repeatable)
    #[arg(long, value_name = "SQL")]
    pub expect_sql: Vec<String>,
    /// The recovery time that is promised
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub max_duration: Option<Duration>,
    /// Compare files also with those that are there now
    #[arg(long)]
    pub compare_live: bool,
    /// Directory for scratch files and servers [default: $TMPDIR or /tmp]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub configured: ConfiguredArgs,
    /// A command that must succeed, in the directory that was restored to
    #[arg(last = true, value_name = "ARGV")]
    pub argv: Vec<OsString>,
}

/// Into what it is restored.
enum Target {
    Directory {
        path: Option<PathBuf>,
        keep: bool,
    },
    Stage(Stage),
    /// A scratch database of a server that runs.
    Database(Box<keepwatch_sources::postgresql::Server>, String),
    Command(Vec<String>),
}

impl Target {
    fn new(text: &str) -> Result<Self, Fault> {
        let mut spec = Spec::parse(text)?;
        let kind = spec.kind.clone();
        let target = match kind.as_str() {
            "directory" => Target::Directory {
                path: spec.one("path")?.map(PathBuf::from),
                keep: spec.flag("keep")?.unwrap_or(false),
            },
            "postgresql" => match spec.one("scratch-prefix")? {
                None => Target::Stage(Stage::Postgresql(spec.one("package")?.map(PathBuf::from))),
                Some(prefix) => {
                    let server = keepwatch_sources::source::postgresql_server(&mut spec)?;
                    Target::Database(Box::new(server), prefix)
                }
            },
            "mysql" => Target::Stage(Stage::Mysql(spec.one("package")?.map(PathBuf::from))),
            "sqlite" => Target::Stage(Stage::Sqlite),
            "redis" => Target::Stage(Stage::Redis(spec.one("package")?.map(PathBuf::from))),
            "qdrant" => Target::Stage(Stage::Qdrant(spec.one("package")?.map(PathBuf::from))),
            "command" => Target::Command(spec.many("argv")),
            other => {
                return Err(Fault::new(
                    Reason::Parameter,
                    format!(
                        "there is no target '{other}' for a drill; there are directory, postgresql, mysql, sqlite, redis, qdrant, command"
                    ),
                ));
            }
        };
        spec.end()?;
        Ok(target)
    }
}

/// What it came to.
#[derive(Default)]
struct Came {
    files: u64,
    bytes: u64,
    answers: Vec<Answer>,
    notes: Vec<String>,
    /// Until it was there; the questions come after.
    restored: Duration,
}

fn answer(question: impl Into<String>, holds: bool, why: Option<String>) -> Answer {
    Answer {
        question: question.into(),
        holds,
        why,
    }
}

/// The verb.
pub fn run(context: &Context, args: &DrillArgs) -> Outcome {
    let text = args.target.as_deref().unwrap_or_default();
    let target = Target::new(text).map_err(failure)?;
    let has_sql = matches!(target, Target::Stage(_) | Target::Database(..));
    if !args.expect_sql.is_empty() && !has_sql {
        return Err(Failure::usage(
            "--expect-sql needs a target that is a database",
        ));
    }
    if !args.argv.is_empty() && !matches!(target, Target::Directory { .. }) {
        return Err(Failure::usage(
            "a command to prove it needs the target 'directory'",
        ));
    }
    let cancel = context.cancel.clone();
    let mut setting = Setting::new(args.scratch.clone().unwrap_or_else(std::env::temp_dir));
    setting.stop = Stop::when(move || cancel.is_cancelled());
    let began = Instant::now();
    let repository = context.open_reader()?;
    let set = context.snapshots(&repository)?;
    let snapshot = pick(&set, &args.snapshot, &args.filter.filter(), clock::now())?;
    let lookup = context.lookup(&repository)?;
    let drill = Drill {
        context,
        args,
        repository: &repository,
        lookup: &lookup,
        set: &set,
        snapshot,
        setting: &setting,
        began,
    };
    let mut result = match target {
        Target::Directory { path, keep } => drill.directory(path.as_deref(), keep)?,
        Target::Stage(stage) => drill.stage(&stage)?,
        Target::Database(server, prefix) => drill.database(*server, &prefix)?,
        Target::Command(argv) => drill.command(&argv)?,
    };
    if let Some(least) = args.expect_min_files {
        result.answers.push(answer(
            format!("at least {least} files"),
            result.files >= least,
            Some(format!("there are {}", result.files)).filter(|_| result.files < least),
        ));
    }
    if let Some(least) = args.expect_min_bytes {
        result.answers.push(answer(
            format!("at least {}", human_bytes(least)),
            result.bytes >= least,
            Some(format!("there are {}", human_bytes(result.bytes)))
                .filter(|_| result.bytes < least),
        ));
    }
    if let Some(most) = args.max_duration {
        let is_in_time = result.restored <= most;
        result.answers.push(answer(
            format!("restored within {}", human_duration(most)),
            is_in_time,
            Some(format!("it took {}", human_duration(result.restored))).filter(|_| !is_in_time),
        ));
    }
    tell_it(context, args, snapshot, &result, began.elapsed())
}

fn tell_it(
    context: &Context,
    args: &DrillArgs,
    snapshot: &SnapshotRecord,
    result: &Came,
    took: Duration,
) -> Outcome {
    let failed: Vec<&Answer> = result.answers.iter().filter(|a| !a.holds).collect();
    let why = failed.iter().map(|a| match &a.why {
        Some(why) => format!("{}: {why}", a.question),
        None => a.question.clone(),
    });
    let why = why.collect::<Vec<_>>().join("; ");
    for n in &result.notes {
        tell(&format!("keepwatch: warning: {}", escape(n)));
    }
    let failure = (!failed.is_empty()).then(|| {
        Failure::failed(format!(
            "snapshot {} was restored, but {} of {} does not hold: {why}",
            snapshot.id.short(),
            failed.len(),
            count(result.answers.len() as u64, "expectation", "expectations"),
        ))
        .advice("restore it by hand and look: a backup that does not prove itself may be none")
    });
    if context.json() {
        print_json_after(&json!({
            "snapshot": snapshot.id,
            "target": args.target,
            "succeeded": failure.is_none(),
            "restored_files": result.files,
            "restored_bytes": result.bytes,
            "restore_seconds": result.restored.as_secs_f64(),
            "duration_seconds": took.as_secs_f64(),
            "objective_seconds": args.max_duration.map(|d| d.as_secs_f64()),
            "expectations": result.answers,
            "notes": result.notes,
            "traffic": context.asked.get().and_then(|store| store.traffic()),
            "error": failure.as_ref().map(|f| &f.message),
        }))?;
    } else if !context.globals.quiet {
        let mut out = String::new();
        for a in &result.answers {
            out += &format!(
                "{}  {}\n",
                if a.holds { "yes" } else { "NO " },
                escape(&a.question)
            );
        }
        out += &format!(
            "snapshot {} restored: {} in {}; all of it took {}\n",
            snapshot.id.short(),
            human_bytes(result.bytes),
            human_duration(result.restored),
            human_duration(took)
        );
        print_after(&out)?;
    }
    match failure {
        // The document has said it.
        Some(f) if context.json() => Err(Failure { quiet: true, ..f }),
        Some(f) => Err(f),
        None => Ok(Exit::Done),
    }
}

struct Drill<'a> {
    context: &'a Context,
    args: &'a DrillArgs,
    repository: &'a Repository,
    lookup: &'a Lookup,
    set: &'a SnapshotSet,
    snapshot: &'a SnapshotRecord,
    setting: &'a Setting,
    began: Instant,
}

impl Drill<'_> {
    /// Files: all of them are read back and compared with what the snapshot says of them.
    fn directory(&self, path: Option<&Path>, keep: bool) -> Result<Came, Failure> {
        let scratch = match path {
            None => Some(Scratch::new(&self.setting.scratch).map_err(failure)?),
            Some(_) => None,
        };
        let target = match (path, &scratch) {
            (Some(path), _) => {
                must_be_ours(path)?;
                path.to_owned()
            }
            (None, Some(scratch)) => scratch.path().join("restored"),
            (None, None) => return Err(Failure::failed("there is no scratch directory")),
        };
        let restored = self.restore_to(&target);
        if !keep {
            if let Some(path) = path {
                if let Err(e) = std::fs::remove_dir_all(path) {
                    tell(&format!(
                        "keepwatch: warning: cannot remove {}: {e}",
                        path.display()
                    ));
                }
            }
        }
        restored
    }

    fn restore_to(&self, target: &Path) -> Result<Came, Failure> {
        let options = Options {
            target: target.to_owned(),
            select: Vec::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            overwrite: Overwrite::Always,
            delete: false,
            dry_run: false,
            verify: true,
            trust: false,
            numeric_ids: true,
            threads: 0,
            no_sync: true,
        };
        let bar = self.context.bar();
        let report = restore::run(
            self.repository,
            self.lookup,
            self.snapshot,
            &options,
            &bar,
            &self.context.cancel,
        );
        bar.finish();
        let report = report?;
        let restored = self.began.elapsed();
        let totals = &self.snapshot.body.totals;
        let problems: Vec<String> = report
            .problems
            .iter()
            .take(3)
            .map(|p| format!("{}: {}", String::from_utf8_lossy(&p.path), p.what))
            .collect();
        let mut answers = vec![
            answer(
                "every file is restored as the snapshot says",
                report.problems_total == 0,
                Some(problems.join("; ")).filter(|p| !p.is_empty()),
            ),
            answer(
                format!("there are {} files", totals.files),
                report.files_restored == totals.files,
                Some(format!("{} were restored", report.files_restored))
                    .filter(|_| report.files_restored != totals.files),
            ),
            answer(
                format!(
                    "{} files read back have the content of the snapshot",
                    report.files_verified
                ),
                report.files_verified > 0 || totals.files == 0,
                None,
            ),
        ];
        if self.args.compare_live {
            answers.push(live(target));
        }
        if let Some(program) = self.args.argv.first() {
            let ran = Program::new(Path::new(program))
                .args(&self.args.argv[1..])
                .directory(target)
                .run(self.setting);
            answers.push(answer(
                format!("{} succeeds", program.to_string_lossy()),
                ran.is_ok(),
                ran.err().map(|e| e.text),
            ));
        }
        Ok(Came {
            files: report.files_restored,
            bytes: report.bytes_written,
            answers,
            notes: report.notes,
            restored,
        })
    }

    fn stored(
        &self,
        kind: &str,
    ) -> Result<(InSnapshot<'_>, keepwatch_sources::about::About), Failure> {
        let labels = labels(self.repository, self.lookup, self.snapshot, kind, None)?;
        let Some(label) = labels.first() else {
            return Err(Failure::new(
                Exit::NothingFound,
                format!(
                    "snapshot {} holds no dump of the kind '{kind}'",
                    self.snapshot.id.short()
                ),
            ));
        };
        let stored = InSnapshot::new(self.repository, self.lookup, self.snapshot, label)?;
        let about = stored.about().map_err(failure)?;
        Ok((stored, about))
    }

    fn stage(&self, stage: &Stage) -> Result<Came, Failure> {
        if let (Stage::Postgresql(package), Some(_)) = (stage, &self.snapshot.body.base) {
            return self.base(package.as_deref());
        }
        let (stored, about) = self.stored(stage.kind())?;
        let done = rehearse(stage, &stored, &about, &self.args.expect_sql, self.setting)
            .map_err(failure)?;
        Ok(Came {
            files: about.streams.len() as u64,
            bytes: done.report.bytes,
            answers: done.answers,
            notes: done.report.notes,
            restored: Duration::from_secs_f64(done.restore_seconds.max(0.0)),
        })
    }

    /// A base backup with its log: a whole cluster, started on its own files.
    fn base(&self, package: Option<&Path>) -> Result<Came, Failure> {
        let base = Base {
            context: self.context,
            repository: self.repository,
            lookup: self.lookup,
            set: self.set,
            snapshot: self.snapshot,
        };
        let (done, files) =
            base.rehearse(package, &self.args.expect_sql, self.setting, self.began)?;
        Ok(Came {
            files,
            bytes: done.report.bytes,
            answers: done.answers,
            notes: done.report.notes,
            restored: Duration::from_secs_f64(done.restore_seconds.max(0.0)),
        })
    }

    /// Scratch databases of a server that runs; only such are ever dropped.
    fn database(
        &self,
        server: keepwatch_sources::postgresql::Server,
        prefix: &str,
    ) -> Result<Came, Failure> {
        use keepwatch_sources::postgresql::{self, Asker, Options};
        if prefix.len() < 4
            || !prefix
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        {
            return Err(Failure::usage(
                "the prefix of scratch databases needs at least four of a-z, 0-9 and _",
            ));
        }
        if self.snapshot.body.base.is_some() {
            return Err(Failure::usage(format!(
                "snapshot {} is a base backup, a whole cluster: its drill starts a server of its own; leave out scratch-prefix",
                self.snapshot.id.short()
            )));
        }
        let (stored, about) = self.stored(postgresql::KIND)?;
        let asker = Asker::new(&server, self.setting).map_err(failure)?;
        let drop_all = |asker: &Asker| -> Result<(), Fault> {
            let mine: Option<Vec<String>> = asker.json(&server.maintenance, &format!("SELECT json_agg(datname) FROM pg_database WHERE starts_with(datname, '{prefix}')"))?;
            for name in mine.into_iter().flatten() {
                asker.execute(
                    &server.maintenance,
                    &format!(
                        "DROP DATABASE \"{}\" WITH (FORCE)",
                        name.replace('"', "\"\"")
                    ),
                )?;
            }
            Ok(())
        };
        // What a killed drill left.
        drop_all(&asker).map_err(failure)?;
        let all: Vec<String> = about.all("database").filter_map(|i| i.of.clone()).collect();
        let options = Options {
            databases: all
                .iter()
                .enumerate()
                .map(|(i, d)| (d.clone(), format!("{prefix}{i}")))
                .collect(),
            no_tablespaces: true,
            jobs: 2,
            ..Options::default()
        };
        let restored = postgresql::restore(&stored, &about, &server, &options, self.setting);
        let took = self.began.elapsed();
        let answers: Vec<Answer> = if restored.is_ok() {
            let ask = |question: &String| {
                let (of, sql) = match question.strip_prefix('@').and_then(|q| q.split_once(' ')) {
                    Some((of, sql)) => (Some(of), sql),
                    None => (all.first().map(String::as_str), question.as_str()),
                };
                let name = of.and_then(|of| options.databases.get(of));
                let said = match name {
                    Some(name) => asker
                        .sql(name, sql, self.setting)
                        .map(|out| String::from_utf8_lossy(&out).trim().to_owned()),
                    None => Err(Fault::new(
                        Reason::NotThere,
                        "the dump holds no such database",
                    )),
                };
                let holds = said
                    .as_ref()
                    .is_ok_and(|s| s == "t" || s.parse::<f64>().is_ok_and(|n| n != 0.0));
                answer(question.clone(), holds, said.err().map(|e| e.text))
            };
            self.args.expect_sql.iter().map(ask).collect()
        } else {
            Vec::new()
        };
        let mut own = self.setting.clone();
        own.stop = Stop::default();
        let dropped = Asker::new(&server, &own).and_then(|a| drop_all(&a));
        let report = restored.map_err(failure)?;
        dropped.map_err(failure)?;
        Ok(Came {
            files: about.streams.len() as u64,
            bytes: report.bytes,
            answers,
            notes: report.notes,
            restored: took,
        })
    }

    /// A command that takes the dump: the only file, or a tar archive of all.
    fn command(&self, argv: &[String]) -> Result<Came, Failure> {
        let Some(program) = argv.first().filter(|p| p.starts_with('/')) else {
            return Err(Failure::usage("the target 'command' needs argv=/PROGRAM"));
        };
        let mut files = Vec::new();
        keepwatch_engine::browse::list(
            self.repository,
            self.lookup,
            self.snapshot,
            &[],
            &mut |entry| {
                // Two are enough to know that it is not the only one.
                if files.len() < 2 && entry.kind() == keepwatch_engine::manifest::EntryKind::File {
                    files.push(entry.path.clone());
                }
                Ok(())
            },
        )?;
        let mut running = Program::new(Path::new(program))
            .args(&argv[1..])
            .write(self.setting)
            .map_err(failure)?;
        let mut counted = Counted(&mut running, 0);
        let fed = match &files[..] {
            [one] => dump::dump_file(
                self.repository,
                self.lookup,
                self.snapshot,
                one,
                &mut counted,
            )
            .map(drop),
            _ => dump::dump_tar(
                self.repository,
                self.lookup,
                self.snapshot,
                &[],
                &mut counted,
            )
            .map(drop),
        };
        let bytes = counted.1;
        // A command that has seen enough may leave early; its exit status counts.
        if let Err(e) = fed {
            match e {
                dump::DumpError::Out(e) => return Err(failure(Fault::from_io(e))),
                e => return Err(e.into()),
            }
        }
        let ended = running.end();
        Ok(Came {
            files: files.len() as u64,
            bytes,
            answers: vec![answer(
                format!("{program} takes it and succeeds"),
                ended.is_ok(),
                ended.err().map(|e| e.text),
            )],
            notes: Vec::new(),
            restored: self.began.elapsed(),
        })
    }
}

struct Counted<'a>(&'a mut keepwatch_sources::child::Running, u64);

impl std::io::Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.0.write(bytes)?;
        self.1 += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// The mark of a directory that a drill may empty.
const MARK: &str = ".keepwatch-drill";

/// A directory that is restored to is removed afterwards: so it must be empty, missing, or left by an earlier drill.
fn must_be_ours(path: &Path) -> Result<(), Failure> {
    let refuse = |why: &str| {
        Err(Failure::new(
            Exit::Refused,
            format!(
                "the drill restores into {}, which {why}; nothing was touched",
                path.display()
            ),
        )
        .advice("name an empty directory, or leave the path out"))
    };
    if !path.is_absolute() || path.parent().is_none_or(|p| p.parent().is_none()) {
        return refuse("is no directory for that");
    }
    match std::fs::read_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Failure::file("restore into", path, &e)),
        Ok(entries) => {
            let is_empty = entries.count() == 0;
            if !is_empty && !path.join(MARK).is_file() {
                return refuse("holds something that no drill has left");
            }
            if !is_empty {
                std::fs::remove_dir_all(path).map_err(|e| Failure::file("empty", path, &e))?;
            }
        }
    }
    std::fs::create_dir_all(path).map_err(|e| Failure::file("make", path, &e))?;
    std::fs::write(
        path.join(MARK),
        "A drill of keepwatch restored into this directory, and removes it.\n",
    )
    .map_err(|e| Failure::file("write", &path.join(MARK), &e))
}

/// Compares a sample with what is there now: what was not changed since must be the same.
fn live(target: &Path) -> Answer {
    const SAMPLE: usize = 1000;
    let (mut todo, mut same, mut other, mut seen) =
        (vec![target.to_owned()], 0u64, Vec::new(), 0usize);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                todo.push(path);
                continue;
            }
            if !meta.is_file() || seen >= SAMPLE {
                continue;
            }
            let Ok(inner) = path.strip_prefix(target) else {
                continue;
            };
            let original = Path::new("/").join(inner);
            let Ok(now) = std::fs::metadata(&original) else {
                continue;
            };
            let is_unchanged =
                now.len() == meta.len() && now.modified().ok() == meta.modified().ok();
            if !is_unchanged {
                continue;
            }
            seen += 1;
            match is_same(&path, &original) {
                Ok(true) => same += 1,
                Ok(false) => other.push(original.display().to_string()),
                Err(_) => {}
            }
        }
    }
    other.truncate(3);
    answer(
        format!("{same} files that nobody changed since are the same as on the host"),
        other.is_empty(),
        Some(format!("different: {}", other.join(", "))).filter(|_| !other.is_empty()),
    )
}

fn is_same(a: &Path, b: &Path) -> std::io::Result<bool> {
    use std::io::Read as _;
    let (mut a, mut b) = (std::fs::File::open(a)?, std::fs::File::open(b)?);
    let (mut one, mut two) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let n = a.read(&mut one)?;
        if n == 0 {
            return Ok(b.read(&mut two)? == 0);
        }
        if b.read_exact(&mut two[..n]).is_err() || one[..n] != two[..n] {
            return Ok(false);
        }
    }
}
