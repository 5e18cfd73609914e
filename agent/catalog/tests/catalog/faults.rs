//! Faults: locks, damage, a disk that is full, a server that dies or hangs. A caller never fails and never waits for long.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use keepwatch_catalog::runs::{self, RunFilter};
use keepwatch_catalog::upkeep::{self, Integrity};
use keepwatch_catalog::{
    Catalog, CatalogError, Operation, Options, Place, READ_WAIT, RECORD_WAIT, SPOOL_WAIT, recorder,
};
use keepwatch_model::history::Entry;
use keepwatch_model::runs::RunOutcome;
use sqlx::{Connection, SqliteConnection};

use crate::postgres::{PASSWORD, Server};
use crate::support::*;

/// The named bounds, and what a busy machine may add.
const BOUND: Duration = Duration::from_secs(RECORD_WAIT.as_secs() + SPOOL_WAIT.as_secs() + 3);

async fn count(catalog: &Catalog) -> usize {
    runs::list(catalog, &RunFilter::default())
        .await
        .expect("asked")
        .len()
}

/// Files beside the database whose name holds a text.
fn beside(env: &Env, part: &str) -> Vec<String> {
    let entries = fs::read_dir(env.db_path().parent().expect("a parent")).expect("listed");
    entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| n.contains(part) && !n.ends_with("-wal") && !n.ends_with("-shm"))
        .collect()
}

#[test]
fn the_file_is_ours_alone() {
    block_on(async {
        let env = Env::sqlite();
        let catalog = env.open().await;
        catalog.record_run(&env.run(MONDAY)).await;
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&env.db_path()), 0o600);
        assert_eq!(mode(env.db_path().parent().expect("a parent")), 0o700);
        for suffix in ["-wal", "-shm"] {
            let path = format!("{}{suffix}", env.db_path().display());
            assert_eq!(mode(Path::new(&path)), 0o600, "{suffix}");
        }
        catalog.close().await;
        fs::set_permissions(env.db_path(), fs::Permissions::from_mode(0o644)).expect("set");
        env.open().await.close().await;
        assert_eq!(mode(&env.db_path()), 0o600, "taken from others' eyes");
    });
}

#[test]
fn a_locked_file_costs_a_bounded_wait() {
    block_on(async {
        let env = Env::sqlite();
        let catalog = env.open().await;
        catalog.record_run(&env.run(MONDAY)).await;
        let url = format!("sqlite://{}", env.db_path().display());
        let mut other = SqliteConnection::connect(&url).await.expect("connected");
        sqlx::raw_sql("BEGIN EXCLUSIVE")
            .execute(&mut other)
            .await
            .expect("locked");
        let began = Instant::now();
        let recorded = catalog.record_run(&env.run(MONDAY + 1)).await;
        assert_eq!((recorded.spooled, recorded.lost), (1, 0));
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
        // The next ones do not wait at all.
        let began = Instant::now();
        for n in 2..20 {
            assert_eq!(catalog.record_run(&env.run(MONDAY + n)).await.spooled, 1);
        }
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        assert!(matches!(
            catalog.standing().trouble,
            Some(CatalogError::Away { .. })
        ));
        // One that opens meanwhile does not fail either.
        let began = Instant::now();
        let second = env.try_open().await.expect("opened");
        assert_eq!(second.record_run(&env.run(MONDAY + 20)).await.lost, 0);
        assert!(began.elapsed() < BOUND * 2, "{:?}", began.elapsed());
        second.close().await;
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut other)
            .await
            .expect("unlocked");
        other.close().await.expect("closed");
        env.rested(&catalog).await;
        catalog
            .import_spool(Duration::from_secs(30))
            .await
            .expect("imported");
        assert_eq!(count(&catalog).await, 21);
        assert_eq!(catalog.standing().trouble, None);
        assert!(
            catalog
                .numbers()
                .operations
                .iter()
                .any(|(o, n)| *o == Operation::Record && n.errors > 0)
        );
        assert_eq!(beside(&env, "corrupt"), [""; 0], "a lock is no damage");
    });
}

/// Damage in many places: whatever happens, records are kept, and in the end the catalog works and says what it did.
#[test]
fn damage_moves_the_file_aside() {
    let mut moved = 0;
    let rounds = if std::env::var_os("KEEPWATCH_LONG").is_some() {
        400
    } else {
        16 // twice each kind of damage
    };
    for n in 0..rounds {
        block_on(async {
            let mut env = Env::sqlite();
            env.dice = Dice::new(n);
            let catalog = env.open().await;
            for k in 0..200 {
                catalog
                    .record_run(&env.done(env.run(MONDAY + k), RunOutcome::Succeeded, 1))
                    .await;
            }
            // Found by a new catalog, or by one that connects again.
            let running = (n % 2 == 0).then(|| catalog.clone());
            catalog.close().await;
            env.at_rest().await;
            let mut bytes = fs::read(env.db_path()).expect("read");
            let length = bytes.len() as u64;
            match n % 8 {
                0 | 1 => bytes[..16].fill(0xff),
                2 | 3 => bytes[..4096].fill(0),
                4 | 5 => {
                    // Where pages keep their order; in the first page behind the versions of the format.
                    for _ in 0..60 {
                        let page = env.dice.below(length / 4096);
                        let at = page * 4096 + env.dice.below(64) + if page == 0 { 24 } else { 0 };
                        bytes[at as usize] ^= 0xa5;
                    }
                }
                _ => bytes.truncate((length / 3) as usize),
            }
            fs::write(env.db_path(), &bytes).expect("damaged");
            let catalog = match running {
                Some(catalog) => catalog,
                None => env.try_open().await.expect("damage is no error"),
            };
            let began = Instant::now();
            let marked = env.run(MONDAY + 999);
            let recorded = catalog.record_run(&marked).await;
            assert_eq!(
                (recorded.lost, recorded.refused),
                (0, 0),
                "{n}: {recorded:?}"
            );
            assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
            env.rested(&catalog).await;
            let checked = upkeep::integrity(&catalog, Duration::from_secs(60))
                .await
                .expect("checked");
            env.rested(&catalog).await;
            catalog
                .import_spool(Duration::from_secs(30))
                .await
                .expect("imported");
            if checked == Integrity::Sound {
                // Nothing was moved after the record went in: it is there.
                assert!(
                    runs::get(&catalog, marked.id)
                        .await
                        .expect("asked")
                        .is_some(),
                    "{n}"
                );
            }
            // Whole from now on.
            assert_eq!(
                upkeep::integrity(&catalog, Duration::from_secs(60)).await,
                Ok(Integrity::Sound),
                "{n}"
            );
            assert_eq!(
                catalog.record_run(&env.run(MONDAY + 1000)).await.stored,
                1,
                "{n}"
            );
            let standing = catalog.standing();
            assert_eq!(
                standing.moved_aside.len() as u64,
                standing.moved_aside_total,
                "{n}"
            );
            assert_eq!(
                beside(&env, "corrupt").len() as u64,
                standing.moved_aside_total,
                "{n}"
            );
            for path in &standing.moved_aside {
                assert!(
                    path.exists(),
                    "what was damaged is kept: {}",
                    path.display()
                );
            }
            moved += standing.moved_aside_total;
            catalog.close().await;
        });
    }
    assert!(
        moved * 4 >= rounds * 3,
        "most damage is noticed: {moved} of {rounds}"
    );
}

#[test]
fn two_that_see_the_damage_begin_one_new_file() {
    block_on(async {
        let env = Env::sqlite();
        let (a, b) = (env.open().await, env.open().await);
        a.record_run(&env.run(MONDAY)).await;
        b.record_run(&env.run(MONDAY + 1)).await;
        // Without what they remember of it: each reads the file anew.
        a.clone().close().await;
        b.clone().close().await;
        env.at_rest().await;
        let bytes = fs::read(env.db_path()).expect("read");
        fs::write(env.db_path(), vec![0x5a; bytes.len()]).expect("damaged");
        for n in 0..10 {
            let (one, two) = (env.run(MONDAY + 10 + n), env.run(MONDAY + 100 + n));
            let (x, y) = tokio::join!(a.record_run(&one), b.record_run(&two));
            assert_eq!((x.lost, y.lost), (0, 0));
        }
        env.rested(&a).await;
        env.rested(&b).await;
        for catalog in [&a, &b] {
            catalog
                .import_spool(Duration::from_secs(30))
                .await
                .expect("imported");
        }
        assert_eq!(
            beside(&env, "corrupt").len(),
            1,
            "{:?}",
            beside(&env, "corrupt")
        );
        assert_eq!(
            (count(&a).await, count(&b).await),
            (20, 20),
            "both look at the same new file"
        );
    });
}

#[test]
fn a_file_that_is_deleted_is_begun_anew() {
    block_on(async {
        let env = Env::sqlite();
        let catalog = env.open().await;
        catalog.record_run(&env.run(MONDAY)).await;
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(format!("{}{suffix}", env.db_path().display())).expect("deleted");
        }
        assert_eq!(catalog.record_run(&env.run(MONDAY + 1)).await.lost, 0);
        env.rested(&catalog).await;
        catalog
            .import_spool(Duration::from_secs(30))
            .await
            .expect("imported");
        catalog.close().await;
        assert_eq!(
            count(&env.open().await).await,
            1,
            "in the file that the path names"
        );
    });
}

/// A small file system of the test's own.
struct Disk(tempfile::TempDir);

impl Disk {
    /// Mounts it, or says why not.
    fn new(size: &str) -> Option<Self> {
        let disk = Self(tempfile::tempdir().expect("a directory"));
        if rustix::process::geteuid().is_root()
            && disk.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
        {
            return Some(disk);
        }
        eprintln!("SKIPPED: no file system can be mounted here");
        None
    }

    fn mount(&self, options: &[&str]) -> bool {
        let status = std::process::Command::new("mount")
            .args(options)
            .arg(self.0.path())
            .status();
        status.is_ok_and(|s| s.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
    }
}

#[test]
fn a_full_disk_loses_nothing_that_fits_elsewhere() {
    let Some(disk) = Disk::new("1m") else { return };
    block_on(async {
        let mut env = Env::sqlite();
        env.options.place = Place::Sqlite(disk.0.path().join("catalog.db"));
        let catalog = env.open().await;
        let (mut stored, mut spooled) = (0, 0);
        for n in 0..60 {
            let mut entries = Vec::new();
            for k in 0..100 {
                let mut run = env.run(MONDAY + n * 100 + k);
                run.path = Some("p".repeat(300));
                entries.push(Entry::Run(Box::new(run)));
            }
            let recorded = catalog.record(entries).await;
            assert_eq!((recorded.lost, recorded.refused), (0, 0), "{recorded:?}");
            stored += recorded.stored;
            spooled += recorded.spooled;
        }
        assert!(stored > 0 && spooled > 0, "{stored} {spooled}");
        assert_eq!(
            catalog.standing().moved_aside_total,
            0,
            "a full disk is no damage"
        );
        // Room again: all of it comes home.
        assert!(disk.mount(&["-o", "remount,size=64m"]));
        env.rested(&catalog).await;
        let imported = catalog
            .import_spool(Duration::from_secs(60))
            .await
            .expect("imported");
        assert_eq!(imported.records, spooled);
        assert_eq!(count(&catalog).await, 6000);
        assert_eq!(
            upkeep::integrity(&catalog, Duration::from_secs(60)).await,
            Ok(Integrity::Sound)
        );
        catalog.close().await;
    });
}

#[test]
fn a_full_spool_loses_records_and_says_so() {
    let Some(disk) = Disk::new("2m") else { return };
    block_on(async {
        let mut env = Env::sqlite();
        env.options = Options::new(
            Place::Sqlite("/proc/none/catalog.db".into()),
            disk.0.path(),
            "web1",
        );
        let catalog = env.try_open().await.expect("opened");
        assert_eq!(catalog.record_run(&env.run(MONDAY)).await.spooled, 1);
        let filler = disk.0.path().join("filler");
        fs::write(&filler, vec![0u8; 4 << 20]).expect_err("full");
        let began = Instant::now();
        let mut lost = 0;
        for n in 0..100 {
            let mut run = env.run(MONDAY + n);
            run.path = Some("p".repeat(4000));
            lost += catalog.record_run(&run).await.lost;
        }
        assert!(lost > 90, "{lost}");
        assert_eq!(catalog.numbers().lost_total, lost);
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
        fs::remove_file(filler).expect("deleted");
        assert_eq!(catalog.record_run(&env.run(MONDAY + 200)).await.spooled, 1);
        drop(catalog);
        let mut home = Env::sqlite();
        home.options.spool = env.options.spool.clone();
        let catalog = home.open().await;
        let imported = catalog
            .import_spool(Duration::from_secs(30))
            .await
            .expect("imported");
        assert_eq!(
            imported.bad_lines, 0,
            "no torn line stands before a whole one"
        );
        assert_eq!(imported.records, 102 - lost);
    });
}

#[test]
fn the_queue_never_waits_and_drops_raw_results_first() {
    block_on(async {
        let env = Env::sqlite();
        let catalog = env.open().await;
        let url = format!("sqlite://{}", env.db_path().display());
        let mut other = SqliteConnection::connect(&url).await.expect("connected");
        sqlx::raw_sql("BEGIN EXCLUSIVE")
            .execute(&mut other)
            .await
            .expect("locked");
        let (queue, writer) = recorder::start(catalog.clone(), tokio::time::Instant::now());
        let began = Instant::now();
        for n in 0..100i64 {
            assert!(queue.push(Entry::Result(
                env.result("api", (MONDAY - 9000 + n) * 1_000_000)
            )));
        }
        assert!(queue.push(Entry::Run(Box::new(env.run(MONDAY)))));
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "pushing does not wait"
        );
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut other)
            .await
            .expect("unlocked");
        other.close().await.expect("closed");
        assert_eq!(writer.stop(Duration::from_secs(20)).await, 0);
        env.rested(&catalog).await;
        catalog
            .import_spool(Duration::from_secs(30))
            .await
            .expect("imported");
        assert_eq!(count(&catalog).await, 1);
        let results =
            keepwatch_catalog::checks::results(&catalog, ("web1", "api"), None, None, 0).await;
        assert_eq!(results.expect("asked").len(), 100);
    });
    // A full queue, with nobody to empty it: this runtime has one thread, and it is ours.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let env = Env::sqlite();
        let catalog = env.open().await;
        let (queue, writer) = recorder::start(catalog.clone(), tokio::time::Instant::now());
        let runs = recorder::QUEUE_MAX as i64 / 4;
        for n in 0..runs {
            assert!(queue.push(Entry::Run(Box::new(env.run(MONDAY + n)))));
        }
        let mut n = 0;
        while queue.dropped_total() < 500 {
            queue.push(Entry::Result(
                env.result("api", (MONDAY - 90_000 + n) * 1_000_000),
            ));
            n += 1;
        }
        assert_eq!(queue.waiting(), recorder::QUEUE_MAX);
        assert_eq!(writer.stop(Duration::from_secs(120)).await, 0);
        assert_eq!(count(&catalog).await as i64, runs, "no run was dropped");
        let results = keepwatch_catalog::checks::results(&catalog, ("web1", "api"), None, None, 0)
            .await
            .expect("asked");
        assert_eq!(results.len() as i64, n - 500, "the oldest results were");
        assert_eq!(
            results.last().map(|r| r.at),
            Some(at(MONDAY - 90_000 + 500))
        );
    });
}

#[test]
fn what_the_database_does_not_take_at_the_end_is_in_the_spool() {
    block_on(async {
        let env = Env::sqlite();
        let catalog = env.open().await;
        let url = format!("sqlite://{}", env.db_path().display());
        let mut other = SqliteConnection::connect(&url).await.expect("connected");
        sqlx::raw_sql("BEGIN EXCLUSIVE")
            .execute(&mut other)
            .await
            .expect("locked");
        let (queue, writer) = recorder::start(catalog.clone(), tokio::time::Instant::now());
        // This one is under way when the end comes, the others wait behind it.
        assert!(queue.push(Entry::Run(Box::new(env.run(MONDAY)))));
        while queue.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for n in 0..600i64 {
            assert!(queue.push(Entry::Result(
                env.result("api", (MONDAY - 9000 + n) * 1_000_000)
            )));
        }
        assert!(queue.push(Entry::Run(Box::new(env.run(MONDAY + 1)))));
        let began = Instant::now();
        assert_eq!(writer.stop(Duration::from_secs(2)).await, 0);
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        assert!(catalog.numbers().spool.files > 0);
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut other)
            .await
            .expect("unlocked");
        other.close().await.expect("closed");
        env.rested(&catalog).await;
        catalog
            .import_spool(Duration::from_secs(30))
            .await
            .expect("imported");
        assert_eq!(count(&catalog).await, 2);
        let results =
            keepwatch_catalog::checks::results(&catalog, ("web1", "api"), None, None, 0).await;
        assert_eq!(results.expect("asked").len(), 600);
    });
}

/// One server for all of these: each story leaves it running.
#[test]
fn postgres_dies_and_comes_back() {
    let Some(mut server) = Server::start() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let env = Env::postgres(&mut server);
    let catalog = runtime.block_on(async {
        let catalog = env.open().await;
        assert_eq!(catalog.record_run(&env.run(MONDAY)).await.stored, 1);
        catalog
    });
    eprintln!("by its socket, where the server asks for no password");
    runtime.block_on(async {
        let mut options = env.options.clone();
        let url = env.admin.as_deref().expect("a server's");
        options.place = Place::parse(url, None).expect("a place");
        let by_socket = Catalog::open(options, env.hand.clock(), random())
            .await
            .expect("opened");
        assert_eq!(by_socket.standing().trouble, None);
        assert_eq!(
            runs::list(&by_socket, &RunFilter::default())
                .await
                .map(|r| r.len()),
            Ok(1)
        );
        by_socket.close().await;
    });
    eprintln!("killed between two records, and while records are written");
    let writing = {
        let catalog = catalog.clone();
        let runs: Vec<_> = (0..400).map(|n| env.run(MONDAY + 10 + n)).collect();
        runtime.spawn(async move {
            let (mut sum, mut longest) = ((0, 0, 0), Duration::ZERO);
            for run in runs {
                let began = Instant::now();
                let one = catalog.record_run(&run).await;
                longest = longest.max(began.elapsed());
                sum = (sum.0 + one.stored, sum.1 + one.spooled, sum.2 + one.lost);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            (sum, longest)
        })
    };
    std::thread::sleep(Duration::from_millis(200));
    server.down();
    let ((stored, spooled, lost), longest) = runtime.block_on(writing).expect("written");
    eprintln!("{stored} stored, {spooled} spooled, the longest wait {longest:?}");
    assert_eq!((stored + spooled, lost), (400, 0));
    assert!(spooled > 0);
    assert!(longest < BOUND, "{longest:?}");
    let error = runtime
        .block_on(runs::list(&catalog, &RunFilter::default()))
        .expect_err("it is down")
        .to_string();
    assert!(
        error.contains("away") && !error.contains(PASSWORD),
        "{error}"
    );
    server.up();
    runtime.block_on(async {
        env.rested(&catalog).await;
        let imported = catalog
            .import_spool(Duration::from_secs(60))
            .await
            .expect("imported");
        // A record whose commit was done but not answered is in both.
        assert_eq!(imported.records, spooled);
        assert_eq!(count(&catalog).await, 401);
    });

    eprintln!("a server that is there and says nothing");
    server.freeze();
    runtime.block_on(async {
        let began = Instant::now();
        let recorded = catalog.record_run(&env.run(MONDAY + 5000)).await;
        assert_eq!((recorded.spooled, recorded.lost), (1, 0));
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
        let began = Instant::now();
        for n in 0..50 {
            assert_eq!(
                catalog.record_run(&env.run(MONDAY + 5001 + n)).await.lost,
                0
            );
        }
        // Each rest is longer than the last, so few of them wait.
        assert!(began.elapsed() < BOUND * 3, "{:?}", began.elapsed());
        let began = Instant::now();
        let error = runs::list(&catalog, &RunFilter::default())
            .await
            .expect_err("it says nothing");
        assert!(!error.to_string().contains(PASSWORD), "{error}");
        assert!(
            began.elapsed() < READ_WAIT + Duration::from_secs(3),
            "{:?}",
            began.elapsed()
        );
        // One that starts now is not held up either.
        let began = Instant::now();
        let second = env.try_open().await.expect("opened");
        assert_eq!(second.record_run(&env.run(MONDAY + 6000)).await.lost, 0);
        assert!(began.elapsed() < BOUND * 2, "{:?}", began.elapsed());
    });
    server.thaw();
    runtime.block_on(async {
        env.rested(&catalog).await;
        catalog
            .import_spool(Duration::from_secs(60))
            .await
            .expect("imported");
        assert_eq!(count(&catalog).await, 453);
    });

    eprintln!("a session that is ended by the administrator");
    server.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keepwatch'");
    runtime.block_on(async {
        assert_eq!(catalog.record_run(&env.run(MONDAY + 7000)).await.lost, 0);
        env.rested(&catalog).await;
        catalog
            .import_spool(Duration::from_secs(60))
            .await
            .expect("imported");
        assert_eq!(count(&catalog).await, 454);
    });

    eprintln!("a row that somebody else has locked");
    runtime.block_on(async {
        use sqlx::PgConnection;
        let mut other = PgConnection::connect(env.admin.as_ref().expect("postgres"))
            .await
            .expect("connected");
        sqlx::raw_sql("BEGIN; LOCK TABLE keepwatch.runs IN ACCESS EXCLUSIVE MODE")
            .execute(&mut other)
            .await
            .expect("locked");
        let began = Instant::now();
        assert_eq!(catalog.record_run(&env.run(MONDAY + 8000)).await.spooled, 1);
        assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut other)
            .await
            .expect("unlocked");
        env.rested(&catalog).await;
        catalog
            .import_spool(Duration::from_secs(60))
            .await
            .expect("imported");
        assert_eq!(count(&catalog).await, 455);
    });

    eprintln!("a wrong password, then the right one");
    runtime.block_on(async {
        let pw = env.spool_path().with_file_name("pw");
        fs::create_dir_all(pw.parent().expect("a parent")).expect("made");
        fs::write(&pw, "wrong-canary-password").expect("written");
        let mut other = Env::sqlite();
        other.options.spool = env.options.spool.clone();
        other.options.place =
            Place::parse(&env.options.place.to_string(), Some(pw.clone())).expect("a place");
        let wrong = other.try_open().await.expect("away");
        let trouble = wrong.standing().trouble.expect("trouble").to_string();
        assert!(
            trouble.contains("password authentication failed"),
            "{trouble}"
        );
        assert!(!trouble.contains("canary"), "{trouble}");
        assert_eq!(wrong.record_run(&env.run(MONDAY + 9000)).await.spooled, 1);
        fs::write(&pw, format!("{PASSWORD}\n")).expect("written");
        other.rested(&wrong).await;
        wrong
            .import_spool(Duration::from_secs(60))
            .await
            .expect("imported");
        assert_eq!(count(&wrong).await, 456);
        assert!(!format!("{:?} {:?}", other.options, wrong.standing()).contains(PASSWORD));
    });

    eprintln!("a database whose texts are not UTF-8");
    server.sql(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
    );
    runtime.block_on(async {
        let mut other = Env::sqlite();
        other.options.place =
            Place::parse(&server.url("latin"), Some(server.password_file())).expect("a place");
        let Err(error) = other.try_open().await else {
            panic!("it was opened")
        };
        assert!(error.to_string().contains("LATIN1"), "{error}");
    });
    runtime.block_on(catalog.close());
    runtime.shutdown_timeout(Duration::from_secs(5));
}
