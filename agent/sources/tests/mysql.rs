//! Dumps and restores of a real MariaDB.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::*;
use keepwatch_sources::fault::Reason;
use keepwatch_sources::mysql::{self, Options, Server as Place};
use keepwatch_sources::secret::SecretFile;

struct Maria {
    dir: tempfile::TempDir,
    server: Server,
    password: PathBuf,
}

impl Maria {
    fn start() -> Option<Maria> {
        let (Some(server), Some(install)) =
            (find("mariadbd", &[]), find("mariadb-install-db", &[]))
        else {
            skip("MariaDB");
            return None;
        };
        let dir = scratch();
        let home = dir.path().join("db");
        fs::create_dir(&home).unwrap();
        give(&home, "mysql");
        // Two that are installed at once would take each other's temporary tables away.
        let temporary = home.join("tmp");
        fs::create_dir(&temporary).unwrap();
        give(&temporary, "mysql");
        let user = me("mysql");
        ok(Command::new(install)
            .args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ])
            .arg(format!("--user={user}"))
            .arg(format!("--tmpdir={}", temporary.display()))
            .arg(format!("--datadir={}", home.join("data").display()))
            .arg(format!("--tmpdir={}", temporary.display())));
        let socket = home.join("s.sock");
        let process = Server::start(
            Command::new(server)
                .args([
                    "--no-defaults",
                    "--skip-networking",
                    "--innodb-buffer-pool-size=32M",
                    "--innodb-flush-log-at-trx-commit=0",
                ])
                .arg(format!("--user={user}"))
                .arg(format!("--datadir={}", home.join("data").display()))
                .arg(format!("--tmpdir={}", temporary.display()))
                .arg(format!("--socket={}", socket.display())),
        );
        let password = secret(dir.path(), "pw", "p\"w\\ #x");
        let maria = Maria {
            dir,
            server: process,
            password,
        };
        until("MariaDB", || {
            maria
                .client("root")
                .args(["-e", "SELECT 1"])
                .output()
                .unwrap()
                .status
                .success()
        });
        maria.sql("", "CREATE USER kw@localhost IDENTIFIED BY 'p\"w\\\\ #x'; GRANT ALL ON *.* TO kw@localhost WITH GRANT OPTION");
        Some(maria)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("db/s.sock")
    }

    fn client(&self, user: &str) -> Command {
        let mut c = Command::new(find("mariadb", &[]).unwrap());
        c.arg("--no-defaults")
            .arg(format!("--user={user}"))
            .arg("-S")
            .arg(self.socket())
            .args(["-NB", "--default-character-set=utf8mb4"])
            .stdin(Stdio::null());
        c
    }

    fn sql(&self, database: &str, sql: &str) -> String {
        let mut c = self.client("root");
        if !database.is_empty() {
            c.arg(format!("--database={database}"));
        }
        ok(c.args(["-e", sql]))
    }

    fn spec(&self, more: &str) -> String {
        format!(
            "mysql?socket={}&user=kw&password-file={}{more}",
            self.socket().display(),
            self.password.display()
        )
    }

    fn place(&self) -> Place {
        Place {
            socket: Some(self.socket()),
            user: "kw".into(),
            password: Some(SecretFile(self.password.clone())),
            ..Default::default()
        }
    }

    fn make(&self, name: &str) {
        let quoted = format!("`{}`", name.replace('`', "``"));
        self.sql(
            "",
            &format!("CREATE DATABASE {quoted} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"),
        );
        self.sql(
            name,
            "CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, a VARCHAR(100), b VARBINARY(64));
             INSERT INTO t (a, b) SELECT concat('é😀\\\\', md5(seq)), unhex(md5(seq)) FROM seq_1_to_20000;
             CREATE TABLE s (x INT) ENGINE=InnoDB; CREATE TABLE u (x INT) ENGINE=MyISAM; INSERT INTO u VALUES (5);
             CREATE VIEW v AS SELECT count(*) c FROM t;
             CREATE PROCEDURE p() SELECT 42;
             CREATE TRIGGER g AFTER INSERT ON s FOR EACH ROW INSERT INTO u VALUES (NEW.x);
             CREATE EVENT e ON SCHEDULE EVERY 1 YEAR DO INSERT INTO s VALUES (1);",
        );
    }

    fn fingerprint(&self, name: &str) -> String {
        let schema = name.replace('\'', "''");
        self.sql(
            name,
            &format!(
                "CHECKSUM TABLE t, s, u; SELECT c FROM v; CALL p(); \
                 SELECT count(*) FROM information_schema.triggers WHERE trigger_schema = '{schema}'; \
                 SELECT count(*) FROM information_schema.events WHERE event_schema = '{schema}'; \
                 SELECT default_collation_name FROM information_schema.schemata WHERE schema_name = '{schema}'; \
                 SELECT auto_increment FROM information_schema.tables WHERE table_schema = '{schema}' AND table_name = 't'"
            ),
        )
        .lines()
        .map(|l| l.rsplit('\t').next().unwrap().to_owned())
        .collect::<Vec<_>>()
        .join(" ")
    }
}

#[test]
fn what_comes_back_is_what_was_there() {
    let Some(db) = Maria::start() else { return };
    let s = setting(db.dir.path());
    let odd = "-Grö`ße/..";
    db.make("app");
    db.make(odd);
    db.sql(
        "",
        "CREATE USER reader@'%' IDENTIFIED BY 'x'; GRANT SELECT ON app.* TO reader@'%'",
    );
    let before = db.fingerprint("app");
    let (memory, about) = dumped(&db.spec(""), &s).unwrap();
    let of: Vec<_> = about
        .streams
        .iter()
        .map(|i| (i.what.as_str(), i.of.as_deref().unwrap_or("")))
        .collect();
    assert_eq!(of, [("users", ""), ("database", odd), ("database", "app")]);
    assert!(
        about.server_version.as_deref().unwrap().contains("MariaDB"),
        "{about:?}"
    );
    assert!(
        about.notes.iter().any(|n| n.contains("app.u (MyISAM)")),
        "{:?}",
        about.notes
    );
    // The same data is the same dump: what is stored once is not stored again.
    let (again, _) = dumped(&db.spec(""), &s).unwrap();
    assert!(again.0 == memory.0);
    nothing_left(&s);

    let mut options = Options {
        databases: [
            ("app".to_owned(), "app".to_owned()),
            (odd.to_owned(), "copy".to_owned()),
        ]
        .into(),
        users: true,
        replace: false,
    };
    let e = mysql::restore(&memory, &about, &db.place(), &options, &s).unwrap_err();
    assert_eq!(e.reason, Reason::InTheWay, "{e}");
    assert!(!db.sql("", "SHOW DATABASES").contains("copy"));
    db.sql("app", "DELETE FROM t WHERE id > 5; DROP USER reader@'%'");
    options.replace = true;
    mysql::restore(&memory, &about, &db.place(), &options, &s).unwrap();
    assert_eq!(db.fingerprint("app"), before);
    assert_eq!(db.fingerprint("copy"), before);
    assert!(db.sql("", "SHOW GRANTS FOR reader@'%'").contains("`app`"));

    // Into another server, all of it.
    let other = Maria::start().unwrap();
    mysql::restore(&memory, &about, &other.place(), &Options::default(), &s).unwrap();
    assert_eq!(other.fingerprint(odd), before);
    nothing_left(&s);
}

#[test]
fn what_is_wrong_is_said_in_one_sentence() {
    let Some(db) = Maria::start() else { return };
    let mut s = setting(db.dir.path());
    db.make("app");
    let fails = |text: String, s: &_, reason: Reason, says: &str| {
        let e = dumped(&text, s)
            .err()
            .unwrap_or_else(|| panic!("{text} succeeded"));
        assert_eq!(e.reason, reason, "{e}");
        assert!(e.text.contains(says), "{e}");
        assert!(!e.text.contains("hunter2"), "{e}");
        nothing_left(s);
    };
    fails(
        db.spec("&database=ap"),
        &s,
        Reason::NotThere,
        "no database 'ap'",
    );
    let wrong = secret(db.dir.path(), "wrong", "hunter2");
    fails(
        format!(
            "mysql?socket={}&user=kw&password-file={}",
            db.socket().display(),
            wrong.display()
        ),
        &s,
        Reason::Denied,
        "refuses the user kw",
    );
    fails(
        "mysql?socket=/nonexistent".to_owned(),
        &s,
        Reason::NoConnection,
        "cannot be reached",
    );
    fails(
        "mysql?server=127.0.0.1&port=1".to_owned(),
        &s,
        Reason::NoConnection,
        "cannot be reached",
    );
    fails(
        db.spec("&package=/nonexistent"),
        &s,
        Reason::NoProgram,
        "mariadb",
    );
    let real = find("mariadb-dump", &[]).unwrap();
    let made = std::cell::Cell::new(0);
    let with = |script: &str| {
        made.set(made.get() + 1);
        let dir = db.dir.path().join(format!("bin{}", made.get()));
        program(
            &dir,
            "mariadb-dump",
            &format!(
                "for a; do [ \"$a\" = --version ] && exec {0} --version; done; REAL={0}\n{script}",
                real.display()
            ),
        );
        std::os::unix::fs::symlink(find("mariadb", &[]).unwrap(), dir.join("mariadb")).unwrap();
        db.spec(&format!(
            "&database=app&globals=false&package={}",
            dir.display()
        ))
    };
    fails(
        with("$REAL \"$@\" | head -c 200000; exit 0"),
        &s,
        Reason::NotWhole,
        "ended early",
    );
    fails(with("exit 0"), &s, Reason::NotWhole, "empty");
    fails(
        with("$REAL \"$@\" | head -n -1; exit 0"),
        &s,
        Reason::NotWhole,
        "ended early",
    );
    fails(
        with("$REAL \"$@\"; echo broken >&2; exit 2"),
        &s,
        Reason::Failed,
        "broken",
    );
    fails(
        with("$REAL \"$@\" | head -c 200000; kill -9 $$"),
        &s,
        Reason::Failed,
        "signal 9",
    );
    // It is dropped between the list and the dump.
    fails(
        with(&format!(
            "mariadb --no-defaults -uroot -S {} -e 'DROP DATABASE app'; exec $REAL \"$@\"",
            db.socket().display()
        )),
        &s,
        Reason::NotThere,
        "app",
    );
    // The server stands still.
    db.make("app");
    s.stall = Duration::from_secs(2);
    db.server.signal(rustix::process::Signal::STOP);
    let e = dumped(&db.spec("&database=app"), &s).err().unwrap();
    db.server.signal(rustix::process::Signal::CONT);
    assert!(
        matches!(e.reason, Reason::Stalled | Reason::NoConnection),
        "{e:?}"
    );
    // The server dies in the middle.
    let e = dumped_with(&db.spec("&database=app&globals=false"), &s, |_, _| {
        db.server.signal(rustix::process::Signal::KILL)
    });
    whole_or_told(e);
}

#[test]
fn a_restore_that_fails_leaves_nothing_half_done_and_starts_no_shell() {
    let Some(db) = Maria::start() else { return };
    let s = setting(db.dir.path());
    db.make("app");
    let (mut memory, about) = dumped(&db.spec("&database=app&globals=false"), &s).unwrap();
    let good = memory.0["app.sql"].clone();
    let options = Options {
        databases: [("app".to_owned(), "back".to_owned())].into(),
        ..Default::default()
    };
    let mark = db.dir.path().join("was-here");
    for spoil in [
        // Cut in the middle of a statement, then filled up, so that its length is right.
        [
            &good[..good.len() / 2],
            &vec![b' '; good.len() - good.len() / 2],
        ]
        .concat(),
        // Tables missing.
        [
            &b"CREATE TABLE only (x INT);\n"[..],
            &vec![b'\n'; good.len() - 27],
        ]
        .concat(),
        [
            format!(
                "\\! touch {}\nsystem touch {}\n",
                mark.display(),
                mark.display()
            )
            .as_bytes(),
            &good,
        ]
        .concat()[..good.len()]
            .to_vec(),
    ] {
        assert_eq!(spoil.len(), good.len());
        memory.0.insert("app.sql".into(), spoil);
        let e = mysql::restore(&memory, &about, &db.place(), &options, &s).unwrap_err();
        assert!(e.text.contains("dropped again"), "{e}");
        assert!(!db.sql("", "SHOW DATABASES").contains("back"));
        assert!(!mark.exists());
        nothing_left(&s);
    }
}
