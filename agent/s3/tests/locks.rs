//! Object Lock and versions: what was written stays, whatever a thief of the credentials does.

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{World, noise, now, of, open};
use keepwatch_engine::forget;
use keepwatch_engine::progress::{Cancel, Silent};
use keepwatch_engine::prune;
use keepwatch_engine::repository::Repository;
use keepwatch_engine::store::{Fault, Name, Store, Verdict};
use keepwatch_s3::{LockMode, ObjectLock, S3Store};
use keepwatch_s3serve::{Action, Config, Group, Rule, Server};

fn locked_server() -> Server {
    Server::start(Config {
        object_lock: true,
        ..Config::default()
    })
    .unwrap()
}

/// A thief with the writer's credentials deletes and overwrites everything; the bucket as it was before gives all back.
#[test]
fn what_a_thief_deletes_and_overwrites_comes_back() {
    let server = locked_server();
    let dir = tempfile::tempdir().unwrap();
    let mut o = of(dir.path(), &server);
    o.object_lock = Some(ObjectLock {
        mode: LockMode::Compliance,
        days: 30,
    });
    let store: Arc<S3Store> = Arc::new(open(&o));
    let world = World::init(store.clone()).unwrap();
    for i in 0..20 {
        world.write(&format!("f{i}"), &noise(i, 50_000));
    }
    world.backup(store.clone()).unwrap();
    let files = world.files();
    for seen in server
        .objects()
        .iter()
        .filter(|s| !s.key.contains("/tombstones/") && !s.key.contains("/marks/"))
    {
        assert!(seen.locked_until.is_some(), "{} is not locked", seen.key);
    }
    std::thread::sleep(Duration::from_millis(1100));
    let before = SystemTime::now();
    std::thread::sleep(Duration::from_millis(1100));
    let keys = server.keys();
    assert!(keys.len() >= 5);
    for (n, key) in keys.iter().enumerate() {
        match n % 3 {
            0 => server.plant(key, b"garbage").unwrap(),
            _ => delete(&store, key),
        }
    }
    assert!(world.restore(store.clone()).is_err());
    o.as_of = Some(before);
    let past: Arc<S3Store> = Arc::new(open(&o));
    assert!(world.restore(past.clone()).unwrap() == files);
    // The past cannot be written to.
    let e = past.put(&Name::Config, b"x").unwrap_err();
    assert_eq!(e.fault, Fault::ReadOnly);
    assert_eq!(
        past.delete(&Name::Config).unwrap_err().fault,
        Fault::ReadOnly
    );
}

fn delete(store: &S3Store, key: &str) {
    let rest = key.strip_prefix("hosts/a/").unwrap();
    let name = match rest.split_once('/') {
        None => Name::Config,
        Some((area, rest)) => {
            let area = keepwatch_engine::store::Area::ALL
                .into_iter()
                .find(|a| a.prefix() == area)
                .unwrap();
            Name::parse(area, rest).unwrap()
        }
    };
    store.delete(&name).unwrap();
}

/// A server that refuses to delete what is locked: prune waits.
#[test]
fn prune_waits_for_locked_objects_and_says_when_it_may_not_delete() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let o = of(dir.path(), &server);
    let store: Arc<S3Store> = Arc::new(open(&o));
    let world = World::init(store.clone()).unwrap();
    world.write("a", &noise(1, 300_000));
    world.backup(store.clone()).unwrap();
    std::fs::remove_file(world.source().join("a")).unwrap();
    world.write("b", &noise(2, 300_000));
    world.backup(store.clone()).unwrap();
    let repository = Repository::open_as_writer(store.clone(), &world.key).unwrap();
    let set = repository.snapshots().unwrap();
    forget::apply(&repository, &[&set.live[0]], now()).unwrap();
    let options = prune::Options {
        grace: Duration::ZERO,
        ..prune::Options::default()
    };
    let run = || prune::run(&repository, &options, &now, &Silent, &Cancel::new());

    server.switch(|s| {
        s.denied.insert(Group::Delete);
    });
    let e = run().unwrap_err();
    assert!(
        matches!(e, prune::PruneError::MayNotDelete(_))
            && e.to_string().contains("s3:DeleteObject"),
        "{e}"
    );
    server.switch(|s| s.denied.clear());

    server.rule(Rule::new(Action::error(403, "ObjectLocked")).on("delete"));
    let report = run().unwrap();
    assert!(
        report.objects_locked > 0 && report.bytes_freed == 0,
        "{report:?}"
    );
    assert!(world.restore(store.clone()).unwrap() == world.files());
    server.clear_rules();
    let report = run().unwrap();
    let report = if report.packs_deleted == 0 {
        run().unwrap()
    } else {
        report
    };
    assert!(report.packs_deleted > 0, "{report:?}");
    assert!(world.restore(store).unwrap() == world.files());
}

/// The newest snapshot must not stand on locks that end before its own.
#[test]
fn prune_prolongs_locks_of_what_is_needed() {
    let server = locked_server();
    let dir = tempfile::tempdir().unwrap();
    let mut o = of(dir.path(), &server);
    o.object_lock = Some(ObjectLock {
        mode: LockMode::Governance,
        days: 30,
    });
    let store: Arc<S3Store> = Arc::new(open(&o));
    let world = World::init(store.clone()).unwrap();
    world.write("a", &noise(1, 300_000));
    world.backup(store.clone()).unwrap();
    let until = |key: &str| {
        let all = server.objects();
        let seen = all
            .iter()
            .find(|s| s.newest && s.key.contains(key))
            .unwrap();
        seen.locked_until
    };
    let first = until("/packs/");
    let repository = Repository::open_as_writer(store.clone(), &world.key).unwrap();
    let run = || {
        prune::run(
            &repository,
            &prune::Options::default(),
            &now,
            &Silent,
            &Cancel::new(),
        )
        .unwrap()
    };
    assert_eq!(run().locks_renewed, 0, "they are young");
    // Sixteen days later.
    server.switch(|s| s.clock_offset_seconds = 16 * 86_400);
    store.size(&Name::Config).unwrap();
    let report = run();
    assert!(report.locks_renewed >= 4, "{report:?}");
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    assert!(until("/packs/") > first);
    assert_eq!(run().locks_renewed, 0, "they were prolonged a moment ago");
}

#[test]
fn doctor_sees_what_a_server_can_do() {
    let find = |store: &S3Store, what: &str| {
        store
            .examine()
            .into_iter()
            .find(|f| f.what == what)
            .unwrap_or_else(|| panic!("nothing about {what}"))
    };
    let server = locked_server();
    let dir = tempfile::tempdir().unwrap();
    let mut o = of(dir.path(), &server);
    let store = open(&o);
    for what in [
        "reachable",
        "clock",
        "versioning",
        "object lock",
        "create-only writes",
        "writing",
        "checksums",
    ] {
        assert_eq!(find(&store, what).verdict, Verdict::Good, "{what}");
    }
    assert!(find(&store, "deleting").text.contains("allowed"));
    server.switch(|s| {
        s.denied.insert(Group::Delete);
        s.conditions = keepwatch_s3serve::Conditions::Ignored;
        s.checksums = keepwatch_s3serve::Checksums::Ignored;
    });
    assert!(find(&store, "deleting").text.contains("not allowed"));
    assert!(find(&store, "create-only writes").text.contains("ignores"));
    assert!(find(&store, "checksums").text.contains("without checking"));
    // A second look does not leave more behind.
    let before = server.keys().len();
    store.examine();
    assert_eq!(server.keys().len(), before);
    o.place.bucket = "no-such-bucket".into();
    assert_eq!(find(&open(&o), "reachable").verdict, Verdict::Bad);
    let plain = Server::plain().unwrap();
    let mut o = of(dir.path(), &plain);
    o.object_lock = Some(ObjectLock {
        mode: LockMode::Compliance,
        days: 1,
    });
    assert_eq!(find(&open(&o), "object lock").verdict, Verdict::Bad);
}
