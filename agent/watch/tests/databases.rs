//! The database probes against real servers: well, hung, wrong password, starting, recovering, loading, out of disk.

mod common;

use common::{
    Ca, Scratch, Server, append, ask, fails, find, free_port, give, is_root, net, ok, signal_pid,
    skip, until, until_well, well,
};
use keepwatch_model::check::Reason;
use keepwatch_watch::net::tls::TlsSettings;
use keepwatch_watch::outcome::Quantity;
use keepwatch_watch::probe::disk::{Disk, DiskSettings};
use keepwatch_watch::probe::mysql::{Mysql, MysqlSettings};
use keepwatch_watch::probe::postgresql::{Postgresql, PostgresqlSettings, Role};
use keepwatch_watch::probe::redis::{Redis, RedisSettings};
use rustix::process::Signal;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

// ---------------------------------------------------------------- PostgreSQL

struct Postgres {
    dir: Scratch,
    bin: PathBuf,
    port: u16,
}

impl Postgres {
    fn new() -> Option<Self> {
        let versions: Vec<String> = (13..19)
            .rev()
            .map(|v| format!("/usr/lib/postgresql/{v}/bin"))
            .collect();
        let places: Vec<&str> = versions.iter().map(String::as_str).collect();
        let bin = find("initdb", &places)?.parent()?.to_owned();
        let me = Self {
            dir: Scratch::new(),
            bin,
            port: free_port(),
        };
        me.dir.secret("pw", "right\n");
        give(me.dir.path(), "postgres");
        let data = me.data("data");
        ok(me
            .run("initdb")
            .args([
                "-D",
                data.to_str().unwrap(),
                "-U",
                "postgres",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--no-sync",
                "-E",
                "UTF8",
                "--locale=C",
            ])
            .arg(format!("--pwfile={}", me.dir.path().join("pw").display())));
        me.configure("data", me.port, "");
        Some(me)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn configure(&self, name: &str, port: u16, more: &str) {
        append(
            &self.data(name).join("postgresql.conf"),
            &format!(
                "listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories='{}'\nfsync=off\nshared_buffers=16MB\nmax_connections=20\n{more}\n",
                self.dir.path().display()
            ),
        );
    }

    /// A program of PostgreSQL, as the user that it insists on.
    /// Asks or changes something as its administrator; what it answers.
    fn sql(&self, port: u16, sql: &str) -> String {
        let dir = self.dir.path().to_str().unwrap();
        let done = self
            .run("psql")
            .args(["-XAt", "-h", dir, "-p", &port.to_string()])
            .args(["-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .unwrap();
        assert!(done.status.success(), "{sql}: {done:?}");
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    fn run(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut c = if is_root() {
            let mut c = Command::new("runuser");
            c.args(["-u", "postgres", "--"]).arg(program);
            c
        } else {
            Command::new(program)
        };
        c.current_dir(self.dir.path()).env("LC_ALL", "C");
        c
    }

    fn start(&self, name: &str) -> Running<'_> {
        let log = self.data(&format!("{name}.log"));
        // Without -w: states of starting are wanted, too.
        let data = self.data(name);
        ok(self.run("pg_ctl").args([
            "-W",
            "-D",
            data.to_str().unwrap(),
            "-l",
            log.to_str().unwrap(),
            "start",
        ]));
        Running { server: self, data }
    }

    fn probe(&self, port: u16, change: impl FnOnce(&mut PostgresqlSettings)) -> Postgresql {
        let mut s: PostgresqlSettings = serde_json::from_value(serde_json::json!({
            "target": format!("127.0.0.1:{port}"), "user": "postgres", "password_file": self.dir.path().join("pw"),
        }))
        .unwrap();
        change(&mut s);
        Postgresql::new(s, net()).unwrap()
    }
}

struct Running<'a> {
    server: &'a Postgres,
    data: PathBuf,
}

impl Running<'_> {
    fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).unwrap();
        text.lines().next().unwrap().parse().unwrap()
    }
    fn stop(self) {}
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let data = self.data.to_str().unwrap();
        let _ = self
            .server
            .run("pg_ctl")
            .args(["-w", "-m", "immediate", "-D", data, "stop"])
            .output();
    }
}

#[tokio::test]
async fn postgresql_in_its_states() {
    let Some(pg) = Postgres::new() else {
        return skip("PostgreSQL");
    };
    let ca = Ca::new();
    let (cert, key) = ca.issue(&["localhost", "127.0.0.1"], 9);
    pg.dir.file("data/server.crt", &cert);
    let key = pg.dir.file("data/server.key", &key);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    give(&pg.data("data"), "postgres");
    pg.configure("data", pg.port, "ssl=on");
    let ca_file = pg.dir.file("ca.pem", &ca.pem);
    let port = pg.port;
    let running = pg.start("data");

    // Well: by password, by socket, over TLS, with a query.
    let o = until_well(&pg.probe(port, |_| ())).await;
    well(&o);
    assert_eq!(o.value(Quantity::ConnectionsMax), Some(20.0));
    assert!(o.value(Quantity::Connections).unwrap() >= 1.0);
    well(&ask(&pg.probe(port, |s| s.role = Role::Primary), 5.0).await);
    let socket = format!("unix:{}/.s.PGSQL.{port}", pg.dir.path().display());
    let by_socket = pg.probe(port, |s| {
        s.target = socket.parse().unwrap();
        s.password_file = None;
    });
    well(&ask(&by_socket, 5.0).await);
    let trust = TlsSettings {
        ca_file: Some(ca_file),
        server_name: None,
    };
    let o = ask(&pg.probe(port, |s| s.tls = Some(trust)), 5.0).await;
    well(&o);
    assert_eq!(
        (o.value(Quantity::TlsSecondsLeft).unwrap() / 86_400.0).round(),
        9.0
    );
    let query = |q: &str, e: &str| {
        let (q, e) = (Some(q.to_owned()), Some(e.to_owned()));
        pg.probe(port, |s| (s.query, s.expect) = (q, e))
    };
    well(&ask(&query("SELECT 40 + 2", "42"), 5.0).await);

    // Told apart.
    fails(
        &ask(&query("SELECT 41", "42"), 5.0).await,
        Reason::Assertion,
        "answers \"41\"",
    );
    fails(
        &ask(&query("SELECT FROM nothing_there", "42"), 5.0).await,
        Reason::Assertion,
        "42P01",
    );
    fails(
        &ask(&query("SELECT repeat('x', 100000000)", "42"), 5.0).await,
        Reason::Protocol,
        "too long",
    );
    fails(
        &ask(&query("SELECT pg_sleep(60)", ""), 0.7).await,
        Reason::Timeout,
        "",
    );
    // What nobody waits for any more ends, also behind a lock: a check does not fill up the server's connections.
    pg.sql(port, "CREATE TABLE locked (x int)");
    let mut locker = pg
        .run("psql")
        .args(["-X", "-h", pg.dir.path().to_str().unwrap()])
        .args(["-p", &port.to_string(), "-U", "postgres", "-c"])
        .arg("BEGIN; LOCK TABLE locked; SELECT pg_sleep(20)")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let locked = "SELECT count(*) FROM pg_locks WHERE relation = 'locked'::regclass";
    while pg.sql(port, locked) != "1" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..3 {
        let o = ask(&query("SELECT count(*) FROM locked", "0"), 0.4).await;
        fails(&o, Reason::Timeout, "");
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'keepwatch'";
    assert_eq!(pg.sql(port, left), "0");
    let _ = locker.kill();
    let _ = locker.wait();
    pg.sql(
        port,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK%'",
    );
    // It asks, and changes nothing.
    fails(
        &ask(&query("DROP TABLE locked", ""), 5.0).await,
        Reason::Assertion,
        "25006",
    );
    assert_eq!(pg.sql(port, "SELECT count(*) FROM locked"), "0");
    // The copy below shall find no transaction to replay.
    pg.sql(port, "CHECKPOINT");
    let wrong = pg.dir.secret("wrong", "canary-wrong-password");
    let o = ask(&pg.probe(port, |s| s.password_file = Some(wrong)), 5.0).await;
    fails(&o, Reason::Auth, "28P01");
    assert!(!format!("{o:?}").contains("canary"));
    fails(
        &ask(&pg.probe(port, |s| s.password_file = None), 5.0).await,
        Reason::Auth,
        "password",
    );
    fails(
        &ask(&pg.probe(port, |s| s.database = Some("absent".into())), 5.0).await,
        Reason::Assertion,
        "3D000",
    );
    fails(
        &ask(&pg.probe(port, |s| s.role = Role::Standby), 5.0).await,
        Reason::Assertion,
        "primary",
    );
    fails(
        &ask(
            &pg.probe(port, |s| s.tls = Some(TlsSettings::default())),
            5.0,
        )
        .await,
        Reason::Tls,
        "",
    );
    let pid = running.pid();
    signal_pid(pid, Signal::STOP);
    let hung = ask(&pg.probe(port, |_| ()), 0.7).await;
    signal_pid(pid, Signal::CONT);
    fails(&hung, Reason::Timeout, "");
    well(&until_well(&pg.probe(port, |_| ())).await);
    running.stop();
    fails(
        &ask(&pg.probe(port, |_| ()), 5.0).await,
        Reason::Connect,
        "refused",
    );

    // A standby without its primary: in recovery, and readable. It never received anything, so nobody knows how far it lags.
    let copy = |name: &str| {
        ok(Command::new("cp")
            .arg("-a")
            .arg(pg.data("data"))
            .arg(pg.data(name)));
        fs::write(pg.data(name).join("standby.signal"), "").unwrap();
        give(&pg.data(name), "postgres");
    };
    copy("standby");
    let port = free_port();
    pg.configure("standby", port, "hot_standby=on");
    let standby = pg.start("standby");
    let o = until_well(&pg.probe(port, |s| s.role = Role::Standby)).await;
    assert_eq!(o.value(Quantity::ReplicationLagSeconds), None);
    fails(
        &ask(&pg.probe(port, |s| s.role = Role::Primary), 5.0).await,
        Reason::Assertion,
        "in recovery",
    );
    standby.stop();

    // A standby that follows, and then lags because it replays no more.
    copy("following");
    let standby_port = free_port();
    let primary_port = pg.port;
    pg.configure(
        "following",
        standby_port,
        &format!("primary_conninfo='host=127.0.0.1 port={primary_port} user=postgres password=right'\nhot_standby=on"),
    );
    let running = pg.start("data");
    until_well(&pg.probe(primary_port, |_| ())).await;
    let following = pg.start("following");
    let primary = |sql: &str| drop(pg.sql(primary_port, sql));
    let standby = |sql: Option<&str>| {
        let sql = sql.map(str::to_owned);
        pg.probe(standby_port, |s| (s.role, s.query) = (Role::Standby, sql))
    };
    until_well(&standby(None)).await;
    primary("CREATE TABLE followed (x int)");
    let seen = standby(Some("SELECT count(*) FROM followed"));
    let o = until(&seen, |o| {
        o.failure.is_none() && o.value(Quantity::ReplicationLagSeconds) == Some(0.0)
    })
    .await;
    well(&o);
    well(&ask(&standby(Some("SELECT pg_wal_replay_pause()")), 5.0).await);
    primary("CREATE TABLE lagging (x int)");
    let o = until(&standby(None), |o| {
        o.value(Quantity::ReplicationLagSeconds)
            .is_some_and(|lag| lag > 0.0)
    })
    .await;
    well(&o);
    let o = ask(&pg.probe(primary_port, |_| ()), 5.0).await;
    assert!(
        o.value(Quantity::ReplicationLagSeconds).is_some(),
        "of the slowest standby: {o:?}"
    );
    following.stop();
    running.stop();

    // One that recovers and lets nobody in.
    copy("recovering");
    let port = free_port();
    pg.configure("recovering", port, "hot_standby=off");
    let recovering = pg.start("recovering");
    let probe = pg.probe(port, |_| ());
    let o = until(&probe, |o| {
        o.failure
            .as_ref()
            .is_some_and(|f| f.reason == Reason::Status)
    })
    .await;
    fails(&o, Reason::Status, "57P03");
    recovering.stop();
}

// --------------------------------------------------------------------- Redis

fn redis_server(dir: &Scratch, port: u16, more: &[&str]) -> Option<Server> {
    let program = find("redis-server", &[])?;
    Some(Server::start(
        Command::new(program)
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--enable-debug-command",
                "yes",
                "--enable-protected-configs",
                "yes",
            ])
            .arg("--dir")
            .arg(dir.path())
            .args(more),
    ))
}

fn redis(port: u16, change: impl FnOnce(&mut RedisSettings)) -> Redis {
    let mut s: RedisSettings =
        serde_json::from_value(serde_json::json!({ "target": format!("127.0.0.1:{port}") }))
            .unwrap();
    change(&mut s);
    Redis::new(s, net()).unwrap()
}

/// Sends commands, one per line, and waits for as many lines.
fn redis_say(port: u16, commands: &[&str]) {
    let mut s = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    for c in commands {
        s.write_all(format!("{c}\r\n").as_bytes()).unwrap();
        let mut b = [0; 512];
        let n = s.read(&mut b).unwrap();
        assert!(
            b[..n].starts_with(b"+"),
            "{c}: {}",
            String::from_utf8_lossy(&b[..n])
        );
    }
}

#[tokio::test]
async fn redis_in_its_states() {
    let dir = Scratch::new();
    let port = free_port();
    let Some(server) = redis_server(
        &dir,
        port,
        &["--requirepass", "right", "--maxmemory", "100mb"],
    ) else {
        return skip("Redis");
    };
    let right = Some(dir.secret("right", "right\n"));
    let with = |port: u16| redis(port, |s| s.password_file.clone_from(&right));
    let o = until_well(&with(port)).await;
    well(&o);
    let ratio = o.value(Quantity::RedisMemoryRatio).unwrap();
    assert!(ratio > 0.001 && ratio < 0.1, "{ratio}");
    assert!(o.value(Quantity::RedisMemoryBytes).unwrap() > 100_000.0);

    fails(
        &ask(&redis(port, |_| ()), 5.0).await,
        Reason::Auth,
        "NOAUTH",
    );
    let wrong = dir.secret("wrong", "canary-wrong");
    let o = ask(&redis(port, |s| s.password_file = Some(wrong)), 5.0).await;
    fails(&o, Reason::Auth, "WRONGPASS");
    assert!(!format!("{o:?}").contains("canary"));

    // Its snapshot cannot be written: a directory stands in the way.
    fs::create_dir(dir.path().join("blocked.rdb")).unwrap();
    redis_say(
        port,
        &["AUTH right", "CONFIG SET dbfilename blocked.rdb", "BGSAVE"],
    );
    let o = until(&with(port), |o| o.failure.is_some()).await;
    fails(&o, Reason::Assertion, "rdb_last_bgsave_status");

    server.signal(Signal::STOP);
    let hung = ask(&with(port), 0.7).await;
    server.signal(Signal::CONT);
    fails(&hung, Reason::Timeout, "");

    // Loading: a thousand keys, five milliseconds each.
    redis_say(
        port,
        &[
            "AUTH right",
            "DEBUG POPULATE 1000",
            "CONFIG SET dbfilename dump.rdb",
            "SAVE",
        ],
    );
    drop(server);
    fails(&ask(&with(port), 5.0).await, Reason::Connect, "refused");
    let port = free_port();
    let slow = [
        "--requirepass",
        "right",
        "--key-load-delay",
        "5000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let _loading = redis_server(&dir, port, &slow).unwrap();
    let o = until(&with(port), |o| {
        o.failure
            .as_ref()
            .is_some_and(|f| f.reason == Reason::Status)
    })
    .await;
    fails(&o, Reason::Status, "LOADING");
    well(&until_well(&with(port)).await);
}

#[tokio::test]
async fn what_is_not_redis() {
    for (answer, reason, text) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            Reason::Protocol,
            "not Redis",
        ),
        (b"", Reason::Protocol, "without an answer"),
        (b"+OK\r\n", Reason::Protocol, "answers PING with \"OK\""),
        (b"$99999999999\r\n", Reason::Protocol, "too large"),
        (b"$-1\r\n", Reason::Protocol, "answers PING with nothing"),
        (b"+PONG\r\n$5\r\nab", Reason::Protocol, "in the middle"),
        (b"+PONG", Reason::Protocol, "not Redis"),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let (mut s, _) = listener.accept().await.unwrap();
            let mut b = [0; 64];
            let _ = s.read(&mut b).await;
            let _ = s.write_all(answer).await;
            let _ = s.shutdown().await;
            // Read what else comes, so that the end is an end and not a reset.
            while matches!(s.read(&mut b).await, Ok(n) if n > 0) {}
        });
        fails(&ask(&redis(port, |_| ()), 5.0).await, reason, text);
    }
}

// ------------------------------------------------------------------- MariaDB

struct Maria {
    dir: Scratch,
    port: u16,
    server: Server,
}

impl Maria {
    fn start() -> Option<Self> {
        let (daemon, install) = (find("mariadbd", &[])?, find("mariadb-install-db", &[])?);
        let dir = Scratch::new();
        let user = if is_root() { "mysql" } else { "" };
        fs::create_dir(dir.path().join("data")).unwrap();
        let ca = Ca::new();
        let (cert, key) = ca.issue(&["127.0.0.1"], 12);
        dir.file("ca.pem", &ca.pem);
        dir.file("cert.pem", &cert);
        dir.file("key.pem", &key);
        give(dir.path(), "mysql");
        let data = format!("--datadir={}", dir.path().join("data").display());
        let who = format!("--user={user}");
        let mut c = Command::new(install);
        c.args([
            "--no-defaults",
            &data,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]);
        if is_root() {
            c.arg(&who);
        }
        ok(&mut c);
        let port = free_port();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut c = Command::new(daemon);
        c.args([
            "--no-defaults",
            &data,
            &format!("--port={port}"),
            "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=16M",
        ])
        .arg(format!("--socket={}", at("s.sock")))
        .arg(format!("--ssl-cert={}", at("cert.pem")))
        .arg(format!("--ssl-key={}", at("key.pem")))
        .arg(format!("--ssl-ca={}", at("ca.pem")))
        .arg(format!("--pid-file={}", at("pid")));
        if is_root() {
            c.arg(&who);
        }
        let server = Server::start(&mut c);
        Some(Self { dir, port, server })
    }

    fn probe(&self, change: impl FnOnce(&mut MysqlSettings)) -> Mysql {
        let mut s: MysqlSettings = serde_json::from_value(serde_json::json!({
            "target": format!("127.0.0.1:{}", self.port), "user": "kw", "password_file": self.dir.path().join("right"),
        }))
        .unwrap();
        change(&mut s);
        Mysql::new(s, net()).unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }
}

#[tokio::test]
async fn mariadb_in_its_states() {
    let Some(db) = Maria::start() else {
        return skip("MariaDB");
    };
    let client = find("mariadb", &[]).unwrap();
    db.dir.secret("right", "right\n");
    let root = db.probe(|s| {
        s.target = format!("unix:{}", db.socket().display()).parse().unwrap();
        s.user = "root".into();
        s.password_file = None;
    });
    until_well(&root).await;
    let sql = "CREATE USER kw@'%' IDENTIFIED BY 'right'; CREATE USER tls@'%' IDENTIFIED BY 'right' REQUIRE SSL; \
        CREATE DATABASE app; GRANT ALL ON app.* TO kw@'%'; CREATE TABLE app.t(x INT, y TEXT); INSERT INTO app.t VALUES (42, 'a'), (43, NULL);";
    ok(Command::new(client)
        .args(["--no-defaults", "-uroot"])
        .arg(format!("--socket={}", db.socket().display()))
        .args(["-e", sql]));

    well(&ask(&db.probe(|_| ()), 5.0).await);
    let query = |q: &str, e: &str| {
        let (q, e) = (Some(q.to_owned()), Some(e.to_owned()));
        db.probe(|s| (s.database, s.query, s.expect) = (Some("app".into()), q, e))
    };
    well(&ask(&query("SELECT x, y FROM t ORDER BY x", "42"), 5.0).await);
    let trust = || {
        Some(TlsSettings {
            ca_file: Some(db.dir.path().join("ca.pem")),
            server_name: None,
        })
    };
    let o = ask(
        &db.probe(|s| (s.tls, s.user) = (trust(), "tls".into())),
        5.0,
    )
    .await;
    well(&o);
    assert_eq!(
        (o.value(Quantity::TlsSecondsLeft).unwrap() / 86_400.0).round(),
        12.0
    );

    fails(
        &ask(&db.probe(|s| s.user = "tls".into()), 5.0).await,
        Reason::Auth,
        "1045",
    );
    fails(
        &ask(&db.probe(|s| s.tls = Some(TlsSettings::default())), 5.0).await,
        Reason::Tls,
        "",
    );
    let wrong = db.dir.secret("wrong", "canary-wrong");
    let o = ask(&db.probe(|s| s.password_file = Some(wrong)), 5.0).await;
    fails(&o, Reason::Auth, "1045");
    assert!(!format!("{o:?}").contains("canary"));
    fails(
        &ask(&db.probe(|s| s.password_file = None), 5.0).await,
        Reason::Auth,
        "1045",
    );
    fails(
        &ask(&db.probe(|s| s.database = Some("absent".into())), 5.0).await,
        Reason::Auth,
        "1044",
    );
    fails(
        &ask(&query("SELECT x FROM t WHERE x > 99", "42"), 5.0).await,
        Reason::Assertion,
        "answers nothing",
    );
    fails(
        &ask(&query("SELECT x FROM t WHERE x = 43", "42"), 5.0).await,
        Reason::Assertion,
        "answers \"43\"",
    );
    fails(
        &ask(&query("SELECT y FROM t WHERE x = 43", "42"), 5.0).await,
        Reason::Assertion,
        "answers nothing",
    );
    fails(
        &ask(&query("SELECT nonsense FROM", "42"), 5.0).await,
        Reason::Assertion,
        "1064",
    );
    fails(
        &ask(&query("SELECT REPEAT('x', 1000000)", "42"), 5.0).await,
        Reason::Protocol,
        "",
    );
    fails(
        &ask(&query("SELECT SLEEP(60)", "0"), 0.7).await,
        Reason::Timeout,
        "",
    );

    db.server.signal(Signal::STOP);
    let hung = ask(&db.probe(|_| ()), 0.7).await;
    db.server.signal(Signal::CONT);
    fails(&hung, Reason::Timeout, "");
    well(&until_well(&db.probe(|_| ())).await);
}

// ------------------------------------------------------------ hostile servers

/// A server that says this first, then reads to the end.
async fn says(bytes: Vec<u8>, close: bool) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut s, _) = listener.accept().await.unwrap();
        let _ = s.write_all(&bytes).await;
        if close {
            let _ = s.shutdown().await;
        }
        let mut b = [0; 1024];
        while matches!(s.read(&mut b).await, Ok(n) if n > 0) {}
    });
    port
}

fn mysql_at(port: u16) -> Mysql {
    let s = serde_json::json!({ "target": format!("127.0.0.1:{port}"), "user": "kw" });
    Mysql::new(serde_json::from_value(s).unwrap(), net()).unwrap()
}

fn postgresql_at(port: u16) -> Postgresql {
    let s = serde_json::json!({ "target": format!("127.0.0.1:{port}"), "user": "kw" });
    Postgresql::new(serde_json::from_value(s).unwrap(), net()).unwrap()
}

#[tokio::test]
async fn servers_that_speak_something_else() {
    let packet = |payload: &[u8]| {
        let mut p = vec![payload.len() as u8, 0, 0, 0];
        p.extend_from_slice(payload);
        p
    };
    for (bytes, close, reason) in [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            true,
            Reason::Protocol,
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), true, Reason::Protocol),
        (vec![], true, Reason::Protocol),
        (vec![], false, Reason::Timeout),
        (vec![0xff, 0xff, 0xff, 0], true, Reason::Protocol),
        (packet(b"\x09old\0"), true, Reason::Protocol),
        (packet(b"\x0a8.0\0"), true, Reason::Protocol),
        (packet(&[10, 0]), true, Reason::Protocol),
        (
            packet(b"\xff\x10\x04Too many connections"),
            true,
            Reason::Status,
        ),
        (
            packet(b"\xff\x69\x04Host '1.2.3.4' is blocked"),
            true,
            Reason::Status,
        ),
    ] {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let o = ask(&mysql_at(says(bytes, close).await), 1.0).await;
        assert_eq!(
            o.failure.as_ref().map(|f| f.reason),
            Some(reason),
            "{shown:?}: {o:?}"
        );
    }
    for (bytes, close, reason) in [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            true,
            Reason::Protocol,
        ),
        (vec![], true, Reason::Protocol),
        (vec![], false, Reason::Timeout),
        (vec![b'R', 0xff, 0xff, 0xff, 0xff], true, Reason::Protocol),
        (vec![b'R', 0, 0, 0, 4], true, Reason::Protocol),
        // A message of 2 GiB that begins to come.
        (
            [vec![b'E', 0x7f, 0xff, 0xff, 0xff], vec![0; 3 << 20]].concat(),
            true,
            Reason::Protocol,
        ),
    ] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(20)]).into_owned();
        let o = ask(&postgresql_at(says(bytes, close).await), 2.0).await;
        assert_eq!(
            o.failure.as_ref().map(|f| f.reason),
            Some(reason),
            "{shown:?}: {o:?}"
        );
    }
}

// ---------------------------------------------------------------------- Disk

/// A tmpfs of 64 KiB, when we may mount one.
struct Mount(PathBuf);

impl Mount {
    fn new(dir: &Path) -> Option<Self> {
        let done = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                "size=64k,nr_inodes=20",
                "kw-watch-test",
            ])
            .arg(dir)
            .output()
            .ok()?;
        done.status.success().then(|| Self(dir.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

#[tokio::test]
async fn a_full_and_a_read_only_disk() {
    let dir = Scratch::new();
    let Some(mount) = Mount::new(dir.path()) else {
        eprintln!("\n!!! SKIPPED: no file system can be mounted here\n");
        return;
    };
    let probe = |writable| {
        Disk::new(DiskSettings {
            path: dir.path().join(""),
            writable,
        })
        .unwrap()
    };
    let o = ask(&probe(true), 5.0).await;
    well(&o);
    assert_eq!(
        (
            o.value(Quantity::DiskSizeBytes),
            o.value(Quantity::DiskUsedRatio)
        ),
        (Some(65_536.0), Some(0.0))
    );
    assert!(fs::write(dir.path().join("full"), vec![1; 100_000]).is_err());
    let o = ask(&probe(true), 5.0).await;
    assert_eq!(
        (
            o.value(Quantity::DiskAvailableBytes),
            o.value(Quantity::DiskUsedRatio)
        ),
        (Some(0.0), Some(1.0))
    );
    assert!(o.value(Quantity::InodesUsedRatio).unwrap() > 0.05);
    ok(Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(&mount.0));
    fails(
        &ask(&probe(true), 5.0).await,
        Reason::Assertion,
        "read-only",
    );
    well(&ask(&probe(false), 5.0).await);
}
