//! `wal restore`: a base backup into an empty data directory, with the settings by which the server then replays its log to where it should.
//!
//! Everything that can be known beforehand is looked at before the first file is written: that the directory is empty, that there is room, and that the log has no gap up to the target. What a
//! failure leaves behind is removed, and what a killed one left by the next ([`super::place`]). `recovery.signal` comes last: without it, and without its log, the server does not start on a directory that is not whole.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use keepwatch_engine::records::BaseBackup;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::snapshots::{SnapshotRecord, SnapshotSet};
use keepwatch_model::size::human_bytes;
use keepwatch_model::time::{Moment, parse_when};
use keepwatch_wal::extract::{Extractor, Owner, Written};
use keepwatch_wal::gaps;
use keepwatch_wal::log::{self, ClusterLog};
use keepwatch_wal::lsn::Lsn;
use keepwatch_wal::settings::{self, Recovery, Target};
use serde_json::json;

use super::bring::Log;
use super::combine::{self, Bringer};
use super::place::{self, Place};
use super::status;
use crate::clock;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome, plain_io};
use crate::output::{count, escape, print_after, print_json_after, tell};
use crate::select::{FilterArgs, pick};

/// Restore a PostgreSQL cluster to a time, a position, or the end of its log
#[derive(Args)]
#[command(
    long_about = "Restore a PostgreSQL cluster into an empty data directory. Needs an identity.\n\nThe newest base backup before the target is brought back, and the settings are written by which the server, when it is started, replays the log up to the target: restore_command calls 'keepwatch wal fetch'. The server's user must be able to read the repository and the identity (--server-identity names another file for it). Configuration files outside the data directory (Debian's /etc/postgresql) are no part of a base backup.",
    after_help = "Examples:
  keepwatch wal restore --repo /mnt/disk/backup --identity key.txt --target /var/lib/postgresql/15/main
  keepwatch wal restore --repo /mnt/disk/backup --identity key.txt --target /srv/pg --to-time '2026-11-22 14:05:30'
  keepwatch wal restore --repo /mnt/disk/backup --identity key.txt --target /srv/pg --to-lsn 0/3000148 --action pause

Then start the server. Exit status 5: refused, and nothing was written: the directory is not empty, or the log has a gap before the target."
)]
pub struct RestoreArgs {
    /// The base backup: latest, the beginning of a snapshot's id, or a time [default: the newest before the target]
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: Option<String>,
    /// The data directory: empty, or made new
    #[arg(short, long, value_name = "DIR")]
    pub target: PathBuf,
    /// Replay the log up to this time
    #[arg(long, value_name = "TIME", group = "to")]
    pub to_time: Option<String>,
    /// Replay it up to this position, such as 0/3000148
    #[arg(long, value_name = "LSN", group = "to")]
    pub to_lsn: Option<Lsn>,
    /// Replay it up to a point that pg_create_restore_point() named
    #[arg(long, value_name = "NAME", group = "to")]
    pub to_name: Option<String>,
    /// Replay only what makes the base backup consistent
    #[arg(long, group = "to")]
    pub to_consistent: bool,
    /// Leave out what happened exactly at the target
    #[arg(long, requires = "to")]
    pub exclusive: bool,
    /// The timeline to follow: latest, current (that of the base backup), or a number [default: latest]
    #[arg(long, value_name = "TIMELINE", value_parser = timeline)]
    pub timeline: Option<String>,
    /// What the server does at the target
    #[arg(long, value_name = "WHAT", default_value = "promote")]
    pub action: Action,
    /// The restored server does not archive: for trials beside the living one
    #[arg(long)]
    pub no_archive: bool,
    /// Restore although the log has a gap: the server opens with what lies before it
    #[arg(long)]
    pub up_to_gap: bool,
    /// Bring the log into the data directory as well: the server then needs neither the repository nor an identity
    #[arg(long)]
    pub with_log: bool,
    /// System identifier of the cluster, when there are several
    #[arg(long, value_name = "N")]
    pub cluster: Option<u64>,
    /// The identity that the server uses for restore_command [default: the one used now]
    #[arg(long, value_name = "FILE")]
    pub server_identity: Option<PathBuf>,
    /// The program in restore_command [default: this one]
    #[arg(long, value_name = "PATH")]
    pub program: Option<PathBuf>,
    /// Directory with pg_combinebackup, for an incremental base backup [default: of the same version beneath /usr/lib/postgresql, else PATH]
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// Of whom the files become, when run by root [default: postgres]
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// What the server does at the target.
#[derive(Clone, Copy, ValueEnum)]
pub enum Action {
    /// Open for writing, on a new timeline
    Promote,
    /// Answer queries and wait; 'SELECT pg_wal_replay_resume()' opens it
    Pause,
    /// Stop
    Shutdown,
}

fn timeline(text: &str) -> Result<String, String> {
    match text {
        "latest" | "current" => Ok(text.to_owned()),
        n => match n.parse::<u32>() {
            Ok(n) if n > 0 => Ok(n.to_string()),
            _ => Err("give latest, current, or the number of a timeline".into()),
        },
    }
}

/// `wal restore`.
pub fn run(context: &Context, args: &RestoreArgs) -> Outcome {
    let now = clock::now();
    let directory = std::path::absolute(&args.target)
        .map_err(|e| Failure::file("restore to", &args.target, &e))?;
    place::must_be_free(&directory)?;
    let owner = owner(args.owner.as_deref())?;
    let moment = args
        .to_time
        .as_deref()
        .map(|t| parse_when(t, now))
        .transpose()?;
    let repository = context.open_reader()?;
    let set = context.snapshots(&repository)?;
    let start = choose(&repository, &set, args, moment, now)?;
    look_ahead(&repository, &set, args, &start)?;
    let (snapshot, base) = (start.snapshot, start.base.clone());
    let chain = combine::chain(&repository, &set, snapshot)?;
    let bytes: u64 = chain.iter().map(|s| s.body.totals.bytes).sum();
    // Of several one is made, while they are still there.
    let times = if chain.len() > 1 { 2 } else { 1 };
    must_have_room(&directory, bytes.saturating_mul(times))?;
    let recovery = recovery(context, args, &repository, &start, moment)?;
    let lookup = context.lookup(&repository)?;

    let place = Place::take(&directory)?;
    let bring = || -> Result<Written, Failure> {
        let bringer = Bringer {
            context,
            repository: &repository,
            lookup: &lookup,
            pg_bin: args.pg_bin.as_deref(),
            owner,
            note: None,
        };
        let written = bringer.bring(&chain, &directory)?;
        if args.with_log {
            let there = Log {
                base: &start.base,
                path: &start.path,
                log: &start.log,
                to: args.to_lsn,
            };
            there.bring(context, &repository, &directory, owner)?;
        }
        settle(&directory, &place, &recovery, owner)?;
        Ok(written)
    };
    let written = match bring() {
        Ok(w) => w,
        Err(f) => {
            let left = place.clear();
            return Err(match left {
                Ok(()) => f.safe("what was written was removed"),
                Err(e) => f.safe(&format!(
                    "{} holds a part of it and must not be started ({})",
                    directory.display(),
                    plain_io(&e)
                )),
            });
        }
    };
    report(context, args, &directory, snapshot, &base, &written)
}

fn report(
    context: &Context,
    args: &RestoreArgs,
    directory: &Path,
    snapshot: &SnapshotRecord,
    base: &BaseBackup,
    written: &Written,
) -> Outcome {
    if context.json() {
        print_json_after(&json!({
            "snapshot": snapshot.id,
            "system": base.system.to_string(),
            "version": base.version,
            "timeline": base.timeline,
            "start_lsn": Lsn(base.start).to_string(),
            "end_lsn": Lsn(base.end).to_string(),
            "target": directory,
            "files": written.files,
            "bytes": written.bytes,
        }))?;
    } else if !context.globals.quiet {
        let to = match (
            &args.to_time,
            &args.to_lsn,
            &args.to_name,
            args.to_consistent,
        ) {
            (Some(t), ..) => format!("to {}", escape(t)),
            (_, Some(l), ..) => format!("to {l}"),
            (_, _, Some(n), _) => format!("to the point '{}'", escape(n)),
            (.., true) => "until it is consistent".to_owned(),
            _ => "to its end".to_owned(),
        };
        print_after(&format!(
            "base backup {} of {} restored: {}, {}\nstart PostgreSQL {} on {}: it replays the log {to}\n",
            snapshot.id.short(),
            snapshot.start.short(),
            count(written.files, "file", "files"),
            human_bytes(written.bytes),
            escape(&base.version),
            directory.display()
        ))?;
    }
    Ok(Exit::Done)
}

/// Ends when a person asks for it.
pub(super) struct Stoppable<'a> {
    pub(super) inner: Extractor,
    pub(super) context: &'a Context,
}

impl Write for Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.context.cancel.is_cancelled() {
            return Err(io::Error::other("stopped on request"));
        }
        self.inner.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

pub(super) fn must_have_room(directory: &Path, bytes: u64) -> Result<(), Failure> {
    let place = directory.ancestors().find(|d| d.exists());
    let Some(Ok(room)) = place.map(rustix::fs::statvfs) else {
        return Ok(());
    };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    match free < bytes {
        true => Err(Failure::failed(format!(
            "the base backup has {}, and only {} are free for {}; nothing was written",
            human_bytes(bytes),
            human_bytes(free),
            directory.display()
        ))),
        false => Ok(()),
    }
}

/// Where the replay begins and along which timelines it goes.
pub(super) struct Start<'a> {
    pub(super) snapshot: &'a SnapshotRecord,
    pub(super) base: BaseBackup,
    pub(super) path: Vec<u32>,
    pub(super) log: ClusterLog,
}

fn log_of(repository: &Repository, system: u64) -> Result<ClusterLog, Failure> {
    let cluster = repository.hash().cluster(system);
    let mut logs = log::load(repository, Some(cluster))?;
    Ok(logs.remove(&cluster).unwrap_or_default())
}

impl<'a> Start<'a> {
    /// With this base backup: to a timeline, else to the newest that it leads to, or to none but its own.
    ///
    /// # Errors
    /// It does not lead there.
    pub(super) fn of(
        repository: &Repository,
        snapshot: &'a SnapshotRecord,
        base: &BaseBackup,
        number: Option<u32>,
        current: bool,
    ) -> Result<Self, Failure> {
        let log = log_of(repository, base.system)?;
        let path = match number {
            Some(n) => gaps::path(&log, base, n).ok_or_else(|| {
                Failure::usage(format!(
                    "base backup {} does not lead to timeline {n}: it was made on timeline {}, after that had been left, or the history is missing",
                    snapshot.id.short(),
                    base.timeline
                ))
            })?,
            // The newest that it leads to.
            None => log
                .histories
                .keys()
                .rev()
                .filter(|_| !current)
                .find_map(|t| gaps::path(&log, base, *t))
                .unwrap_or_else(|| vec![base.timeline]),
        };
        Ok(Start {
            snapshot,
            base: base.clone(),
            path,
            log,
        })
    }

    /// What stands against a replay to a position or to the end, and whether the base backup by itself can be restored.
    pub(super) fn obstacle(
        &self,
        repository: &Repository,
        set: &SnapshotSet,
        to: Option<Lsn>,
    ) -> Option<(String, bool)> {
        let (snapshot, base) = (self.snapshot, &self.base);
        // A forgotten base backup can be restored by its id until it is pruned, with those that it is built on.
        let is_live = set.live.iter().any(|s| s.id == snapshot.id);
        let forgotten = set.forgotten.iter().filter(|_| !is_live);
        let cluster = repository.hash().cluster(base.system);
        let bases = status::bases(repository, set.live.iter().chain(forgotten), cluster);
        let report = gaps::judge(cluster, &self.log, &bases);
        let why = gaps::obstacle(&report, &self.log, snapshot.id, &self.path, to)?;
        let restorable = report
            .bases
            .iter()
            .any(|b| b.snapshot == snapshot.id && b.restorable);
        Some((why, restorable))
    }
}

/// The base backup to begin with: the newest before the target that leads to the wanted timeline. Without a word about timelines that is the newest one, as with PostgreSQL: a cluster that was
/// brought back to an earlier moment went on from there, and base backups made after that moment belong to the life that was given up.
fn choose<'a>(
    repository: &Repository,
    set: &'a SnapshotSet,
    args: &RestoreArgs,
    moment: Option<Moment>,
    now: Moment,
) -> Result<Start<'a>, Failure> {
    let none = |what: String| {
        Failure::new(Exit::NothingFound, what)
            .advice("'keepwatch wal verify' lists the base backups that there are")
    };
    let before = |s: &SnapshotRecord, b: &BaseBackup| {
        moment.is_none_or(|m| s.end <= m) && args.to_lsn.is_none_or(|l| b.end <= l.0)
    };
    let number = args.timeline.as_deref().and_then(|t| t.parse::<u32>().ok());
    let current = args.timeline.as_deref() == Some("current");
    let filter = args.filter.filter();
    if let Some(text) = args.snapshot.as_deref().filter(|t| *t != "latest") {
        let snapshot = pick(set, text, &filter, now)?;
        let Some(base) = snapshot.body.base.clone() else {
            return Err(Failure::usage(format!(
                "snapshot {} is no base backup of PostgreSQL",
                snapshot.id.short()
            )));
        };
        if !before(snapshot, &base) {
            return Err(Failure::usage(format!(
                "base backup {} became consistent only after the target: choose an older one",
                snapshot.id.short()
            )));
        }
        return Start::of(repository, snapshot, &base, number, current);
    }
    let fits: Vec<(&SnapshotRecord, &BaseBackup)> = set
        .live
        .iter()
        .filter(|s| !s.revoked && filter.matches(s))
        .filter_map(|s| Some((s, s.body.base.as_ref()?)))
        .filter(|(_, b)| args.cluster.is_none_or(|c| c == b.system))
        .collect();
    let Some((_, first)) = fits.first() else {
        return Err(none(
            "there is no base backup that fits in the repository".into(),
        ));
    };
    if fits.iter().any(|(_, b)| b.system != first.system) {
        return Err(Failure::usage("there are base backups of several clusters")
            .advice("choose with --cluster, --host or --job; 'keepwatch wal verify' shows them"));
    }
    let log = log_of(repository, first.system)?;
    let wanted = match current {
        true => None,
        false => number.or_else(|| gaps::newest_timeline(&log)),
    };
    let leads = |b: &BaseBackup| match wanted {
        Some(t) => gaps::path(&log, b, t),
        None => Some(vec![b.timeline]),
    };
    let chosen = fits
        .iter()
        .filter(|(s, b)| before(s, b))
        .filter_map(|(s, b)| Some((*s, (*b).clone(), leads(b)?)))
        .max_by_key(|(s, _, _)| (s.start, s.id));
    match chosen {
        Some((snapshot, base, path)) => Ok(Start {
            snapshot,
            base,
            path,
            log,
        }),
        None => Err(
            match wanted.filter(|_| fits.iter().any(|(s, b)| before(s, b))) {
                Some(t) => none(format!(
                    "no base backup before the target leads to timeline {t}; choose another with --timeline"
                )),
                None => none("every base backup was made after the target".into()),
            },
        ),
    }
}

/// Whether the log suffices.
fn look_ahead(
    repository: &Repository,
    set: &SnapshotSet,
    args: &RestoreArgs,
    start: &Start<'_>,
) -> Result<(), Failure> {
    let to = match (args.to_lsn, args.to_consistent) {
        (Some(l), _) => Some(l),
        (None, true) => Some(Lsn(start.base.end)),
        (None, false) => None,
    };
    let Some((why, restorable)) = start.obstacle(repository, set, to) else {
        return Ok(());
    };
    // Where in the log a time or a name lies is found out by the server, which stops at the gap.
    let unknown = args.to_time.is_some() || args.to_name.is_some();
    if restorable && (unknown || args.up_to_gap) {
        tell(&format!("keepwatch: warning: {why}"));
        return Ok(());
    }
    Err(Failure::new(
        Exit::Refused,
        format!(
            "base backup {} cannot be brought to the target: {why}; nothing was written",
            start.snapshot.id.short()
        ),
    )
    .advice(match restorable {
        true => "choose an earlier target (--to-time, --to-lsn), a later base backup, or take what lies before the gap with --up-to-gap",
        false => "choose another base backup",
    }))
}

fn recovery(
    context: &Context,
    args: &RestoreArgs,
    repository: &Repository,
    start: &Start<'_>,
    moment: Option<Moment>,
) -> Result<Recovery, Failure> {
    let mut recovery = Recovery {
        // The server wants one, and takes from pg_wal what it does not bring.
        command: vec!["false".into()],
        target: match (moment, args.to_lsn, &args.to_name, args.to_consistent) {
            (Some(m), ..) => Target::Time(m.to_string()),
            (_, Some(l), ..) => Target::Lsn(l),
            (_, _, Some(n), _) => Target::Name(n.clone()),
            (.., true) => Target::Immediate,
            _ => Target::Latest,
        },
        exclusive: args.exclusive,
        // By its number, so that a timeline that comes up meanwhile changes nothing.
        timeline: start.path.last().map(u32::to_string),
        action: match args.action {
            Action::Promote => settings::Action::Promote,
            Action::Pause => settings::Action::Pause,
            Action::Shutdown => settings::Action::Shutdown,
        },
        no_archive: args.no_archive,
    };
    if args.with_log {
        return Ok(recovery);
    }
    let program = match &args.program {
        Some(p) => p.clone(),
        None => std::env::current_exe().map_err(|e| {
            Failure::failed(format!(
                "cannot tell where this program lies: {}",
                plain_io(&e)
            ))
            .advice("give it with --program")
        })?,
    };
    let text = |p: &Path| -> Result<String, Failure> {
        let whole = std::path::absolute(p).map_err(|e| Failure::file("name", p, &e))?;
        whole.to_str().map(str::to_owned).ok_or_else(|| {
            Failure::usage(format!(
                "{} is not text, so the server's settings cannot hold it",
                p.display()
            ))
        })
    };
    let mut words = vec![text(&program)?, "wal".into(), "fetch".into()];
    let target = context.target()?;
    words.push("--repo".into());
    words.push(match target.path() {
        Some(path) => text(path)?,
        // With what stands behind it, such as ?endpoint=…
        None => context
            .globals
            .repo
            .as_ref()
            .map(|r| r.to_string_lossy().into_owned())
            .unwrap_or_default(),
    });
    if target.path().is_none() {
        words.extend(s3_options());
    }
    let identity = args
        .server_identity
        .clone()
        .or_else(|| context.identity_file());
    match (identity, &context.globals.passphrase_file) {
        (Some(file), _) => words.extend(["--identity".into(), text(&file)?]),
        (None, Some(file)) => words.extend(["--passphrase-file".into(), text(file)?]),
        (None, None) => {
            return Err(Failure::usage(
                "the server needs an identity in a file to read its log, and none was given",
            )
            .advice("give --identity FILE or --server-identity FILE"));
        }
    }
    words.extend(["--owner-key".into(), repository.owner().to_string()]);
    words.extend(["--cluster".into(), start.base.system.to_string()]);
    if args.up_to_gap {
        words.push("--tolerate-gaps".into());
    }
    words.extend(["%f".into(), "%p".into()]);
    recovery.command = words;
    Ok(recovery)
}

/// The options for S3 as they were given now, and what the environment gave; never a secret, only where it lies.
fn s3_options() -> Vec<String> {
    let words = std::env::args_os().skip(1);
    let mut out = s3_of(words.map(|w| w.to_string_lossy().into_owned()));
    if let Ok(endpoint) = std::env::var("KEEPWATCH_S3_ENDPOINT") {
        if !out.iter().any(|w| w.starts_with("--s3-endpoint")) {
            out.push(format!("--s3-endpoint={endpoint}"));
        }
    }
    out
}

/// Those among words, as one word each. The server works in its data directory, so that files are named by absolute paths.
fn s3_of(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut out = Vec::new();
    let mut words = words.take_while(|w| w != "--");
    while let Some(word) = words.next() {
        if !word.starts_with("--s3-") && !word.starts_with("--limit-download") {
            continue;
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            // The one that is given without a value.
            None if word == "--s3-requester-pays" => (word, None),
            None => (word, words.next()),
        };
        let Some(value) = value else {
            out.push(name);
            continue;
        };
        let whole = match name.ends_with("-file") {
            true => std::path::absolute(&value).ok(),
            false => None,
        };
        let value = whole
            .and_then(|p| p.to_str().map(str::to_owned))
            .unwrap_or(value);
        out.push(format!("{name}={value}"));
    }
    out
}

/// Writes the settings, and at last the file that makes the server recover.
fn settle(
    directory: &Path,
    place: &Place,
    recovery: &Recovery,
    owner: Option<Owner>,
) -> Result<(), Failure> {
    let conf = directory.join("postgresql.auto.conf");
    let before = match fs::read_to_string(&conf) {
        Ok(t) => t,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Failure::file("read", &conf, &e)),
    };
    let text = settings::auto_conf(&before, recovery).map_err(Failure::usage)?;
    // Of a base backup of a standby.
    let standby = directory.join("standby.signal");
    match fs::remove_file(&standby) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(Failure::file("remove", &standby, &e));
        }
        _ => {}
    }
    put(&conf, text.as_bytes(), owner).map_err(|e| Failure::file("write", &conf, &e))?;
    place.whole(owner)
}

fn put(path: &Path, bytes: &[u8], owner: Option<Owner>) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    if let Some(o) = owner {
        std::os::unix::fs::fchown(&file, Some(o.uid), Some(o.gid))?;
    }
    file.sync_all()
}

/// The server refuses to run as root, and to start on files that are not its user's.
fn owner(named: Option<&str>) -> Result<Option<Owner>, Failure> {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        return match named {
            None => Ok(None),
            Some(_) => Err(Failure::usage("only root can give files away: --owner")),
        };
    }
    let name = named.unwrap_or("postgres");
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let this = fields.next()?;
        let uid = fields.nth(1)?;
        let gid = fields.next()?;
        (this == name || uid == name).then_some(())?;
        Some(Owner {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        })
    });
    match (found, named) {
        (Some(o), _) => Ok(Some(o)),
        (None, Some(name)) => Err(Failure::usage(format!(
            "there is no user '{}' on this host",
            escape(name)
        ))),
        (None, None) => {
            tell("keepwatch: there is no user 'postgres' on this host; the files stay root's");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_for_s3_go_along() {
        let words = "wal --s3-region eu restore --s3-ca-file=ca.pem --s3-requester-pays --target x --s3-secret-key-file /k --limit-download 1M -- --s3-profile p";
        let found = s3_of(words.split(' ').map(str::to_owned));
        let here = std::env::current_dir().unwrap();
        let ca = format!("--s3-ca-file={}/ca.pem", here.display());
        assert_eq!(
            found,
            [
                "--s3-region=eu",
                &ca,
                "--s3-requester-pays",
                "--s3-secret-key-file=/k",
                "--limit-download=1M"
            ]
        );
    }

    #[test]
    fn timelines_as_people_write_them() {
        assert_eq!(timeline("latest").as_deref(), Ok("latest"));
        assert_eq!(timeline("007").as_deref(), Ok("7"));
        for bad in ["", "0", "-1", "first"] {
            assert!(timeline(bad).is_err(), "{bad}");
        }
    }
}
