//! `wal backup`: a base backup, streamed from `pg_basebackup` into a snapshot without a copy on disk.
//!
//! The archive goes through our chunker uncompressed, so that the second base backup stores what changed. By default it has no WAL in it: that is in the repository already,
//! and whether it really is, is looked at before the snapshot is committed. A base backup without its WAL could never be started.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use keepwatch_engine::backup::{self, Input, Options};
use keepwatch_engine::progress::Cancel;
use keepwatch_engine::records::BaseBackup;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::wal_file::Segment;
use keepwatch_model::duration::{human_duration, parse_duration};
use keepwatch_model::size::human_bytes;
use keepwatch_sources::postgresql::{Asker, Server};
use keepwatch_sources::secret::SecretFile;
use keepwatch_sources::setting::{Setting, Stop};
use keepwatch_wal::log;
use keepwatch_wal::lsn::Lsn;
use keepwatch_wal::stream;
use rustix::process::Pid;
use serde_json::json;

use super::dry::{self, Plan};
use super::find_program;
use super::incremental::{Before, Manifest};
use crate::clock;
use crate::commands::source_args::failure;
use crate::context::{Context, host_name, user_name};
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::output::{count, escape, plain, print_after, print_json_after, tell};
use crate::signals::Child;

/// The name of the archive in the snapshot.
pub const ARCHIVE: &str = "base.tar";
/// Bytes kept of the end of what the client says.
const SAID: usize = 4096;
/// A stream in which nothing comes for this long is given up. Before the first byte the server makes a checkpoint, which may be spread over minutes.
const STALL: Duration = Duration::from_secs(30 * 60);
/// How often it is looked whether something comes.
const LOOK: Duration = Duration::from_millis(200);

/// Make a base backup of a PostgreSQL cluster
#[derive(Args)]
#[command(
    long_about = "Make a base backup of a PostgreSQL cluster, streamed from pg_basebackup.\n\nThe server must archive its log by 'keepwatch wal push' into the same repository; that the log which the base backup needs is there is checked before the snapshot is made. Without archiving, --with-wal puts that log into the base backup itself: it can then be restored as it was at its end, and to no other moment.\n\nThe connection is made as by all PostgreSQL clients: PGHOST, PGPORT, PGUSER, PGPASSFILE and ~/.pgpass count. The user needs the right REPLICATION. Tablespaces outside the data directory cannot be streamed.",
    after_help = "Examples:
  keepwatch wal backup --repo /mnt/disk/backup
  keepwatch wal backup --repo /mnt/disk/backup --pg-host /run/postgresql --pg-user replicator --job main-cluster
  keepwatch wal backup --repo /mnt/disk/backup --incremental
  keepwatch wal backup --repo /mnt/disk/backup --with-wal"
)]
pub struct BaseArgs {
    /// Host, or directory of the socket
    #[arg(long, value_name = "HOST")]
    pub pg_host: Option<String>,
    /// Port
    #[arg(long, value_name = "PORT")]
    pub pg_port: Option<u16>,
    /// User, with the right REPLICATION
    #[arg(long, value_name = "USER")]
    pub pg_user: Option<String>,
    /// The file with the user's password [default: PGPASSFILE or ~/.pgpass, which have a form of their own]
    #[arg(long, value_name = "FILE")]
    pub pg_password_file: Option<PathBuf>,
    /// Directory with pg_basebackup, of the server's version or newer [default: PATH, else the newest beneath /usr/lib/postgresql]
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// Put the log that it needs into the base backup, for servers that do not archive
    #[arg(long)]
    pub with_wal: bool,
    /// Read and store only what changed since the last base backup of this job, where the server can (PostgreSQL 17, summarize_wal on); else make a full one
    #[arg(long)]
    pub incremental: bool,
    /// With --incremental: a full one after so many that depend on each other
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100), requires = "incremental")]
    pub full_every: u32,
    /// How the server begins: at once, or when its next checkpoint is due anyway
    #[arg(long, value_name = "HOW", default_value = "fast")]
    pub checkpoint: Checkpoint,
    /// Wait until the server has archived the log that it needs for at most
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_duration)]
    pub wait_wal: Duration,
    /// Ask the server, say what would be done, and store nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Labels, separated by commas (repeatable)
    #[arg(long = "tag", value_name = "TAG[,TAG]")]
    pub tags: Vec<String>,
    /// Name of the job: base backups of one job are judged together by 'forget'
    #[arg(long, value_name = "NAME", default_value = "postgresql-physical")]
    pub job: String,
    /// Name of the host in the snapshot [default: this one]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// zstd level
    #[arg(long, value_name = "1-19", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub compression: i32,
}

/// How the server begins a base backup.
#[derive(Clone, Copy, ValueEnum)]
pub enum Checkpoint {
    /// At once
    Fast,
    /// When it is due
    Spread,
}

/// `wal backup`.
pub fn run(context: &Context, args: &BaseArgs) -> Outcome {
    let program = find_program("pg_basebackup", args.pg_bin.as_deref(), None);
    let repository = context.open_writer()?;
    let options = Options {
        tags: args
            .tags
            .iter()
            .flat_map(|t| keepwatch_model::retention::parse_tags(t))
            .filter(|t| !t.is_empty())
            .collect(),
        host: args.host.clone().unwrap_or_else(host_name),
        user: user_name(),
        job: Some(args.job.clone()),
        level: args.compression,
        cache: context.cache(&repository),
        ..Options::default()
    };
    let manifest = match args.incremental {
        true => Manifest::of(context.places.manifests(repository.id()), &args.job),
        false => None,
    };
    let set = manifest.as_ref().map(|_| context.snapshots(&repository));
    let set = set.transpose()?;
    let before = match (&manifest, &set) {
        (Some(m), Some(set)) => Some(m.before(&repository, &set.live, &args.job, args.full_every)),
        _ => None,
    };
    let (before, mut full_because) = match before {
        Some(Ok(before)) => (Some(before), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let asker = asker(context, args)?;
    if args.dry_run {
        let of = |b| set.as_ref().and_then(|set| dry::snapshot_of(b, &set.live));
        return Plan {
            context,
            args,
            asker: asker.as_ref(),
            before: before.as_ref().map(|b| (b, of(b))),
            full_because,
        }
        .tell();
    }
    let run = |before: Option<&Before>| {
        let what = What {
            program: &program,
            before,
            manifest: manifest.as_ref(),
            passfile: asker.as_ref().and_then(Asker::passfile),
        };
        stream(context, args, &what, &repository, &options)
    };
    let mut made = run(before.as_ref());
    // Refused before anything came: an older server, one without summaries, or with too few of them.
    if let (
        Err(Broken {
            failure,
            refused: Some(why),
        }),
        Some(_),
    ) = (&made, &before)
    {
        if !context.cancel.is_cancelled() {
            tracing::debug!("{}", failure.message);
            full_because = Some(format!("the server made no incremental one: {why}"));
            made = run(None);
        }
    }
    let (report, base) = made.map_err(|b| b.failure)?;
    if base.after.is_none() {
        if let Some(why) = full_because.as_ref().filter(|_| !context.globals.quiet) {
            tell(&format!("a full base backup was made: {}", escape(why)));
        }
    }
    if let (Some(id), Some(writer)) = (report.snapshot, repository.writer()) {
        context
            .places
            .bear_witness(repository.id(), id, writer.id, &report.end.to_string());
    }
    for w in &report.warnings {
        tell(&format!("keepwatch: warning: {}", escape(&plain(w))));
    }
    if context.json() {
        print_json_after(&json!({
            "snapshot": report.snapshot,
            "start": report.start,
            "end": report.end,
            "totals": report.totals,
            "system": base.system.to_string(),
            "timeline": base.timeline,
            "start_lsn": Lsn(base.start).to_string(),
            "end_lsn": Lsn(base.end).to_string(),
            "version": base.version,
            "with_wal": base.with_wal,
            "incremental": base.after.is_some(),
            "full_because": full_because,
            "warnings": report.warnings,
        }))?;
    } else if !context.globals.quiet {
        let took = Duration::try_from(report.end.at().duration_since(report.start.at()));
        let id = report.snapshot.map(|i| i.short()).unwrap_or_default();
        print_after(&format!(
            "{}cluster {}, PostgreSQL {}, timeline {}, log from {} to {}\n{} read, {} added in {}\nsnapshot {id} saved\n",
            if base.after.is_some() {
                "incremental, "
            } else {
                ""
            },
            base.system,
            escape(&base.version),
            base.timeline,
            Lsn(base.start),
            Lsn(base.end),
            human_bytes(report.totals.bytes_read),
            human_bytes(report.totals.bytes_added),
            human_duration(took.unwrap_or_default()),
        ))?;
    }
    Ok(Exit::Done)
}

/// Holds the password for the client, in a file that goes with it.
fn asker(context: &Context, args: &BaseArgs) -> Result<Option<Asker>, Failure> {
    let Some(file) = &args.pg_password_file else {
        return Ok(None);
    };
    let server = Server {
        password: Some(SecretFile(file.clone())),
        ..Server::default()
    };
    let cancel = context.cancel.clone();
    let mut setting = Setting::new(std::env::temp_dir());
    setting.stop = Stop::when(move || cancel.is_cancelled());
    Asker::new(&server, &setting).map(Some).map_err(failure)
}

fn command(args: &BaseArgs, what: &What<'_>) -> Command {
    let mut words: Vec<OsString> = ["-D", "-", "-F", "tar", "--no-password", "-X"]
        .map(OsString::from)
        .to_vec();
    words.push(if args.with_wal { "fetch" } else { "none" }.into());
    words.push("-c".into());
    words.push(
        match args.checkpoint {
            Checkpoint::Fast => "fast",
            Checkpoint::Spread => "spread",
        }
        .into(),
    );
    words.extend(["-l".into(), "keepwatch".into()]);
    if let Some(before) = what.before {
        let mut word = OsString::from("--incremental=");
        word.push(&before.manifest);
        words.push(word);
    }
    for (option, value) in [
        ("-h", args.pg_host.clone()),
        ("-p", args.pg_port.map(|p| p.to_string())),
        ("-U", args.pg_user.clone()),
    ] {
        if let Some(value) = value {
            words.push(option.into());
            words.push(value.into());
        }
    }
    let mut command = Command::new(what.program);
    command
        .args(words)
        .env("LC_MESSAGES", "C")
        .envs(what.passfile.map(|f| ("PGPASSFILE", f)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KEEPWATCH_") {
            command.env_remove(name);
        }
    }
    command
}

/// What is streamed.
struct What<'a> {
    program: &'a Path,
    /// An incremental one, built on this.
    before: Option<&'a Before>,
    /// Where its manifest is kept.
    manifest: Option<&'a Manifest>,
    /// The password, as the client wants it.
    passfile: Option<&'a Path>,
}

/// No base backup was made.
struct Broken {
    failure: Failure,
    /// Nothing came at all: what the client said.
    refused: Option<String>,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Broken {
            failure,
            refused: None,
        }
    }
}

fn stream(
    context: &Context,
    args: &BaseArgs,
    what: &What<'_>,
    repository: &Repository,
    options: &Options,
) -> Result<(backup::Report, BaseBackup), Broken> {
    let shown = escape(&what.program.to_string_lossy());
    let unkept = |e: &std::io::Error| {
        tracing::warn!(
            "the manifest of the base backup cannot be kept, so the next one will be a full one: {}",
            plain_io(e)
        )
    };
    let file = what.manifest.map(Manifest::begin).transpose();
    let file = file.inspect_err(&unkept).ok().flatten();
    let mut child = command(args, what).spawn().map_err(|e| {
        Failure::failed(format!(
            "cannot start {shown}: {}; no snapshot was made",
            plain_io(&e)
        ))
        .advice("install PostgreSQL's client, or say with --pg-bin where it is")
    })?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Failure::failed(format!("{shown} has no output")).into());
    };
    context
        .child
        .set(i32::try_from(child.id()).ok().and_then(Pid::from_raw));
    if context.cancel.is_cancelled() {
        context.child.terminate();
    }
    let said = std::thread::spawn(move || listen(stderr));
    let (reader, learnt) = stream::watch(stdout, file);
    let child = std::sync::Mutex::new(Some(child));
    let base = std::sync::Mutex::new(None);
    let why = std::sync::Mutex::new(None);
    let lock = |e: std::sync::PoisonError<_>| e.into_inner();
    let (watched, cancel) = (context.child.clone(), context.cancel.clone());
    let finish = || -> Result<BaseBackup, String> {
        let refuse = |text: String| {
            *why.lock().unwrap_or_else(|e| e.into_inner()) = Some(text.clone());
            Err(text)
        };
        let waited = child
            .lock()
            .unwrap_or_else(lock)
            .take()
            .map(|mut c| c.wait());
        watched.set(None);
        match waited {
            Some(Ok(status)) if status.success() => {}
            Some(Ok(status)) => return refuse(ending(status)),
            Some(Err(e)) => return refuse(format!("its end cannot be told: {}", plain_io(&e))),
            None => return refuse("it was ended".into()),
        }
        let found = match learnt.base() {
            Ok(b) => b,
            Err(e) => return refuse(e.to_string()),
        };
        let fits = match (what.before, found.after) {
            (Some(before), _) => before.must_be_below(repository, &found),
            (None, None) => Ok(()),
            (None, Some(_)) => Err("it is incremental, which was not asked for".to_owned()),
        };
        if let Err(e) = fits {
            return refuse(e);
        }
        if !found.with_wal {
            if let Err(e) = wait_for_wal(repository, &found, args.wait_wal, &cancel) {
                return refuse(e);
            }
        }
        *base.lock().unwrap_or_else(|e| e.into_inner()) = Some(found.clone());
        Ok(found)
    };
    let bar = context.bar();
    let ended = AtomicBool::new(false);
    let (result, stalled) = std::thread::scope(|scope| {
        let (learnt, ended, running) = (&learnt, &ended, context.child.clone());
        let watch = move || give_up_on(learnt, &running, args.wait_wal, ended);
        let stalled = scope.spawn(watch);
        let result = backup::run(
            repository,
            options,
            Input::Base {
                name: ARCHIVE.to_owned(),
                reader: Box::new(reader),
                finish: Box::new(finish),
            },
            &clock::now,
            &bar,
            &context.cancel,
        );
        ended.store(true, Ordering::Relaxed);
        (result, stalled.join().unwrap_or_default())
    });
    bar.finish();
    context.child.set(None);
    // Still there only when the run broke off before the end of the stream.
    if let Some(mut child) = child.into_inner().unwrap_or_else(|e| e.into_inner()) {
        let _ = child.kill();
        let _ = child.wait();
    }
    let said = said.join().unwrap_or_default();
    let why = stalled.or(why.into_inner().unwrap_or_else(|e| e.into_inner()));
    let base = base.into_inner().unwrap_or_else(|e| e.into_inner());
    let kept = match (&result, &base, what.manifest) {
        (Ok(_), Some(_), Some(m)) => learnt.manifest().and_then(|_| m.keep()),
        (_, _, Some(m)) => {
            m.drop();
            Ok(())
        }
        _ => Ok(()),
    };
    if let Err(e) = kept {
        unkept(&e);
    }
    match (result, base, why) {
        (Ok(report), Some(base), _) => Ok((report, base)),
        (_, _, Some(why)) if !context.cancel.is_cancelled() => {
            let shown_said = match said.is_empty() {
                true => String::new(),
                false => format!(" ({})", escape(&said)),
            };
            let failure = Failure::failed(format!(
                "the base backup by {shown} failed: {why}{shown_said}; no snapshot was made"
            ))
            .advice("mend what it says, and run it again; what was stored is used then");
            let refused = (learnt.progress().0 == 0).then_some(said);
            Err(Broken { failure, refused })
        }
        (Err(e), _, _) => Err(Failure::from(e).into()),
        (Ok(_), None, _) => Err(Failure::failed("the base backup tells nothing of itself").into()),
    }
}

/// Ends a client through which nothing comes any more, and says why.
fn give_up_on(
    learnt: &stream::Learnt,
    child: &Child,
    wait_wal: Duration,
    ended: &AtomicBool,
) -> Option<String> {
    let mut seen = (0, false);
    let mut still = Duration::ZERO;
    while !ended.load(Ordering::Relaxed) {
        std::thread::sleep(LOOK);
        let now = learnt.progress();
        still = match now == seen {
            true => still + LOOK,
            false => Duration::ZERO,
        };
        seen = now;
        let limit = if seen.1 { wait_wal } else { STALL };
        if still > limit && child.terminate_running() {
            let shown = human_duration(limit);
            return Some(match seen.1 {
                true => format!(
                    "the server has sent everything and waited {shown} for its log to be archived; does archive_command ('keepwatch wal push … %p' with this repository) succeed? (--with-wal makes a base backup without archiving)"
                ),
                false => format!("nothing came from the server for {shown}"),
            });
        }
    }
    None
}

/// The last lines of what the client says, in one.
pub(super) fn listen(mut stderr: ChildStderr) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut piece = [0; 1024];
    loop {
        match stderr.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(n) => {
                kept.extend_from_slice(&piece[..n]);
                let over = kept.len().saturating_sub(SAID);
                kept.drain(..over);
            }
        }
    }
    let text = String::from_utf8_lossy(&kept);
    let lines: Vec<&str> = text
        .lines()
        .map(|l| {
            l.trim()
                .trim_start_matches("pg_basebackup: ")
                .trim_start_matches("pg_combinebackup: ")
        })
        .filter(|l| !l.is_empty() && !l.starts_with("NOTICE:"))
        .collect();
    lines.join("; ")
}

pub(super) fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with status {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it failed".to_owned(),
    }
}

/// The server waits until its log is archived before it calls a base backup done, when it archives; so it is normally there at once.
fn wait_for_wal(
    repository: &Repository,
    base: &BaseBackup,
    patience: Duration,
    cancel: &Cancel,
) -> Result<(), String> {
    const STEP: Duration = Duration::from_millis(500);
    let cluster = repository.hash().cluster(base.system);
    let mut waited = Duration::ZERO;
    loop {
        let logs = log::load(repository, Some(cluster)).map_err(|e| e.to_string())?;
        let missing = match logs.get(&cluster).map(|l| (l, l.segment_bytes)) {
            Some((log, Some(size))) => absent(log, base, size),
            _ => Some(Segment {
                timeline: base.timeline,
                position: base.segment,
            }),
        };
        let Some(missing) = missing else {
            return Ok(());
        };
        if waited >= patience || cancel.is_cancelled() {
            return Err(format!(
                "segment {missing} of the log, without which it cannot be restored, is not in the repository after {} of waiting; is archive_command set to 'keepwatch wal push … %p' with this repository, and does it succeed? (--with-wal makes a base backup without archiving)",
                count(waited.as_secs(), "second", "seconds")
            ));
        }
        std::thread::sleep(STEP);
        waited += STEP;
    }
}

/// The first segment that the base backup needs and the log does not have.
fn absent(log: &log::ClusterLog, base: &BaseBackup, size: u64) -> Option<Segment> {
    let timeline = base.timeline;
    let there = log.segments.get(&timeline);
    let per_log = (1u64 << 32) / size.max(1);
    let last = Lsn(base.end.saturating_sub(1)).segment(size);
    (Lsn(base.start).segment(size)..=last)
        .map(|n| Segment {
            timeline,
            position: ((n / per_log) << 32) | (n % per_log),
        })
        .find(|s| there.is_none_or(|t| t.binary_search(&s.position).is_err()))
}
