//! Dumps and restores of a real PostgreSQL.

mod common;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;
use keepwatch_sources::fault::Reason;
use keepwatch_sources::postgresql::{self, Options};
use keepwatch_sources::secret::SecretFile;
use keepwatch_sources::setting::Setting;

fn conninfo(database: &str) -> String {
    format!(
        "dbname='{}'",
        database.replace('\\', "\\\\").replace('\'', "\\'")
    )
}

struct Pg {
    bin: PathBuf,
    dir: tempfile::TempDir,
    server: Server,
    password: PathBuf,
}

impl Pg {
    fn start() -> Option<Pg> {
        let versions = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .map(|d| d.path().join("bin"));
        let mut bins: Vec<PathBuf> = versions.filter(|b| b.join("initdb").exists()).collect();
        bins.sort();
        let bin = bins
            .pop()
            .or_else(|| find("initdb", &[]).and_then(|p| Some(p.parent()?.to_owned())));
        let Some(bin) = bin else {
            skip("PostgreSQL");
            return None;
        };
        let dir = scratch();
        let home = dir.path().join("pg");
        fs::create_dir(&home).unwrap();
        give(&home, "postgres");
        let password = secret(dir.path(), "pw", "s3:cr\\et");
        give(&password, "postgres");
        ok(as_user(&bin.join("initdb"), "postgres")
            .args([
                "--username=postgres",
                "--auth-local=peer",
                "--auth-host=scram-sha-256",
                "--no-sync",
                "-D",
            ])
            .arg(home.join("data"))
            .arg(format!("--pwfile={}", password.display())));
        give(&password, "root");
        if !is_root() {
            fs::write(
                home.join("data/pg_hba.conf"),
                "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
            )
            .unwrap();
        }
        let socket = home.display();
        let conf = format!(
            "listen_addresses='127.0.0.1'\nunix_socket_directories='{socket}'\nfsync=off\n"
        );
        fs::OpenOptions::new()
            .append(true)
            .open(home.join("data/postgresql.conf"))
            .unwrap()
            .write_all(conf.as_bytes())
            .unwrap();
        // A port that nobody has.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let server = Server::start(
            as_user(&bin.join("postgres"), "postgres")
                .arg("-D")
                .arg(home.join("data"))
                .arg("-p")
                .arg(port.to_string()),
        );
        fs::write(dir.path().join("port"), port.to_string()).unwrap();
        let pg = Pg {
            bin,
            dir,
            server,
            password,
        };
        until("PostgreSQL", || pg.try_sql("postgres", "SELECT 1").is_ok());
        Some(pg)
    }

    fn port(&self) -> String {
        fs::read_to_string(self.dir.path().join("port")).unwrap()
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("pg")
    }

    fn client(&self, name: &str) -> Command {
        let mut command = as_user(&self.bin.join(name), "postgres");
        command
            .env("PGHOST", self.home())
            .env("PGPORT", self.port())
            .env("PGUSER", "postgres");
        command
    }

    fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let out = self
            .client("psql")
            .args([
                "-XqAt",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                &conninfo(database),
                "-c",
                sql,
            ])
            .output()
            .unwrap();
        match out.status.success() {
            true => Ok(String::from_utf8(out.stdout).unwrap().trim().to_owned()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    }

    fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql)
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// As a source, by its socket.
    fn spec(&self, more: &str) -> String {
        format!(
            "postgresql?socket={}&port={}&package={}{more}",
            self.home().display(),
            self.port(),
            self.bin.parent().unwrap().display()
        )
    }

    fn server(&self) -> postgresql::Server {
        postgresql::Server {
            host: self.home().display().to_string(),
            port: self.port().parse().unwrap(),
            package: Some(self.bin.parent().unwrap().into()),
            ..Default::default()
        }
    }

    /// A `bin` in which one program is replaced by a script; `$REAL` is the real one.
    fn with(&self, name: &str, script: &str) -> PathBuf {
        let dir = self.dir.path().join(format!("bin-{name}-{}", script.len()));
        fs::create_dir_all(dir.join("bin")).unwrap();
        for real in ["psql", "pg_dump", "pg_dumpall", "pg_restore"] {
            let to = dir.join("bin").join(real);
            if real != name && !to.exists() {
                std::os::unix::fs::symlink(self.bin.join(real), to).unwrap();
            }
        }
        program(
            &dir.join("bin"),
            name,
            &format!("REAL={}\n{script}", self.bin.join(name).display()),
        );
        dir
    }

    /// A database with all sorts of things in it.
    fn make(&self, name: &str) {
        self.sql(
            "postgres",
            &format!(
                "CREATE DATABASE \"{}\" ENCODING 'UTF8' TEMPLATE template0",
                name.replace('"', "\"\"")
            ),
        );
        self.sql(
            name,
            "CREATE TABLE t (id serial PRIMARY KEY, a text, b bytea);
             INSERT INTO t (a, b) SELECT md5(i::text), decode(md5(i::text), 'hex') FROM generate_series(1, 20000) i;
             CREATE INDEX ON t (a);
             CREATE TABLE log (x text); INSERT INTO log SELECT repeat('x', 100) FROM generate_series(1, 5000);
             CREATE VIEW v AS SELECT count(*) FROM t;
             CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 42';
             SELECT lo_from_bytea(4711, decode(repeat('ab', 300000), 'hex'));
             SELECT setval('t_id_seq', 777777);",
        );
    }

    fn fingerprint(&self, name: &str) -> String {
        self.sql(
            name,
            "SELECT count(*), md5(string_agg(id || a || encode(b, 'hex'), ',' ORDER BY id)), (SELECT last_value FROM t_id_seq), f(), (SELECT * FROM v), md5(lo_get(4711)), (SELECT count(*) FROM log) FROM t",
        )
    }
}

#[test]
fn what_comes_back_is_what_was_there() {
    let Some(pg) = Pg::start() else { return };
    let s = setting(pg.dir.path());
    let odd = "Größe '\"x\" =/..";
    pg.make("app");
    pg.make(odd);
    pg.sql(
        "postgres",
        "CREATE ROLE reader LOGIN PASSWORD 'back\\slash''quote'",
    );
    pg.sql("postgres", "CREATE DATABASE nothing");
    pg.sql("app", "GRANT SELECT ON t TO reader; ALTER DATABASE app SET search_path TO \"$user\", public; ALTER DATABASE app SET work_mem TO '5MB'; ALTER DATABASE app OWNER TO reader; REVOKE CONNECT ON DATABASE app FROM PUBLIC; COMMENT ON DATABASE app IS 'it''s'");
    let before = pg.fingerprint("app");
    let (memory, about) = dumped(&pg.spec(""), &s).unwrap();
    let of: Vec<_> = about
        .streams
        .iter()
        .map(|i| (i.what.as_str(), i.of.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(
        of,
        [
            ("globals", ""),
            ("database", odd),
            ("database", "app"),
            ("database", "nothing"),
            ("database", "postgres")
        ]
    );
    assert!(
        about
            .server_version
            .as_deref()
            .unwrap()
            .starts_with(|c: char| c.is_ascii_digit())
    );
    nothing_left(&s);

    let mut options = Options {
        databases: [
            ("app".to_owned(), "app".to_owned()),
            (odd.to_owned(), "copy of it".to_owned()),
        ]
        .into(),
        globals: true,
        replace: false,
        jobs: 2,
        ..Default::default()
    };
    // It is there and not empty: nothing is touched.
    let e = postgresql::restore(&memory, &about, &pg.server(), &options, &s).unwrap_err();
    assert_eq!(e.reason, Reason::InTheWay, "{e}");
    assert!(
        !pg.sql("postgres", "SELECT datname FROM pg_database")
            .contains("copy")
    );
    pg.sql("app", "DELETE FROM t WHERE id > 5");
    options.replace = true;
    let report = postgresql::restore(&memory, &about, &pg.server(), &options, &s).unwrap();
    assert_eq!(report.notes, Vec::<String>::new());
    assert_eq!(pg.fingerprint("app"), before);
    assert_eq!(pg.fingerprint("copy of it"), before);
    nothing_left(&s);

    // Into an empty server: roles first, and all that stands around a database.
    let other = Pg::start().unwrap();
    for jobs in [1, 3] {
        let options = Options {
            globals: true,
            jobs,
            replace: jobs == 3,
            ..Default::default()
        };
        let report = postgresql::restore(&memory, &about, &other.server(), &options, &s).unwrap();
        assert_eq!(report.notes, Vec::<String>::new());
        assert_eq!(other.fingerprint("app"), before);
        assert_eq!(other.fingerprint(odd), before);
    }
    let around = "SELECT pg_get_userbyid(datdba), (SELECT setconfig FROM pg_db_role_setting WHERE setdatabase = d.oid), (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM unnest(datacl) x), shobj_description(oid, 'pg_database') FROM pg_database d WHERE datname = 'app'";
    assert_eq!(other.sql("postgres", around), pg.sql("postgres", around));
    let role = "SELECT rolpassword FROM pg_authid WHERE rolname = 'reader'";
    assert_eq!(other.sql("postgres", role), pg.sql("postgres", role));
    let left = "SELECT count(*) FROM pg_database WHERE datname LIKE 'keepwatch%'";
    assert_eq!(other.sql("postgres", left), "0");
}

#[test]
fn a_dump_under_load_keeps_the_invariants_of_the_load() {
    let Some(pg) = Pg::start() else { return };
    let s = setting(pg.dir.path());
    pg.sql("postgres", "CREATE DATABASE bank");
    ok(pg.client("pgbench").args(["-i", "-q", "-s", "2", "bank"]));
    let stop = AtomicBool::new(false);
    let (memory, about) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                ok(pg
                    .client("pgbench")
                    .args(["-n", "-c", "3", "-T", "1", "bank"]));
            }
        });
        // The load must have begun.
        until("load", || {
            pg.sql("bank", "SELECT count(*) > 50 FROM pgbench_history") == "t"
        });
        let result = dumped(&pg.spec("&database=bank&globals=false"), &s);
        stop.store(true, Ordering::Relaxed);
        result.unwrap()
    });
    let options = Options {
        databases: [("bank".to_owned(), "back".to_owned())].into(),
        jobs: 2,
        ..Default::default()
    };
    postgresql::restore(&memory, &about, &pg.server(), &options, &s).unwrap();
    assert_eq!(
        pg.sql(
            "back",
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches) \
             AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers) \
             AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) \
             AND (SELECT count(*) FROM pgbench_history) > 50"
        ),
        "t"
    );
}

#[test]
fn a_password_goes_by_file_only() {
    let Some(pg) = Pg::start() else { return };
    let s = setting(pg.dir.path());
    pg.make("app");
    let by = |password: &Path, package: &Path| {
        format!(
            "postgresql?server=127.0.0.1&port={}&database=app&package={}&password-file={}",
            pg.port(),
            package.display(),
            password.display()
        )
    };
    // What every program is given, written down.
    let seen = pg.dir.path().join("seen");
    let spy = pg.with(
        "pg_dump",
        &format!(
            "echo \"$@\" >>{0}; env >>{0}; ls -l $PGPASSFILE >>{0}; exec $REAL \"$@\"",
            seen.display()
        ),
    );
    let (_, about) = dumped(&by(&pg.password, &spy), &s).unwrap();
    assert_eq!(about.streams.len(), 2);
    let seen = fs::read_to_string(seen).unwrap();
    assert!(
        seen.contains("-rw-------") && !seen.contains("s3:cr"),
        "{seen}"
    );
    nothing_left(&s);

    let wrong = secret(pg.dir.path(), "wrong", "hunter2");
    let e = dumped(&by(&wrong, &spy), &s).err().unwrap();
    assert_eq!(e.reason, Reason::Denied, "{e}");
    assert!(!e.text.contains("hunter2"));
    let e = dumped(
        &format!(
            "postgresql?server=127.0.0.1&port={}&database=app",
            pg.port()
        ),
        &s,
    )
    .err()
    .unwrap();
    assert_eq!(e.reason, Reason::Denied, "{e}");
    nothing_left(&s);
}

#[test]
fn what_is_wrong_is_said_in_one_sentence() {
    let Some(pg) = Pg::start() else { return };
    let s = setting(pg.dir.path());
    pg.make("app");
    let fails = |text: String, reason: Reason, says: &str| {
        let e = dumped(&text, &s)
            .err()
            .unwrap_or_else(|| panic!("{text} succeeded"));
        assert_eq!(e.reason, reason, "{e}");
        assert!(e.text.contains(says), "{e}");
        nothing_left(&s);
    };
    let bin = |name: &str, script: &str| {
        let dir = pg.with(name, script);
        format!(
            "postgresql?socket={}&port={}&database=app&package={}",
            pg.home().display(),
            pg.port(),
            dir.display()
        )
    };
    fails(
        pg.spec("&database=ap"),
        Reason::NotThere,
        "no database 'ap'",
    );
    fails(
        format!("postgresql?socket={}&port=1", pg.home().display()),
        Reason::NoConnection,
        "cannot be reached",
    );
    fails(
        "postgresql?server=127.0.0.1&port=1".to_owned(),
        Reason::NoConnection,
        "cannot be reached",
    );
    fails(
        format!("postgresql?package={}", pg.home().display()),
        Reason::NoProgram,
        "pg_dump",
    );
    // It is older than the server.
    fails(
        bin("pg_dump", "echo 'pg_dump (PostgreSQL) 9.6.1'"),
        Reason::Version,
        "must not be older",
    );
    // What ends early, however it ends.
    let version = "[ \"$1\" = --version ] && exec $REAL --version; ";
    fails(
        bin(
            "pg_dump",
            &format!("{version}$REAL \"$@\" | head -c 300000; exit 0"),
        ),
        Reason::NotWhole,
        "not whole",
    );
    fails(
        bin(
            "pg_dump",
            &format!("{version}$REAL \"$@\" | head -c 3000; exit 0"),
        ),
        Reason::NotWhole,
        "not whole",
    );
    fails(
        bin("pg_dump", &format!("{version}exit 0;")),
        Reason::NotWhole,
        "not whole",
    );
    fails(
        bin(
            "pg_dump",
            &format!("{version}$REAL \"$@\"; echo disk on fire >&2; exit 1"),
        ),
        Reason::Failed,
        "disk on fire",
    );
    fails(
        bin(
            "pg_dump",
            &format!("{version}$REAL \"$@\" | head -c 300000; kill -9 $$"),
        ),
        Reason::Failed,
        "signal 9",
    );
    fails(
        bin(
            "pg_dumpall",
            &format!("{version}$REAL \"$@\" | head -n 20; exit 0"),
        ),
        Reason::NotWhole,
        "ended early",
    );
    fails(
        bin("pg_dump", &format!("{version}echo not an archive; exit 0")),
        Reason::NotWhole,
        "does not begin",
    );
    // It vanishes between the list and its dump.
    fails(
        bin(
            "pg_dump",
            &format!(
                "{version}psql() {{ {}/psql -h {} -p {} -U postgres -qc 'DROP DATABASE app' postgres; }}; psql; exec $REAL \"$@\"",
                pg.bin.display(),
                pg.home().display(),
                pg.port()
            ),
        ),
        Reason::NotThere,
        "app",
    );
}

#[test]
fn one_that_stalls_is_ended_and_one_whose_server_dies_fails() {
    let Some(pg) = Pg::start() else { return };
    pg.make("app");
    let mut s = setting(pg.dir.path());
    s.stall = Duration::from_secs(2);
    // The server stands still in the middle of the first table.
    pg.sql(
        "app",
        "CREATE VIEW slow AS SELECT 1; CREATE TABLE zz AS SELECT 1",
    );
    let lock = pg
        .client("psql")
        .args([
            "-X",
            "-d",
            "app",
            "-c",
            "BEGIN; LOCK TABLE zz IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)",
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _lock = Server(lock);
    until("lock", || {
        pg.sql(
            "app",
            "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted",
        ) != "0"
    });
    let e = dumped(&pg.spec("&database=app&globals=false"), &s)
        .err()
        .unwrap();
    assert_eq!(e.reason, Reason::Stalled, "{e}");
    nothing_left(&s);
    // And nobody of ours is left on it.
    until("end of pg_dump", || {
        pg.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keepwatch' AND pid <> pg_backend_pid()") == "0"
    });
    drop(_lock);
    pg.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()");

    let e = dumped_with(&pg.spec("&database=app&globals=false"), &s, |_, _| {
        pg.server.signal(rustix::process::Signal::QUIT);
    });
    // It may just have been done.
    whole_or_told(e);
}

#[test]
fn table_data_can_be_left_out_and_a_backend_that_is_terminated_is_told() {
    let Some(pg) = Pg::start() else { return };
    let s: Setting = setting(pg.dir.path());
    pg.make("app");
    let (memory, about) = dumped(
        &pg.spec("&database=app&globals=false&exclude-table-data=log&exclude-table-data=other:t"),
        &s,
    )
    .unwrap();
    let options = Options {
        databases: [("app".to_owned(), "back".to_owned())].into(),
        ..Default::default()
    };
    postgresql::restore(&memory, &about, &pg.server(), &options, &s).unwrap();
    assert_eq!(
        pg.sql(
            "back",
            "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM log)"
        ),
        "20000|0"
    );

    // Terminated in the middle: the table is large enough that it cannot be done yet.
    pg.sql(
        "app",
        "INSERT INTO log SELECT repeat('y', 1000) FROM generate_series(1, 60000)",
    );
    let e = dumped_with(&pg.spec("&database=app&globals=false"), &s, |_, _| {
        pg.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keepwatch'");
    })
    .err()
    .expect("it was terminated");
    assert!(
        matches!(e.reason, Reason::Failed | Reason::NoConnection),
        "{e:?}"
    );
}

#[test]
fn a_restore_that_fails_leaves_everything_as_it_was() {
    let Some(pg) = Pg::start() else { return };
    let s = setting(pg.dir.path());
    pg.make("app");
    let (mut memory, about) = dumped(&pg.spec("&database=app"), &s).unwrap();
    let before = pg.fingerprint("app");
    let databases = pg.sql(
        "postgres",
        "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database",
    );
    let mut options = Options {
        replace: true,
        ..Default::default()
    };
    // Damaged in the middle of its data: the repository would not give it, but somebody may restore by hand.
    let name = "app.dump";
    let good = memory.0[name].clone();
    let bytes = memory.0.get_mut(name).unwrap();
    bytes.truncate(bytes.len() / 2);
    let e = postgresql::restore(&memory, &about, &pg.server(), &options, &s).unwrap_err();
    assert_eq!(e.reason, Reason::NotWhole, "{e}");
    memory.0.get_mut(name).unwrap().resize(good.len(), 0);
    for jobs in [1, 2] {
        options.jobs = jobs;
        let e = postgresql::restore(&memory, &about, &pg.server(), &options, &s).unwrap_err();
        assert!(e.text.contains("dropped again"), "{e}");
        assert_eq!(pg.fingerprint("app"), before);
        assert_eq!(
            pg.sql(
                "postgres",
                "SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database"
            ),
            databases
        );
        nothing_left(&s);
    }
    memory.0.insert(name.into(), good);
    // Roles that would start a shell.
    let mut evil = memory.0["globals.sql"].clone();
    evil.extend_from_slice(b"\n\\! touch /tmp/keepwatch-was-here\n");
    memory.0.insert("globals.sql".into(), evil);
    options.globals = true;
    let e = postgresql::restore(&memory, &about, &pg.server(), &options, &s).unwrap_err();
    assert_eq!(e.reason, Reason::NotWhole, "{e}");
    assert!(!Path::new("/tmp/keepwatch-was-here").exists());
    // A dump of a later server.
    let mut later = about.clone();
    later.server_version = Some("99.1".into());
    options.globals = false;
    let e = postgresql::restore(&memory, &later, &pg.server(), &options, &s).unwrap_err();
    assert_eq!(e.reason, Reason::Version, "{e}");
    // A user who may not.
    pg.sql("postgres", "CREATE ROLE small LOGIN PASSWORD 'x'");
    let server = postgresql::Server {
        host: "127.0.0.1".into(),
        user: "small".into(),
        password: Some(SecretFile(secret(pg.dir.path(), "small", "x"))),
        ..pg.server()
    };
    let e = postgresql::restore(&memory, &about, &server, &options, &s).unwrap_err();
    assert_eq!(e.reason, Reason::Denied, "{e}");
    assert_eq!(pg.fingerprint("app"), before);
}
