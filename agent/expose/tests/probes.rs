//! The probes: their truth tables, bodies, and what is asked and answered over real sockets, TCP and unix.

mod common;

use std::time::Duration;

use common::*;
use keepwatch_expose::facts::{At, Facts};
use keepwatch_expose::limits::Limits;
use keepwatch_expose::probes::{self, Options, Shown, Status};
use keepwatch_expose::server::{Listen, Order};
use keepwatch_expose::summary;
use keepwatch_model::check::{CheckKind, Overlay, Severity, State};
use serde_json::Value;

const AT: Duration = Duration::from_secs(1000);

fn with(severity: Severity, state: State) -> Facts {
    let mut f = idle();
    f.checks
        .push(check("db", CheckKind::Postgresql, severity, state));
    f
}

#[test]
fn live_looks_at_the_tick_and_at_nothing_else() {
    for (now, status) in [
        (1000, Status::Healthy),
        (1029, Status::Healthy),
        (1030, Status::Unhealthy),
        (9999, Status::Unhealthy),
        (0, Status::Healthy),
    ] {
        assert_eq!(
            probes::live(&idle(), Duration::from_secs(now)).status,
            status,
            "{now}"
        );
    }
    // Everything else broken.
    let mut f = with(Severity::Critical, State::Unhealthy);
    f.agent.database_ready = false;
    f.agent.database_writable = false;
    f.agent.config_loaded = false;
    f.agent.draining = true;
    assert_eq!(probes::live(&f, AT).status, Status::Healthy);
    assert_eq!(
        probes::live(&Facts::default(), AT).status,
        Status::Unhealthy
    );
}

#[test]
fn startup_waits_for_what_it_says_and_is_latched() {
    let ok = |f: &Facts, now| {
        probes::startup(f, Duration::from_secs(now), false, Shown::Names).status == Status::Healthy
    };
    assert!(ok(&idle(), 901));
    let mut f = idle();
    f.agent.config_loaded = false;
    assert!(!ok(&f, 9999));
    let mut f = idle();
    f.agent.database_ready = false;
    assert!(!ok(&f, 9999));
    assert_eq!(
        probes::startup(&f, AT, true, Shown::Names).status,
        Status::Healthy,
        "latched"
    );
    let mut f = with(Severity::Critical, State::Unknown);
    f.checks[0].last_run = None;
    assert!(
        !ok(&f, 901) && !ok(&f, 1019) && ok(&f, 1020),
        "the deadline"
    );
    assert!(
        probes::startup(&f, Duration::from_secs(901), false, Shown::Names)
            .message
            .contains("db")
    );
    f.checks[0].overlay = Some(Overlay::Disabled);
    assert!(ok(&f, 901));
    let mut f = with(Severity::Warning, State::Unknown);
    f.checks[0].last_run = None;
    assert!(ok(&f, 901), "only critical checks are waited for");
}

#[test]
fn ready_by_table() {
    use Severity::{Critical, Info, Warning};
    use State::{Degraded as Deg, Healthy as Well, Unhealthy as Down, Unknown as Unk};
    for (severity, state, status) in [
        (Critical, Well, Status::Healthy),
        (Critical, Deg, Status::Degraded),
        (Critical, Down, Status::Unhealthy),
        (Critical, Unk, Status::Unhealthy),
        (Warning, Down, Status::Degraded),
        (Info, Down, Status::Degraded),
        (Warning, Well, Status::Healthy),
    ] {
        let f = with(severity, state);
        let v = probes::ready(&f, true, false, &Options::default(), Shown::Names);
        assert_eq!(v.status, status, "{severity} {state}");
        let list = |key: &str| v.details[key].as_array().unwrap().len();
        assert_eq!(
            list("critical_failures"),
            usize::from(severity == Critical && status == Status::Unhealthy)
        );
        assert_eq!(
            list("non_critical_failures"),
            usize::from(severity != Critical && state == Down)
        );
        assert_eq!(v.details["dependencies"][0]["name"], "db");
        assert_eq!(
            v.details["dependencies"][0]["critical"],
            severity == Critical
        );
        assert!(v.details["dependencies"][0].get("reason").is_none());
    }
    let well = with(Critical, Well);
    let status = |f: &Facts, started, draining| {
        probes::ready(f, started, draining, &Options::default(), Shown::Names).status
    };
    assert_eq!(status(&well, false, false), Status::Unhealthy);
    assert_eq!(status(&well, true, true), Status::Unhealthy);
    let mut f = well.clone();
    f.agent.database_writable = false;
    assert_eq!(status(&f, true, false), Status::Unhealthy);
    let mut f = well.clone();
    f.agent.draining = true;
    assert_eq!(status(&f, true, false), Status::Unhealthy);
    // Disabled does not count; maintenance hides alerts, not the truth.
    let mut f = with(Critical, Down);
    f.checks[0].overlay = Some(Overlay::Disabled);
    assert_eq!(status(&f, true, false), Status::Healthy);
    f.checks[0].overlay = Some(Overlay::Maintenance);
    assert_eq!(status(&f, true, false), Status::Unhealthy);
    // Left out by name.
    let f = with(Critical, Down);
    let options = Options {
        exclude: ["db".parse().unwrap(), "nobody".parse().unwrap()].into(),
        verbose: true,
    };
    let v = probes::ready(&f, true, false, &options, Shown::Names);
    assert_eq!(v.status, Status::Healthy);
    assert_eq!(v.details["excluded_unknown"], serde_json::json!(["nobody"]));
    assert_eq!(v.details["dependencies"][0]["reason"], "status");
    assert_eq!(v.details["dependencies"][0]["excluded"], true);
    let text = v.body(At(NOW), Duration::from_micros(1500)).to_string();
    assert!(
        !text.contains("secret-text-of-a-service"),
        "no text of a service without a token"
    );
    assert!(text.contains("\"duration_ms\":1.5"), "{text}");
}

#[test]
fn the_older_form_is_flat() {
    let mut f = with(Severity::Critical, State::Healthy);
    f.checks.push(check(
        "status",
        CheckKind::Http,
        Severity::Warning,
        State::Unhealthy,
    ));
    let (code, body) = probes::health(&f, true, false, Shown::Names);
    assert_eq!(
        (code, body),
        (
            200,
            serde_json::json!({"status": "ok", "db": "healthy", "check:status": "unhealthy"})
        )
    );
    let (code, body) = probes::health(&f, true, true, Shown::Names);
    assert_eq!((code, &body["status"]), (503, &Value::from("unavailable")));
}

#[test]
fn detailed_is_as_bad_as_its_worst() {
    let status = |f: &Facts| summary::detailed(f, At(NOW), AT, true, false).status;
    assert_eq!(status(&idle()), Status::Healthy);
    assert_eq!(
        status(&with(Severity::Warning, State::Unhealthy)),
        Status::Degraded
    );
    assert_eq!(
        status(&with(Severity::Critical, State::Unhealthy)),
        Status::Unhealthy
    );
    let mut f = idle();
    f.agent.tick = Duration::from_secs(1);
    assert_eq!(status(&f), Status::Unhealthy);
    let mut f = idle();
    f.backups = busy(0).backups;
    assert_eq!(status(&f), Status::Healthy);
    f.backups[0].last_success = Some(At(1));
    assert_eq!(status(&f), Status::Degraded);
    let v = summary::detailed(&busy(50), At(NOW), AT, true, false);
    assert_eq!(v.details["health_score"], 87.5);
    assert_eq!(v.details["checks"].as_array().unwrap().len(), 50);
    assert_eq!(v.details["restarts"][0]["gave_up"], true);
    assert_eq!(v.details["restarts"][0]["cooling_down"], true);
    assert_eq!(v.details["backups"][0]["fresh"], true);
}

#[tokio::test]
async fn over_tcp() {
    let mut f = busy(5);
    f.checks.iter_mut().for_each(|c| c.state = State::Healthy);
    let clock = TestClock::by_hand(AT);
    let s = start(settings(Limits::default()), f.clone(), clock.clone());
    for path in [
        "/health",
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/metrics",
        "/health/ready?verbose&exclude=web,db&timeout=1s",
    ] {
        let (status, head, body) = get(s.address, path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(
            head.contains("cache-control: no-store")
                && head.contains("x-content-type-options: nosniff"),
            "{head}"
        );
        let kind = if path == "/metrics" {
            "content-type: text/plain; version=0.0.4; charset=utf-8"
        } else {
            "content-type: application/json"
        };
        assert!(head.contains(kind), "{head}");
        if path.starts_with("/health/") {
            let v: Value = serde_json::from_str(&body).unwrap();
            for key in [
                "status",
                "check_type",
                "message",
                "details",
                "timestamp",
                "duration_ms",
            ] {
                assert!(v.get(key).is_some(), "{path} has no {key}");
            }
            assert_eq!(v["timestamp"], "2025-10-09T08:53:20Z");
        }
        // HEAD: the same without a body.
        let (status, head, body) = split(
            &raw(
                s.address,
                format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await,
        );
        assert_eq!((status, body.as_str()), (200, ""));
        assert!(
            head.contains("content-length: ") && !head.contains("content-length: 0"),
            "{head}"
        );
    }
    for path in [
        "/",
        "/health/",
        "/Metrics",
        "/health/live/x",
        "//metrics",
        "/metrics/",
    ] {
        assert_eq!(get(s.address, path, "").await.0, 404, "{path}");
    }
    for path in [
        "/health/ready?exclude=a%20b",
        "/health/ready?exclude=../x",
        &format!(
            "/health/ready?exclude={}",
            (0..65).map(|n| format!("c{n},")).collect::<String>()
        ),
    ] {
        assert_eq!(get(s.address, path, "").await.0, 400, "{path}");
    }
    // What maps the host is closed without a token.
    for path in ["/health/detailed", "/resources/status", "/restart/status"] {
        let (status, _, body) = get(s.address, path, "Authorization: Bearer x\r\n").await;
        assert_eq!(status, 403, "{path}");
        assert!(!body.contains("usual-name"), "{body}");
    }
    // A dependency goes down: ready turns, live does not. Facts may be replaced at any time.
    f.checks[0].state = State::Unhealthy;
    s.facts.send_replace(f.clone().into());
    assert_eq!(get(s.address, "/health/ready", "").await.0, 503);
    assert_eq!(get(s.address, "/health", "").await.0, 503);
    assert_eq!(get(s.address, "/health/live", "").await.0, 200);
    assert_eq!(get(s.address, "/health/startup", "").await.0, 200);
    f.checks[0].state = State::Healthy;
    f.agent.config_loaded = false;
    s.facts.send_replace(f.into());
    assert_eq!(
        get(s.address, "/health/startup", "").await.0,
        200,
        "latched"
    );
    // The scheduler hangs.
    clock.set(AT + Duration::from_secs(31));
    assert_eq!(get(s.address, "/health/live", "").await.0, 503);
    clock.set(AT);
    // About to stop: not ready, still answering.
    s.orders.send(Order::Drain).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(get(s.address, "/health/ready", "").await.0, 503);
    assert_eq!(get(s.address, "/health/live", "").await.0, 200);
    let (_, _, metrics) = get(s.address, "/metrics", "").await;
    for line in [
        "keepwatch_http_requests_total{path=\"/health/ready\",code=\"503\"} 2",
        "keepwatch_http_requests_total{path=\"/health/ready\",code=\"400\"} 3",
        "keepwatch_http_requests_total{path=\"other\",code=\"404\"} 6",
        "keepwatch_http_requests_total{path=\"/health/detailed\",code=\"403\"} 1",
    ] {
        assert!(
            metrics.lines().any(|l| l == line),
            "{line} is not in\n{metrics}"
        );
    }
    s.stop().await;
}

#[tokio::test]
async fn with_a_token_and_over_a_unix_socket() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let dir = tempfile::tempdir().unwrap();
    let (token, socket) = (dir.path().join("token"), dir.path().join("s.sock"));
    std::fs::write(&token, "0123456789abcdef0123\n").unwrap();
    // What a crash left behind is replaced.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut set = settings(Limits::default());
    set.token_file = Some(token.clone());
    set.listen.push(Listen::Unix(socket.clone()));
    let s = start(set.clone(), busy(3), TestClock::by_hand(AT));
    let ask = |auth: &'static str| get(s.address, "/resources/status", auth);
    for (auth, status) in [
        ("", 401),
        ("Authorization: Bearer wrong\r\n", 401),
        ("Authorization: Basic 0123456789abcdef0123\r\n", 401),
        ("Authorization: 0123456789abcdef0123\r\n", 401),
        ("Authorization: Bearer 0123456789abcdef0123\r\n", 200),
        ("authorization: bearer  0123456789abcdef0123 \r\n", 200),
    ] {
        let (got, head, body) = ask(auth).await;
        assert_eq!(got, status, "{auth}");
        if status == 401 {
            assert!(head.contains("www-authenticate: bearer"));
        } else {
            let v: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(v["health_score"], 87.5);
            assert_eq!(v["memory"]["available_ratio"], 0.25);
            assert!(
                v["recommendations"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|r| r.as_str().unwrap().contains("unit-0.service"))
            );
        }
    }
    let (status, _, body) = get(
        s.address,
        "/restart/status",
        "Authorization: Bearer 0123456789abcdef0123\r\n",
    )
    .await;
    let v: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &v["given_up"]),
        (200, &serde_json::json!(["unit-0.service"]))
    );
    // A new token after a reload; without a file nobody is let in.
    std::fs::write(&token, "another-token-of-length\n").unwrap();
    s.orders.send(Order::Reload(1)).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        ask("Authorization: Bearer 0123456789abcdef0123\r\n")
            .await
            .0,
        401
    );
    assert_eq!(
        ask("Authorization: Bearer another-token-of-length\r\n")
            .await
            .0,
        200
    );
    std::fs::remove_file(&token).unwrap();
    s.orders.send(Order::Reload(2)).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        ask("Authorization: Bearer another-token-of-length\r\n")
            .await
            .0,
        401
    );
    // The unix socket needs none; its mode says who may open it.
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(
        std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    let mut u = tokio::net::UnixStream::connect(&socket).await.unwrap();
    u.write_all(b"GET /health/detailed HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut out = String::new();
    u.read_to_string(&mut out).await.unwrap();
    let (_, _, body) = split(&out);
    let v: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(v["details"]["host"], "h1");
    // One that somebody listens on is not taken over.
    let (_, facts) = tokio::sync::watch::channel(std::sync::Arc::new(idle()));
    let taken = keepwatch_expose::server::Server::bind(
        keepwatch_expose::server::Settings {
            listen: vec![Listen::Unix(socket.clone())],
            ..set
        },
        facts,
        TestClock::real(),
        s.counters.clone(),
    );
    assert!(
        taken
            .err()
            .unwrap()
            .to_string()
            .contains("cannot listen on unix:")
    );
    s.stop().await;
    assert!(!socket.exists());
}

/// What a check of [`busy`] is called.
const NAME: &str = "check-with-a-usual-name";

/// An address that is not loopback, and that only this host can reach: the one that it has towards others. None without a network.
fn address_towards_others() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: connecting only looks up the way.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test]
async fn strangers_need_the_token_and_neighbours_do_not() {
    const TOKEN: &str = "Authorization: Bearer 0123456789abcdef0123\r\n";
    const WRONG: &str = "Authorization: Bearer 0123456789abcdef0124\r\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "0123456789abcdef0123\n").unwrap();
    let mut facts = busy(6);
    facts.checks.iter_mut().for_each(|c| {
        c.severity = Severity::Critical;
        c.state = State::Unhealthy;
    });
    // The door is the address that is listened on: here all of them, asked over loopback.
    let serve = |token: bool, any: bool, facts: &keepwatch_expose::facts::Facts| {
        let mut set = settings(Limits::default());
        set.token_file = token.then(|| file.clone());
        if any {
            set.listen = vec![Listen::Tcp("0.0.0.0:0".parse().unwrap())];
        }
        let mut s = start(set, facts.clone(), TestClock::by_hand(AT));
        s.address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        s
    };
    let probes = [
        "/health",
        "/health/live",
        "/health/ready",
        "/health/ready?verbose&exclude=check-with-a-usual-name-1,none",
        "/health/startup",
    ];
    let mut never_ran = facts.clone();
    never_ran.agent.started = AT;
    never_ran.checks.iter_mut().for_each(|c| c.last_run = None);
    for facts in [&facts, &never_ran] {
        let s = serve(true, true, facts);
        let mut addresses = vec![s.address];
        addresses.extend(
            address_towards_others().map(|ip| std::net::SocketAddr::from((ip, s.address.port()))),
        );
        for address in addresses {
            for wrong in ["", WRONG] {
                for path in [
                    "/metrics",
                    "/health/detailed",
                    "/resources/status",
                    "/restart/status",
                ] {
                    let (status, head, body) = get(address, path, wrong).await;
                    assert_eq!(status, 401, "{path} {wrong}: {body:.200}");
                    assert!(head.contains("www-authenticate: bearer"), "{head}");
                    assert!(!body.contains(NAME) && body.len() < 200, "{body}");
                }
                for path in probes {
                    let (status, _, body) = get(address, path, wrong).await;
                    assert!([200, 503].contains(&status), "{path}: {body}");
                    let guessed = body.replace("check-with-a-usual-name-1,none", "");
                    assert!(!guessed.contains(NAME), "{path} {wrong}: {body}");
                    let v: Value = serde_json::from_str(&body).unwrap();
                    assert!(v["status"].is_string(), "{body}");
                }
            }
            let (status, _, page) = get(address, "/metrics", TOKEN).await;
            assert!(status == 200 && page.contains(NAME));
            let ready = get(address, "/health/ready", "").await;
            let named = get(address, "/health/ready", TOKEN).await;
            assert_eq!((ready.0, named.0), (503, 503), "the same verdict for both");
            assert!(named.2.contains(NAME), "{}", named.2);
            let (ready, named): (Value, Value) = (
                serde_json::from_str(&ready.2).unwrap(),
                serde_json::from_str(&named.2).unwrap(),
            );
            assert_eq!(ready["details"]["critical_failures_count"], 6);
            assert_eq!(
                named["details"]["critical_failures"][5],
                format!("{NAME}-5")
            );
            assert!(get(address, "/health", TOKEN).await.2.contains(NAME));
        }
        s.stop().await;
        // On loopback Prometheus and the probes of an orchestrator need none; what maps the host does. So does a port for all without
        // a token file, of which the configuration warns; what maps the host then stays shut.
        for (token, any, refused) in [(true, false, 401), (false, false, 403), (false, true, 403)] {
            let s = serve(token, any, facts);
            for wrong in ["", WRONG] {
                let (status, _, page) = get(s.address, "/metrics", wrong).await;
                assert!(status == 200 && page.contains(NAME), "{status}");
                assert!(get(s.address, "/health", wrong).await.2.contains(NAME));
                assert!(
                    get(s.address, "/health/ready", wrong)
                        .await
                        .2
                        .contains(NAME)
                );
                for path in ["/health/detailed", "/resources/status", "/restart/status"] {
                    assert_eq!(get(s.address, path, wrong).await.0, refused, "{path}");
                }
            }
            s.stop().await;
        }
    }
}
