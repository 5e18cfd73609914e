//! `wal backup`: a base backup, streamed from `pg_basebackup` into a snapshot without a copy on disk.
//!
//! The archive goes through our chunker uncompressed, so that the second base backup stores what changed. By default it has no WAL in it: that is in the repository already,
//! and whether it really is, is looked at before the snapshot is committed. A base backup without its WAL could never be started.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
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
use keepwatch_wal::log;
use keepwatch_wal::lsn::Lsn;
use keepwatch_wal::stream;
use rustix::process::Pid;
use serde_json::json;

use crate::clock;
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
    /// Directory with pg_basebackup, of the server's version or newer [default: PATH, else the newest beneath /usr/lib/postgresql]
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// Put the log that it needs into the base backup, for servers that do not archive
    #[arg(long)]
    pub with_wal: bool,
    /// How the server begins: at once, or when its next checkpoint is due anyway
    #[arg(long, value_name = "HOW", default_value = "fast")]
    pub checkpoint: Checkpoint,
    /// Wait until the server has archived the log that it needs for at most
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_duration)]
    pub wait_wal: Duration,
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
    let program = program(args);
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
    let (report, base) = stream(context, args, &program, &repository, &options)?;
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
            "warnings": report.warnings,
        }))?;
    } else if !context.globals.quiet {
        let took = Duration::try_from(report.end.at().duration_since(report.start.at()));
        let id = report.snapshot.map(|i| i.short()).unwrap_or_default();
        print_after(&format!(
            "cluster {}, PostgreSQL {}, timeline {}, log from {} to {}\n{} read, {} added in {}\nsnapshot {id} saved\n",
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

/// `pg_basebackup` where it is found first.
fn program(args: &BaseArgs) -> PathBuf {
    const NAME: &str = "pg_basebackup";
    if let Some(dir) = &args.pg_bin {
        return dir.join(NAME);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(found) = std::env::split_paths(&path)
        .map(|d| d.join(NAME))
        .find(|p| p.is_file())
    {
        return found;
    }
    // Debian keeps the versions apart, and none of them in PATH. A newer client speaks with older servers.
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    versions
        .filter_map(|e| e.ok())
        .filter_map(|e| Some((e.file_name().to_str()?.parse::<u32>().ok()?, e.path())))
        .max()
        .map(|(_, dir)| dir.join("bin").join(NAME))
        .filter(|p| p.is_file())
        .unwrap_or_else(|| PathBuf::from(NAME))
}

fn command(args: &BaseArgs, program: &PathBuf) -> Command {
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
    let mut command = Command::new(program);
    command
        .args(words)
        .env("LC_MESSAGES", "C")
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

fn stream(
    context: &Context,
    args: &BaseArgs,
    program: &PathBuf,
    repository: &Repository,
    options: &Options,
) -> Result<(backup::Report, BaseBackup), Failure> {
    let shown = escape(&program.to_string_lossy());
    let mut child = command(args, program).spawn().map_err(|e| {
        Failure::failed(format!(
            "cannot start {shown}: {}; no snapshot was made",
            plain_io(&e)
        ))
        .advice("install PostgreSQL's client, or say with --pg-bin where it is")
    })?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(Failure::failed(format!("{shown} has no output")));
    };
    context
        .child
        .set(i32::try_from(child.id()).ok().and_then(Pid::from_raw));
    if context.cancel.is_cancelled() {
        context.child.terminate();
    }
    let said = std::thread::spawn(move || listen(stderr));
    let (reader, learnt) = stream::watch(stdout);
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
    match (result, base, why) {
        (Ok(report), Some(base), _) => Ok((report, base)),
        (_, _, Some(why)) if !context.cancel.is_cancelled() => {
            let said = match said.is_empty() {
                true => String::new(),
                false => format!(" ({})", escape(&said)),
            };
            Err(Failure::failed(format!(
                "the base backup by {shown} failed: {why}{said}; no snapshot was made"
            ))
            .advice("mend what it says, and run it again; what was stored is used then"))
        }
        (Err(e), _, _) => Err(e.into()),
        (Ok(_), None, _) => Err(Failure::failed("the base backup tells nothing of itself")),
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
fn listen(mut stderr: ChildStderr) -> String {
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
        .map(|l| l.trim().trim_start_matches("pg_basebackup: "))
        .filter(|l| !l.is_empty() && !l.starts_with("NOTICE:"))
        .collect();
    lines.join("; ")
}

fn ending(status: ExitStatus) -> String {
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
