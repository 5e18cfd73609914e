//! A source: what is backed up, with checked parameters.

use std::path::PathBuf;
use std::time::Duration;

use crate::dump::Dumping;
use crate::fault::{Fault, Reason};
use crate::secret::SecretFile;
use crate::setting::Setting;
use crate::spec::Spec;
use crate::{command, container, mysql, postgresql, qdrant, redis, sqlite};

/// The kinds, and the words that also mean them.
pub const KINDS: &[(&str, &[&str])] = &[
    (postgresql::KIND, &["postgres"]),
    (mysql::KIND, &["mariadb"]),
    (sqlite::KIND, &[]),
    (redis::KIND, &["valkey"]),
    (qdrant::KIND, &[]),
    (command::KIND, &[]),
    (container::KIND, &[]),
];

/// What is backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Databases of PostgreSQL.
    Postgresql(postgresql::Postgresql),
    /// Databases of MySQL or MariaDB.
    Mysql(mysql::Mysql),
    /// Files of SQLite.
    Sqlite(sqlite::Sqlite),
    /// A Redis server.
    Redis(redis::Redis),
    /// Collections of Qdrant.
    Qdrant(qdrant::Qdrant),
    /// What a command prints.
    Command(command::Command),
    /// A path or a command in a container.
    Container(container::Container),
}

/// What is backed up, and where it stands in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The directory of its streams in the snapshot: one component.
    pub label: String,
    /// How long nothing may move, when it is not as long as usual.
    pub stall: Option<Duration>,
    /// What.
    pub kind: Kind,
}

fn wrong(why: impl Into<String>) -> Fault {
    Fault::new(Reason::Parameter, why)
}

/// The proper name of a kind.
///
/// # Errors
/// There is none.
pub fn kind_named(name: &str) -> Result<&'static str, Fault> {
    KINDS
        .iter()
        .find(|(kind, also)| *kind == name || also.contains(&name))
        .map(|(kind, _)| *kind)
        .ok_or_else(|| {
            let all: Vec<&str> = KINDS.iter().map(|(k, _)| *k).collect();
            wrong(format!(
                "there is no kind of source '{name}'; there are {}",
                all.join(", ")
            ))
        })
}

impl Source {
    /// Reads and checks the parameters.
    ///
    /// # Errors
    /// One is wrong, missing or unknown.
    pub fn new(mut spec: Spec) -> Result<Self, Fault> {
        let kind = kind_named(&spec.kind)?;
        let label = spec.one("label")?.unwrap_or_else(|| kind.to_owned());
        if label.is_empty()
            || label.len() > 200
            || label.contains('/')
            || label.starts_with('.')
            || label.chars().any(char::is_control)
        {
            return Err(wrong(format!(
                "'{}' cannot be a label: it becomes a directory in the snapshot",
                label.escape_default()
            )));
        }
        let stall = spec
            .number::<u64>("stall-timeout")?
            .map(Duration::from_secs);
        if stall.is_some_and(|s| s.is_zero()) {
            return Err(wrong("a stall-timeout of 0 s would end every run"));
        }
        let kind = match kind {
            postgresql::KIND => Kind::Postgresql(postgresql_of(&mut spec)?),
            mysql::KIND => Kind::Mysql(mysql_of(&mut spec)?),
            sqlite::KIND => {
                let databases: Vec<PathBuf> = spec
                    .many("database")
                    .into_iter()
                    .map(PathBuf::from)
                    .collect();
                if databases.is_empty() || databases.iter().any(|p| !p.is_absolute()) {
                    return Err(wrong(
                        "the source 'sqlite' needs --database FILE, an absolute path, at least once",
                    ));
                }
                Kind::Sqlite(sqlite::Sqlite { databases })
            }
            redis::KIND => Kind::Redis(redis_of(&mut spec)?),
            qdrant::KIND => Kind::Qdrant(qdrant::Qdrant {
                server: qdrant_of(&mut spec)?,
                collections: spec.many("database"),
                whole: spec.flag("whole")?.unwrap_or(false),
            }),
            command::KIND => {
                let argv = spec.many("argv");
                let name = spec.one("name")?;
                if argv.is_empty() {
                    return Err(wrong("the source 'command' needs a command after '--'"));
                }
                Kind::Command(command::Command {
                    name: name.unwrap_or_else(|| {
                        argv[0].rsplit('/').next().unwrap_or("output").to_owned()
                    }),
                    argv,
                    may_be_empty: spec.flag("may-be-empty")?.unwrap_or(false),
                })
            }
            _ => Kind::Container(container_of(&mut spec)?),
        };
        spec.end()?;
        Ok(Source { label, stall, kind })
    }

    /// The kind, in words.
    pub fn kind(&self) -> &'static str {
        match &self.kind {
            Kind::Postgresql(_) => postgresql::KIND,
            Kind::Mysql(_) => mysql::KIND,
            Kind::Sqlite(_) => sqlite::KIND,
            Kind::Redis(_) => redis::KIND,
            Kind::Qdrant(_) => qdrant::KIND,
            Kind::Command(_) => command::KIND,
            Kind::Container(_) => container::KIND,
        }
    }

    /// The files and sockets of this host that it goes to.
    pub fn places(&self) -> Vec<PathBuf> {
        let places = match &self.kind {
            Kind::Postgresql(s) => vec![PathBuf::from(&s.server.host)],
            Kind::Mysql(s) => s.server.socket.clone().into_iter().collect(),
            Kind::Sqlite(s) => s.databases.clone(),
            Kind::Redis(s) => s.socket.clone().into_iter().collect(),
            Kind::Qdrant(_) | Kind::Command(_) | Kind::Container(_) => Vec::new(),
        };
        places.into_iter().filter(|p| p.is_absolute()).collect()
    }

    /// Begins a dump: looks at all that can be known beforehand.
    ///
    /// # Errors
    /// What stands against it.
    pub fn dump(&self, setting: &Setting) -> Result<Dumping, Fault> {
        let mut setting = setting.clone();
        if let Some(stall) = self.stall {
            setting.stall = stall;
        }
        let parts = match &self.kind {
            Kind::Postgresql(s) => postgresql::dump(s, &setting)?,
            Kind::Mysql(s) => mysql::dump(s, &setting)?,
            Kind::Sqlite(s) => sqlite::dump(s, &setting)?,
            Kind::Redis(s) => redis::dump(s, &setting)?,
            Kind::Qdrant(s) => qdrant::dump(s, &setting)?,
            Kind::Command(s) => command::dump(s, &setting)?,
            Kind::Container(s) => container::dump(s, &setting)?,
        };
        Ok(Dumping::new(&self.label, parts))
    }
}

fn secret(spec: &mut Spec, key: &'static str) -> Result<Option<SecretFile>, Fault> {
    Ok(spec.one(key)?.map(|p| SecretFile(p.into())))
}

/// A server of PostgreSQL, for dumps and restores alike.
///
/// # Errors
/// A parameter is wrong.
pub fn postgresql_server(spec: &mut Spec) -> Result<postgresql::Server, Fault> {
    let usual = postgresql::Server::default();
    let server = spec.one("server")?;
    let socket = spec.one("socket")?;
    if server.is_some() && socket.is_some() {
        return Err(wrong("--server and --socket contradict each other"));
    }
    Ok(postgresql::Server {
        host: server.or(socket).unwrap_or(usual.host),
        port: spec.number("port")?.unwrap_or(usual.port),
        user: spec.one("user")?.unwrap_or(usual.user),
        password: secret(spec, "password-file")?,
        package: spec.one("package")?.map(PathBuf::from),
        maintenance: spec
            .one("maintenance-database")?
            .unwrap_or(usual.maintenance),
    })
}

fn postgresql_of(spec: &mut Spec) -> Result<postgresql::Postgresql, Fault> {
    Ok(postgresql::Postgresql {
        server: postgresql_server(spec)?,
        databases: spec.many("database"),
        globals: spec.flag("globals")?.unwrap_or(true),
        exclude_table_data: spec.many("exclude-table-data"),
    })
}

/// A server of MySQL, for dumps and restores alike.
///
/// # Errors
/// A parameter is wrong.
pub fn mysql_server(spec: &mut Spec) -> Result<mysql::Server, Fault> {
    let usual = mysql::Server::default();
    let server = mysql::Server {
        socket: spec.one("socket")?.map(PathBuf::from),
        host: spec.one("server")?,
        port: spec.number("port")?.unwrap_or(usual.port),
        user: spec.one("user")?.unwrap_or(usual.user),
        password: secret(spec, "password-file")?,
        package: spec.one("package")?.map(PathBuf::from),
    };
    if server.socket.is_some() && server.host.is_some() {
        return Err(wrong("--server and --socket contradict each other"));
    }
    Ok(server)
}

fn mysql_of(spec: &mut Spec) -> Result<mysql::Mysql, Fault> {
    Ok(mysql::Mysql {
        server: mysql_server(spec)?,
        databases: spec.many("database"),
        users: spec.flag("globals")?.unwrap_or(true),
        single_transaction: spec.flag("single-transaction")?.unwrap_or(true),
    })
}

/// A Redis server, for dumps and restores alike.
///
/// # Errors
/// A parameter is wrong.
pub fn redis_of(spec: &mut Spec) -> Result<redis::Redis, Fault> {
    let usual = redis::Redis::default();
    let host = spec.one("server")?;
    let socket = spec.one("socket")?.map(PathBuf::from);
    if host.is_some() && socket.is_some() {
        return Err(wrong("--server and --socket contradict each other"));
    }
    Ok(redis::Redis {
        socket,
        host: host.unwrap_or(usual.host),
        port: spec.number("port")?.unwrap_or(usual.port),
        user: spec.one("user")?,
        password: secret(spec, "password-file")?,
    })
}

/// A Qdrant server, for dumps and restores alike.
///
/// # Errors
/// A parameter is wrong.
pub fn qdrant_of(spec: &mut Spec) -> Result<qdrant::Server, Fault> {
    let url = spec.one("url")?;
    Ok(qdrant::Server {
        url: url.unwrap_or(qdrant::Server::default().url),
        key: secret(spec, "api-key-file")?,
    })
}

/// A container, for dumps and restores alike.
///
/// # Errors
/// A parameter is wrong or missing.
pub fn container_of(spec: &mut Spec) -> Result<container::Container, Fault> {
    let argv = spec.many("argv");
    let path = spec.one("container-path")?;
    let name = spec.one("name")?;
    let what = match (path, argv.is_empty()) {
        (Some(path), true) => container::What::Path(path),
        (None, false) => {
            let name = name
                .clone()
                .unwrap_or_else(|| argv[0].rsplit('/').next().unwrap_or("output").to_owned());
            container::What::Command(argv, name)
        }
        _ => {
            return Err(wrong(
                "the source 'container' needs either --container-path PATH or a command after '--'",
            ));
        }
    };
    Ok(container::Container {
        name: spec
            .one("container")?
            .ok_or_else(|| wrong("the source 'container' needs --container NAME"))?,
        engine: match spec.one("engine")?.as_deref() {
            None | Some("podman") => container::Engine::Podman,
            Some("docker") => container::Engine::Docker,
            Some(other) => return Err(wrong(format!("'{other}' is neither podman nor docker"))),
        },
        package: spec.one("package")?.map(PathBuf::from),
        what,
    })
}

/// Sources of one snapshot: no two of one label.
///
/// # Errors
/// Two share a label.
pub fn distinct(sources: &[Source]) -> Result<(), Fault> {
    for (i, source) in sources.iter().enumerate() {
        if sources[..i].iter().any(|s| s.label == source.label) {
            return Err(wrong(format!(
                "two sources have the label '{}'; give one of them another: --source '{}?label=NAME'",
                source.label,
                source.kind()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_checked() {
        for good in [
            "postgresql",
            "postgres?database=app&database=b&port=5433&globals=false&socket=/run/pg&exclude-table-data=app:log*",
            "mariadb?socket=/run/m.sock&user=u&password-file=/x",
            "sqlite?database=/var/lib/a.db",
            "redis?server=10.0.0.1&port=6380&user=u",
            "qdrant?url=http://127.0.0.1:1&whole=true&api-key-file=/k",
            "command?argv=/bin/x&argv=-y&name=o",
            "container?container=c&container-path=/data&engine=docker",
            "container?container=c&argv=sh&argv=-c&label=other&stall-timeout=5",
        ] {
            let source =
                Source::new(Spec::parse(good).unwrap()).unwrap_or_else(|e| panic!("{good}: {e}"));
            assert!(!source.label.is_empty());
        }
        for bad in [
            "oracle",
            "postgresql?databse=app",
            "postgresql?port=99999",
            "postgresql?server=a&socket=/b",
            "postgresql?globals=maybe",
            "sqlite",
            "sqlite?database=rel.db",
            "command",
            "container?container=c",
            "container?container-path=/x",
            "container?container=c&container-path=/x&engine=lxc",
            "redis?label=..",
            "redis?label=a/b",
            "redis?stall-timeout=0",
            "redis?port=1&port=2",
        ] {
            let e = Spec::parse(bad).and_then(Source::new).expect_err(bad);
            assert_eq!(e.reason, Reason::Parameter, "{bad}");
        }
    }

    #[test]
    fn labels_are_distinct() {
        let of = |t: &str| Source::new(Spec::parse(t).unwrap()).unwrap();
        distinct(&[of("redis"), of("redis?label=b")]).unwrap();
        assert!(distinct(&[of("redis"), of("postgresql?label=redis")]).is_err());
    }
}
