//! Processes: two that write at once, and one that is killed while it migrates. The test binary starts itself again for them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keepwatch_catalog::runs::{self, RunFilter};
use keepwatch_catalog::{Catalog, Options, Place, checks, counters};
use keepwatch_model::history::Entry;
use keepwatch_model::runs::RunOutcome;

use crate::support::*;

const ROLE: &str = "KEEPWATCH_TEST_ROLE";

/// Starts this binary again in a role; the place and the spool go by its environment, a password never does.
fn again(env: &Env, role: &str, seed: u64) -> Child {
    let (place, password) = match &env.options.place {
        Place::Sqlite(path) => (path.display().to_string(), None),
        Place::Postgres(_) => (env.options.place.to_string(), password_file(env)),
    };
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["crash::role", "--exact", "--nocapture"])
        .env(ROLE, role)
        .env("KEEPWATCH_TEST_PLACE", place)
        .env("KEEPWATCH_TEST_PASSWORD_FILE", password.unwrap_or_default())
        .env(
            "KEEPWATCH_TEST_STATE",
            env.db_path().parent().expect("a parent"),
        )
        .env("KEEPWATCH_TEST_SEED", seed.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started")
}

fn password_file(env: &Env) -> Option<PathBuf> {
    // The socket's directory holds the file (see `postgres`).
    let url = env.admin.as_ref()?;
    let dir = url.split("host=").nth(1)?;
    Some(PathBuf::from(dir).join("pw"))
}

/// What the second process does; nothing in a normal run of the tests.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let var = |name: &str| std::env::var(name).expect(name);
    let password = Some(PathBuf::from(var("KEEPWATCH_TEST_PASSWORD_FILE")))
        .filter(|p| !p.as_os_str().is_empty());
    let place = Place::parse(&var("KEEPWATCH_TEST_PLACE"), password).expect("a place");
    let state = PathBuf::from(var("KEEPWATCH_TEST_STATE"));
    let seed: u64 = var("KEEPWATCH_TEST_SEED").parse().expect("a seed");
    let options = Options::new(place, &state, "web1");
    let hand = Hand::new(MONDAY);
    block_on(async {
        let catalog = Catalog::open(options, hand.clock(), random())
            .await
            .expect("opened");
        if role == "write" {
            let env = Env {
                dice: Dice::new(seed),
                ..Env::sqlite()
            };
            for n in 0..100i64 {
                let run = env.run(MONDAY + n);
                catalog.record_run(&run).await;
                let check = env.result("api", (MONDAY - 5000 + n) * 1_000_000 + seed as i64);
                catalog.record(vec![Entry::Result(check)]).await;
                catalog
                    .record_run(&env.done(run, RunOutcome::Succeeded, 1))
                    .await;
            }
        }
        catalog.close().await;
    });
}

pub async fn two_processes_write_at_once(env: Env) {
    // Nobody has made the tables yet: both do, and one is first.
    let mut children: Vec<Child> = (1..=3).map(|seed| again(&env, "write", seed)).collect();
    for child in &mut children {
        assert!(child.wait().expect("waited").success());
    }
    let catalog = env.open().await;
    // What was busy for too long went to the spool.
    catalog
        .import_spool(Duration::from_secs(60))
        .await
        .expect("imported");
    let all = runs::list(&catalog, &RunFilter::default())
        .await
        .expect("asked");
    assert_eq!(all.len(), 300);
    assert!(all.iter().all(|r| r.outcome == RunOutcome::Succeeded));
    let results = checks::results(&catalog, ("web1", "api"), None, None, 0)
        .await
        .expect("asked");
    assert_eq!(results.len(), 300);
    let counted = counters::list(&catalog).await.expect("asked");
    assert_eq!(
        counted
            .iter()
            .find(|c| c.name == counters::RUNS)
            .map(|c| c.value),
        Some(300)
    );
    let numbers = catalog.numbers();
    assert_eq!((numbers.spool.dropped, numbers.spool.bad_files), (0, 0));
}

pub async fn killed_while_it_migrates(env: Env) {
    let kills = if std::env::var_os("KEEPWATCH_LONG").is_some() {
        500
    } else {
        16
    };
    let (mut before, mut after) = (0, 0);
    // How long a start takes is found by trying: later after an early kill, earlier after a late one.
    let mut wait = Duration::from_millis(10);
    for n in 0.. {
        // More of them on a slow machine, where it takes longer to find the moment.
        if n >= kills && (before.min(after) >= 2 || n >= 200) {
            break;
        }
        crate::stories::sql(&env, &reset(&env)).await;
        let mut child = again(&env, "open", n);
        tokio::time::sleep(wait).await;
        child.kill().expect("killed");
        child.wait().expect("ended");
        if tables(&env).await > 0 {
            after += 1;
            wait = wait.mul_f64(0.85);
        } else {
            before += 1;
            let more = if after == 0 { 1.6 } else { 1.25 };
            wait = wait.mul_f64(more).min(Duration::from_secs(5));
        }
        let catalog = env.open().await;
        assert_eq!(
            catalog.record_run(&env.run(MONDAY)).await.stored,
            1,
            "kill {n}"
        );
        assert_eq!(
            runs::list(&catalog, &RunFilter::default())
                .await
                .expect("asked")
                .len(),
            1
        );
        catalog.close().await;
        env.at_rest().await;
    }
    eprintln!("killed {before} times before the commit, {after} times after it");
    assert!(
        before > 0 && after > 0,
        "{before} {after}: the moment of the commit was never near"
    );
}

fn reset(env: &Env) -> String {
    if env.admin.is_some() {
        "DROP SCHEMA IF EXISTS keepwatch CASCADE".to_owned()
    } else {
        for suffix in ["", "-wal", "-shm"] {
            let mut path = env.db_path().into_os_string();
            path.push(suffix);
            let _ = std::fs::remove_file(path);
        }
        std::fs::create_dir_all(env.db_path().parent().expect("a parent")).expect("made");
        "SELECT 1".to_owned()
    }
}

/// How many tables there are: none, or all of them.
async fn tables(env: &Env) -> i64 {
    use sqlx::{Connection, PgConnection, SqliteConnection};
    let (count, versions): (i64, i64) = match &env.admin {
        Some(url) => {
            let mut connection = PgConnection::connect(url).await.expect("connected");
            let sql = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'keepwatch' AND table_name ";
            let count = sqlx::query_scalar(&format!("{sql} <> 'schema_version'"))
                .fetch_one(&mut connection)
                .await
                .expect(sql);
            let versions = sqlx::query_scalar(&format!("{sql} = 'schema_version'"))
                .fetch_one(&mut connection)
                .await
                .expect(sql);
            (count, versions)
        }
        None => {
            let url = format!("sqlite://{}?mode=rwc", env.db_path().display());
            let mut connection = SqliteConnection::connect(&url).await.expect("connected");
            let sql = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name ";
            let count = sqlx::query_scalar(&format!("{sql} <> 'schema_version'"))
                .fetch_one(&mut connection)
                .await
                .expect(sql);
            let versions = sqlx::query_scalar(&format!("{sql} = 'schema_version'"))
                .fetch_one(&mut connection)
                .await
                .expect(sql);
            (count, versions)
        }
    };
    assert!(
        (count, versions) == (0, 0) || (count, versions) == (14, 1),
        "half a migration: {count} tables, {versions}"
    );
    count
}
