//! A real PostgreSQL server of the test's own, in a directory of its own, on a socket and a loopback port.
//! It runs as the user `postgres` when the test runs as root, because the server refuses root.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};

pub const PASSWORD: &str = "hunter2-canary-passphrase";

pub struct Server {
    dir: tempfile::TempDir,
    bin: PathBuf,
    user: Option<(u32, u32)>,
    pub port: u16,
    child: Option<Child>,
    databases: u32,
}

fn binaries() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path().join("bin")))
        .collect();
    found.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    found
        .into_iter()
        .find(|dir| dir.join("initdb").exists() && dir.join("postgres").exists())
}

fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("accounts");
    let line = passwd
        .lines()
        .find(|l| l.starts_with("postgres:"))
        .expect("an account postgres");
    let field = |n: usize| {
        line.split(':')
            .nth(n)
            .and_then(|t| t.parse().ok())
            .expect("a number")
    };
    Some((field(2), field(3)))
}

impl Server {
    /// Starts a server, or says why there is none to start.
    pub fn start() -> Option<Self> {
        let Some(bin) = binaries() else {
            assert!(
                std::env::var_os("KEEPWATCH_REQUIRE_POSTGRES").is_none(),
                "PostgreSQL is not installed"
            );
            eprintln!("SKIPPED: PostgreSQL is not installed");
            return None;
        };
        let dir = tempfile::tempdir().expect("a directory");
        let user = account();
        fs::write(dir.path().join("pw"), PASSWORD).expect("written");
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).expect("given");
            chown(dir.path().join("pw"), Some(uid), Some(gid)).expect("given");
        }
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a port")
            .port();
        let mut server = Self {
            dir,
            bin,
            user,
            port,
            child: None,
            databases: 0,
        };
        let made = server
            .command("initdb")
            .args([
                "-D",
                "data",
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--locale=C",
                "--auth-local=trust",
            ])
            .args([
                "--auth-host=scram-sha-256",
                "--pwfile=pw",
                "-k",
                "--no-sync",
            ])
            .output()
            .expect("initdb");
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let conf = server.dir.path().join("data/postgresql.conf");
        let mut text = fs::read_to_string(&conf).expect("its configuration");
        text += &format!(
            "listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories='{}'\nfsync=off\nmax_connections=40\nshared_buffers=16MB\n",
            server.dir.path().display()
        );
        fs::write(conf, text).expect("written");
        server.up();
        Some(server)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command
            .current_dir(self.dir.path())
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Starts the server process and waits until it answers.
    pub fn up(&mut self) {
        let log = fs::File::create(self.dir.path().join("log")).expect("a log");
        let child = self
            .command("postgres")
            .args(["-D", "data"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres");
        self.child = Some(child);
        let began = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        while runtime
            .block_on(PgConnection::connect(&self.admin_url("postgres")))
            .is_err()
        {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{}",
                fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the server at once, as a power failure would.
    pub fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            self.signal_child(&child, Signal::CONT);
            self.signal_child(&child, Signal::QUIT);
            child.wait().expect("ended");
        }
    }

    fn signal_child(&self, child: &Child, signal: Signal) {
        let pid = Pid::from_child(child);
        let _ = kill_process(pid, signal);
    }

    /// Processes of the server: the first and all that it forked.
    fn family(&self) -> Vec<Pid> {
        let Some(child) = &self.child else {
            return Vec::new();
        };
        let mut out = vec![Pid::from_child(child)];
        for entry in fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
        {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|n| n.parse::<i32>().ok())
            else {
                continue;
            };
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1));
            if parent == Some(child.id().to_string().as_str()) {
                out.extend(Pid::from_raw(pid));
            }
        }
        out
    }

    /// Stops all its processes where they are: connected, and silent.
    pub fn freeze(&self) {
        for pid in self.family() {
            let _ = kill_process(pid, Signal::STOP);
        }
    }

    pub fn thaw(&self) {
        for pid in self.family() {
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// For tests themselves, over the socket.
    pub fn admin_url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@localhost:{}/{database}?host={}",
            self.port,
            self.dir.path().display()
        )
    }

    /// For the catalog, over TCP with a password from a file.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    pub fn password_file(&self) -> PathBuf {
        self.dir.path().join("pw")
    }

    /// A new, empty database.
    pub fn database(&mut self) -> String {
        self.databases += 1;
        let name = format!("kw{}", self.databases);
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// Runs a statement of a test.
    pub fn sql(&self, database: &str, text: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut connection = PgConnection::connect(&self.admin_url(database))
                .await
                .expect("connected");
            sqlx::raw_sql(text)
                .execute(&mut connection)
                .await
                .expect(text);
            connection.close().await.expect("closed");
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.down();
    }
}
