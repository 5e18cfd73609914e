//! The command line of the child that does a run: what a person would type to do the same by hand. Pure, but that it looks whether
//! the host has a writer key at the usual place. Secrets appear as the paths
//! of their files only.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keepwatch_config::sections::backups::{ClusterSource, Compression, Paths, Source};
use keepwatch_config::sections::repositories::{
    Backend, LockMode, ReadData, ReadDataWord, Repository, S3,
};
use keepwatch_config::{Config, Credentials, SecretSource};
use keepwatch_model::retention::{Count, Policy};

use super::sources;
use super::task::{Task, Work};
use crate::errors::Failure;

const DAY: u64 = 86_400;

/// What every command line needs to know.
pub struct Setting<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Where systemd put the credentials.
    pub credentials: &'a Credentials,
    /// This host.
    pub host: &'a str,
}

/// The command line for one repository, without the program's name and without `--json`. `more`: paths read from a file.
pub fn argv(
    setting: &Setting<'_>,
    task: &Task<'_>,
    repository: &str,
    more: &[OsString],
) -> Result<Vec<OsString>, Failure> {
    let cluster = match task.work {
        Work::Backup(b) => cluster(&b.source),
        _ => None,
    };
    let mut line = match cluster {
        Some(_) => Line(vec!["wal".into(), "backup".into()]),
        None => Line(vec![task.kind().as_str().into()]),
    };
    let there = setting.repository(repository)?;
    setting.open(&mut line, repository, there)?;
    match task.work {
        Work::Backup(backup) => {
            line.two("--host", setting.host);
            let job = if cluster.is_some() {
                "--job"
            } else {
                "--as-job"
            };
            line.two(job, task.job.unwrap_or_default());
            for tag in &backup.tags {
                line.one(format!("--tag={tag}"));
            }
            let level = match backup.compression {
                // There is no storing without: the fastest level leaves alone what does not get smaller.
                Compression::Off | Compression::Fast => "1",
                Compression::Default => "3",
                Compression::Best => "12",
            };
            line.two("--compression", level);
            match &backup.source {
                Source::Command(command) => {
                    line.one("--command");
                    line.one(format!("--stdin-name={}", command.filename));
                    line.one("--");
                    command.argv.iter().for_each(|word| line.one(word));
                }
                Source::PostgresqlCluster(s) => setting.base_backup(&mut line, s)?,
                other => {
                    for spec in sources::specs(other, setting.credentials)?
                        .into_iter()
                        .flatten()
                    {
                        line.two("--source", &spec.to_text());
                    }
                }
            }
            if let Some(paths) = backup.source.paths() {
                line.paths(paths, more);
            }
        }
        Work::Forget(backup) => {
            if backup.retention.is_empty() {
                return Err(Failure::usage(format!(
                    "the retention of job {} keeps everything, so there is nothing to forget",
                    task.job.unwrap_or_default()
                ))
                .advice("give it a policy: retention = { daily = 7, weekly = 4, monthly = 12 }"));
            }
            line.two("--host", setting.host);
            line.two("--job", task.job.unwrap_or_default());
            line.policy(&backup.retention);
        }
        Work::Prune => line.two("--grace", &duration(there.prune.grace_delete)),
        Work::Verify => {
            if let Some(identity) = setting.identity(there) {
                line.path("--identity=", &identity);
            }
            match there.verify.read_data {
                ReadData::Word(ReadDataWord::Metadata) => {}
                ReadData::Word(ReadDataWord::All) => line.one("--read-data=100%"),
                ReadData::Percent(n) => line.one(format!("--read-data={n}%")),
            }
        }
        Work::Drill(drill) => {
            if let Some(identity) = &there.identity_file {
                line.path("--identity=", &setting.file(identity)?);
            }
            line.two("--host", setting.host);
            line.two("--job", &drill.backup);
            line.two("--snapshot", &drill.snapshot);
            line.two(
                "--target",
                &sources::target(&drill.target, setting.credentials)?.to_text(),
            );
            let expect = &drill.expect;
            if let Some(n) = expect.min_files {
                line.two("--expect-min-files", &n.to_string());
            }
            if let Some(n) = expect.min_bytes {
                line.two("--expect-min-bytes", &n.to_string());
            }
            for sql in &expect.sql {
                line.two("--expect-sql", sql);
            }
            if let Some(most) = expect.max_duration {
                line.two("--max-duration", &duration(most));
            }
            if let Some(argv) = &expect.command {
                line.one("--");
                argv.iter().for_each(|word| line.one(word));
            }
        }
        Work::Copy(copy) => {
            let from = setting.repository(&copy.from)?;
            line.one(setting.from(from)?);
            if let Some(identity) = setting.identity(from) {
                line.path("--from-identity=", &identity);
            }
            for job in &copy.backups {
                line.two("--job", job);
            }
        }
    }
    Ok(line.0)
}

/// The source, when it is one that is read by `wal backup`.
pub fn cluster(source: &Source) -> Option<&ClusterSource> {
    match source {
        Source::PostgresqlCluster(s) => Some(s),
        _ => None,
    }
}

/// The command line that makes a repository, with a writer key for this host.
///
/// # Errors
/// A credential is named, and this process has none.
pub fn making(setting: &Setting<'_>, repository: &str) -> Result<Vec<OsString>, Failure> {
    let mut line = Line(vec!["init".into()]);
    let there = setting.repository(repository)?;
    setting.place(&mut line, there)?;
    line.one("--if-absent");
    line.two("--label", setting.host);
    for recipient in &there.recipients {
        line.two("--recipient", recipient);
    }
    line.path(
        "--writer-key-out=",
        setting.writer_key(repository, there)?.path(),
    );
    Ok(line.0)
}

/// The command line that lists the snapshots of this host, or of all.
///
/// # Errors
/// A credential is named, and this process has none.
pub fn listing(setting: &Setting<'_>, repository: &str) -> Result<Vec<OsString>, Failure> {
    let mut line = Line(vec!["snapshots".into()]);
    setting.open(&mut line, repository, setting.repository(repository)?)?;
    line.two("--host", setting.host);
    Ok(line.0)
}

/// The file of a host's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriterKey {
    /// A credential: systemd gives it, and nobody here can make it.
    Given(PathBuf),
    /// As configured.
    Ours(PathBuf),
    /// Not configured: a key made with the repository lies in the state directory.
    Usual(PathBuf),
}

impl WriterKey {
    /// Where.
    pub fn path(&self) -> &Path {
        match self {
            Self::Given(p) | Self::Ours(p) | Self::Usual(p) => p,
        }
    }

    /// Whether it is to be named: the usual one only where it is, since a key made by hand lies elsewhere.
    fn is_given(&self) -> bool {
        match self {
            Self::Given(_) | Self::Ours(_) => true,
            Self::Usual(path) => path.exists(),
        }
    }
}

struct Line(Vec<OsString>);

impl Line {
    fn one(&mut self, word: impl Into<OsString>) {
        self.0.push(word.into());
    }

    fn two(&mut self, option: &str, value: &str) {
        self.one(format!("{option}={value}"));
    }

    fn path(&mut self, option: &str, path: &Path) {
        let mut word = OsString::from(option);
        word.push(path);
        self.one(word);
    }

    fn paths(&mut self, paths: &Paths, more: &[OsString]) {
        for pattern in &paths.exclude {
            self.two("--exclude", pattern);
        }
        if let Some(view) = &paths.view {
            self.two("--view", view);
        }
        if paths.exclude_caches {
            self.one("--exclude-caches");
        }
        if paths.one_file_system {
            self.one("--one-file-system");
        }
        // They are absolute, so none looks like an option; what stands after `--` is a command where there is a source.
        paths.include.iter().for_each(|p| self.one(p));
        more.iter().for_each(|p| self.one(p));
    }

    fn policy(&mut self, policy: &Policy) {
        for (option, count) in [
            ("--keep-last", policy.last),
            ("--keep-hourly", policy.hourly),
            ("--keep-daily", policy.daily),
            ("--keep-weekly", policy.weekly),
            ("--keep-monthly", policy.monthly),
            ("--keep-yearly", policy.yearly),
        ] {
            if count != Count::Limit(0) {
                self.two(option, &count.to_string());
            }
        }
        for (option, span) in [
            ("--keep-within", policy.within),
            ("--keep-within-hourly", policy.within_hourly),
            ("--keep-within-daily", policy.within_daily),
            ("--keep-within-weekly", policy.within_weekly),
            ("--keep-within-monthly", policy.within_monthly),
            ("--keep-within-yearly", policy.within_yearly),
        ] {
            if !span.is_zero() {
                self.two(option, &span.to_string());
            }
        }
        for tags in &policy.tags {
            self.two("--keep-tag", &tags.join(","));
        }
    }
}

impl Setting<'_> {
    /// What is asked of the server of a base backup.
    fn base_backup(&self, line: &mut Line, s: &ClusterSource) -> Result<(), Failure> {
        line.two("--pg-host", &s.host);
        line.two("--pg-port", &s.port.to_string());
        line.two("--pg-user", &s.user);
        if let Some(file) = &s.password_file {
            line.path("--pg-password-file=", &self.file(file)?);
        }
        if s.incremental {
            line.one("--incremental");
            line.two("--full-every", &s.full_every.to_string());
        }
        if s.with_wal {
            line.one("--with-wal");
        }
        if let Some(package) = &s.package {
            line.path("--pg-bin=", &package.join("bin"));
        }
        Ok(())
    }

    fn repository(&self, name: &str) -> Result<&Repository, Failure> {
        self.config
            .repositories
            .get(name)
            .ok_or_else(|| Failure::usage(format!("the configuration has no repository '{name}'")))
    }

    /// The identity, where this process was given it: units that can do without are not.
    fn identity(&self, of: &Repository) -> Option<PathBuf> {
        match of.identity_file.as_ref()? {
            SecretSource::File(path) => Some(path.clone()),
            credential => {
                let path = credential.path(self.credentials).ok();
                path.filter(|p| p.exists())
            }
        }
    }

    fn file(&self, secret: &SecretSource) -> Result<std::path::PathBuf, Failure> {
        secret
            .path(self.credentials)
            .map_err(|e| Failure::usage(e.to_string()))
    }

    /// How the repository that is meant is opened.
    fn open(&self, line: &mut Line, name: &str, repository: &Repository) -> Result<(), Failure> {
        self.place(line, repository)?;
        if let Some(key) = Some(self.writer_key(name, repository)?).filter(WriterKey::is_given) {
            line.path("--writer-key=", key.path());
        }
        line.path("--cache-dir=", &self.config.cache_directory);
        Ok(())
    }

    /// The host's key of a repository, by its name in the configuration.
    ///
    /// # Errors
    /// It is a credential, and this process has none.
    pub fn writer_key(&self, name: &str, repository: &Repository) -> Result<WriterKey, Failure> {
        Ok(match &repository.writer_key_file {
            Some(SecretSource::File(path)) => WriterKey::Ours(path.clone()),
            Some(credential) => WriterKey::Given(self.file(credential)?),
            None => WriterKey::Usual(
                self.config
                    .state_directory
                    .join("writer-keys")
                    .join(format!("{name}.key")),
            ),
        })
    }

    /// Where it lies.
    fn place(&self, line: &mut Line, repository: &Repository) -> Result<(), Failure> {
        match &repository.backend {
            Backend::Local(local) => line.path("--repo=", &local.path),
            Backend::S3(s3) => {
                line.two("--repo", &place(s3));
                for (name, value) in self.s3(s3, repository)? {
                    match name.starts_with("limit-") {
                        true => line.two(&format!("--{name}"), &value),
                        false => line.two(&format!("--s3-{name}"), &value),
                    }
                }
            }
        }
        Ok(())
    }

    /// The repository that is copied from: its options stand behind its place, so that they are not those of the other.
    fn from(&self, repository: &Repository) -> Result<OsString, Failure> {
        let mut word = OsString::from("--from=");
        match &repository.backend {
            Backend::Local(local) => word.push(&local.path),
            Backend::S3(s3) => {
                word.push(place(s3));
                let mut sign = '?';
                for (name, value) in self.s3(s3, repository)? {
                    if value.contains('&') {
                        return Err(Failure::usage(format!(
                            "the S3 option {name} of the repository that is copied from cannot hold '&': '{value}'"
                        )));
                    }
                    word.push(format!("{sign}{name}={value}"));
                    sign = '&';
                }
            }
        }
        Ok(word)
    }

    fn s3(&self, s3: &S3, of: &Repository) -> Result<Vec<(&'static str, String)>, Failure> {
        let file = |secret: &Option<SecretSource>| -> Result<Option<String>, Failure> {
            let path = secret.as_ref().map(|s| self.file(s)).transpose()?;
            Ok(path.map(|p| p.to_string_lossy().into_owned()))
        };
        let lock = match s3.object_lock.mode {
            LockMode::Off => None,
            LockMode::Governance => Some("governance"),
            LockMode::Compliance => Some("compliance"),
        };
        let days = s3.object_lock.retain.as_secs() / DAY;
        let all = [
            ("endpoint", s3.endpoint.clone()),
            ("region", Some(s3.region.clone())),
            ("path-style", Some(s3.path_style.to_string())),
            (
                "ca-file",
                s3.ca_file
                    .as_ref()
                    .map(|p| p.to_string_lossy().into_owned()),
            ),
            ("storage-class", s3.storage_class.clone()),
            ("access-key-file", file(&s3.access_key_id_file)?),
            ("secret-key-file", file(&s3.secret_access_key_file)?),
            ("session-token-file", file(&s3.session_token_file)?),
            ("credentials-file", file(&s3.credentials_file)?),
            ("profile", s3.profile.clone()),
            ("object-lock", lock.map(|mode| format!("{mode}:{days}"))),
            ("limit-upload", of.limits.upload_rate.map(|n| n.to_string())),
            (
                "limit-download",
                of.limits.download_rate.map(|n| n.to_string()),
            ),
        ];
        let given = |(name, value): (&'static str, Option<String>)| Some((name, value?));
        Ok(all.into_iter().filter_map(given).collect())
    }
}

fn place(s3: &S3) -> String {
    match s3.prefix.trim_matches('/') {
        "" => format!("s3://{}", s3.bucket),
        prefix => format!("s3://{}/{prefix}", s3.bucket),
    }
}

/// As it is read again.
fn duration(d: Duration) -> String {
    match d.subsec_millis() {
        0 => format!("{}s", d.as_secs()),
        _ => format!("{}ms", d.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::task::tasks;
    use super::super::task::tests::{config, wanted};
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;
    use keepwatch_model::runs::RunKind;

    fn lines(kind: RunKind, name: Option<&str>, repository: Option<&str>) -> Vec<String> {
        let config = config();
        let credentials = Credentials(Some("/run/credentials/x".into()));
        let setting = Setting {
            config: &config,
            credentials: &credentials,
            host: "web1",
        };
        let mut out = Vec::new();
        for task in tasks(&wanted(kind, name, repository), &config).expect("tasks") {
            for repository in &task.repositories {
                let more = [OsString::from("/more")];
                let argv = argv(&setting, &task, repository, &more).expect("a command line");
                let words = std::iter::once(OsString::from("keepwatch")).chain(argv.clone());
                if let Err(e) = Cli::try_parse_from(words) {
                    panic!("{argv:?}: {e}");
                }
                let argv: Vec<_> = argv.iter().map(|w| w.to_string_lossy()).collect();
                out.push(argv.join(" "));
            }
        }
        out
    }

    #[test]
    fn every_kind_becomes_a_command_line_that_is_understood() {
        let disk = "--repo=/mnt/backup/web1 --writer-key=/run/credentials/x/disk-writer --cache-dir=/var/cache/kw";
        let far = "--repo=s3://backups/web1 --s3-endpoint=https://s3.example.org --s3-region=us-east-1 --s3-path-style=true --s3-access-key-file=/run/keys/id --s3-secret-key-file=/run/credentials/x/s3-secret --s3-object-lock=governance:30 --limit-upload=4194304 --cache-dir=/var/cache/kw";
        let how = "--host=web1 --as-job=home --tag=files --compression=12 --exclude=*.tmp --exclude-caches --one-file-system /home /etc /more";
        for (kind, name, repository, want) in [
            (
                RunKind::Backup,
                Some("home"),
                None,
                vec![
                    format!("backup {disk} {how}"),
                    format!("backup {far} {how}"),
                ],
            ),
            (
                RunKind::Backup,
                Some("dump"),
                None,
                vec![format!(
                    "backup {disk} --host=web1 --as-job=dump --compression=3 --command --stdin-name=db.dump -- /bin/pg_dump -Fc"
                )],
            ),
            (
                RunKind::Backup,
                Some("db"),
                None,
                vec![format!(
                    "backup {disk} --host=web1 --as-job=db --compression=3 --source=postgresql?server=/run/postgresql&port=5432&user=postgres&database=app"
                )],
            ),
            (
                RunKind::Backup,
                Some("cluster"),
                None,
                vec![format!(
                    "wal backup {disk} --host=web1 --job=cluster --compression=3 --pg-host=/run/postgresql --pg-port=5433 --pg-user=replicator --pg-password-file=/run/credentials/x/pg --incremental --full-every=7 --pg-bin=/opt/pg/bin"
                )],
            ),
            (
                RunKind::Forget,
                Some("home"),
                Some("disk"),
                vec![format!(
                    "forget {disk} --host=web1 --job=home --keep-last=unlimited --keep-daily=7 --keep-within=14d --keep-tag=a,b"
                )],
            ),
            (
                RunKind::Backup,
                Some("whole"),
                None,
                vec![format!(
                    "backup {disk} --host=web1 --as-job=whole --compression=3 --source=postgresql?server=/run/postgresql&port=5432&user=postgres&database=app --source=redis?socket=/run/r.sock --exclude=*.log --exclude-caches /srv/app /more"
                )],
            ),
            (
                RunKind::Prune,
                None,
                Some("disk"),
                vec![format!("prune {disk} --grace=172800s")],
            ),
            (
                RunKind::Verify,
                None,
                Some("disk"),
                vec![format!(
                    "verify {disk} --identity=/etc/keepwatch/identity --read-data=5%"
                )],
            ),
            (
                RunKind::Verify,
                None,
                Some("far"),
                vec![format!("verify {far}")],
            ),
            (
                RunKind::Copy,
                Some("away"),
                None,
                vec![format!(
                    "copy {far} --from=/mnt/backup/web1 --from-identity=/etc/keepwatch/identity --job=home"
                )],
            ),
        ] {
            assert_eq!(lines(kind, name, repository), want);
        }
    }

    #[test]
    fn options_of_the_repository_that_is_copied_from_stand_behind_its_place() {
        let config = config();
        let credentials = Credentials(Some("/c".into()));
        let setting = Setting {
            config: &config,
            credentials: &credentials,
            host: "h",
        };
        let from = setting.from(&config.repositories["far"]).expect("from");
        assert_eq!(
            from,
            "--from=s3://backups/web1?endpoint=https://s3.example.org&region=us-east-1&path-style=true&access-key-file=/run/keys/id&secret-key-file=/c/s3-secret&object-lock=governance:30&limit-upload=4194304"
        );
    }

    #[test]
    fn without_credentials_it_is_said_which_is_missing() {
        let config = config();
        let setting = Setting {
            config: &config,
            credentials: &Credentials(None),
            host: "h",
        };
        let task = &tasks(&wanted(RunKind::Prune, None, Some("disk")), &config).expect("tasks")[0];
        let e = argv(&setting, task, "disk", &[]).expect_err("no credentials");
        assert!(
            e.message.contains("credential:disk-writer"),
            "{}",
            e.message
        );
    }
}
