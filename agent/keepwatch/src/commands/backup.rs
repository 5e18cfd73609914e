//! `backup`: makes a snapshot of files, of standard input, or of what a command prints.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use clap::Args;
use keepwatch_engine::backup::{self, BackupError, Input, Options, Report};
use keepwatch_engine::patterns::Patterns;
use keepwatch_engine::records::Outcome as RunOutcome;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::store::Name;
use keepwatch_model::duration::human_duration;
use keepwatch_model::retention::parse_tags;
use keepwatch_model::size::{human_bytes, parse_size};
use keepwatch_sources::source::Source as Service;
use serde_json::{Value, json};

use super::init::{self, InitArgs};
use super::patient::Patient;
use super::program::Program;
use super::source_args::SourceArgs;
use super::source_backup;
use super::view::{self, ViewArgs};
use crate::clock;
use crate::context::{Context, host_name, user_name};
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::estimate::Estimate;
use crate::jobs::ConfiguredArgs;
use crate::output::{count, escape, plain, print_after, print_json_after, problems_json, tell};

/// Back up files, a stream, the output of a command, databases and services
#[derive(Args)]
#[command(
    long_about = "Back up files, a stream, the output of a command, databases and services.\n\nUnchanged files are not read again, and content that the repository has is not stored again. The snapshot is written last: an interrupted backup leaves the earlier ones as they were, and running it again goes on where it stopped.\n\nPatterns are shell globs: '*' stays within a name, '**' spans several; one with a leading slash is matched against the whole path, any other at every depth; '!' in front takes back what an earlier one excluded.",
    after_help = "Examples:
  keepwatch backup ~/Documents ~/Pictures
  keepwatch backup --repo /mnt/disk/backup --exclude '*.tmp' --exclude-caches --one-file-system / /home
  keepwatch backup --stdin-name db.sql --tag database --command -- pg_dump --format=custom mydb
  tar -c . | keepwatch backup --stdin-name site.tar
  keepwatch backup --source postgresql --database app
  keepwatch backup --source mysql --user backup --password-file /run/keys/mysql
  keepwatch backup --source sqlite --database /var/lib/app/app.db
  keepwatch backup --source 'postgresql?database=app' --source 'redis?socket=/run/redis/redis.sock'
  keepwatch backup --source 'postgresql?database=app' /srv/app      a database and files in one snapshot
  keepwatch backup --job home            what the configuration says of the job 'home'

Exit status 3: a snapshot was made, but some files could not be read or changed meanwhile; each is named."
)]
pub struct BackupArgs {
    /// What to back up
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Leave out what matches (repeatable)
    #[arg(long = "exclude", value_name = "PATTERN")]
    pub excludes: Vec<String>,
    /// File with patterns, one a line; lines with # are comments (repeatable)
    #[arg(long = "exclude-file", value_name = "FILE")]
    pub exclude_files: Vec<PathBuf>,
    /// Leave out the content of directories with a CACHEDIR.TAG
    #[arg(long)]
    pub exclude_caches: bool,
    /// Leave out files larger than this
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub exclude_larger_than: Option<u64>,
    /// Do not go into other file systems
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    /// Labels for the snapshot, separated by commas (repeatable)
    #[arg(long = "tag", value_name = "TAG[,TAG]")]
    pub tags: Vec<String>,
    /// The host that the snapshot is of [default: this host's name]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Find out what would be done; store nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Keep the times of last access
    #[arg(long)]
    pub with_atime: bool,
    /// Level of compression, 1 (fast) to 19 (small)
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub compression: i32,
    /// Back up standard input, or the output of --command, as a file of this name
    #[arg(long, value_name = "NAME")]
    pub stdin_name: Option<String>,
    /// Run the command after `--` and back up what it prints; when it fails, there is no snapshot
    #[arg(long)]
    pub command: bool,
    /// Read all files, also those that look unchanged
    #[arg(long)]
    pub force_read: bool,
    /// Threads at work [default: as many as there are cores]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u16).range(0..=256))]
    pub threads: u16,
    /// Do what this job of the configuration says: with its hooks, its retries, and a record
    #[arg(long, value_name = "NAME", conflicts_with_all = ["paths", "excludes", "exclude_files", "exclude_caches", "exclude_larger_than", "one_file_system", "tags", "host", "with_atime", "compression", "stdin_name", "command", "threads", "argv", "sources", "view"])]
    pub job: Option<String>,
    /// The name of the job in the snapshot
    #[arg(long, hide = true, value_name = "NAME", conflicts_with = "job")]
    pub as_job: Option<String>,
    #[command(flatten)]
    pub view: ViewArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub configured: ConfiguredArgs,
    /// The command of --command, with its arguments
    #[arg(last = true, value_name = "ARGV")]
    pub argv: Vec<OsString>,
}

/// The verb.
pub fn run(context: &Context, mut args: BackupArgs) -> Outcome {
    if let Some(view) = &args.view.view {
        return view::run(context, view, args.source.scratch.as_deref());
    }
    view::enter(context, &args.view, &places(context), args.one_file_system)?;
    let source = Source::new(&mut args)?;
    let mut excludes = args.excludes.clone();
    for file in &args.exclude_files {
        let text = std::fs::read_to_string(file)
            .map_err(|e| Failure::file("read the exclude file", file, &e))?;
        excludes.extend(
            text.lines()
                .map(str::trim_end)
                .filter(|l| !l.is_empty() && !l.starts_with('#'))
                .map(str::to_owned),
        );
    }
    // A slip in a pattern is told before a repository is made.
    Patterns::new(&excludes)?;
    let (repository, made) = open_or_make(context, args.dry_run)?;
    excludes.extend(own_places(context));
    let options = Options {
        paths: source.paths()?,
        excludes,
        exclude_caches: args.exclude_caches,
        exclude_larger_than: args.exclude_larger_than,
        one_file_system: args.one_file_system,
        with_atime: args.with_atime,
        tags: tags(&args.tags),
        host: args.host.clone().unwrap_or_else(host_name),
        user: user_name(),
        job: args.as_job.clone(),
        level: args.compression,
        dry_run: args.dry_run,
        threads: args.threads.into(),
        force_read: args.force_read,
        cache: context.cache(&repository),
    };
    let mut warnings = rollback_warning(context, &repository)?;
    for w in &warnings {
        tell(&format!("\nkeepwatch: WARNING: {w}\n"));
    }
    let bar = context.bar();
    let report = {
        let patterns = Patterns::new(&options.excludes)?;
        let stop = AtomicBool::new(false);
        let estimate = Estimate {
            paths: &options.paths,
            excludes: &patterns,
            one_file_system: options.one_file_system,
            stop: &stop,
        };
        std::thread::scope(|scope| {
            if bar.is_visible() && matches!(source, Source::Files(_)) {
                scope.spawn(|| estimate.bytes().map(|n| bar.expect(n)));
            }
            let report = source.run(context, |input| {
                backup::run(
                    &repository,
                    &options,
                    input,
                    &clock::now,
                    &bar,
                    &context.cancel,
                )
                .map_err(|e| match (e, &options.cache) {
                    (BackupError::Cache(why), Some(dir)) => {
                        BackupError::Cache(format!("{}: {why}", dir.display()))
                    }
                    (e, _) => e,
                })
            });
            stop.store(true, Ordering::Relaxed);
            report
        })
    };
    bar.finish();
    let mut report = report?;
    if let (Some(id), Some(writer)) = (report.snapshot, repository.writer()) {
        context
            .places
            .bear_witness(repository.id(), id, writer.id, &report.end.to_string());
    }
    for w in &mut report.warnings {
        *w = plain(w);
        tell(&format!("keepwatch: warning: {}", escape(w)));
    }
    warnings.append(&mut report.warnings);
    if context.json() {
        let mut document = json(&report, &warnings, args.dry_run);
        if let Some(traffic) = repository.store().traffic() {
            document["traffic"] = serde_json::json!(traffic);
        }
        if let Some(made) = &made {
            document["made"] = made.json();
        }
        print_json_after(&document)?;
    } else if context.globals.quiet {
        if let Some(id) = report.snapshot {
            print_after(&format!("{id}\n"))?;
        }
    } else {
        print_after(&summary(&report, args.dry_run))?;
    }
    Ok(if report.outcome == RunOutcome::Partial {
        Exit::Partial
    } else {
        Exit::Done
    })
}

/// The repository that is meant; the default one is made on first use.
fn open_or_make(
    context: &Context,
    dry_run: bool,
) -> Result<(Repository, Option<init::Made>), Failure> {
    let target = context.target()?;
    let default = target.path().filter(|_| context.is_default());
    if let Some(path) = default.filter(|p| !p.join("config").exists()) {
        if dry_run {
            return Err(Failure::failed(format!(
                "there is no repository yet at the default place {}, and a dry run makes none",
                path.display()
            ))
            .advice("run it without --dry-run, or make the repository with 'keepwatch init'"));
        }
        let made = init::make(
            context,
            &InitArgs {
                recipients: Vec::new(),
                label: None,
                writer_key_out: None,
                identity_out: None,
                from: None,
                if_absent: false,
                source: Default::default(),
            },
        )?;
        init::announce(context, &made);
        return Ok((context.open_writer()?, Some(made)));
    }
    Ok((context.open_writer()?, None))
}

/// The repository itself and our caches: where this process writes.
fn places(context: &Context) -> Vec<PathBuf> {
    let mut places = Vec::new();
    places.extend(
        context
            .target()
            .ok()
            .and_then(|t| t.path().map(Path::to_owned)),
    );
    places.extend(context.places.caches().map(Path::to_owned));
    places.extend(context.globals.cache_dir.clone());
    places
        .iter()
        .filter_map(|p| std::fs::canonicalize(p).ok())
        .collect()
}

/// Patterns for these, so that a backup of a home directory does not feed on itself.
fn own_places(context: &Context) -> Vec<String> {
    let places = places(context).into_iter();
    places
        .filter_map(|p| p.to_str().map(literal_pattern))
        .collect()
}

/// A pattern that matches this path and nothing else.
pub(super) fn literal_pattern(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 8);
    for c in path.chars() {
        if "*?[]{}\\!".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn tags(lists: &[String]) -> Vec<String> {
    let mut tags: Vec<String> = lists
        .iter()
        .flat_map(|l| parse_tags(l))
        .filter(|t| !t.is_empty())
        .collect();
    tags.sort();
    tags.dedup();
    tags
}

/// What this host committed last must still be there, or have been forgotten.
fn rollback_warning(context: &Context, repository: &Repository) -> Result<Vec<String>, Failure> {
    let Some(witness) = context.places.last_witnessed(repository.id()) else {
        return Ok(Vec::new());
    };
    let Some(id) = witness.snapshot_id() else {
        return Ok(Vec::new());
    };
    if repository.store().size(&Name::Snapshot(id)).is_ok() {
        return Ok(Vec::new());
    }
    let set = repository.snapshots()?;
    let is_known = set.live.iter().chain(&set.forgotten).any(|s| s.id == id)
        || set
            .tombstones
            .iter()
            .any(|t| t.snapshots.iter().any(|f| f.id == id));
    if is_known {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "the repository was rolled back or robbed: snapshot {} of {}, which this host committed, is neither there nor forgotten. \
         Somebody removed it, or the repository was replaced by an older copy. This backup goes on; find out who can write to {}",
        id.short(),
        escape(&witness.time),
        repository.store().location()
    )])
}

/// What is read.
enum Source {
    Files(Vec<PathBuf>),
    Stdin(String),
    Command(String, Vec<OsString>),
    /// Databases and services, and files beside them.
    Services(Vec<Service>, Box<SourceArgs>, Vec<PathBuf>),
}

impl Source {
    fn new(args: &mut BackupArgs) -> Result<Self, Failure> {
        let argv = std::mem::take(&mut args.argv);
        let mut paths = std::mem::take(&mut args.paths);
        if args.source.is_given() {
            if args.command {
                return Err(Failure::usage(
                    "--source backs up databases and services, and --command was given as well",
                )
                .advice("what a command prints is a source, too: --source command -- /PROGRAM ARGUMENTS"));
            }
            let sources = args.source.sources(&argv, args.stdin_name.as_deref())?;
            must_be_outside(&sources, args.view.view_origin.as_deref())?;
            let with = Box::new(args.source.clone());
            return Ok(Source::Services(sources, with, paths));
        }
        if args.command {
            if !paths.is_empty() {
                return Err(Failure::usage(
                    "--command backs up what the command prints, and paths were given as well",
                )
                .advice("put the command after '--', and back up the paths by another call"));
            }
            let Some(program) = argv.first() else {
                return Err(Failure::usage("--command was given without a command")
                    .advice("put it after '--': keepwatch backup --command -- pg_dump mydb"));
            };
            let name = args.stdin_name.clone().unwrap_or_else(|| {
                Path::new(program)
                    .file_name()
                    .unwrap_or(program)
                    .to_string_lossy()
                    .into_owned()
            });
            return Ok(Source::Command(stream_name(&name)?, argv));
        }
        paths.extend(argv.into_iter().map(PathBuf::from));
        match (&args.stdin_name, paths.is_empty()) {
            (Some(name), true) => Ok(Source::Stdin(stream_name(name)?)),
            (Some(_), false) => Err(Failure::usage(
                "--stdin-name backs up standard input, and paths were given as well",
            )
            .advice("back up the paths by another call")),
            (None, true) => Err(Failure::usage("nothing to back up was named")
                .advice("name files or directories: keepwatch backup ~/Documents")),
            (None, false) => Ok(Source::Files(paths)),
        }
    }

    /// Absolute paths, for files.
    fn paths(&self) -> Result<Vec<PathBuf>, Failure> {
        let given = match self {
            Source::Files(given) | Source::Services(_, _, given) if !given.is_empty() => given,
            _ => return Ok(Vec::new()),
        };
        let paths = given
            .iter()
            .map(|p| absolute(p))
            .collect::<Result<Vec<_>, _>>()?;
        if let Source::Services(services, ..) = self {
            must_be_apart(services, &paths)?;
        }
        let mut first_error = None;
        for p in &paths {
            match std::fs::symlink_metadata(p) {
                // One that is there is enough to begin with; the others are named as problems by the run.
                Ok(_) => return Ok(paths),
                Err(e) => drop(first_error.get_or_insert((p, e))),
            }
        }
        let (p, e) = first_error.expect("at least one path was given");
        Err(Failure::file("back up", p, &e).safe("no snapshot was made"))
    }

    fn run(
        &self,
        context: &Context,
        backup: impl FnOnce(Input<'_>) -> Result<Report, BackupError>,
    ) -> Result<Report, Failure> {
        match self {
            Source::Files(_) => Ok(backup(Input::Files)?),
            Source::Stdin(name) => {
                use std::io::IsTerminal;
                if std::io::stdin().is_terminal() {
                    context.note("keepwatch: reading from the terminal; end with Ctrl-D");
                }
                Ok(backup(Input::Stream {
                    name: name.clone(),
                    reader: Box::new(Patient::new(std::io::stdin(), context.cancel.clone())),
                    finish: Box::new(|| Ok(())),
                })?)
            }
            Source::Command(name, argv) => run_command(context, name, argv, backup),
            Source::Services(sources, args, _) => {
                source_backup::run(sources, &args.setting(context), backup)
            }
        }
    }
}

/// In a snapshot, files and the dumps beside them are one tree.
fn must_be_apart(services: &[Service], paths: &[PathBuf]) -> Result<(), Failure> {
    for service in services {
        let place = Path::new("/").join(&service.label);
        let is_in =
            |p: &&PathBuf| p.starts_with(&place) || (p.parent().is_none() && place.exists());
        if let Some(path) = paths.iter().find(is_in) {
            return Err(Failure::usage(format!(
                "the dumps of '{}' would stand in {} of the snapshot, where files of {} stand; no snapshot was made",
                service.kind(),
                place.display(),
                path.display()
            ))
            .advice(format!("give it another name: --source '{}?label=NAME'", service.kind())));
        }
    }
    Ok(())
}

/// In a view of the file system no server listens, and a database is one that crashed.
fn must_be_outside(services: &[Service], view: Option<&Path>) -> Result<(), Failure> {
    let Some(view) = view else { return Ok(()) };
    for service in services {
        if let Some(place) = service.places().into_iter().find(|p| p.starts_with(view)) {
            return Err(Failure::usage(format!(
                "the source '{}' needs {}, which lies in the view of {}, in which nothing runs; no snapshot was made",
                service.label,
                place.display(),
                view.display()
            ))
            .advice("back it up by a job of its own, or without --view"));
        }
    }
    Ok(())
}

fn run_command(
    context: &Context,
    name: &str,
    argv: &[OsString],
    backup: impl FnOnce(Input<'_>) -> Result<Report, BackupError>,
) -> Result<Report, Failure> {
    let program = escape(&argv[0].to_string_lossy());
    let mut command = Command::new(&argv[0]);
    command
        .args(&argv[1..])
        .env_remove("KEEPWATCH_IDENTITY_FILE")
        .env_remove("KEEPWATCH_WRITER_KEY_FILE")
        .stdin(Stdio::null());
    let mut running = Program::start(&mut command, context).map_err(|e| {
        Failure::failed(format!(
            "cannot start the command '{program}': {}; no snapshot was made",
            plain_io(&e)
        ))
        .advice("check its name and PATH")
    })?;
    let reader: Box<dyn Read + Send> = match running.output() {
        Some(pipe) => Box::new(pipe),
        None => Box::new(std::io::empty()),
    };
    let running = Arc::new(Mutex::new(Some(running)));
    let waiting = running.clone();
    let verdict = Arc::new(Mutex::new(None));
    let told = verdict.clone();
    let finish = Box::new(move || {
        let Some(running) = waiting.lock().unwrap_or_else(|e| e.into_inner()).take() else {
            return Ok(());
        };
        let why = match running.wait() {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => format!("the command '{program}' {}", ending(status)),
            Err(e) => format!(
                "it cannot be told how the command '{program}' ended: {}",
                plain_io(&e)
            ),
        };
        *told.lock().unwrap_or_else(|e| e.into_inner()) = Some(why.clone());
        Err(why)
    });
    let result = backup(Input::Stream {
        name: name.to_owned(),
        reader,
        finish,
    });
    // Still there only when the run broke off before the end of the stream.
    let left = running.lock().unwrap_or_else(|e| e.into_inner()).take();
    if let Some(running) = left {
        running.end();
    }
    // Whatever the run says of its own ending: the command's is the cause.
    let why = verdict.lock().unwrap_or_else(|e| e.into_inner()).take();
    match (result, why) {
        (Ok(report), None) => Ok(report),
        (_, Some(why)) if !context.cancel.is_cancelled() => {
            Err(Failure::failed(format!("{why}; no snapshot was made"))
                .advice("mend the command, and run it again"))
        }
        (result, _) => Ok(result?),
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("failed with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".to_owned(),
    }
}

/// The name of a stream: one plain component, since it becomes a file.
fn stream_name(name: &str) -> Result<String, Failure> {
    let plain = name.trim_matches('/');
    if plain.contains('/') || keepwatch_engine::manifest::check_path(plain.as_bytes()).is_err() {
        return Err(Failure::usage(format!(
            "the name '{}' cannot be that of a file",
            escape(name)
        ))
        .advice("give --stdin-name a plain file name such as dump.sql"));
    }
    Ok(plain.to_owned())
}

/// Absolute and without `.` and `..`; links in it stay what they are, but for those before a `..`.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let has_parent = path
        .components()
        .any(|c| c == std::path::Component::ParentDir);
    let result = if !has_parent {
        std::path::absolute(path).map(|p| p.components().collect())
    } else {
        match (path.parent(), path.file_name()) {
            (Some(dir), Some(name)) => std::fs::canonicalize(if dir.as_os_str().is_empty() {
                Path::new(".")
            } else {
                dir
            })
            .map(|d| d.join(name)),
            _ => std::fs::canonicalize(path),
        }
    };
    result.map_err(|e| Failure::file("back up", path, &e))
}

fn summary(report: &Report, dry_run: bool) -> String {
    let t = &report.totals;
    let took = std::time::Duration::try_from(report.end.at().duration_since(report.start.at()))
        .unwrap_or_default();
    let mut out = format!(
        "{}: {} new, {} changed, {} unmodified; {}, {}\n",
        count(t.files, "file", "files"),
        crate::output::thousands(t.files_new),
        crate::output::thousands(t.files_changed),
        crate::output::thousands(t.files_unmodified),
        count(t.directories, "directory", "directories"),
        human_bytes(t.bytes),
    );
    out += &format!(
        "{} read, {} added in {}\n",
        human_bytes(t.bytes_read),
        human_bytes(t.bytes_added),
        human_duration(took)
    );
    if report.problems.total > 0 {
        out += &format!(
            "{} could not be backed up whole; the snapshot is partial\n",
            count(report.problems.total, "file", "files")
        );
    }
    match report.snapshot {
        Some(id) => out += &format!("snapshot {} saved\n", id.short()),
        None if dry_run => out += "dry run: nothing was stored\n",
        None => out += "no snapshot was made\n",
    }
    out
}

fn json(report: &Report, warnings: &[String], dry_run: bool) -> Value {
    let took = std::time::Duration::try_from(report.end.at().duration_since(report.start.at()))
        .unwrap_or_default();
    json!({
        "snapshot": report.snapshot,
        "parent": report.parent,
        "outcome": match report.outcome { RunOutcome::Succeeded => "succeeded", RunOutcome::Partial => "partial" },
        "dry_run": dry_run,
        "start": report.start,
        "end": report.end,
        "duration_seconds": took.as_secs_f64(),
        "totals": report.totals,
        "problems": problems_json(&report.problems.first),
        "problems_total": report.problems.total,
        "warnings": warnings,
    })
}

impl From<BackupError> for Failure {
    fn from(e: BackupError) -> Self {
        const SAFE: &str = "no snapshot was made";
        let message = e.to_string();
        match e {
            BackupError::Access(e) => e.into(),
            BackupError::Object(e) => Failure::from(e).during("back up").safe(SAFE),
            BackupError::Put(e) => Failure::from(e).during("back up").safe(SAFE),
            BackupError::Pattern(e) => e.into(),
            BackupError::NoSources(_) => Failure::failed(message).safe("no snapshot was made").advice("check the paths"),
            BackupError::StreamName(_) => Failure::usage(message),
            BackupError::Stream { .. } | BackupError::Streams(_) => Failure::failed(message).advice("mend the command or the stream, and run it again"),
            BackupError::Cache(_) => Failure::failed(message).safe(SAFE).advice("give another place with --cache-dir, or use --no-cache; the cache can be deleted at any time"),
            BackupError::Cancelled(_) => Failure::failed(message).advice("run the same command again"),
            BackupError::Pruned => Failure::new(Exit::Refused, message).advice("give 'keepwatch prune' a longer --grace, and run the backup again"),
            BackupError::ReadBack(_) => Failure::failed(message).advice("look after the disk and its cables, run 'keepwatch verify --read-data', then back up again"),
            BackupError::Sink(_) => Failure::failed(message).safe(SAFE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(command: bool, paths: &[&str], argv: &[&str], stdin: Option<&str>) -> BackupArgs {
        use clap::Parser;
        #[derive(Parser)]
        struct One {
            #[command(flatten)]
            args: BackupArgs,
        }
        let mut a = One::parse_from(["x"]).args;
        a.command = command;
        a.paths = paths.iter().map(PathBuf::from).collect();
        a.argv = argv.iter().map(OsString::from).collect();
        a.stdin_name = stdin.map(str::to_owned);
        a
    }

    #[test]
    fn what_is_read_is_said_without_doubt() {
        assert!(
            matches!(Source::new(&mut args(false, &["a"], &["-b"], None)), Ok(Source::Files(p)) if p.len() == 2)
        );
        assert!(
            matches!(Source::new(&mut args(true, &[], &["/bin/pg_dump", "x"], None)), Ok(Source::Command(n, _)) if n == "pg_dump")
        );
        assert!(
            matches!(Source::new(&mut args(false, &[], &[], Some("d.sql"))), Ok(Source::Stdin(n)) if n == "d.sql")
        );
        for (mut a, what) in [
            (args(true, &["a"], &["x"], None), "command and path"),
            (args(true, &[], &[], None), "no command"),
            (args(false, &["a"], &[], Some("n")), "stdin and path"),
            (args(false, &[], &[], None), "nothing"),
            (args(false, &[], &[], Some("../x")), "name that climbs"),
        ] {
            let Err(e) = Source::new(&mut a) else {
                panic!("{what}")
            };
            assert_eq!(e.exit, Exit::WrongUse, "{what}");
        }
    }

    #[test]
    fn tags_are_sorted_and_own_places_are_literal() {
        assert_eq!(tags(&["b, a".into(), "b,".into()]), ["a", "b"]);
        let p = literal_pattern("/a [x]/{y}*");
        let patterns = keepwatch_engine::patterns::Patterns::new(&[p]).unwrap();
        assert!(patterns.matches(b"a [x]/{y}*"));
        assert!(!patterns.matches(b"a x/yz"));
    }

    #[test]
    fn paths_become_absolute_and_keep_their_links() {
        let dir = tempfile::tempdir().unwrap();
        let dir = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(dir.join("d")).unwrap();
        std::os::unix::fs::symlink("d", dir.join("link")).unwrap();
        assert_eq!(absolute(&dir.join("./link/")).unwrap(), dir.join("link"));
        assert_eq!(absolute(&dir.join("d/../link")).unwrap(), dir.join("link"));
        assert_eq!(absolute(&dir.join("d/..")).unwrap(), dir);
    }
}
