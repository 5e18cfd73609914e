//! Five hundred nasty texts in every stored field come back byte for byte (within the bounds of the fields).

use keepwatch_catalog::events::{self, EventFilter};
use keepwatch_catalog::runs::{self, RunFilter};
use keepwatch_catalog::{
    CLUSTERS_MAX, NAME_MAX, RESULT_TEXT_MAX, TEXT_MAX, checks, counters, facts, states,
};
use keepwatch_model::checks::{CheckOutcome, CheckState, FailureReason};
use keepwatch_model::history::Entry;
use keepwatch_model::ids::{EventId, IncidentId};
use keepwatch_model::incidents::*;
use keepwatch_model::runs::*;

use crate::support::*;

const COUNT: usize = 500;

/// Injections, broken encodings' remains, control and invisible characters, and what random choice makes of them.
fn texts(dice: &Dice) -> Vec<String> {
    let mut out: Vec<String> = [
        "'",
        "\"",
        "''",
        "\\",
        "\\'",
        "\\\\",
        "`",
        ";",
        "--",
        "/*",
        "*/",
        "#",
        "%",
        "_",
        "$1",
        "$$",
        "?",
        "?1",
        ":a",
        "@a",
        "{}",
        "{0}",
        "%s",
        "%n",
        "' OR '1'='1",
        "' OR 1=1 --",
        "\" OR \"\"=\"",
        "'; DROP TABLE runs; --",
        "\"; DROP TABLE runs; --",
        "1; DELETE FROM runs",
        "') UNION SELECT 1,2,3 --",
        "' UNION ALL SELECT NULL, version() --",
        "x' AND 1=CAST((SELECT version()) AS INT) --",
        "'||(SELECT pg_sleep(9))||'",
        "$tag$ x $tag$",
        "E'\\x27'",
        "U&'\\0027'",
        "chr(39)",
        "0x27",
        "'::text",
        "NULL",
        "null",
        "DEFAULT",
        "true",
        "\0",
        "a\0b",
        "\0\0",
        "\u{2400}",
        "\u{2400}0",
        "\u{2400}\u{2400}",
        "\u{2400}\0",
        "\u{1}",
        "\u{7}",
        "\u{8}",
        "\t",
        "\n",
        "\r\n",
        "\u{b}",
        "\u{c}",
        "\u{1b}[31m",
        "\u{1b}]0;title\u{7}",
        "\u{7f}",
        "\u{80}",
        "\u{9b}31m",
        "\u{a0}",
        "\u{ad}",
        "\u{200b}",
        "\u{200e}",
        "\u{202e}abc",
        "\u{2028}",
        "\u{2029}",
        "\u{feff}",
        "\u{fffd}",
        "\u{fffe}",
        "\u{ffff}",
        "\u{10ffff}",
        "\u{e000}",
        "\u{d7ff}",
        "e\u{301}",
        "é",
        "ß",
        "ẞ",
        "ı",
        "İ",
        "ﬁ",
        "Å",
        "A\u{30a}",
        "日本語",
        "🦀",
        "👩‍👩‍👧‍👦",
        "\u{1f1e9}\u{1f1ea}",
        "Z̷̛̤̈́",
        "<script>alert(1)</script>",
        "&amp;",
        "&#0;",
        "<![CDATA[",
        "../../etc/passwd",
        "C:\\nul",
        "|id",
        "$(id)",
        "`id`",
        "${jndi:ldap://x}",
        "%00",
        "%2e%2e",
        "\u{ff07}",
        "ʼ",
        "‘",
        "’",
        " ",
        "  ",
        " leading",
        "trailing ",
        "\tboth\t",
        "0",
        "-1",
        "1e309",
        "NaN",
        "Infinity",
        "9223372036854775808",
        "2026-01-01",
        "[]",
        "[1]",
        "{\"a\":1}",
        "\\u0000",
        "\\x00",
        "\\N",
        "\\.",
        "COPY",
        "a,b",
        "a\"b",
        "=1+1",
        "+1",
        "@x",
        "\u{85}",
    ]
    .iter()
    .map(|s| (*s).to_owned())
    .collect();
    out.push("x".repeat(10_000));
    out.push("é".repeat(5_000));
    out.push("'".repeat(3_000));
    out.push("\0".repeat(3_000));
    let parts = out.clone();
    while out.len() < COUNT {
        let mut text = String::new();
        for _ in 0..=dice.below(6) {
            let part = &parts[dice.below(parts.len() as u64) as usize];
            text.extend(part.chars().take(40));
            text.extend(char::from_u32(dice.below(0x11_0000) as u32));
        }
        out.push(text);
    }
    out.truncate(COUNT);
    out
}

/// The longest beginning that fits: what a bounded field must hold. NUL and its sign take more room as they are written.
fn cut(text: &str, max: usize) -> String {
    let (mut out, mut length) = (String::new(), 0);
    for c in text.chars() {
        length += match c {
            '\0' => 4,
            '\u{2400}' => 6,
            c => c.len_utf8(),
        };
        if length > max {
            break;
        }
        out.push(c);
    }
    out
}

fn name(text: &str) -> String {
    cut(text, NAME_MAX)
}

pub async fn texts_come_back(env: Env) {
    let catalog = env.open().await;
    let texts = texts(&env.dice);
    assert_eq!(texts.len(), COUNT);
    for (n, text) in texts.iter().enumerate() {
        let secs = MONDAY - 600 + n as i64;
        let some = Some(text.clone());
        let mut run = env.run(secs);
        run.host = text.clone();
        (run.job, run.repository, run.snapshot, run.path) =
            (some.clone(), some.clone(), some.clone(), some.clone());
        run.process = Some(Process {
            boot: text.clone(),
            pid: 1,
            started: 1,
        });
        run.stages = vec![Stage {
            name: text.clone(),
            duration: std::time::Duration::from_secs(1),
        }];
        run = env.done(run, RunOutcome::Failed, 1);
        run.error = Some(RunError {
            class: ErrorClass::Internal,
            text: text.clone(),
        });
        // A name for itself, so that each can be looked up by it, and all texts also stand in names.
        let mut result = env.result(text, secs * 1_000_000);
        (result.host, result.kind, result.text) = (text.clone(), text.clone(), some.clone());
        result.outcome = CheckOutcome::Failure(FailureReason::Exec);
        let mut change = env.change(
            text,
            secs * 1_000_000,
            CheckState::Healthy,
            CheckState::Degraded,
        );
        (change.host, change.kind, change.text) = (text.clone(), text.clone(), some.clone());
        let incident = Incident {
            id: IncidentId::new(at(secs), env.dice.bytes()),
            host: text.clone(),
            subject: text.clone(),
            unit: some.clone(),
            severity: Severity::Info,
            opened: at(secs),
            closed: None,
            reason: None,
            text: some.clone(),
        };
        let restart = RestartRecord {
            id: EventId::new(at(secs), env.dice.bytes()),
            host: text.clone(),
            unit: text.clone(),
            check: some.clone(),
            incident: Some(incident.id),
            attempt: 1,
            at: at(secs),
            outcome: RestartOutcome::Failed,
            refusal: None,
            recovered: None,
            duration: None,
            text: some.clone(),
        };
        let message = NotificationRecord {
            id: EventId::new(at(secs), env.dice.bytes()),
            host: text.clone(),
            sink: text.clone(),
            topic: text.clone(),
            body: text.clone(),
            created: at(secs),
            due: at(secs),
            attempts: 0,
            state: NotificationState::Queued,
            done: None,
            error: some.clone(),
        };
        let place = RepositoryState {
            host: text.clone(),
            repository: text.clone(),
            at: at(secs),
            reachable: true,
            size_bytes: None,
            available_bytes: None,
            capacity_bytes: None,
            wal: Some(vec![
                WalState {
                    cluster: text.clone(),
                    recoverable: true,
                    gaps: u64::MAX,
                    segments_missing: 0,
                    base_backups: 0,
                    newest_segment: Some(at(secs)),
                    newest_base_backup: None,
                    oldest_recovery: None,
                };
                CLUSTERS_MAX + 1
            ]),
        };
        let entries = vec![
            Entry::Run(Box::new(run.clone())),
            Entry::Result(result.clone()),
            Entry::Transition(change.clone()),
            Entry::Incident(incident.clone()),
            Entry::Restart(restart.clone()),
            Entry::Notification(message.clone()),
            Entry::Repository(place.clone()),
        ];
        let recorded = catalog.record(entries).await;
        assert_eq!(recorded.stored, 7, "{text:?}: {recorded:?}");

        let host = name(text);
        let short = |max: usize| Some(cut(text, max));
        let back = runs::get(&catalog, run.id)
            .await
            .expect("asked")
            .expect("there");
        let want = RunRecord {
            host: host.clone(),
            job: short(NAME_MAX),
            repository: short(NAME_MAX),
            snapshot: short(NAME_MAX),
            path: short(4096),
            process: Some(Process {
                boot: host.clone(),
                pid: 1,
                started: 1,
            }),
            stages: vec![Stage {
                name: host.clone(),
                ..run.stages[0].clone()
            }],
            error: Some(RunError {
                class: ErrorClass::Internal,
                text: cut(text, TEXT_MAX),
            }),
            ..run.clone()
        };
        assert_eq!(back, want, "{text:?}");
        // Found by its own words, and only it.
        let filter = RunFilter {
            host: Some(host.clone()),
            job: short(NAME_MAX),
            repository: short(NAME_MAX),
            ..RunFilter::default()
        };
        assert!(
            runs::list(&catalog, &filter)
                .await
                .expect("asked")
                .contains(&want),
            "{text:?}"
        );
        let got = checks::results(&catalog, (&host, &host), Some(at(secs)), None, 0)
            .await
            .expect("asked");
        let mut wanted = result.clone();
        (wanted.host, wanted.check, wanted.kind, wanted.text) = (
            host.clone(),
            host.clone(),
            host.clone(),
            short(RESULT_TEXT_MAX),
        );
        assert_eq!(got, [wanted], "{text:?}");
        let got = checks::transitions(&catalog, Some(&host), Some(&host), Some(at(secs)), None, 0)
            .await
            .expect("asked");
        let mut wanted = change.clone();
        (wanted.host, wanted.check, wanted.kind, wanted.text) = (
            host.clone(),
            host.clone(),
            host.clone(),
            short(RESULT_TEXT_MAX),
        );
        assert_eq!(got, [wanted], "{text:?}");
        let of = EventFilter {
            host: Some(host.clone()),
            subject: Some(host.clone()),
            since: Some(at(secs)),
            ..EventFilter::default()
        };
        let wanted = Incident {
            host: host.clone(),
            subject: host.clone(),
            unit: short(NAME_MAX),
            text: short(TEXT_MAX),
            ..incident
        };
        assert_eq!(
            events::incidents(&catalog, &of).await.expect("asked"),
            [wanted],
            "{text:?}"
        );
        let wanted = RestartRecord {
            host: host.clone(),
            unit: host.clone(),
            check: short(NAME_MAX),
            text: short(TEXT_MAX),
            ..restart
        };
        assert_eq!(
            events::restarts(&catalog, &of).await.expect("asked"),
            [wanted],
            "{text:?}"
        );
        let wanted = NotificationRecord {
            host: host.clone(),
            sink: host.clone(),
            topic: host.clone(),
            body: cut(text, 16 * 1024),
            error: short(TEXT_MAX),
            ..message
        };
        assert_eq!(
            events::notifications(&catalog, &of, None)
                .await
                .expect("asked"),
            [wanted],
            "{text:?}"
        );
        let known = events::repositories(&catalog, Some(&host))
            .await
            .expect("asked");
        assert!(
            known.iter().any(|(state, _)| state.repository == host),
            "{text:?}"
        );
    }
    // As the host itself: facts, counters and states are of one host.
    for text in texts.iter().step_by(25).chain(texts.iter().rev().take(5)) {
        let mut options = env.options.clone();
        options.host = text.clone();
        let own = keepwatch_catalog::Catalog::open(options, env.hand.clock(), random())
            .await
            .expect("opened");
        let host = name(text);
        let found = facts::backup_facts(&own).await.expect("asked");
        assert!(
            found
                .iter()
                .any(|f| f.job == host && f.repository == host && f.runs_total > 0),
            "{text:?}"
        );
        let counted = counters::list(&own).await.expect("asked");
        assert!(
            counted
                .iter()
                .any(|c| c.name == counters::RESTARTS && c.subject == host),
            "{text:?}"
        );
        let state = vec![(host.clone(), text.clone())];
        states::save(&own, &state).await.expect("saved");
        let loaded = states::load(&own).await.expect("asked");
        assert!(
            loaded.iter().any(|(n, _, body)| *n == host && body == text),
            "{text:?}"
        );
        own.close().await;
    }
    let all = runs::list(&catalog, &RunFilter::default())
        .await
        .expect("asked");
    assert_eq!(all.len(), COUNT, "nothing was dropped");
}
