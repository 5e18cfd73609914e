//! Rehearsals with the real servers.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;
use keepwatch_sources::about::About;
use keepwatch_sources::fault::Reason;
use keepwatch_sources::rehearse::cluster::Cluster;
use keepwatch_sources::rehearse::{Stage, rehearse};

/// Processes whose command line or directory speaks of a place.
fn living(place: &Path) -> Vec<String> {
    let place = place.to_string_lossy().into_owned();
    let of = |pid: &str| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .map(|b| String::from_utf8_lossy(&b).replace('\0', " "))
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|e| of(e.ok()?.file_name().to_str()?).ok())
        .filter(|c| c.contains(&place))
        .collect()
}

fn short() -> tempfile::TempDir {
    // The path of a socket is short.
    let dir = tempfile::Builder::new()
        .prefix("kwr")
        .rand_bytes(4)
        .tempdir_in("/tmp")
        .unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn sqlite_answers_and_a_wrong_answer_is_told() {
    let dir = short();
    let s = setting(dir.path());
    let db = dir.path().join("app.db");
    let c = rusqlite::Connection::open(&db).unwrap();
    c.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)")
        .unwrap();
    drop(c);
    let (memory, about) = dumped(&format!("sqlite?database={}", db.display()), &s).unwrap();
    let questions = [
        "SELECT count(*) = 2 FROM t",
        "SELECT count(*) = 3 FROM t",
        "SELECT 1 FROM nothing",
    ]
    .map(str::to_owned);
    let r = rehearse(&Stage::Sqlite, &memory, &about, &questions, &s).unwrap();
    assert_eq!(
        r.answers.iter().map(|a| a.holds).collect::<Vec<_>>(),
        [true, false, false]
    );
    assert!(r.answers[2].why.as_deref().unwrap().contains("nothing"));
    assert!(r.report.bytes > 0);
    nothing_left(&s);
}

/// A stand-in answers in the end-to-end tests; here are servers that never do.
#[test]
fn a_server_that_never_answers_is_given_up_and_ended() {
    let dir = short();
    let mut s = setting(dir.path());
    s.stall = std::time::Duration::from_secs(2);
    let about = About::new("qdrant");
    let none = || Memory(Default::default());
    for (script, reason, says) in [
        (
            "sleep 1000",
            Reason::Stalled,
            "'qdrant' of the rehearsal does not answer after 2 s",
        ),
        (
            "echo the disk is upside down; exit 7",
            Reason::Failed,
            "ended at once (exit status: 7): the disk is upside down",
        ),
        (
            "kill -9 $$",
            Reason::Failed,
            "ended at once (signal: 9 (SIGKILL))",
        ),
    ] {
        let package = dir.path().join(format!("{}", script.len()));
        program(&package.join("bin"), "qdrant", script);
        let e = rehearse(&Stage::Qdrant(Some(package)), &none(), &about, &[], &s).unwrap_err();
        assert_eq!(e.reason, reason, "{e}");
        assert!(e.text.contains(says), "{e}");
        nothing_left(&s);
        assert_eq!(living(&s.scratch), Vec::<String>::new());
    }
    let stage = Stage::Qdrant(Some(dir.path().join("nowhere")));
    let e = rehearse(&stage, &none(), &about, &[], &s).unwrap_err();
    assert_eq!(e.reason, Reason::NoProgram, "{e}");
    let e = rehearse(&stage, &none(), &about, &["SELECT 1".into()], &s).unwrap_err();
    assert_eq!(e.reason, Reason::Parameter, "{e}");
    nothing_left(&s);
}

/// The real one is in the end-to-end tests; here are programs that stall, end, or say nothing of use.
#[test]
fn a_recovery_that_does_not_move_is_given_up() {
    let dir = short();
    let mut s = setting(dir.path());
    s.stall = std::time::Duration::from_secs(2);
    let version = "[ \"$1\" = --version ] && { echo 'postgres (PostgreSQL) 15.1'; exit; }";
    let control = "echo 'max_prepared_xacts setting:           3'";
    for (n, (script, control, reason, says)) in [
        (
            "sleep 1000",
            control,
            Reason::Stalled,
            "has not moved for 2 s",
        ),
        (
            "exit 3",
            control,
            Reason::Failed,
            "cannot be started on the restored base backup: exit status: 3",
        ),
        (
            "echo 'FATAL:  no'; exit 1",
            control,
            Reason::Failed,
            "base backup: no",
        ),
        (
            "sleep 1000",
            "echo it is broken >&2; exit 1",
            Reason::Failed,
            "it is broken",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let package = dir.path().join(n.to_string());
        let bin = package.join("bin");
        program(&bin, "postgres", &format!("{version}\n{script}"));
        program(&bin, "pg_controldata", control);
        let cluster = Cluster::new(Some(&package), "15", &s).unwrap();
        let e = cluster.recover(1, &s).unwrap_err();
        assert_eq!(e.reason, reason, "{e}");
        assert!(e.text.contains(says), "{e}");
        drop(cluster);
        nothing_left(&s);
        assert_eq!(living(&s.scratch), Vec::<String>::new());
        let e = Cluster::new(Some(&package), "16", &s).err().unwrap();
        assert_eq!(e.reason, Reason::Version, "{e}");
    }
    let e = Cluster::new(Some(Path::new("/nonexistent")), "15", &s)
        .err()
        .unwrap();
    assert_eq!(e.reason, Reason::NoProgram, "{e}");
    nothing_left(&s);
}

#[test]
fn redis_starts_on_its_dump() {
    let (Some(server), Some(client)) = (find("redis-server", &[]), find("redis-cli", &[])) else {
        return skip("Redis");
    };
    let dir = short();
    let s = setting(dir.path());
    let socket = dir.path().join("r");
    let _redis = Server::start(
        Command::new(server)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(dir.path()),
    );
    let ask = |words: &[&str]| {
        Command::new(&client)
            .arg("-s")
            .arg(&socket)
            .args(words)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    until("Redis", || ask(&["PING"]).stdout.starts_with(b"PONG"));
    ask(&["SET", "a", "1"]);
    let (memory, about) = dumped(&format!("redis?socket={}", socket.display()), &s).unwrap();
    let r = rehearse(
        &Stage::Redis(None),
        &memory,
        &about,
        &["EXISTS a".into(), "EXISTS b".into()],
        &s,
    )
    .unwrap();
    assert_eq!(
        r.answers.iter().map(|a| a.holds).collect::<Vec<_>>(),
        [true, true, false]
    );
    nothing_left(&s);
    assert_eq!(living(&s.scratch), Vec::<String>::new());
}

#[test]
fn mariadb_restores_into_a_server_of_its_own() {
    let (Some(server), Some(install)) = (find("mariadbd", &[]), find("mariadb-install-db", &[]))
    else {
        return skip("MariaDB");
    };
    let dir = short();
    let s = setting(dir.path());
    let home = dir.path().join("db");
    fs::create_dir(&home).unwrap();
    give(&home, "mysql");
    let user = me("mysql");
    ok(Command::new(install)
        .args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ])
        .arg(format!("--user={user}"))
        .arg(format!("--tmpdir={}", home.display()))
        .arg(format!("--datadir={}", home.join("data").display())));
    let socket = home.join("s");
    let db = Server::start(
        Command::new(server)
            .args(["--no-defaults", "--skip-networking"])
            .arg(format!("--user={user}"))
            .arg(format!("--tmpdir={}", home.display()))
            .arg(format!("--datadir={}", home.join("data").display()))
            .arg(format!("--socket={}", socket.display())),
    );
    let client = || {
        let mut c = Command::new(find("mariadb", &[]).unwrap());
        c.args(["--no-defaults", "-uroot", "-S"]).arg(&socket);
        c
    };
    until("MariaDB", || {
        client()
            .args(["-e", "SELECT 1"])
            .output()
            .unwrap()
            .status
            .success()
    });
    ok(client().args([
        "-e",
        "CREATE DATABASE app; CREATE TABLE app.t (a INT); INSERT INTO app.t VALUES (7)",
    ]));
    let (memory, about) = dumped(&format!("mysql?socket={}", socket.display()), &s).unwrap();
    drop(db);
    let r = rehearse(
        &Stage::Mysql(None),
        &memory,
        &about,
        &[
            "SELECT sum(a) = 7 FROM t".into(),
            "@app SELECT count(*) > 1 FROM t".into(),
        ],
        &s,
    )
    .unwrap();
    assert_eq!(
        r.answers.iter().map(|a| a.holds).collect::<Vec<_>>(),
        [true, false],
        "{r:?}"
    );
    nothing_left(&s);
    assert_eq!(living(&s.scratch), Vec::<String>::new());
}

#[test]
fn postgresql_restores_into_a_server_of_its_own() {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|d| d.path());
    let on_path = || find("initdb", &[]).and_then(|p| Some(p.parent()?.parent()?.to_owned()));
    let package = versions.filter(|p| p.join("bin/initdb").exists()).max();
    let Some(package) = package.or_else(on_path) else {
        return skip("PostgreSQL");
    };
    let bin = package.join("bin");
    let dir = short();
    let s = setting(dir.path());
    let home = dir.path().join("pg");
    fs::create_dir(&home).unwrap();
    give(&home, "postgres");
    ok(as_user(&bin.join("initdb"), "postgres")
        .args(["--username=postgres", "--auth=trust", "--no-sync", "-D"])
        .arg(home.join("d")));
    let server = Server::start(
        as_user(&bin.join("postgres"), "postgres")
            .arg("-D")
            .arg(home.join("d"))
            .args(["-c", "listen_addresses=", "-k"])
            .arg(&home),
    );
    let sql = |sql: &str| {
        as_user(&bin.join("psql"), "postgres")
            .args(["-U", "postgres", "-h"])
            .arg(&home)
            .args(["-c", sql])
            .output()
            .unwrap()
    };
    until("PostgreSQL", || sql("SELECT 1").status.success());
    // A table space lies in a directory of the host: a rehearsal beside the original must not go there.
    let space = dir.path().join("space");
    fs::create_dir(&space).unwrap();
    give(&space, "postgres");
    for statement in [
        &format!("CREATE TABLESPACE far LOCATION '{}'", space.display()),
        "CREATE TABLE t TABLESPACE far AS SELECT generate_series(1, 100) a",
        "CREATE ROLE somebody",
        "ALTER TABLE t OWNER TO somebody",
    ] {
        assert!(sql(statement).status.success(), "{statement}");
    }
    let before: Vec<_> = fs::read_dir(&space)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    let (memory, about) = dumped(
        &format!(
            "postgresql?socket={}&package={}",
            home.display(),
            package.display()
        ),
        &s,
    )
    .unwrap();
    drop(server);
    let questions = [
        "@postgres SELECT count(*) = 100 FROM t".to_owned(),
        "SELECT false".to_owned(),
    ];
    let r = rehearse(
        &Stage::Postgresql(Some(package)),
        &memory,
        &about,
        &questions,
        &s,
    )
    .unwrap();
    assert_eq!(
        r.answers.iter().map(|a| a.holds).collect::<Vec<_>>(),
        [true, false],
        "{r:?}"
    );
    assert_eq!(
        fs::read_dir(&space)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<Vec<_>>(),
        before
    );
    nothing_left(&s);
    assert_eq!(living(&s.scratch), Vec::<String>::new());

    // A server that is not there, and a dump that is damaged: nothing is left either.
    let e = rehearse(
        &Stage::Postgresql(Some("/nonexistent".into())),
        &memory,
        &about,
        &[],
        &s,
    )
    .unwrap_err();
    assert_eq!(e.reason, Reason::NoProgram, "{e}");
    let mut bad = Memory(memory.0.clone());
    let bytes = bad.0.get_mut("postgres.dump").unwrap();
    let n = bytes.len();
    bytes[n / 3..].fill(0);
    assert!(
        rehearse(
            &Stage::Postgresql(Some(bin.parent().unwrap().into())),
            &bad,
            &about,
            &[],
            &s
        )
        .is_err()
    );
    nothing_left(&s);
    assert_eq!(living(&s.scratch), Vec::<String>::new());
}
