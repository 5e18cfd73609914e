//! What a hostile network does: every fault at every request of a run, storms, losses, stalls, wrong bytes. A backup ends complete, or fails with a sentence; the
//! repository is right in both cases, and the next run succeeds.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{World, noise, of, open};
use keepwatch_engine::progress::Cancel;
use keepwatch_engine::store::{Area, Fault, Name, Store};
use keepwatch_s3::S3Store;
use keepwatch_s3serve::{
    Account, Action, Cause, Config, Group, Link, LinkRule, Proxy, ProxyConfig, Rule, Server, Side,
};

fn small(world: &World, step: u64) {
    for i in 0..6 {
        world.write(
            &format!("d{}/f{i}", i % 2),
            &noise(i + if i < 2 { step } else { 0 }, 3_000 + i as usize * 700),
        );
    }
    world.write("text", format!("step {step}\n").repeat(500).as_bytes());
}

fn actions() -> Vec<(&'static str, Action)> {
    vec![
        ("500", Action::internal_error()),
        ("503", Action::slow_down(None)),
        ("429", Action::too_many(Some(0))),
        ("409", Action::conflict()),
        ("400 IncompleteBody", Action::error(400, "IncompleteBody")),
        ("400 RequestTimeout", Action::error(400, "RequestTimeout")),
        ("400 BadDigest", Action::error(400, "BadDigest")),
        (
            "502 page",
            Action::Page {
                status: 502,
                body: "<html>bad gateway</html>".into(),
            },
        ),
        (
            "404 page",
            Action::Page {
                status: 404,
                body: "<html>no such site</html>".into(),
            },
        ),
        ("reset", Action::Refuse),
        ("answer lost", Action::LoseAnswer),
        ("stall", Action::Stall { after: 0, ms: None }),
        (
            "stall in body",
            Action::Stall {
                after: 10,
                ms: None,
            },
        ),
        ("deaf", Action::Deaf { after: 100 }),
        ("cut", Action::Cut { after: 5 }),
        ("flip", Action::Flip { at: 12, bytes: 1 }),
        ("repeat", Action::Repeat),
        ("shorten", Action::Shorten { by: 3 }),
        ("expired", Action::expired()),
        ("skewed", Action::skewed()),
    ]
}

/// Each fault at each request of a backup and of a restore.
#[test]
fn every_fault_at_every_request() {
    let todo = std::sync::Mutex::new(actions());
    let next = || todo.lock().unwrap().pop();
    // Most of it is waiting.
    let (fired, failed) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let mut sum = (0, 0);
                    while let Some((what, action)) = next() {
                        let (fired, failed) = at_every_request(what, &action);
                        sum = (sum.0 + fired, sum.1 + failed);
                    }
                    sum
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
    });
    println!("{fired} faults in backups, {failed} backups failed clearly");
    assert!(fired > 150);
    // What passes by itself must be ridden out: only what looks like wrong answers may end a run.
    assert!(failed * 4 < fired, "{failed} of {fired} runs failed");
}

/// How often it fired, and how many backups failed.
fn at_every_request(what: &str, action: &Action) -> (u64, u64) {
    let (mut fired, mut failed) = (0, 0);
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut o = of(dir.path(), &server);
    o.idle_timeout = Duration::from_millis(400);
    let store: Arc<S3Store> = Arc::new(open(&o));
    let world = World::init(store.clone()).unwrap();
    small(&world, 0);
    world.backup(store.clone()).unwrap();
    let mut n = 0;
    loop {
        small(&world, n + 1);
        let files = world.files();
        server.rule(Rule::new(action.clone()).nth(n));
        let done = world.backup(store.clone());
        let hit = server.fired();
        server.clear_rules();
        if let Err(why) = &done {
            failed += 1;
            let named = [
                "s3://",
                "chunk",
                "packs/",
                "index/",
                "snapshots/",
                "not enrolled",
            ];
            assert!(
                named.iter().any(|n| why.contains(n)),
                "{what} at {n}: no clear sentence: {why}"
            );
            world
                .backup(store.clone())
                .unwrap_or_else(|e| panic!("{what} at {n}: the run after the fault failed: {e}"));
        }
        server.rule(Rule::new(action.clone()).nth(n));
        let back = world.restore(store.clone());
        server.clear_rules();
        match back {
            Ok(back) => assert!(back == files, "{what} at {n}: restored other files"),
            Err(_) => assert!(
                world.restore(store.clone()).unwrap() == files,
                "{what} at {n}"
            ),
        }
        fired += hit;
        if hit == 0 {
            break;
        }
        n += 1;
        assert!(n < 60, "{what}: a small backup takes more than 60 requests");
    }
    assert!(n >= 8, "{what} fired only {n} times");
    (fired, failed)
}

#[test]
fn a_listing_of_a_hundred_thousand() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open(&of(dir.path(), &server));
    let count = 100_500u64;
    for n in 0..count {
        let id = keepwatch_engine::ids::ObjectId::of(&n.to_le_bytes());
        let key = format!("hosts/a/{}", Name::Pack(id));
        server.plant(&key, &[n as u8]).unwrap();
    }
    server.plant("hosts/a/packs/README", b"not ours").unwrap();
    server.reset();
    let (mut seen, mut sum) = (0u64, 0u64);
    store
        .list(Area::Packs, &mut |l| {
            seen += 1;
            sum += l.size;
        })
        .unwrap();
    assert_eq!((seen, sum), (count, count));
    // A page at a time: nothing but the page of a thousand is held.
    assert_eq!(server.stats().requests["ListObjectsV2"], 101);
}

#[test]
fn a_third_of_all_requests_is_lost() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut o = of(dir.path(), &server);
    o.idle_timeout = Duration::from_millis(300);
    let store: Arc<S3Store> = Arc::new(open(&o));
    let world = World::init(store.clone()).unwrap();
    server.rule(Rule::new(Action::Refuse).probability(0.15));
    server.rule(Rule::new(Action::LoseAnswer).probability(0.1));
    server.rule(Rule::new(Action::Stall { after: 0, ms: None }).probability(0.05));
    for step in 0..4 {
        small(&world, step);
        world.write("large", &noise(77 + step, 3 << 20));
        match world.backup(store.clone()) {
            Ok(_) => {}
            Err(why) => assert!(why.contains("tried"), "{why}"),
        }
    }
    assert!(server.fired() > 10);
    server.clear_rules();
    world.backup(store.clone()).unwrap();
    assert!(world.restore(store.clone()).unwrap() == world.files());
    assert!(store.traffic().unwrap().retries > 10);
}

#[test]
fn a_storm_of_slow_down_passes() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<S3Store> = Arc::new(open(&of(dir.path(), &server)));
    let world = World::init(store.clone()).unwrap();
    small(&world, 1);
    server.rule(Rule::new(Action::slow_down(Some(1))).times(3));
    let begun = Instant::now();
    world.backup(store.clone()).unwrap();
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "Retry-After was not honoured"
    );
    assert!(world.restore(store).unwrap() == world.files());
}

#[test]
fn retries_are_bounded_and_the_failure_is_clear() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut o = of(dir.path(), &server);
    o.retry_for = Duration::from_secs(3);
    let store = open(&o);
    store.put(&Name::Config, b"x").unwrap();
    server.reset();
    server.rule(Rule::new(Action::internal_error()));
    let begun = Instant::now();
    let e = store.get(&Name::Config, 10).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert!(server.stats().total <= 8, "{}", server.stats().total);
    assert!(
        e.to_string().contains("InternalError") && e.to_string().contains("tried"),
        "{e}"
    );
    // Before it ever answered, a server is given up sooner.
    let mut absent = o.clone();
    absent.endpoint = Some("http://127.0.0.1:1".into());
    let e = open(&absent).get(&Name::Config, 10).unwrap_err();
    assert!(
        e.to_string().to_lowercase().contains("refused") && e.to_string().contains("tried"),
        "{e}"
    );
}

#[test]
fn a_person_who_wants_to_stop_does_not_wait_for_retries() {
    let server = Server::plain().unwrap();
    server.rule(Rule::new(Action::slow_down(Some(60))));
    let dir = tempfile::tempdir().unwrap();
    let cancel = Cancel::new();
    let store = S3Store::open(of(dir.path(), &server), cancel.clone()).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.get(&Name::Config, 10).unwrap_err());
        std::thread::sleep(Duration::from_millis(300));
        let asked = Instant::now();
        cancel.cancel();
        waiting.join().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(3));
    });
}

#[test]
fn bytes_that_changed_on_their_way_are_read_again() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = open(&of(dir.path(), &server));
    let bytes = noise(5, 100_000);
    let name = Name::Pack(keepwatch_engine::ids::ObjectId::of(&bytes));
    store.put(&name, &bytes).unwrap();
    server.rule(
        Rule::new(Action::Flip { at: 500, bytes: 1 })
            .on("get")
            .times(2),
    );
    assert!(store.get(&name, 1 << 20).unwrap() == bytes);
    // Wrong where it lies: handed over as it is, for 'verify' to find.
    server.corrupt(&format!("hosts/a/{name}"), 77);
    assert!(store.get(&name, 1 << 20).unwrap() != bytes);
}

#[test]
fn rights_that_lack_are_told() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<S3Store> = Arc::new(open(&of(dir.path(), &server)));
    let world = World::init(store.clone()).unwrap();
    small(&world, 1);
    // May not delete: backup, restore and verify work.
    server.switch(|s| {
        s.denied.insert(Group::Delete);
    });
    world.backup(store.clone()).unwrap();
    assert!(world.restore(store.clone()).unwrap() == world.files());
    let e = store.delete(&Name::Config).unwrap_err();
    assert_eq!(e.fault, Fault::Denied, "{e}");
    server.switch(|s| {
        s.denied.clear();
        s.denied.insert(Group::Put);
    });
    small(&world, 2);
    let why = world.backup(store.clone()).unwrap_err();
    assert!(why.contains("AccessDenied"), "{why}");
    server.switch(|s| {
        s.denied.clear();
        s.denied.insert(Group::List);
    });
    let e = store.list(Area::Packs, &mut |_| {}).unwrap_err();
    assert_eq!(e.fault, Fault::Denied, "{e}");
}

#[test]
fn credentials_are_renewed_in_the_middle_of_a_run() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let o = of(dir.path(), &server);
    let store: Arc<S3Store> = Arc::new(open(&o));
    let world = World::init(store.clone()).unwrap();
    small(&world, 1);
    world.backup(store.clone()).unwrap();
    // Somebody rotates the keys: the old ones end, new ones lie in the files.
    server.account(Account::new("AKIASECOND", "second-secret"));
    server.remove_account(server.access_key());
    common::secret(dir.path(), "access", "AKIASECOND");
    common::secret(dir.path(), "secret", "second-secret");
    small(&world, 2);
    world.backup(store.clone()).unwrap();
    // And wrong ones are named as such, without the secret.
    common::secret(dir.path(), "secret", "a-wrong-secret");
    server.rule(Rule::new(Action::expired()).times(1));
    let e = store.get(&Name::Config, 1 << 20).unwrap_err();
    assert_eq!(e.fault, Fault::Denied);
    assert!(
        e.to_string().contains("credentials") && !e.to_string().contains("a-wrong-secret"),
        "{e}"
    );
}

#[test]
fn a_clock_that_is_off_is_corrected_or_named() {
    for hours in [-30, -2, 2, 30] {
        let mut c = Config::default();
        c.switches.clock_offset_seconds = hours * 3600;
        let server = Server::start(c).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<S3Store> = Arc::new(open(&of(dir.path(), &server)));
        let world = World::init(store.clone()).unwrap();
        small(&world, 1);
        world.backup(store.clone()).unwrap();
        assert!(world.restore(store.clone()).unwrap() == world.files());
        let now = std::time::SystemTime::now();
        let there = store.now();
        let off = there
            .duration_since(now)
            .map(|d| d.as_secs() as i64)
            .unwrap_or_else(|e| -(e.duration().as_secs() as i64));
        assert!((off - hours * 3600).abs() < 5, "{off}");
    }
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    server.rule(Rule::new(Action::skewed()));
    let e = open(&of(dir.path(), &server))
        .get(&Name::Config, 10)
        .unwrap_err();
    assert!(e.to_string().contains("clock"), "{e}");
}

#[test]
fn a_missing_bucket_is_not_an_empty_one() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut o = of(dir.path(), &server);
    o.place.bucket = "no-such-bucket".into();
    let store = open(&o);
    let e = store.list(Area::Packs, &mut |_| {}).unwrap_err();
    assert!(
        e.fault != Fault::Missing && e.to_string().contains("NoSuchBucket"),
        "{e}"
    );
    assert!(World::init(Arc::new(store)).is_err());
}

#[test]
fn requests_are_few() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<S3Store> = Arc::new(open(&of(dir.path(), &server)));
    let world = World::init(store.clone()).unwrap();
    for i in 0..8 {
        world.write(&format!("noise{i}"), &noise(i, 16 << 20));
    }
    for i in 0..2_000 {
        world.write(
            &format!("small/{}/{i}", i % 40),
            format!("file {i}\n").repeat(i as usize % 50).as_bytes(),
        );
    }
    server.reset();
    world.backup(store.clone()).unwrap();
    let stats = server.stats();
    let puts = stats.requests.get("PutObject").copied().unwrap_or(0);
    // 128 MiB of noise are 8 to 9 packs; lists, manifest, index and snapshot are a few more.
    assert!(puts <= 8 + 5, "{puts} puts for 128 MiB");
    assert!(stats.total <= puts + 16, "{stats:?}");
    // Nothing changed: PROMISES S7.
    server.reset();
    let report = world.backup(store.clone()).unwrap();
    assert_eq!(report.totals.files_unmodified, 2_008);
    let stats = server.stats();
    assert!(
        stats.total <= 20,
        "{} requests for an unchanged backup: {:?}",
        stats.total,
        stats.requests
    );
    assert!(
        stats.bytes_in < 20_000,
        "{} bytes sent for an unchanged backup",
        stats.bytes_in
    );
    // A restore reads each pack in a few ranges.
    server.reset();
    assert!(world.restore(store.clone()).unwrap() == world.files());
    let gets = server
        .stats()
        .requests
        .get("GetObject")
        .copied()
        .unwrap_or(0);
    assert!(gets <= 80, "{gets} gets to restore 128 MiB");
}

#[test]
fn an_interrupted_first_backup_goes_on_where_it_stopped() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut o = of(dir.path(), &server);
    o.retry_for = Duration::from_millis(200);
    let store: Arc<S3Store> = Arc::new(open(&o));
    let world = World::init(store.clone()).unwrap();
    for i in 0..8 {
        world.write(&format!("noise{i}"), &noise(100 + i, 16 << 20));
    }
    // The network goes away after a few packs.
    server.rule(Rule::new(Action::Refuse).on("put").key("/packs/").skip(5));
    world.backup(store.clone()).unwrap_err();
    server.clear_rules();
    server.reset();
    let report = world.backup(store.clone()).unwrap();
    assert!(
        report.totals.bytes_added < 80 << 20,
        "{} MiB were sent again",
        report.totals.bytes_added >> 20
    );
    assert!(world.restore(store).unwrap() == world.files());
}

/// Below HTTP: connections that reset, fall silent, lose, repeat and change bytes at random points.
#[test]
fn through_a_bad_line() {
    let server = Server::plain().unwrap();
    let proxy = Proxy::start(ProxyConfig::to(server.address())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut o = of(dir.path(), &server);
    o.endpoint = Some(proxy.endpoint());
    o.idle_timeout = Duration::from_millis(400);
    let store: Arc<S3Store> = Arc::new(open(&o));
    let world = World::init(store.clone()).unwrap();
    let (mut ended, mut faults) = (0, 0);
    let causes = [
        Cause::Reset,
        Cause::Close,
        Cause::HalfClose,
        Cause::Stall(None),
        Cause::BlackHole,
        Cause::Flip(1),
        Cause::Lose(3),
        Cause::Duplicate(9),
    ];
    for (n, cause) in causes.into_iter().enumerate() {
        for side in [Side::Up, Side::Down] {
            small(&world, n as u64 * 2 + 1);
            world.write("large", &noise(n as u64, 1 << 20));
            proxy.rule(
                LinkRule::new(side, 10, cause)
                    .until(300_000)
                    .probability(0.6),
            );
            // New connections, so that the rule meets them.
            proxy.cut_all();
            let done = world.backup(store.clone());
            if done.is_err() {
                ended += 1;
            }
            faults += proxy.stats().faults;
            proxy.clear_rules();
            proxy.cut_all();
            if let Err(why) = done {
                world
                    .backup(store.clone())
                    .unwrap_or_else(|e| panic!("{cause:?}: {e} after {why}"));
            }
            assert!(
                world.restore(store.clone()).unwrap() == world.files(),
                "{cause:?}"
            );
        }
    }
    assert!(faults >= 8, "only {faults} connections were broken");
    println!("{ended} of 16 backups ended with an error");
    // 50 ms each way cost time, nothing else.
    proxy.link(Link {
        latency_ms: 50,
        ..Link::default()
    });
    small(&world, 99);
    world.backup(store.clone()).unwrap();
    assert!(world.restore(store).unwrap() == world.files());
}

#[test]
fn limits_are_kept() {
    let server = Server::plain().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut o = of(dir.path(), &server);
    o.limit_upload = Some(1 << 20);
    o.limit_download = Some(1 << 20);
    let store = open(&o);
    let bytes = noise(1, 2 << 20);
    let name = Name::Pack(keepwatch_engine::ids::ObjectId::of(&bytes));
    let begun = Instant::now();
    store.put(&name, &bytes).unwrap();
    let up = begun.elapsed();
    assert!(store.get(&name, 4 << 20).unwrap() == bytes);
    let down = begun.elapsed() - up;
    // 2 MiB at 1 MiB a second; only a lower bound is sure on a busy machine.
    assert!(up >= Duration::from_millis(1500), "{up:?}");
    assert!(down >= Duration::from_millis(1500), "{down:?}");
}
