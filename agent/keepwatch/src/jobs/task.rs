//! What the configuration says of a job. Pure: the configuration is read, nothing else.

use std::path::PathBuf;
use std::time::Duration;

use keepwatch_config::Config;
use keepwatch_config::sections::backups::{Backup, Drill};
use keepwatch_config::sections::repositories::Copy;
use keepwatch_model::runs::RunKind;
use keepwatch_watch::systemd::UnitName;

use super::wanted::Wanted;
use crate::errors::Failure;
use crate::output::escape;

/// `prune`, `verify` and `forget` have no time limit of their own in the configuration; one that lasts longer is ended.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// What is done.
#[derive(Clone, Copy, Debug)]
pub enum Work<'a> {
    /// This job backs up.
    Backup(&'a Backup),
    /// This job's snapshots are dropped by its policy.
    Forget(&'a Backup),
    /// What no snapshot needs is deleted.
    Prune,
    /// Damage is looked for.
    Verify,
    /// Snapshots are copied.
    Copy(&'a Copy),
    /// A restore is rehearsed.
    Drill(&'a Drill),
}

/// A job.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    /// For people: `job home`.
    pub title: String,
    /// The job or copy, for records.
    pub job: Option<&'a str>,
    /// What is done.
    pub work: Work<'a>,
    /// With which repositories, one after the other.
    pub repositories: Vec<&'a str>,
    /// The lock, in the state directory.
    pub lock: PathBuf,
    /// How often it is tried again, and the first pause.
    pub retry: (u32, Duration),
    /// A run that lasts longer is ended.
    pub timeout: Duration,
    /// Runs before.
    pub pre_hook: Option<&'a [String]>,
    /// Runs after, always.
    pub post_hook: Option<&'a [String]>,
    /// Stopped for the run.
    pub stop_units: &'a [UnitName],
    /// Files that could not be read make the run a failure.
    pub fail_on_warnings: bool,
}

impl<'a> Task<'a> {
    /// The dropping of what the policy of this job no longer keeps, under this job's lock.
    pub fn forget(&self, backup: &'a Backup, repositories: &[&str]) -> Task<'a> {
        let of_it = self.repositories.iter();
        Task {
            job: self.job,
            repositories: of_it
                .copied()
                .filter(|r| repositories.contains(r))
                .collect(),
            ..plain(format!("retention of {}", self.title), Work::Forget(backup))
        }
    }

    /// The kind of its runs.
    pub fn kind(&self) -> RunKind {
        match self.work {
            Work::Backup(_) => RunKind::Backup,
            Work::Forget(_) => RunKind::Forget,
            Work::Prune => RunKind::Prune,
            Work::Verify => RunKind::Verify,
            Work::Copy(_) => RunKind::Copy,
            Work::Drill(_) => RunKind::Drill,
        }
    }
}

/// The jobs that are meant: one, or for `prune` and `verify` one for each repository.
pub fn tasks<'a>(wanted: &Wanted, config: &'a Config) -> Result<Vec<Task<'a>>, Failure> {
    let narrowed = |all: Vec<&'a str>, of: &str| match &wanted.repository {
        None => Ok(all),
        Some(one) => match all.iter().find(|r| **r == one.as_str()) {
            Some(found) => Ok(vec![*found]),
            None => Err(Failure::usage(format!(
                "{of} has nothing to do with a repository '{}'",
                escape(one)
            ))
            .advice(format!("use one of: {}", all.join(" ")))),
        },
    };
    if wanted.kind == RunKind::Copy {
        let (name, copy) = named(config.copies.iter(), wanted, "copy")?;
        must_be_enabled(copy.enable, "copy", name)?;
        let title = format!("copy {name}");
        return Ok(vec![Task {
            job: Some(name),
            work: Work::Copy(copy),
            repositories: narrowed(vec![copy.to.as_str()], &title)?,
            lock: PathBuf::from(format!("copies/{name}.lock")),
            retry: (copy.retry.attempts, copy.retry.delay),
            timeout: copy.timeout,
            ..plain(title, Work::Prune)
        }]);
    }
    if wanted.kind == RunKind::Drill {
        let (name, drill) = named(config.drills.iter(), wanted, "drill")?;
        must_be_enabled(drill.enable, "drill", name)?;
        let title = format!("drill {name}");
        return Ok(vec![Task {
            job: Some(name),
            repositories: narrowed(vec![drill.repository.as_str()], &title)?,
            lock: PathBuf::from(format!("drills/{name}.lock")),
            timeout: drill.timeout,
            ..plain(title, Work::Drill(drill))
        }]);
    }
    if wanted.name.is_none() {
        let all: Vec<&str> = config.repositories.keys().map(String::as_str).collect();
        let repositories = narrowed(all, "the configuration")?;
        return Ok(repositories
            .into_iter()
            .map(|r| upkeep(wanted, r))
            .collect());
    }
    let (name, backup) = named(config.backups.iter(), wanted, "job")?;
    let title = format!("job {name}");
    let all: Vec<&str> = backup.repositories.iter().map(String::as_str).collect();
    let repositories = narrowed(all, &title)?;
    match wanted.kind {
        RunKind::Prune | RunKind::Verify => Ok(repositories
            .into_iter()
            .map(|r| upkeep(wanted, r))
            .collect()),
        RunKind::Forget => Ok(vec![Task {
            job: Some(name),
            repositories,
            lock: PathBuf::from(format!("jobs/{name}.lock")),
            ..plain(format!("forget of {title}"), Work::Forget(backup))
        }]),
        _ => {
            must_be_enabled(backup.enable, "job", name)?;
            Ok(vec![Task {
                title,
                job: Some(name),
                work: Work::Backup(backup),
                repositories,
                lock: PathBuf::from(format!("jobs/{name}.lock")),
                retry: (backup.retry.attempts, backup.retry.delay),
                timeout: backup.timeout,
                pre_hook: backup.pre_hook.as_deref(),
                post_hook: backup.post_hook.as_deref(),
                stop_units: &backup.stop_units,
                fail_on_warnings: backup.fail_on_warnings,
            }])
        }
    }
}

fn plain<'a>(title: String, work: Work<'a>) -> Task<'a> {
    Task {
        title,
        job: None,
        work,
        repositories: Vec::new(),
        lock: PathBuf::new(),
        retry: (0, Duration::ZERO),
        timeout: LONGEST,
        pre_hook: None,
        post_hook: None,
        stop_units: &[],
        fail_on_warnings: false,
    }
}

fn upkeep<'a>(wanted: &Wanted, repository: &'a str) -> Task<'a> {
    let work = match wanted.kind {
        RunKind::Prune => Work::Prune,
        _ => Work::Verify,
    };
    Task {
        repositories: vec![repository],
        lock: PathBuf::from(format!(
            "repositories/{repository}.{}.lock",
            wanted.kind.as_str()
        )),
        ..plain(format!("{} of {repository}", wanted.kind.as_str()), work)
    }
}

fn named<'a, T>(
    all: impl Iterator<Item = (&'a String, &'a T)> + Clone,
    wanted: &Wanted,
    what: &str,
) -> Result<(&'a str, &'a T), Failure> {
    let name = wanted.name.as_deref().unwrap_or_default();
    if let Some((name, found)) = all.clone().find(|(n, _)| n.as_str() == name) {
        return Ok((name.as_str(), found));
    }
    let names: Vec<&str> = all.map(|(n, _)| n.as_str()).collect();
    let failure = Failure::usage(format!(
        "the configuration {} has no {what} '{}'",
        wanted.config.display(),
        escape(name)
    ));
    Err(match names.is_empty() {
        true => {
            failure.advice("it has none at all: 'keepwatch config show' prints what is in effect")
        }
        false => failure.advice(format!("use one of: {}", names.join(" "))),
    })
}

fn must_be_enabled(is_enabled: bool, what: &str, name: &str) -> Result<(), Failure> {
    match is_enabled {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "{what} {name} is switched off in the configuration (enable = false); nothing was done"
        ))
        .advice("switch it on")),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A configuration with one of each.
    pub const TEXT: &str = r#"
state_directory = "/var/lib/kw"
cache_directory = "/var/cache/kw"

[repositories.disk]
backend.local = { path = "/mnt/backup/web1", require_mount = "/mnt/backup" }
recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
writer_key_file = "credential:disk-writer"
identity_file = "/etc/keepwatch/identity"
prune = { grace_delete = "48h" }
verify = { read_data = 5 }

[repositories.far]
recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"]
limits = { upload_rate = "4M" }

[repositories.far.backend.s3]
bucket = "backups"
prefix = "web1"
endpoint = "https://s3.example.org"
access_key_id_file = "/run/keys/id"
secret_access_key_file = "credential:s3-secret"
object_lock = { mode = "governance", retain = "30d" }

[backups.home]
repositories = ["disk", "far"]
tags = ["files"]
compression = "best"
timeout = "8h"
fail_on_warnings = true
stop_units = ["app.service"]
pre_hook = ["/bin/before"]
retry = { attempts = 2, delay = "10s" }
retention = { daily = 7, last = "unlimited", within = "14d", tags = [["a", "b"]] }
source.paths = { include = ["/home", "/etc"], exclude = ["*.tmp"], one_file_system = true }

[backups.dump]
repositories = ["disk"]
source.command = { argv = ["/bin/pg_dump", "-Fc"], filename = "db.dump" }

[backups.db]
repositories = ["disk"]
source.postgresql = { databases = ["app"] }

[backups.cluster]
repositories = ["disk"]
source.postgresql_cluster = { port = 5433, user = "replicator", password_file = "credential:pg", incremental = true, package = "/opt/pg" }

[backups.whole]
repositories = ["disk"]

[[backups.whole.source.several.parts]]
paths = { include = ["/srv/app"], exclude = ["*.log"] }

[[backups.whole.source.several.parts]]
postgresql = { databases = ["app"] }

[[backups.whole.source.several.parts]]
redis = { socket = "/run/r.sock" }

[backups.off]
enable = false
repositories = ["disk"]
source.paths = { include = ["/srv"] }

[copies.away]
from = "disk"
to = "far"
backups = ["home"]
"#;

    pub fn config() -> Config {
        match keepwatch_config::parse(TEXT, "test.toml") {
            Ok(loaded) => loaded.config,
            Err(faults) => panic!("{faults}"),
        }
    }

    pub fn wanted(kind: RunKind, name: Option<&str>, repository: Option<&str>) -> Wanted {
        Wanted {
            kind,
            name: name.map(str::to_owned),
            repository: repository.map(str::to_owned),
            config: "test.toml".into(),
            dry_run: false,
            passed: Vec::new(),
        }
    }

    #[test]
    fn jobs_are_found_with_their_repositories_and_locks() {
        let config = config();
        for (kind, name, repository, locks, repositories) in [
            (
                RunKind::Backup,
                Some("home"),
                None,
                "jobs/home.lock",
                "disk far",
            ),
            (
                RunKind::Backup,
                Some("home"),
                Some("far"),
                "jobs/home.lock",
                "far",
            ),
            (RunKind::Forget, Some("off"), None, "jobs/off.lock", "disk"),
            (
                RunKind::Prune,
                Some("home"),
                None,
                "repositories/disk.prune.lock repositories/far.prune.lock",
                "disk far",
            ),
            (
                RunKind::Verify,
                None,
                Some("far"),
                "repositories/far.verify.lock",
                "far",
            ),
            (RunKind::Copy, Some("away"), None, "copies/away.lock", "far"),
        ] {
            let tasks = tasks(&wanted(kind, name, repository), &config).expect("tasks");
            let found: Vec<_> = tasks.iter().map(|t| t.lock.display().to_string()).collect();
            assert_eq!(found.join(" "), locks);
            let found: Vec<_> = tasks.iter().flat_map(|t| t.repositories.clone()).collect();
            assert_eq!(found.join(" "), repositories);
            assert!(tasks.iter().all(|t| t.kind() == kind));
        }
    }

    #[test]
    fn what_cannot_be_done_is_wrong_use_and_says_why() {
        let config = config();
        for (kind, name, repository, said) in [
            (RunKind::Backup, Some("hom"), None, "no job 'hom'"),
            (RunKind::Backup, Some("off"), None, "switched off"),
            (
                RunKind::Backup,
                Some("dump"),
                Some("far"),
                "repository 'far'",
            ),
            (RunKind::Copy, Some("home"), None, "no copy 'home'"),
            (RunKind::Prune, None, Some("dis"), "repository 'dis'"),
        ] {
            let e = tasks(&wanted(kind, name, repository), &config).expect_err(said);
            assert!(e.message.contains(said), "{}", e.message);
            assert_eq!(e.exit as u8, 2);
        }
    }
}
