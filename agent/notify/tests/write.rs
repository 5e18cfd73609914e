//! What the media write: bounded, escaped, balanced, whatever the alerts say.

use std::collections::BTreeMap;

use keepwatch_model::check::Severity;
use keepwatch_notify::alert::Alert;
use keepwatch_notify::limits::{JSON, MAIL, NTFY, TELEGRAM};
use keepwatch_notify::medium::{mail, ntfy, telegram, title, webhook};
use keepwatch_notify::plan::{Message, Next, Plan, Rules, State};
use keepwatch_notify::text::{is_hidden, units};
use keepwatch_notify::time::At;
use proptest::prelude::*;

/// A message with these alerts; the first `ended` of them are over again.
fn message(alerts: &[Alert], ended: usize) -> Message {
    let rules = Rules {
        group_by: vec![],
        min_severity: Severity::Info,
        ..Rules::default()
    };
    let mut p = Plan::new(BTreeMap::from([("a".to_owned(), rules)]), State::default());
    p.observe(At(0), alerts);
    let mut now = At(10_000);
    if ended > 0 {
        let Next::Send(m) = p.next("a", now) else {
            panic!()
        };
        p.delivered(&m, now);
        p.observe(now, &alerts[ended.min(alerts.len())..]);
        now = At(100_000);
    }
    match p.next("a", now) {
        Next::Send(m) => *m,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_held_back_is_said_in_every_medium() {
    let rules = Rules {
        group_by: vec!["check".into()],
        per_hour: 1,
        wait: std::time::Duration::ZERO,
        ..Rules::default()
    };
    let mut p = Plan::new(BTreeMap::from([("a".to_owned(), rules)]), State::default());
    let warn = |check: &str| Alert::new("Down", Severity::Warning, At(0)).label("check", check);
    p.observe(At(0), &[warn("x"), warn("y")]);
    for (hour, word) in [(0, ""), (0, "HELD BACK"), (1, "SUMMARY")] {
        let now = At(hour * 3_600_000);
        let Next::Send(m) = p.next("a", now) else {
            panic!("{word}")
        };
        p.delivered(&m, now);
        if word.is_empty() {
            continue;
        }
        assert!(title(&m, "h").starts_with(word), "{}", title(&m, "h"));
        let said = if hour == 0 {
            "further ones are held back"
        } else {
            "1 message was left out since 1970-01-01 00:00 UTC"
        };
        for text in [
            mail::write("h", &m),
            ntfy::write(&m),
            telegram::write("h", &m),
            webhook::write("h", &m, now),
        ] {
            assert!(text.contains(said), "{text}");
            assert_eq!(
                text.contains("check=y") || text.contains("\"y\""),
                hour == 1,
                "{text}"
            );
        }
        assert!(webhook::write("h", &m, now).contains("\"status\":\"firing\""));
    }
}

fn hostile() -> Vec<String> {
    [
        "<b>bold</b><script>alert(1)</script>",
        "a & b &amp; c &lt;",
        "</code></b>\"'",
        "*md* _md_ [x](http://evil) `code`",
        "subject\r\nBcc: victim@example.org\r\n\r\nbody",
        ".\r\n.\r\nQUIT",
        "\x1b[31m\x07\x00",
        "\u{202e}gnp.exe\u{200b}\u{feff}",
        "e\u{301}\u{301}\u{301}👩‍👩‍👧🏽",
        "=?UTF-8?B?aGk=?= ${jndi} {{ .Labels }}",
    ]
    .map(String::from)
    .into_iter()
    .chain([
        "x".repeat(1 << 20),
        "<".repeat(100_000),
        "😀".repeat(50_000),
    ])
    .collect()
}

fn nasty(text: &str, n: usize) -> Alert {
    Alert::new(text, Severity::ALL[n % 3], At(0))
        .label("check", text)
        .label("n", &n.to_string())
        .summary(text)
        .description(text)
        .runbook("https://example.org/r?a=b&c=d#x")
}

/// Tags closed in order, nothing else in angle brackets, every ampersand an escape.
fn assert_html(text: &str) {
    let mut open = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['<', '>', '&']) {
        let tail = &rest[at..];
        match tail.as_bytes()[0] {
            b'<' => {
                let end = tail
                    .find('>')
                    .unwrap_or_else(|| panic!("open tag in {tail:.80}"));
                let tag = &tail[1..end];
                match tag.strip_prefix('/') {
                    Some(name) => assert_eq!(open.pop().as_deref(), Some(name), "{tail:.80}"),
                    None => {
                        let name = tag.split(' ').next().unwrap();
                        assert!(["b", "code", "a"].contains(&name), "{tag}");
                        open.push(name.to_owned());
                    }
                }
                rest = &tail[end + 1..];
            }
            b'&' => {
                let ok = ["&amp;", "&lt;", "&gt;", "&quot;"]
                    .iter()
                    .find(|e| tail.starts_with(**e));
                rest = &tail[ok
                    .unwrap_or_else(|| panic!("bare ampersand in {tail:.40}"))
                    .len()..];
            }
            _ => panic!("bare > in {tail:.40}"),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

fn mail_settings() -> mail::Settings {
    mail::Settings {
        server: "127.0.0.1".into(),
        port: None,
        security: mail::Security::None,
        from: "Keepwatch <agent@example.org>".into(),
        to: vec!["a@example.org".into(), "Bø <b@example.org>".into()],
        username: None,
        password_file: None,
    }
}

fn assert_all(host: &str, m: &Message) {
    let n = m.lines.len();
    let t = title(m, host);
    assert!(
        t.chars().count() <= 180 && !t.chars().any(is_hidden),
        "{t:?}"
    );

    let html = telegram::write(host, m);
    assert!(units(&html) <= TELEGRAM, "{}", units(&html));
    assert!(!html.chars().any(|c| c != '\n' && is_hidden(c)));
    assert_html(&html);
    let shown = html
        .split("\n\n")
        .skip(1)
        .filter(|b| b.starts_with("<b>"))
        .count();
    let left: usize = html
        .rsplit("\n\n")
        .next()
        .and_then(|l| {
            l.strip_prefix("… and ")?
                .strip_suffix(" more")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    assert_eq!(shown + left, n, "{html}");
    assert!(shown > 0);

    let text = ntfy::write(m);
    assert!(text.len() <= NTFY, "{}", text.len());
    assert!(!text.chars().any(|c| c != '\n' && is_hidden(c)));
    for h in [ntfy::header(&t), ntfy::header(host)] {
        assert!(h.bytes().all(|b| (b' '..=b'~').contains(&b)), "{h:?}");
        assert!(
            h.split(' ')
                .filter(|w| w.starts_with("=?UTF-8?B?"))
                .all(|w| w.len() <= 75)
        );
    }

    let json = webhook::write(host, m, At(10_000));
    assert!(json.len() <= JSON, "{}", json.len());
    let v: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        v["alerts"].as_array().unwrap().len() as u64 + v["truncatedAlerts"].as_u64().unwrap(),
        n as u64
    );

    let body = mail::write(host, m);
    assert!(body.len() <= MAIL, "{}", body.len());
    let raw = mail::compose(&mail_settings(), host, m, At(1_700_000_000_000))
        .unwrap()
        .formatted();
    let raw = String::from_utf8(raw).unwrap();
    assert!(raw.is_ascii(), "lettre encodes what is not ASCII");
    assert!(
        !raw.replace("\r\n", "").contains(['\r', '\n']),
        "bare line ends"
    );
    assert!(raw.split("\r\n").all(|l| l.len() <= 998));
    let (headers, _) = raw.split_once("\r\n\r\n").unwrap();
    let names: Vec<_> = headers
        .split("\r\n")
        .filter(|l| !l.starts_with([' ', '\t']))
        .map(|l| l.split(':').next().unwrap())
        .collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(
        sorted,
        [
            "Auto-Submitted",
            "Content-Transfer-Encoding",
            "Content-Type",
            "Date",
            "From",
            "MIME-Version",
            "Message-ID",
            "Subject",
            "To"
        ],
        "{headers}"
    );
}

#[test]
fn hostile_texts_in_every_medium() {
    for text in hostile() {
        for count in [1, 3, 60] {
            let alerts: Vec<_> = (0..count).map(|n| nasty(&text, n)).collect();
            assert_all("host", &message(&alerts, 0));
            assert_all(
                &text
                    .chars()
                    .take(64)
                    .collect::<String>()
                    .replace(|c: char| is_hidden(c), " "),
                &message(&alerts, count),
            );
        }
    }
}

#[test]
fn a_thousand_alerts_are_counted_not_lost() {
    let alerts: Vec<_> = (0..1000)
        .map(|n| nasty(&"long text ".repeat(200), n))
        .collect();
    let m = message(&alerts, 0);
    assert_eq!(m.lines.len(), 1000);
    assert_all("host", &m);
}

#[test]
fn what_a_person_reads() {
    let a = Alert::new(
        "KeepwatchCheckDown",
        Severity::Critical,
        At(1_700_000_000_000),
    )
    .label("check", "web")
    .label("instance", "h1")
    .summary("web answers 500 <nginx>")
    .description("Restarting did not help.")
    .runbook("https://example.org/runbooks/check-down");
    let m = message(&[a], 0);
    assert_eq!(
        telegram::write("h1", &m),
        "<b>FIRING critical: KeepwatchCheckDown on h1</b>\n\n\
         <b>KeepwatchCheckDown</b> [critical] firing since 2023-11-14 22:13 UTC\n\
         web answers 500 &lt;nginx&gt;\n\
         Restarting did not help.\n\
         <code>check=web, instance=h1</code>\n\
         <a href=\"https://example.org/runbooks/check-down\">runbook</a>"
    );
    assert_eq!(
        ntfy::write(&m),
        "KeepwatchCheckDown [critical] firing since 2023-11-14 22:13 UTC\n  web answers 500 <nginx>\n  \
         Restarting did not help.\n  check=web, instance=h1\n  https://example.org/runbooks/check-down"
    );
    assert_eq!(ntfy::priority(&m), ("5", "rotating_light"));
    assert_eq!(ntfy::header("plain"), "plain");
    assert_eq!(ntfy::header("ü"), "=?UTF-8?B?w7w=?=");
    let raw = String::from_utf8(
        mail::compose(&mail_settings(), "h1", &m, At(1_700_000_000_000))
            .unwrap()
            .formatted(),
    )
    .unwrap();
    assert!(
        raw.contains("Subject: FIRING critical: KeepwatchCheckDown on h1\r\n"),
        "{raw}"
    );
    assert!(
        raw.contains("Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"),
        "{raw}"
    );
}

#[test]
fn settings_that_cannot_work_are_refused() {
    use keepwatch_notify::medium::Medium;
    let with = |change: fn(&mut mail::Settings)| {
        let mut s = mail_settings();
        change(&mut s);
        Medium::Mail(s).check()
    };
    assert_eq!(with(|_| {}), Ok(()));
    for (change, why) in [
        (
            (|s| s.from = "nobody".into()) as fn(&mut mail::Settings),
            "no mail address",
        ),
        (|s| s.to = vec![], "recipients"),
        (
            |s| s.to = vec!["a@b.c\r\nBcc: x@y.z".into()],
            "no mail address",
        ),
        (|s| s.server = "mail.example.org".into(), "without TLS"),
        (|s| s.username = Some("u".into()), "neither"),
        (
            |s| {
                s.server = "a b".into();
                s.security = mail::Security::Tls;
            },
            "no mail server",
        ),
    ] {
        let e = with(change).unwrap_err();
        assert!(e.contains(why), "{e}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_text(texts in proptest::collection::vec("(.|[<>&\"\\x00-\\x1f]|\u{301}|\u{202e}|😀){0,700}", 1..12), ended in any::<bool>(), host in "[a-zü-]{1,40}") {
        let alerts: Vec<_> = texts.iter().enumerate().map(|(n, t)| nasty(t, n)).collect();
        assert_all(&host, &message(&alerts, if ended { alerts.len() } else { 0 }));
    }
}
