//! What the tests share: a clock that they set, a catalog on either database, records.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keepwatch_catalog::{Catalog, CatalogError, Clock, Options, Place, Random};
use keepwatch_model::checks::{
    CheckOutcome, CheckResult, CheckState, CheckTransition, FailureReason,
};
use keepwatch_model::ids::{EventId, RunId};
use keepwatch_model::runs::{RunKind, RunOutcome, RunRecord, Trigger};
use keepwatch_model::time::Moment;

use crate::postgres::Server;

/// 2026-01-05T00:00:00Z, a Monday, in seconds.
pub const MONDAY: i64 = 1_767_571_200;
pub const HOUR: i64 = 3600;
pub const DAY: i64 = 24 * HOUR;

pub fn at(secs: i64) -> Moment {
    Moment::from_parts(secs, 0, 0).expect("a time")
}

pub fn at_us(micros: i64) -> Moment {
    let nanos = u32::try_from(micros.rem_euclid(1_000_000) * 1000).expect("nanoseconds");
    Moment::from_parts(micros.div_euclid(1_000_000), nanos, 0).expect("a time")
}

/// A clock that stands still until it is set.
#[derive(Clone)]
pub struct Hand(Arc<AtomicI64>);

impl Hand {
    pub fn new(secs: i64) -> Self {
        Self(Arc::new(AtomicI64::new(secs)))
    }
    pub fn set(&self, secs: i64) {
        self.0.store(secs, Ordering::SeqCst);
    }
    pub fn advance(&self, secs: i64) {
        self.0.fetch_add(secs, Ordering::SeqCst);
    }
    pub fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
    pub fn clock(&self) -> Clock {
        let hand = self.clone();
        Arc::new(move || at(hand.now()))
    }
}

/// Small, repeatable randomness (SplitMix64).
#[derive(Clone)]
pub struct Dice(Arc<Mutex<u64>>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }
    pub fn next(&self) -> u64 {
        let mut state = self.0.lock().expect("not poisoned");
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn bytes(&self) -> [u8; 10] {
        let mut out = [0; 10];
        out[..8].copy_from_slice(&self.next().to_be_bytes());
        out[8..].copy_from_slice(&self.next().to_be_bytes()[..2]);
        out
    }
}

/// The system's generator: file names of two catalogs must not be the same.
pub fn random() -> Random {
    Arc::new(|out: &mut [u8]| getrandom::fill(out).expect("random bytes"))
}

/// A place for a catalog, and all that belongs to it.
pub struct Env {
    pub options: Options,
    pub hand: Hand,
    pub dice: Dice,
    /// For a second connection of the test's own.
    pub admin: Option<String>,
    pub _dir: Option<tempfile::TempDir>,
    pub dir: PathBuf,
}

impl Env {
    pub fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_owned();
        Self::of(Place::Sqlite(path.join("state/catalog.db")), None, dir)
    }

    pub fn postgres(server: &mut Server) -> Self {
        let name = server.database();
        let place =
            Place::parse(&server.url(&name), Some(server.password_file())).expect("a place");
        let dir = tempfile::tempdir().expect("a directory");
        Self::of(place, Some(server.admin_url(&name)), dir)
    }

    fn of(place: Place, admin: Option<String>, dir: tempfile::TempDir) -> Self {
        let path = dir.path().join("state");
        Self {
            options: Options::new(place, &path, "web1"),
            hand: Hand::new(MONDAY),
            dice: Dice::new(7),
            admin,
            dir: path,
            _dir: Some(dir),
        }
    }

    pub fn db_path(&self) -> PathBuf {
        self.dir.join("catalog.db")
    }

    pub fn spool_path(&self) -> PathBuf {
        self.dir.join("spool")
    }

    pub async fn try_open(&self) -> Result<Catalog, CatalogError> {
        Catalog::open(self.options.clone(), self.hand.clock(), random()).await
    }

    pub async fn open(&self) -> Catalog {
        let catalog = self.try_open().await.expect("opened");
        assert_eq!(catalog.standing().trouble, None);
        catalog
    }

    /// Waits until no connection has the file open any more, and brings its WAL into it: two that close at one moment leave it
    /// behind, and a test that damages the file beside a whole WAL damages nothing. [`Catalog::close`] waits for a moment only.
    pub async fn at_rest(&self) {
        use sqlx::{Connection, SqliteConnection};
        let wal = self.dir.join("catalog.db-wal");
        for _ in 0..1200 {
            if self.open_files() > 0 {
                tokio::time::sleep(Duration::from_millis(25)).await;
            } else if wal.exists() {
                let url = format!("sqlite://{}", self.db_path().display());
                let mut last = SqliteConnection::connect(&url).await.expect("connected");
                sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
                    .execute(&mut last)
                    .await
                    .expect("brought in");
                last.close().await.expect("closed");
            } else {
                return;
            }
        }
        panic!("the file is still open");
    }

    /// Descriptors of this process that lie in the directory of the database.
    fn open_files(&self) -> usize {
        let descriptors = std::fs::read_dir("/proc/self/fd").expect("descriptors");
        descriptors
            .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .filter(|to| to.starts_with(&self.dir) && !to.starts_with(self.spool_path()))
            .count()
    }

    /// Waits until a rest of the database is over.
    pub async fn rested(&self, catalog: &Catalog) {
        for _ in 0..200 {
            if catalog.connect().await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", catalog.standing());
    }

    pub fn run(&self, started: i64) -> RunRecord {
        let id = RunId::new(at(started), self.dice.bytes());
        let mut run = RunRecord::begin(id, RunKind::Backup, "web1", at(started), Trigger::Timer);
        run.job = Some("home".into());
        run.repository = Some("main".into());
        run
    }

    pub fn done(&self, mut run: RunRecord, outcome: RunOutcome, secs: u64) -> RunRecord {
        run.outcome = outcome;
        run.duration = Some(Duration::from_secs(secs));
        run.finished = Some(at(run.started.unix_seconds() + secs as i64));
        run
    }

    pub fn result(&self, check: &str, micros: i64) -> CheckResult {
        let outcome = match self.dice.below(10) {
            0 => CheckOutcome::Failure(FailureReason::Timeout),
            1 => CheckOutcome::Failure(FailureReason::Dns),
            2 => CheckOutcome::Degraded,
            _ => CheckOutcome::Success,
        };
        CheckResult {
            host: "web1".into(),
            check: check.into(),
            kind: "http".into(),
            at: at_us(micros),
            outcome,
            latency: Duration::from_micros(self.dice.below(12_000_000)),
            text: None,
        }
    }

    pub fn change(
        &self,
        check: &str,
        micros: i64,
        from: CheckState,
        to: CheckState,
    ) -> CheckTransition {
        CheckTransition {
            id: EventId::new(at_us(micros), self.dice.bytes()),
            host: "web1".into(),
            check: check.into(),
            kind: "http".into(),
            at: at_us(micros),
            from,
            to,
            overlay: None,
            reason: None,
            text: None,
        }
    }
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let out = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(5));
    out
}

/// Everything that the catalog tells, as text, to compare two of them.
pub async fn told(catalog: &Catalog) -> String {
    use keepwatch_catalog::{checks, counters, events, runs};
    let all = events::EventFilter::default();
    let mut out = String::new();
    let mut add = |what: &str, lines: Vec<String>| {
        for line in lines {
            out += &format!("{what} {line}\n");
        }
    };
    fn text<T: std::fmt::Debug>(list: Vec<T>) -> Vec<String> {
        list.iter().map(|one| format!("{one:?}")).collect()
    }
    add(
        "run",
        text(
            runs::list(catalog, &runs::RunFilter::default())
                .await
                .expect("runs"),
        ),
    );
    add(
        "transition",
        text(
            checks::transitions(catalog, None, None, None, None, 0)
                .await
                .expect("transitions"),
        ),
    );
    add(
        "check",
        text(checks::now(catalog, None).await.expect("checks")),
    );
    for check in checks::now(catalog, None).await.expect("checks") {
        let of = (check.host.as_str(), check.check.as_str());
        add(
            "result",
            text(
                checks::results(catalog, of, None, None, 0)
                    .await
                    .expect("results"),
            ),
        );
    }
    add(
        "incident",
        text(events::incidents(catalog, &all).await.expect("incidents")),
    );
    add(
        "restart",
        text(events::restarts(catalog, &all).await.expect("restarts")),
    );
    add(
        "notification",
        text(
            events::notifications(catalog, &all, None)
                .await
                .expect("notifications"),
        ),
    );
    add(
        "repository",
        text(
            events::repositories(catalog, None)
                .await
                .expect("repositories"),
        ),
    );
    add(
        "counter",
        text(counters::list(catalog).await.expect("counters")),
    );
    out
}
