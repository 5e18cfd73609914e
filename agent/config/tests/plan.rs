//! What the watcher takes of a configuration: the same defaults as its own, every check of the example, and no connection made.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keepwatch_config::plan::Tools;
use keepwatch_config::{Credentials, EXAMPLE, Loaded, parse};
use keepwatch_model::check::{CheckKind, Severity};
use keepwatch_watch::clock::{At, HostClock};
use keepwatch_watch::conductor::{Check, Plan};
use keepwatch_watch::maintenance::Covers;
use keepwatch_watch::net::Net;
use keepwatch_watch::restart::policy::{Step, UnitRules};
use keepwatch_watch::systemd::Systemd;

fn loaded(text: &str) -> Loaded {
    parse(text, "c.toml").unwrap_or_else(|faults| panic!("{faults}"))
}

fn plan(text: &str, credentials: &Credentials) -> Result<Plan, Vec<String>> {
    let net = Net::new(Arc::new(HostClock));
    let systemd = Arc::new(Systemd::default());
    loaded(text).config.plan(
        "host",
        &Tools {
            net: &net,
            systemd: &systemd,
            credentials,
        },
    )
}

fn some() -> Credentials {
    Credentials(Some(PathBuf::from("/run/credentials/x")))
}

#[test]
fn the_example_becomes_a_plan() {
    let plan = plan(EXAMPLE, &some()).unwrap();
    assert_eq!(plan.host, "host");
    let find = |name: &str| {
        plan.checks
            .iter()
            .find(|c| c.name.as_str() == name)
            .unwrap()
    };
    let web = find("web");
    assert_eq!(
        (web.ask.kind(), web.severity, web.enabled),
        (CheckKind::Http, Severity::Critical, true)
    );
    assert_eq!(web.depends_on[0].as_str(), "app-db");
    assert_eq!(web.unit.as_ref().unwrap().as_str(), "shop.service");
    assert_eq!(
        (
            web.rules.bands.len(),
            web.rules.bands[0].warn,
            web.rules.bands[0].fail
        ),
        (1, Some(1.0), Some(5.0))
    );
    assert_eq!(find("shop").ask.kind(), CheckKind::Group);
    assert_eq!(find("nightly-report").ask.kind(), CheckKind::Heartbeat);
    let rules = plan.units.values().next().unwrap();
    assert_eq!(rules.settle, Duration::from_secs(15));
    assert!(
        matches!(&rules.escalation[..], [Step::Unit, Step::Dependants(units), Step::Command(name)] if units[0].as_str() == "shop-worker.service" && name == "clear-cache")
    );
    let window = &plan.windows[0];
    assert!(matches!(&window.covers, Covers::Checks(names) if names.len() == 1));
    // Tuesday 3 o'clock in Berlin in winter is 2 o'clock UTC: 2026-01-06 02:30.
    let then: jiff::Timestamp = "2026-01-06T02:30:00Z".parse().unwrap();
    assert!(window.open_since(At::from(then)).is_some());

    let loaded = loaded(EXAMPLE);
    let units: Vec<&str> = loaded
        .config
        .restartable()
        .iter()
        .map(|u| u.as_str())
        .collect();
    assert_eq!(units, ["shop-worker.service", "shop.service"]);
    assert_eq!(
        loaded.config.programs()["clear-cache"].argv,
        ["/usr/local/bin/clear-cache", "--all"]
    );
}

/// What is documented as a default is the watcher's own.
#[test]
fn defaults_are_those_of_the_watcher() {
    for interval in ["1s", "5s", "30s", "1h"] {
        let plan = plan(&format!("[checks.c]\nprobe.command.argv = ['/bin/true']\ninterval = '{interval}'\n[restarts.'u.service']\n"), &some()).unwrap();
        let ours = &plan.checks[0];
        let theirs = Check::new(ours.name.clone(), ours.ask.clone(), ours.rules.interval);
        assert_eq!(
            (
                ours.timeout,
                ours.retry_interval,
                ours.severity,
                ours.enabled
            ),
            (
                theirs.timeout,
                theirs.retry_interval,
                theirs.severity,
                theirs.enabled
            ),
            "{interval}"
        );
        assert_eq!(ours.rules, theirs.rules);
        assert_eq!(plan.units.values().next().unwrap(), &UnitRules::default());
    }
}

#[test]
fn a_credential_needs_a_process_that_has_them() {
    let text = "[checks.c]\nprobe.redis = { target = 'h:6379', password_file = 'credential:redis' }\n[checks.d]\nprobe.redis = { target = 'h:6379', password_file = '/run/secret' }\n";
    assert_eq!(plan(text, &some()).unwrap().checks.len(), 2);
    let faults = plan(text, &Credentials(None)).unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].starts_with("the check c: ") && faults[0].contains("credential:redis"),
        "{faults:?}"
    );
}

/// Every kind of probe can be made of what its table lets through.
#[test]
fn every_kind_can_be_made() {
    let kinds = [
        "http = { url = 'https://h/x', json = [{ pointer = '/a', min = 1 }], bearer_token_file = '/t' }",
        "tcp = { target = '[::1]:80', send = \"x\\r\\n\", expect = '^220', tls = {} }",
        "postgresql = { target = 'h:5432', user = 'u', role = 'standby' }",
        "redis = { target = 'unix:/run/redis.sock' }",
        "mysql = { target = 'h:3306', user = 'u' }",
        "qdrant = { collections = ['a'], min_collections = 1 }",
        "ollama = { models = ['llama3'] }",
        "systemd = { unit = 'x.service', states = ['active', 'inactive'] }",
        "disk = { path = '/' }",
        "memory = {}",
        "pressure = {}",
        "load = {}",
        "tls = { file = '/c.pem' }",
        "dns = { name = 'example.org', server = '127.0.0.1', record = 'AAAA', expect = ['::1'] }",
        "command = { argv = ['/bin/true'], env = { A = 'b' }, success = [3], degraded = [1] }",
        "sqlite = { path = '/x.db', full = true }",
        "heartbeat = { period = '1d' }",
        "group = { members = ['c0', 'c1'], need = { at_least = 1 } }",
    ];
    let text: String = kinds
        .iter()
        .enumerate()
        .map(|(n, k)| format!("[checks.c{n}]\nprobe.{k}\n"))
        .collect();
    let plan = plan(&text, &some()).unwrap_or_else(|f| panic!("{f:?}"));
    let mut made: Vec<CheckKind> = plan.checks.iter().map(|c| c.ask.kind()).collect();
    made.sort_unstable();
    let mut all = CheckKind::ALL.to_vec();
    all.sort_unstable();
    assert_eq!(made, all);
}
