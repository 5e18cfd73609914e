//! Retention against the real restic: random policies on random parts of a repository, judged by `restic forget --dry-run
//! --json` and by us. The snapshots that are kept must be the same, and the reasons too.
//!
//! The repository is made once (`restic backup --time`, about a minute) and kept in cargo's target folder. Its snapshots carry
//! names of hosts; every set of hosts is one history, and grouping by host makes several at once.
//!
//! | variable | means | default |
//! |---|---|---|
//! | `KEEPWATCH_ORACLE_HISTORIES` | how many policies are tried | 12 |
//! | `KEEPWATCH_ORACLE_SEED` | which ones | 1 |
//! | `KEEPWATCH_REQUIRE_ORACLE` | `1`: fail when restic is not on PATH, instead of skipping | skip |
//!
//! What is adjusted by the version of restic (0.14, Debian 12's, and later):
//! - before 0.16 the oldest snapshot is not kept for counts that are left: our reasons `oldest …` are ignored. `unlimited` was not
//!   known: a count that is never reached stands for it.
//! - before 0.18 its texts do not tell `oldest` reasons from others.
//! - since 0.17 it refuses a policy that would drop a whole group, before that it drops the group: we keep its newest complete
//!   snapshot in both cases, for that reason alone, which is ignored here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use keepwatch_model::duration::CalendarSpan;
use keepwatch_model::retention::{Candidate, Count, Policy, Reason};
use keepwatch_model::time::Moment;
use serde_json::Value;

/// Raise it when [`recipe`] changes.
const RECIPE: u32 = 1;

// ---- the repository ----

/// A snapshot to make: host, zone, time by the clock of that zone, tags.
type Planned = (&'static str, &'static str, String, &'static str);

fn recipe() -> Vec<Planned> {
    let mut plan: Vec<Planned> = Vec::new();
    let mut add = |host, zone, times: &[&str], tags| {
        plan.extend(
            times
                .iter()
                .map(|time| (host, zone, (*time).to_owned(), tags)),
        );
    };
    // Bursts within hours and over their ends.
    let burst = [
        "2022-06-15 10:00:00",
        "2022-06-15 10:20:00",
        "2022-06-15 10:59:59",
        "2022-06-15 11:00:00",
        "2022-06-15 11:00:01",
    ];
    add("burst", "UTC", &burst, "");
    let burst = [
        "2022-06-15 23:59:59",
        "2022-06-16 00:00:00",
        "2022-06-16 00:00:30",
        "2022-06-16 09:15:00",
        "2022-06-16 09:45:00",
    ];
    add("burst", "UTC", &burst, "a");
    // The edges of ISO years: 2019-12-30 is in 2020-W01, 2021-01-03 in 2020-W53, 2022-01-02 in 2021-W52.
    let weeks = [
        "2019-12-29 12:00:00",
        "2019-12-30 12:00:00",
        "2020-01-05 23:30:00",
        "2020-01-06 00:30:00",
        "2020-12-27 12:00:00",
    ];
    add("weeks", "UTC", &weeks, "");
    let weeks = [
        "2020-12-28 12:00:00",
        "2021-01-01 12:00:00",
        "2021-01-03 23:59:00",
        "2021-01-04 00:01:00",
        "2022-01-02 12:00:00",
    ];
    add("weeks", "UTC", &weeks, "a,keep");
    // Ends of months and years, leap days.
    let months = [
        "2019-12-31 23:59:59",
        "2020-01-01 00:00:00",
        "2020-01-31 13:00:00",
        "2020-02-29 13:00:00",
        "2020-03-01 13:00:00",
    ];
    add("months", "UTC", &months, "");
    let months = [
        "2021-02-28 13:00:00",
        "2021-03-01 13:00:00",
        "2021-03-31 13:00:00",
        "2021-12-31 22:00:00",
        "2023-03-31 13:00:00",
    ];
    add("months", "UTC", &months, "b");
    // A fortnight of nights, with one that ran twice.
    let nights = [
        "2023-03-18 01:30:00",
        "2023-03-19 01:30:00",
        "2023-03-20 01:30:00",
        "2023-03-21 01:30:00",
        "2023-03-22 01:30:00",
    ];
    add("nights", "UTC", &nights, "");
    let nights = [
        "2023-03-23 01:30:00",
        "2023-03-24 01:30:00",
        "2023-03-24 15:00:00",
        "2023-03-25 01:30:00",
        "2023-03-26 01:30:00",
    ];
    add("nights", "UTC", &nights, "keep");
    // Every half year or so, from before the others.
    let years = [
        "2016-05-01 12:00:00",
        "2016-11-01 12:00:00",
        "2017-06-01 12:00:00",
        "2018-01-01 00:00:01",
        "2018-12-31 12:00:00",
    ];
    add("years", "UTC", &years, "");
    let years = [
        "2019-07-04 12:00:00",
        "2020-07-04 12:00:00",
        "2021-07-04 12:00:00",
        "2022-07-04 12:00:00",
        "2023-07-04 12:00:00",
    ];
    add("years", "UTC", &years, "a,b");
    // One night in many zones: the local date and hour go back and forth as time goes on.
    add(
        "zones",
        "Asia/Kathmandu",
        &[
            "2022-12-31 23:50:00",
            "2023-01-01 00:10:00",
            "2023-01-01 05:40:00",
        ],
        "",
    );
    add(
        "zones",
        "America/New_York",
        &[
            "2022-12-31 13:30:00",
            "2022-12-31 19:20:00",
            "2023-03-12 01:59:00",
            "2023-03-12 03:01:00",
        ],
        "b",
    );
    add(
        "zones",
        "Pacific/Kiritimati",
        &["2023-01-01 09:00:00", "2023-01-02 00:30:00"],
        "",
    );
    add(
        "zones",
        "Pacific/Pago_Pago",
        &["2022-12-31 10:00:00", "2022-12-31 23:40:00"],
        "keep,b",
    );
    plan
}

const HOSTS: [&str; 6] = ["burst", "weeks", "months", "nights", "years", "zones"];

/// Runs restic without its cache, with everything else given.
fn restic<A: AsRef<OsStr>>(repository: &Path, zone: &str, args: &[A]) -> Output {
    let mut child = Command::new("restic")
        .args(["--no-cache", "--repo"])
        .arg(repository)
        .args(args)
        .env_remove("RESTIC_HOST")
        .env("RESTIC_PASSWORD", "oracle")
        .env("TZ", zone)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("restic starts");
    if let Some(mut input) = child.stdin.take() {
        // It may not read its input; then this fails, and it does not matter.
        let _ = input.write_all(b"oracle\n");
    }
    child.wait_with_output().expect("restic ends")
}

fn succeed(output: Output) -> Vec<u8> {
    assert!(
        output.status.success(),
        "restic failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

struct Snap {
    id: String,
    host: String,
    time: Moment,
    tags: Vec<String>,
}

impl Candidate for &Snap {
    fn time(&self) -> Moment {
        self.time
    }
    fn tags(&self) -> &[String] {
        &self.tags
    }
    fn complete(&self) -> bool {
        true
    }
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// The snapshots, as restic reports them; none when there is no repository.
fn snapshots(repository: &Path) -> Vec<Snap> {
    let output = restic(repository, "UTC", &["--no-lock", "snapshots", "--json"]);
    let list: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list.iter()
        .map(|s| Snap {
            id: text(&s["id"]),
            host: text(&s["hostname"]),
            time: text(&s["time"])
                .parse()
                .expect("restic's times are RFC 3339"),
            tags: strings(&s["tags"]),
        })
        .collect()
}

/// Makes the repository, or takes the one of an earlier run.
fn repository() -> (PathBuf, Vec<Snap>) {
    let plan = recipe();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("oracle-restic-{RECIPE}"));
    let found = if kept.exists() {
        snapshots(&kept)
    } else {
        Vec::new()
    };
    if found.len() == plan.len() {
        return (kept, found);
    }
    println!(
        "making a restic repository of {} snapshots in {}",
        plan.len(),
        kept.display()
    );
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
    let new = scratch.path().join("repository");
    succeed(restic(&new, "UTC", &["init"]));
    let make = |(host, zone, time, tags): &Planned| {
        let mut args = vec!["backup", "--stdin", "--host", host, "--time", time];
        if !tags.is_empty() {
            args.extend(["--tag", tags]);
        }
        succeed(restic(&new, zone, &args));
    };
    std::thread::scope(|threads| {
        let (left, right) = plan.split_at(plan.len() / 2);
        threads.spawn(|| left.iter().for_each(make));
        right.iter().for_each(make);
    });
    let made = snapshots(&new);
    assert_eq!(made.len(), plan.len(), "every backup made one snapshot");
    // Another run may have been faster; a broken one is replaced.
    if kept.exists() && snapshots(&kept).len() != plan.len() {
        let _ = fs::remove_dir_all(&kept);
    }
    if fs::rename(&new, &kept).is_err() {
        let found = snapshots(&kept);
        assert_eq!(
            found.len(),
            plan.len(),
            "the repository of another run is whole"
        );
        return (kept, found);
    }
    (kept, made)
}

// ---- random policies ----

/// Vigna's xorshift64*: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u32) -> u32 {
        u32::try_from((self.next() >> 33) % u64::from(n)).expect("below n")
    }

    fn count(&mut self) -> Count {
        match self.below(20) {
            0..=11 => Count::Limit(0),
            12 => Count::Unlimited,
            13 => Count::Limit(20 + self.below(50)),
            _ => Count::Limit(1 + self.below(8)),
        }
    }

    fn span(&mut self) -> CalendarSpan {
        let mut span = CalendarSpan::default();
        if self.below(4) == 0 {
            for _ in 0..1 + self.below(2) {
                match self.below(4) {
                    0 => span.years = self.below(6),
                    1 => span.months = self.below(30),
                    2 => span.days = self.below(60),
                    _ => span.hours = self.below(100),
                }
            }
        }
        span
    }

    fn tags(&mut self) -> Vec<Vec<String>> {
        if self.below(5) != 0 {
            return Vec::new();
        }
        let lists = ["a", "b", "keep", "a,b", "a,keep", "absent", "", ",a", "a,"];
        (0..1 + self.below(2))
            .map(|_| keepwatch_model::retention::parse_tags(lists[self.below(9) as usize]))
            .collect()
    }

    fn policy(&mut self) -> Policy {
        loop {
            let policy = if self.below(10) == 0 {
                Policy {
                    tags: self.tags(),
                    ..Policy::default()
                }
            } else {
                Policy {
                    last: self.count(),
                    hourly: self.count(),
                    daily: self.count(),
                    weekly: self.count(),
                    monthly: self.count(),
                    yearly: self.count(),
                    within: self.span(),
                    within_hourly: self.span(),
                    within_daily: self.span(),
                    within_weekly: self.span(),
                    within_monthly: self.span(),
                    within_yearly: self.span(),
                    tags: self.tags(),
                }
            };
            if !policy.is_empty() {
                return policy;
            }
        }
    }
}

// ---- the comparison ----

type Version = (u32, u32);

fn version() -> Option<Version> {
    let output = Command::new("restic").arg("version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.strip_prefix("restic ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn flags(policy: &Policy, version: Version) -> Vec<String> {
    let mut args = Vec::new();
    for (name, count) in [
        ("last", policy.last),
        ("hourly", policy.hourly),
        ("daily", policy.daily),
        ("weekly", policy.weekly),
        ("monthly", policy.monthly),
        ("yearly", policy.yearly),
    ] {
        match count {
            Count::Limit(0) => {}
            Count::Unlimited if version < (0, 16) => args.push(format!("--keep-{name}=1000000")),
            count => args.push(format!("--keep-{name}={count}")),
        }
    }
    for (name, span) in [
        ("within", policy.within),
        ("within-hourly", policy.within_hourly),
        ("within-daily", policy.within_daily),
        ("within-weekly", policy.within_weekly),
        ("within-monthly", policy.within_monthly),
        ("within-yearly", policy.within_yearly),
    ] {
        if !span.is_zero() {
            args.push(format!("--keep-{name}={span}"));
        }
    }
    args.extend(
        policy
            .tags
            .iter()
            .map(|tags| format!("--keep-tag={}", tags.join(","))),
    );
    args
}

/// A reason in restic's words; `None` when that version of restic does not have it.
fn words(reason: &Reason, version: Version) -> Option<String> {
    let oldest = match reason {
        Reason::Count { oldest, .. } | Reason::WithinPeriod { oldest, .. } => *oldest,
        Reason::NewestComplete => return None,
        _ => false,
    };
    if oldest && version < (0, 16) {
        return None;
    }
    let prefix = if oldest && version >= (0, 18) {
        "oldest "
    } else {
        ""
    };
    Some(match reason {
        Reason::Tags { tags } => format!("has tags [{}]", tags.join(", ")),
        Reason::Within { span } => format!("within {span}"),
        Reason::Count { period, .. } => format!("{prefix}{period} snapshot"),
        Reason::WithinPeriod { period, span, .. } => format!("{prefix}{period} within {span}"),
        other => other.to_string(),
    })
}

/// What is kept, by snapshot id, and why; and what is dropped.
#[derive(Debug, Default, PartialEq)]
struct Verdict {
    keep: BTreeMap<String, Vec<String>>,
    remove: BTreeSet<String>,
}

fn theirs(output: &[u8]) -> Verdict {
    let groups: Vec<Value> = serde_json::from_slice(output).expect("restic prints JSON");
    let mut verdict = Verdict::default();
    let id = |snapshot: &Value| snapshot["id"].as_str().expect("an id").to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for group in &groups {
        // The reasons stand in the order of what is kept.
        for (snapshot, reason) in list(&group["keep"]).iter().zip(list(&group["reasons"])) {
            verdict
                .keep
                .insert(id(snapshot), strings(&reason["matches"]));
        }
        verdict.remove.extend(list(&group["remove"]).iter().map(id));
    }
    verdict
}

/// Our verdict in restic's terms, and whether it leaves nothing of some group.
fn ours(policy: &Policy, groups: &[Vec<&Snap>], now: Moment, version: Version) -> (Verdict, bool) {
    let mut verdict = Verdict::default();
    let mut emptied = false;
    for group in groups {
        let before = verdict.keep.len();
        for decision in policy.apply(group, now) {
            let id = group[decision.index].id.clone();
            let reasons: Vec<String> = decision
                .reasons
                .iter()
                .filter_map(|r| words(r, version))
                .collect();
            if reasons.is_empty() {
                verdict.remove.insert(id);
            } else {
                verdict.keep.insert(id, reasons);
            }
        }
        emptied |= !group.is_empty() && verdict.keep.len() == before;
    }
    (verdict, emptied)
}

#[derive(Default)]
struct Totals {
    groups: usize,
    kept: usize,
    removed: usize,
    refused: usize,
}

fn compare(
    seed: u64,
    repository: &Path,
    all: &[Snap],
    now: Moment,
    version: Version,
    totals: &mut Totals,
) {
    // Spread the seeds, and leave out zero, which xorshift never leaves.
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    random.next();
    let policy = random.policy();
    let chosen = 1 + random.below(63);
    let hosts: Vec<&str> = HOSTS
        .iter()
        .enumerate()
        .filter(|(i, _)| chosen >> i & 1 == 1)
        .map(|(_, h)| *h)
        .collect();
    let by_host = random.below(3) == 0;

    let groups: Vec<Vec<&Snap>> = if by_host {
        hosts
            .iter()
            .map(|host| all.iter().filter(|s| s.host == *host).collect())
            .collect()
    } else {
        vec![
            all.iter()
                .filter(|s| hosts.contains(&s.host.as_str()))
                .collect(),
        ]
    };
    let (ours, emptied) = ours(&policy, &groups, now, version);

    let mut args: Vec<String> = ["--no-lock", "forget", "--dry-run", "--json"]
        .map(str::to_owned)
        .into();
    args.push(format!("--group-by={}", if by_host { "host" } else { "" }));
    args.extend(hosts.iter().map(|host| format!("--host={host}")));
    args.extend(flags(&policy, version));
    let output = restic(repository, "UTC", &args);
    totals.groups += groups.len();
    if emptied && version >= (0, 17) {
        let message = String::from_utf8_lossy(&output.stderr);
        let refused =
            !output.status.success() && message.contains("refusing to delete last snapshot");
        assert!(
            refused,
            "seed {seed}: restic was expected to refuse {args:?}: {message}"
        );
        totals.refused += 1;
        return;
    }
    let theirs = theirs(&succeed(output));
    assert_eq!(
        ours, theirs,
        "seed {seed}: ours (left) and restic's (right) differ for {args:?}"
    );
    totals.kept += theirs.keep.len();
    totals.removed += theirs.remove.len();
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number"))
    })
}

#[test]
fn the_decisions_are_those_of_restic() {
    let Some(version) = version() else {
        assert!(
            std::env::var("KEEPWATCH_REQUIRE_ORACLE").as_deref() != Ok("1"),
            "KEEPWATCH_REQUIRE_ORACLE=1, but restic is not installed"
        );
        // Past the capture of the test harness, so that it is seen.
        let _ = writeln!(
            std::io::stderr(),
            "\n*** oracle_restic: skipped: restic not installed ***"
        );
        return;
    };
    let (repository, all) = repository();
    let times: BTreeSet<Moment> = all.iter().map(|s| s.time).collect();
    assert_eq!(
        times.len(),
        all.len(),
        "restic sorts equal times at random, so all must differ"
    );
    let offsets: BTreeSet<i32> = all.iter().map(|s| s.time.offset_seconds()).collect();
    assert!(
        offsets.len() > 4,
        "the time zones are installed (tzdata): {offsets:?}"
    );

    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    let now = Moment::from_parts(i64::try_from(since.as_secs()).expect("a clock"), 0, 0)
        .expect("a clock");
    let histories = number("KEEPWATCH_ORACLE_HISTORIES", 12);
    let first = number("KEEPWATCH_ORACLE_SEED", 1);
    let run = |offset: u64| {
        let mut totals = Totals::default();
        for seed in (first + offset..first + histories).step_by(2) {
            compare(seed, &repository, &all, now, version, &mut totals);
        }
        totals
    };
    let (a, b) = std::thread::scope(|threads| {
        let other = threads.spawn(|| run(1));
        let mine = run(0);
        (
            mine,
            other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    });
    println!(
        "restic {}.{}: {histories} policies, {} groups, {} kept, {} removed, {} refused by restic; no difference",
        version.0,
        version.1,
        a.groups + b.groups,
        a.kept + b.kept,
        a.removed + b.removed,
        a.refused + b.refused
    );
}
