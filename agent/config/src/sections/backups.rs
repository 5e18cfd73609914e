//! `[backups.NAME]`: what is backed up, where to, when, and how long it is kept; `[defaults]`: what each of them starts from; and
//! `[drills.NAME]`: rehearsed restores.

use std::path::PathBuf;
use std::time::Duration;

use keepwatch_model::retention::Policy;
use keepwatch_watch::calendar::Calendar;
use keepwatch_watch::systemd::UnitName;

use super::{CALENDARS, Retry};
use crate::secret::SecretSource;
use crate::shape::{Shape, keys, one, table, words};
use crate::text::Text;

/// Names of repositories.
const REPOSITORIES: Shape = Shape::List(&Shape::Text(Text::Ref("repositories")), 1, 16);
const TAGS: Shape = Shape::List(&Shape::Text(Text::Line), 0, 64);

table! {
    /// A backup job.
    pub struct Backup: BACKUP {
        /// Whether it is done.
        enable: bool = Shape::Bool, Value("true"), also ["enabled"];
        /// What is backed up.
        source: Source = Shape::One(&SOURCE), Required, also ["paths", "sources"];
        /// Where to. One run writes to one after the other.
        repositories: Vec<String> = REPOSITORIES, Derived("that of `[defaults]`, or the only repository there is"), also ["repository"];
        /// When. An empty list: by hand only.
        start_at: Vec<Calendar> ["crate::typed::calendars"] = CALENDARS, Value("\"daily\""), also ["schedule", "on_calendar", "timer_config"];
        /// Which snapshots `forget` keeps; it is applied after each backup that succeeded, and by `keepwatch forget --job`. Given, it replaces the default as a whole.
        retention: Policy = Shape::Table(&RETENTION), Value("{ daily = 7, weekly = 4, monthly = 12 }"), also ["keep", "prune_opts"];
        /// Tags of each snapshot.
        tags: Vec<String> = TAGS, Value("[]");
        /// How hard to compress.
        compression: Compression = Shape::Words(COMPRESSION), Value("\"default\"");
        /// Older than this, the newest snapshot is stale and the receivers of `[notifications]` are told; twice the longest gap of `start_at` has an hour more.
        max_age: Duration ["crate::typed::duration"] = Shape::Text(Text::Duration(60_000, 3653 * 86_400_000)), Derived("twice the longest gap of `start_at`; without one, `7d`");
        /// Units that are stopped for the run, and started again even when it fails.
        stop_units: Vec<UnitName> = Shape::List(&Shape::Text(Text::Unit), 0, 64), Value("[]");
        /// A command that runs before; when it fails the backup is not made.
        pre_hook: Option<Vec<String>> = Shape::Argv, Absent;
        /// A command that always runs after, with `KEEPWATCH_RESULT` in its environment.
        post_hook: Option<Vec<String>> = Shape::Argv, Absent;
        /// How often and when a run that failed is tried again.
        retry: Retry = Shape::Table(&super::RETRY), Empty;
        /// A run that lasts longer is ended.
        timeout: Duration ["crate::typed::duration"] = super::RUN_TIMEOUT, Value("\"6h\"");
        /// Whether files that could not be read make the run a failure instead of a partial success.
        fail_on_warnings: bool = Shape::Bool, Value("false");
        /// Checks that are in maintenance while it runs: nobody is told, nothing is restarted.
        quiet_checks: Vec<String> = Shape::List(&Shape::Text(Text::Ref("checks")), 0, 64), Value("[]");
    }
}

table! {
    /// What each backup starts from: a key that a backup does not give is taken from here.
    pub struct Defaults: DEFAULTS {
        /// Where to.
        repositories: Option<Vec<String>> = REPOSITORIES, Absent, also ["repository"];
        /// When.
        start_at: Option<Vec<Calendar>> as ["crate::typed::maybe_calendars"] = CALENDARS, Absent, also ["schedule"];
        /// Which snapshots `forget` keeps.
        retention: Option<Policy> = Shape::Table(&RETENTION), Absent;
        /// Tags of each snapshot.
        tags: Option<Vec<String>> = TAGS, Absent;
        /// How hard to compress.
        compression: Option<Compression> = Shape::Words(COMPRESSION), Absent;
        /// How often and when a run that failed is tried again.
        retry: Option<Retry> = Shape::Table(&super::RETRY), Absent;
        /// A run that lasts longer is ended.
        timeout: Option<Duration> as ["crate::typed::maybe_duration"] = super::RUN_TIMEOUT, Absent;
    }
}

/// How many, or all that there ever were.
const COUNT: Shape = Shape::Either(&[
    Shape::Int(0, u32::MAX as i64),
    Shape::Words(&[("unlimited", "All that there ever were.")]),
]);

keys! {
    /// Which snapshots `forget` keeps, for each host and job: a snapshot stays when at least one rule wants it. The rules are restic's.
    RETENTION {
        /// The newest so many.
        last = COUNT, Absent, also ["keep_last"];
        /// The newest of each of so many hours.
        hourly = COUNT, Absent, also ["keep_hourly"];
        /// The newest of each of so many days.
        daily = COUNT, Absent, also ["keep_daily"];
        /// The newest of each of so many weeks.
        weekly = COUNT, Absent, also ["keep_weekly"];
        /// The newest of each of so many months.
        monthly = COUNT, Absent, also ["keep_monthly"];
        /// The newest of each of so many years.
        yearly = COUNT, Absent, also ["keep_yearly"];
        /// All that are younger than this, counted back from the newest.
        within = Shape::Text(Text::Span), Absent, also ["keep_within"];
        /// The newest of each hour among those younger than this.
        within_hourly = Shape::Text(Text::Span), Absent;
        /// The newest of each day among those younger than this.
        within_daily = Shape::Text(Text::Span), Absent;
        /// The newest of each week among those younger than this.
        within_weekly = Shape::Text(Text::Span), Absent;
        /// The newest of each month among those younger than this.
        within_monthly = Shape::Text(Text::Span), Absent;
        /// The newest of each year among those younger than this.
        within_yearly = Shape::Text(Text::Span), Absent;
        /// Lists of tags: all that have every tag of one list.
        tags = Shape::List(&Shape::List(&Shape::Text(Text::Note), 1, 64), 0, 64), Absent, also ["keep_tags"];
    }
}

words! {
    /// How hard to compress.
    pub enum Compression: COMPRESSION {
        /// Not at all: for what is compressed already.
        Off = "off",
        /// As fast as possible.
        Fast = "fast",
        /// A good compromise.
        Default = "default",
        /// As small as is reasonable.
        Best = "best",
    }
}

one! {
    /// What is backed up: exactly one of these.
    pub enum Source: SOURCE {
        /// Files and directories.
        Paths(Paths) = "paths", Shape::Table(&PATHS), also ["files"];
        /// Databases of PostgreSQL.
        Postgresql(PostgresqlSource) = "postgresql", Shape::Table(&POSTGRESQL_SOURCE), also ["postgres"];
        /// A whole cluster of PostgreSQL, for restores to any moment.
        PostgresqlCluster(ClusterSource) = "postgresql_cluster", Shape::Table(&CLUSTER_SOURCE), also ["postgresql_physical", "pg_basebackup"];
        /// Databases of MySQL or MariaDB.
        Mysql(MysqlSource) = "mysql", Shape::Table(&MYSQL_SOURCE), also ["mariadb"];
        /// Files of SQLite, copied while they are in use.
        Sqlite(SqliteSource) = "sqlite", Shape::Table(&SQLITE_SOURCE);
        /// A Redis server.
        Redis(RedisSource) = "redis", Shape::Table(&REDIS_SOURCE), also ["valkey"];
        /// Collections of Qdrant.
        Qdrant(QdrantSource) = "qdrant", Shape::Table(&QDRANT_SOURCE);
        /// What a command prints.
        Command(CommandSource) = "command", Shape::Table(&COMMAND_SOURCE), also ["stdin"];
        /// A path or a command in a container of podman or docker.
        Container(ContainerSource) = "container", Shape::Table(&CONTAINER_SOURCE), also ["podman", "docker"];
        /// Several: files, databases and services, in one snapshot.
        Several(Several) = "several", Shape::Table(&SEVERAL), also ["all"];
    }
}

one! {
    /// One of several sources: exactly one of these.
    pub enum Part: PART {
        /// Files and directories: one part at most, read after the others.
        Paths(Paths) = "paths", Shape::Table(&PATHS), also ["files"];
        /// Databases of PostgreSQL.
        Postgresql(PostgresqlSource) = "postgresql", Shape::Table(&POSTGRESQL_SOURCE), also ["postgres"];
        /// Databases of MySQL or MariaDB.
        Mysql(MysqlSource) = "mysql", Shape::Table(&MYSQL_SOURCE), also ["mariadb"];
        /// Files of SQLite, copied while they are in use.
        Sqlite(SqliteSource) = "sqlite", Shape::Table(&SQLITE_SOURCE);
        /// A Redis server.
        Redis(RedisSource) = "redis", Shape::Table(&REDIS_SOURCE), also ["valkey"];
        /// Collections of Qdrant.
        Qdrant(QdrantSource) = "qdrant", Shape::Table(&QDRANT_SOURCE);
        /// A path or a command in a container of podman or docker.
        Container(ContainerSource) = "container", Shape::Table(&CONTAINER_SOURCE), also ["podman", "docker"];
    }
}

table! {
    /// Files, databases and services in one snapshot: all of them, or none. Two of one kind need labels. Databases and services are dumped
    /// first, one after the other, then the files are read.
    pub struct Several: SEVERAL {
        /// Which.
        parts: Vec<Part> = Shape::List(&Shape::One(&PART), 1, 64), Required, also ["sources"];
    }
}

impl Source {
    /// The files that it reads, alone or beside databases and services.
    pub fn paths(&self) -> Option<&Paths> {
        match self {
            Source::Paths(paths) => Some(paths),
            Source::Several(several) => several.parts.iter().find_map(|part| match part {
                Part::Paths(paths) => Some(paths),
                _ => None,
            }),
            _ => None,
        }
    }
}

table! {
    /// Files and directories.
    pub struct Paths: PATHS {
        /// What is included.
        include: Vec<PathBuf> = Shape::List(&Shape::Text(Text::Path), 1, 1024), Required, also ["paths"];
        /// Patterns of what is left out, as `keepwatch backup --exclude` takes them.
        exclude: Vec<String> = Shape::List(&Shape::Text(Text::Line), 0, 4096), Value("[]");
        /// Leave out directories that are marked as caches (`CACHEDIR.TAG`).
        exclude_caches: bool = Shape::Bool, Value("true");
        /// Do not go into other file systems.
        one_file_system: bool = Shape::Bool, Value("false");
        /// A snapshot of the file system that is read instead of the files, taken before and removed after: `btrfs:DIR`, `zfs:DATASET:DIR` or
        /// `lvm:GROUP/VOLUME:DIR[:SIZE]`.
        view: Option<String> = Shape::Text(Text::Line), Absent;
        /// A file with more paths, one in each line, read at the start of each run.
        include_from: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}

const DATABASES: Shape = Shape::List(&Shape::Text(Text::Line), 0, 1024);
const PORT: Shape = Shape::Int(1, 65_535);

table! {
    /// Databases of PostgreSQL, dumped by its own programs and streamed without a temporary copy.
    pub struct PostgresqlSource: POSTGRESQL_SOURCE {
        /// The directory in the snapshot; the kind when it is left out.
        label: Option<String> = Shape::Text(Text::Name), Absent;
        /// Which; all when it is empty.
        databases: Vec<String> = DATABASES, Value("[]"), also ["database"];
        /// Also roles and table spaces.
        globals: bool = Shape::Bool, Value("true");
        /// The server, or the directory of its socket.
        host: String = Shape::Text(Text::Host), Value("\"/run/postgresql\"");
        /// The port.
        port: u16 = PORT, Value("5432");
        /// The user.
        user: String = Shape::Text(Text::Line), Value("\"postgres\"");
        /// The password; not needed with peer authentication.
        password_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// The form of the dump: `custom`, which deduplicates and needs no scratch space. The others are refused until they are there.
        format: DumpFormat = Shape::Words(DUMP_FORMAT), Value("\"custom\"");
        /// Tables dumped at once: 1, since a dump in the format `custom` is one stream.
        jobs: u8 = Shape::Int(1, 64), Value("1");
        /// Tables whose content is left out.
        exclude_table_data: Vec<String> = DATABASES, Value("[]");
        /// The installation whose `bin` holds `pg_dump`; the one on `PATH` when it is left out.
        package: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}

table! {
    /// A whole cluster of PostgreSQL as a base backup. Its log, which the server archives into the same repository (`keepwatch wal push`), brings it
    /// from there to any moment: see postgresql-pitr.md.
    pub struct ClusterSource: CLUSTER_SOURCE {
        /// The server, or the directory of its socket.
        host: String = Shape::Text(Text::Host), Value("\"/run/postgresql\"");
        /// The port.
        port: u16 = PORT, Value("5432");
        /// The user, with the right REPLICATION.
        user: String = Shape::Text(Text::Line), Value("\"postgres\"");
        /// The password; not needed with peer authentication.
        password_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// Only what changed since the last one, where the server can (PostgreSQL 17 with `summarize_wal`); else a full one.
        incremental: bool = Shape::Bool, Value("false");
        /// With `incremental`: a full one after so many that depend on each other.
        full_every: u8 = Shape::Int(1, 100), Value("7");
        /// The log that it needs in the base backup itself, for a server that does not archive.
        with_wal: bool = Shape::Bool, Value("false");
        /// The installation whose `bin` holds `pg_basebackup`; the one on `PATH` when it is left out.
        package: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}

words! {
    /// The form of a dump.
    pub enum DumpFormat: DUMP_FORMAT {
        /// That of `pg_restore`, in one stream.
        Custom = "custom",
        /// SQL.
        Plain = "plain",
        /// A directory, dumped by several jobs.
        Directory = "directory",
    }
}

table! {
    /// Databases of MySQL or MariaDB.
    pub struct MysqlSource: MYSQL_SOURCE {
        /// The directory in the snapshot; the kind when it is left out.
        label: Option<String> = Shape::Text(Text::Name), Absent;
        /// Which; all when it is empty.
        databases: Vec<String> = DATABASES, Value("[]"), also ["database"];
        /// The socket, instead of `host` and `port`.
        socket: Option<PathBuf> = Shape::Text(Text::Path), Absent;
        /// The server.
        host: Option<String> = Shape::Text(Text::Host), Absent;
        /// The port.
        port: u16 = PORT, Value("3306");
        /// The user.
        user: String = Shape::Text(Text::Line), Value("\"root\"");
        /// The password; not needed with a socket that knows its users.
        password_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// Also users and their rights (MariaDB).
        users: bool = Shape::Bool, Value("true");
        /// Dump in one transaction, so that nothing is locked. Consistent for InnoDB.
        single_transaction: bool = Shape::Bool, Value("true");
        /// The installation whose `bin` holds `mysqldump` or `mariadb-dump`.
        package: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}

table! {
    /// Files of SQLite: an online copy and its integrity check.
    pub struct SqliteSource: SQLITE_SOURCE {
        /// The directory in the snapshot; the kind when it is left out.
        label: Option<String> = Shape::Text(Text::Name), Absent;
        /// The files.
        databases: Vec<PathBuf> = Shape::List(&Shape::Text(Text::Path), 1, 1024), Required, also ["database", "paths", "path"];
    }
}

table! {
    /// A Redis server: its snapshot.
    pub struct RedisSource: REDIS_SOURCE {
        /// The directory in the snapshot; the kind when it is left out.
        label: Option<String> = Shape::Text(Text::Name), Absent;
        /// The socket, instead of `host` and `port`.
        socket: Option<PathBuf> = Shape::Text(Text::Path), Absent;
        /// The server.
        host: Option<String> = Shape::Text(Text::Host), Absent;
        /// The port.
        port: u16 = PORT, Value("6379");
        /// The user, for a server with access lists.
        user: Option<String> = Shape::Text(Text::Line), Absent;
        /// The password.
        password_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
    }
}

table! {
    /// Collections of Qdrant: their snapshots.
    pub struct QdrantSource: QDRANT_SOURCE {
        /// The directory in the snapshot; the kind when it is left out.
        label: Option<String> = Shape::Text(Text::Name), Absent;
        /// The server.
        url: String = Shape::Text(Text::Url), Value("\"http://127.0.0.1:6333\"");
        /// Which; all when it is empty.
        collections: Vec<String> = DATABASES, Value("[]");
        /// The API key.
        api_key_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
        /// One snapshot of the whole storage instead. Only the server's own command line restores it.
        whole: bool = Shape::Bool, Value("false");
    }
}

table! {
    /// A path or a command in a container: for services whose data are not on the host.
    pub struct ContainerSource: CONTAINER_SOURCE {
        /// The directory in the snapshot; the kind when it is left out.
        label: Option<String> = Shape::Text(Text::Name), Absent;
        /// The container's name.
        container: String = Shape::Text(Text::Name), Required, also ["name"];
        /// Which program runs it.
        engine: ContainerEngine = Shape::Words(CONTAINER_ENGINE), Value("\"podman\"");
        /// A file or directory in it; or give `command`.
        path: Option<PathBuf> = Shape::Text(Text::Path), Absent;
        /// A command that runs in it; what it prints is backed up, and when it fails, so does the backup.
        command: Option<Vec<String>> = Shape::List(&Shape::Text(Text::Any), 1, 256), Absent, also ["argv"];
        /// Under which name the output of the command stands in the snapshot; the command's own name when it is left out.
        filename: Option<String> = Shape::Text(Text::Name), Absent;
        /// The installation whose `bin` holds the program; the one on `PATH` when it is left out.
        package: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}

words! {
    /// What runs a container.
    pub enum ContainerEngine: CONTAINER_ENGINE {
        /// podman
        Podman = "podman",
        /// docker
        Docker = "docker",
    }
}

table! {
    /// What a command prints. When it fails, so does the backup.
    pub struct CommandSource: COMMAND_SOURCE {
        /// The program, an absolute path, and its arguments.
        argv: Vec<String> = Shape::Argv, Required, also ["command"];
        /// Under which name its output stands in the snapshot.
        filename: String = Shape::Text(Text::Name), Required;
        /// Directories in which the command finds programs.
        path: Vec<PathBuf> = Shape::List(&Shape::Text(Text::Path), 0, 64), Value("[]");
    }
}

table! {
    /// A rehearsed restore with proof.
    pub struct Drill: DRILL {
        /// Whether it is done.
        enable: bool = Shape::Bool, Value("true"), also ["enabled"];
        /// The backup that is restored.
        backup: String = Shape::Text(Text::Ref("backups")), Required;
        /// From which repository.
        repository: String = Shape::Text(Text::Ref("repositories")), Derived("the first repository of the backup");
        /// When. An empty list: by hand only.
        start_at: Vec<Calendar> ["crate::typed::calendars"] = CALENDARS, Value("\"monthly\""), also ["schedule"];
        /// Which snapshot: `latest`, an id, or a time such as `2 weeks ago`.
        snapshot: String = Shape::Text(Text::Line), Value("\"latest\"");
        /// Where to.
        target: DrillTarget = Shape::One(&DRILL_TARGET), Required;
        /// What must be true of what was restored.
        expect: Expect = Shape::Table(&EXPECT), Empty;
        /// A drill that lasts longer is ended.
        timeout: Duration ["crate::typed::duration"] = super::RUN_TIMEOUT, Value("\"12h\"");
        /// Checks that are in maintenance while it runs.
        quiet_checks: Vec<String> = Shape::List(&Shape::Text(Text::Ref("checks")), 0, 64), Value("[]");
    }
}

one! {
    /// Where a drill restores to: exactly one of these.
    pub enum DrillTarget: DRILL_TARGET {
        /// A directory.
        Directory(DirectoryTarget) = "directory", Shape::Table(&DIRECTORY_TARGET), also ["path"];
        /// PostgreSQL: a private server on scratch data, or a scratch database of a server that runs. Of a `postgresql_cluster` a private server that replays its log.
        Postgresql(PostgresqlTarget) = "postgresql", Shape::Table(&POSTGRESQL_TARGET), also ["postgres"];
        /// A scratch file of SQLite.
        Sqlite(SqliteTarget) = "sqlite", Shape::Table(&SQLITE_TARGET);
        /// A private server of MariaDB or MySQL on scratch data.
        Mysql(ServerTarget) = "mysql", Shape::Table(&SERVER_TARGET), also ["mariadb"];
        /// A private Redis server on the dump.
        Redis(ServerTarget) = "redis", Shape::Table(&SERVER_TARGET), also ["valkey"];
        /// A private Qdrant server.
        Qdrant(ServerTarget) = "qdrant", Shape::Table(&SERVER_TARGET);
        /// A command that reads the dump.
        Command(CommandTarget) = "command", Shape::Table(&COMMAND_TARGET);
    }
}

table! {
    /// A directory.
    pub struct DirectoryTarget: DIRECTORY_TARGET {
        /// Which; a fresh one in the runtime directory when it is left out.
        path: Option<PathBuf> = Shape::Text(Text::Path), Absent;
        /// Leave what was restored there.
        keep: bool = Shape::Bool, Value("false");
    }
}

table! {
    /// PostgreSQL: a private server on scratch data, stopped and removed afterwards; or a scratch database of a server that runs, dropped
    /// afterwards. A base backup (`postgresql_cluster`) is started by a private server of its own version, with nothing of its configuration, and its log is replayed to the end.
    pub struct PostgresqlTarget: POSTGRESQL_TARGET {
        /// Start a server of its own. Nothing of what follows counts then, but `package`.
        private: bool = Shape::Bool, Value("true");
        /// The installation whose `bin` holds `initdb`, `postgres` and `pg_restore`; for a base backup of the major version that was backed up.
        package: Option<PathBuf> = Shape::Text(Text::Path), Absent;
        /// What the names of scratch databases begin with. Only databases with such a name are ever dropped.
        scratch_prefix: String = Shape::Text(Text::Name), Value("\"keepwatch_drill_\"");
        /// The server, or the directory of its socket.
        host: String = Shape::Text(Text::Host), Value("\"/run/postgresql\"");
        /// The port.
        port: u16 = PORT, Value("5432");
        /// The user.
        user: String = Shape::Text(Text::Line), Value("\"postgres\"");
        /// The password.
        password_file: Option<SecretSource> = Shape::Text(Text::Secret), Absent;
    }
}

table! {
    /// A private server, started for the drill and ended after it.
    pub struct ServerTarget: SERVER_TARGET {
        /// The installation whose `bin` holds the server and its client.
        package: Option<PathBuf> = Shape::Text(Text::Path), Absent;
    }
}

table! {
    /// A scratch file of SQLite, in the runtime directory.
    pub struct SqliteTarget: SQLITE_TARGET {
    }
}

table! {
    /// A command that gets the dump on its standard input; it proves by its exit code.
    pub struct CommandTarget: COMMAND_TARGET {
        /// The program, an absolute path, and its arguments.
        argv: Vec<String> = Shape::Argv, Required, also ["command"];
    }
}

table! {
    /// What must be true of what was restored.
    pub struct Expect: EXPECT {
        /// At least so many files.
        min_files: Option<u64> = Shape::Int(0, i64::MAX), Absent;
        /// At least so many bytes.
        min_bytes: Option<u64> as ["crate::typed::maybe_size"] = Shape::Text(Text::Size), Absent;
        /// Questions to the database, each of which must return true.
        sql: Vec<String> = Shape::List(&Shape::Text(Text::Any), 0, 64), Value("[]");
        /// A command that must succeed, in the directory that was restored to.
        command: Option<Vec<String>> = Shape::Argv, Absent;
        /// It must not take longer: the recovery time that is promised.
        max_duration: Option<Duration> as ["crate::typed::maybe_duration"] = Shape::Text(Text::DURATION), Absent;
    }
}
