//! Sources of the configuration as a person would type them: `--source 'KIND?KEY=VALUE&…'`. Pure. Secrets appear as the paths of their
//! files only.

use std::path::Path;

use keepwatch_config::sections::backups::{
    ContainerEngine, ContainerSource, DrillTarget, DumpFormat, MysqlSource, Part, PostgresqlSource,
    QdrantSource, RedisSource, Source, SqliteSource,
};
use keepwatch_config::{Credentials, SecretSource};
use keepwatch_sources::spec::Spec;

use crate::errors::Failure;

/// The sources that are no files and no command; none when there are only those.
pub fn specs(source: &Source, credentials: &Credentials) -> Result<Option<Vec<Spec>>, Failure> {
    let one = |spec: Result<Spec, Failure>| Ok(Some(vec![spec?]));
    match source {
        Source::Paths(_) | Source::Command(_) | Source::PostgresqlCluster(_) => Ok(None),
        Source::Postgresql(s) => one(postgresql(s, credentials)),
        Source::Mysql(s) => one(mysql(s, credentials)),
        Source::Sqlite(s) => one(sqlite(s)),
        Source::Redis(s) => one(redis(s, credentials)),
        Source::Qdrant(s) => one(qdrant(s, credentials)),
        Source::Container(s) => one(container(s)),
        Source::Several(several) => several
            .parts
            .iter()
            .filter_map(|p| part(p, credentials).transpose())
            .collect::<Result<_, _>>()
            .map(Some),
    }
}

/// One of several; none of files, which have options of their own.
fn part(part: &Part, credentials: &Credentials) -> Result<Option<Spec>, Failure> {
    Ok(Some(match part {
        Part::Paths(_) => return Ok(None),
        Part::Postgresql(s) => postgresql(s, credentials)?,
        Part::Mysql(s) => mysql(s, credentials)?,
        Part::Sqlite(s) => sqlite(s)?,
        Part::Redis(s) => redis(s, credentials)?,
        Part::Qdrant(s) => qdrant(s, credentials)?,
        Part::Container(s) => container(s)?,
    }))
}

/// Adds pairs that are given.
struct Pairs<'a>(Spec, &'a Credentials);

impl Pairs<'_> {
    fn text(&mut self, key: &str, value: impl AsRef<str>) {
        self.0.add(key, value.as_ref());
    }
    fn maybe(&mut self, key: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.0.add(key, &value.to_string());
        }
    }
    fn all<'b>(&mut self, key: &str, values: impl IntoIterator<Item = &'b String>) {
        values.into_iter().for_each(|v| self.0.add(key, v));
    }
    fn path(&mut self, key: &str, path: Option<&Path>) -> Result<(), Failure> {
        let Some(path) = path else { return Ok(()) };
        let text = path
            .to_str()
            .ok_or_else(|| Failure::usage(format!("the path {} is not UTF-8", path.display())))?;
        self.0.add(key, text);
        Ok(())
    }
    fn secret(&mut self, key: &str, secret: Option<&SecretSource>) -> Result<(), Failure> {
        let Some(secret) = secret else { return Ok(()) };
        let file = secret
            .path(self.1)
            .map_err(|e| Failure::usage(e.to_string()))?;
        self.path(key, Some(&file))
    }
}

fn pairs<'a>(kind: &str, label: Option<&str>, credentials: &'a Credentials) -> Pairs<'a> {
    let mut pairs = Pairs(Spec::new(kind), credentials);
    pairs.maybe("label", label);
    pairs
}

const NONE: Credentials = Credentials(None);

fn postgresql(s: &PostgresqlSource, credentials: &Credentials) -> Result<Spec, Failure> {
    if s.format != DumpFormat::Custom || s.jobs > 1 {
        return Err(Failure::usage(
            "databases of PostgreSQL are dumped in the format 'custom' by one job: that is what deduplicates and needs no scratch space; leave out 'format' and 'jobs'",
        ));
    }
    let mut p = pairs("postgresql", s.label.as_deref(), credentials);
    p.text("server", &s.host);
    p.text("port", s.port.to_string());
    p.text("user", &s.user);
    p.secret("password-file", s.password_file.as_ref())?;
    p.path("package", s.package.as_deref())?;
    p.all("database", &s.databases);
    p.all("exclude-table-data", &s.exclude_table_data);
    if !s.globals {
        p.text("globals", "false");
    }
    Ok(p.0)
}

fn mysql(s: &MysqlSource, credentials: &Credentials) -> Result<Spec, Failure> {
    let mut p = pairs("mysql", s.label.as_deref(), credentials);
    p.path("socket", s.socket.as_deref())?;
    if s.host.is_some() {
        p.text("port", s.port.to_string());
    }
    p.maybe("server", s.host.as_ref());
    p.text("user", &s.user);
    p.secret("password-file", s.password_file.as_ref())?;
    p.path("package", s.package.as_deref())?;
    p.all("database", &s.databases);
    if !s.users {
        p.text("globals", "false");
    }
    if !s.single_transaction {
        p.text("single-transaction", "false");
    }
    Ok(p.0)
}

fn sqlite(s: &SqliteSource) -> Result<Spec, Failure> {
    let mut p = pairs("sqlite", s.label.as_deref(), &NONE);
    for path in &s.databases {
        p.path("database", Some(path))?;
    }
    Ok(p.0)
}

fn redis(s: &RedisSource, credentials: &Credentials) -> Result<Spec, Failure> {
    let mut p = pairs("redis", s.label.as_deref(), credentials);
    p.path("socket", s.socket.as_deref())?;
    if s.host.is_some() {
        p.text("port", s.port.to_string());
    }
    p.maybe("server", s.host.as_ref());
    p.maybe("user", s.user.as_ref());
    p.secret("password-file", s.password_file.as_ref())?;
    Ok(p.0)
}

fn qdrant(s: &QdrantSource, credentials: &Credentials) -> Result<Spec, Failure> {
    let mut p = pairs("qdrant", s.label.as_deref(), credentials);
    p.text("url", &s.url);
    p.secret("api-key-file", s.api_key_file.as_ref())?;
    p.all("database", &s.collections);
    if s.whole {
        p.text("whole", "true");
    }
    Ok(p.0)
}

fn container(s: &ContainerSource) -> Result<Spec, Failure> {
    let mut p = pairs("container", s.label.as_deref(), &NONE);
    p.text("container", &s.container);
    if s.engine == ContainerEngine::Docker {
        p.text("engine", "docker");
    }
    p.path("package", s.package.as_deref())?;
    p.path("container-path", s.path.as_deref())?;
    p.all("argv", s.command.iter().flatten());
    p.maybe("name", s.filename.as_ref());
    Ok(p.0)
}

/// The target of a drill.
pub fn target(target: &DrillTarget, credentials: &Credentials) -> Result<Spec, Failure> {
    let server = |kind: &str, package: Option<&Path>| {
        let mut p = pairs(kind, None, credentials);
        p.path("package", package)?;
        Ok(p.0)
    };
    match target {
        DrillTarget::Directory(d) => {
            let mut p = pairs("directory", None, credentials);
            p.path("path", d.path.as_deref())?;
            if d.keep {
                p.text("keep", "true");
            }
            Ok(p.0)
        }
        DrillTarget::Postgresql(t) if t.private => server("postgresql", t.package.as_deref()),
        DrillTarget::Postgresql(t) => {
            let mut p = pairs("postgresql", None, credentials);
            p.text("scratch-prefix", &t.scratch_prefix);
            p.text("server", &t.host);
            p.text("port", t.port.to_string());
            p.text("user", &t.user);
            p.secret("password-file", t.password_file.as_ref())?;
            p.path("package", t.package.as_deref())?;
            Ok(p.0)
        }
        DrillTarget::Sqlite(_) => server("sqlite", None),
        DrillTarget::Mysql(t) => server("mysql", t.package.as_deref()),
        DrillTarget::Redis(t) => server("redis", t.package.as_deref()),
        DrillTarget::Qdrant(t) => server("qdrant", t.package.as_deref()),
        DrillTarget::Command(c) => {
            let mut p = pairs("command", None, credentials);
            p.all("argv", &c.argv);
            Ok(p.0)
        }
    }
}
