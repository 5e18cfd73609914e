//! What a run came to: from how its child ended, and from the JSON document that the child printed. Pure: the clock is an argument.
//!
//! The end of the child decides, the document only fills in numbers: one that is missing, too long or of another version costs the
//! numbers, never the outcome.

use std::process::ExitStatus;
use std::time::Duration;

use keepwatch_model::duration::human_duration;
use keepwatch_model::runs::{
    ErrorClass, RetentionCounts, RunError, RunKind, RunOutcome, RunRecord, RunTotals, WalState,
};
use keepwatch_model::time::Moment;
use serde_json::Value;

use super::child::Cut;
use crate::errors::Exit;
use crate::output::plain;

/// Characters of an error that are kept.
const TEXT_MAX: usize = 1000;

/// How the work ended.
pub enum Ending {
    /// A child ended.
    Child {
        /// How.
        status: ExitStatus,
        /// Whether we ended it.
        cut: Option<Cut>,
    },
    /// There was none: what stood before it failed.
    Before {
        /// The class.
        class: ErrorClass,
        /// One sentence.
        text: String,
        /// The exit status that fits.
        exit: Exit,
    },
}

/// What follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The exit status of this run.
    pub exit: Exit,
    /// Whether it may be better the next time.
    pub may_pass: bool,
}

/// What the outcome depends on.
pub struct Rules {
    /// Files that could not be read make a failure.
    pub fail_on_warnings: bool,
    /// How long it was allowed to take, for the text.
    pub timeout: Duration,
}

/// Completes the record of a run.
pub fn finish(
    record: &mut RunRecord,
    ending: &Ending,
    document: Option<&Value>,
    rules: &Rules,
    now: Moment,
    took: Duration,
) -> Verdict {
    record.finished = Some(now);
    record.duration = Some(took);
    if let Some(document) = document {
        numbers(record, document);
    }
    let (outcome, error, verdict) = judge(record, ending, document, rules);
    record.outcome = outcome;
    record.error = error.map(|(class, text)| RunError {
        class,
        text: bounded(&text),
    });
    verdict
}

type Judged = (RunOutcome, Option<(ErrorClass, String)>, Verdict);

fn judge(record: &RunRecord, ending: &Ending, document: Option<&Value>, rules: &Rules) -> Judged {
    let failed = |class, text: String, exit, may_pass| {
        (
            RunOutcome::Failed,
            Some((class, text)),
            Verdict { exit, may_pass },
        )
    };
    let (status, cut) = match ending {
        Ending::Before { class, text, exit } => {
            let may_pass = *exit == Exit::Failed;
            return failed(*class, text.clone(), *exit, may_pass);
        }
        Ending::Child { status, cut } => (status, cut),
    };
    let said = || {
        let text = document.and_then(|d| d["error"].as_str()).map(plain);
        text.filter(|t| !t.is_empty())
    };
    match (status.code(), cut) {
        // It was done when it was asked to stop.
        (Some(0), _) => (
            RunOutcome::Succeeded,
            None,
            Verdict {
                exit: Exit::Done,
                may_pass: false,
            },
        ),
        (Some(3), _) if rules.fail_on_warnings => {
            let n = record.totals.source_errors.unwrap_or(0);
            let saved = record.snapshot.as_deref().map_or_else(String::new, |s| {
                format!("; snapshot {s} was made of the others")
            });
            failed(
                ErrorClass::Source,
                format!("{n} files could not be read whole, and fail_on_warnings is set{saved}"),
                Exit::Failed,
                false,
            )
        }
        (Some(3), _) => (
            RunOutcome::Partial,
            None,
            Verdict {
                exit: Exit::Partial,
                may_pass: false,
            },
        ),
        (_, Some(Cut::Timeout)) => failed(
            ErrorClass::Timeout,
            format!(
                "it was ended because it took longer than {}; what was committed before is safe",
                human_duration(rules.timeout)
            ),
            Exit::Failed,
            true,
        ),
        (_, Some(Cut::Stop)) => failed(
            ErrorClass::Killed,
            "it was stopped by a signal before it was finished; what was committed before is safe"
                .to_owned(),
            Exit::Failed,
            false,
        ),
        (None, None) => {
            use std::os::unix::process::ExitStatusExt;
            let signal = status.signal().unwrap_or(0);
            let guess = match signal {
                9 => ", as the kernel does when memory runs out",
                _ => "",
            };
            failed(
                ErrorClass::Killed,
                format!(
                    "its process was killed by signal {signal}{guess}; what was committed before is safe"
                ),
                Exit::Failed,
                true,
            )
        }
        (Some(code), None) => {
            let exit = match code {
                2 => Exit::WrongUse,
                4 => Exit::NothingFound,
                5 => Exit::Refused,
                _ => Exit::Failed,
            };
            if record.kind == RunKind::Verify && exit == Exit::Failed {
                if let Some(found) = found(record, document) {
                    let text = said().unwrap_or(found);
                    return failed(ErrorClass::Verify, text, exit, false);
                }
            }
            let text = said().unwrap_or_else(|| format!("its process ended with status {code}"));
            let class = class(&text, exit);
            let may_pass = exit == Exit::Failed && class != ErrorClass::Auth;
            failed(class, text, exit, may_pass)
        }
    }
}

/// What a verification found wrong, in words; nothing when it was not the repository that failed it.
fn found(record: &RunRecord, document: Option<&Value>) -> Option<String> {
    let mut out = Vec::new();
    if let Some(n) = record.totals.damages.filter(|n| *n > 0) {
        out.push(format!("{n} damages were found"));
    }
    for cluster in clusters(document).filter(|c| c["state"] == "broken") {
        let name = cluster_name(cluster);
        let missing = cluster["segments_missing"].as_u64().unwrap_or(0);
        out.push(match missing {
            0 => format!("PostgreSQL's log of cluster {name} cannot be used as it is"),
            n => format!("PostgreSQL's log of cluster {name} lacks {n} segments, and its end cannot be recovered from any base backup"),
        });
    }
    (!out.is_empty()).then(|| out.join("; "))
}

/// What a verification's document says of PostgreSQL's logs.
fn clusters(document: Option<&Value>) -> impl Iterator<Item = &Value> {
    let all = document.and_then(|d| d["wal"].as_array());
    all.into_iter().flatten()
}

fn cluster_name(cluster: &Value) -> String {
    let name = cluster["system"].as_str().or(cluster["cluster"].as_str());
    let plain = name.filter(|n| n.len() <= 32 && n.bytes().all(|b| b.is_ascii_hexdigit()));
    plain.unwrap_or("?").to_owned()
}

/// PostgreSQL's logs in a repository, as a verification found them; nothing when it did not come to them.
pub fn wal(document: Option<&Value>) -> Option<Vec<WalState>> {
    document?["wal"].as_array()?;
    let time = |value: &Value| Moment::from_parts(value.as_i64()?, 0, 0).ok();
    let state = |c: &Value| {
        let bases = || {
            let all = c["bases"].as_array().into_iter().flatten();
            all.filter(|b| b["restorable"].as_bool() == Some(true))
        };
        WalState {
            cluster: cluster_name(c),
            recoverable: c["recoverable"].as_bool() == Some(true),
            gaps: c["gaps_total"].as_u64().unwrap_or(0),
            segments_missing: c["segments_missing"].as_u64().unwrap_or(0),
            base_backups: bases().count() as u64,
            newest_segment: time(&c["newest"]),
            newest_base_backup: bases()
                .filter_map(|b| b["done"].as_i64())
                .max()
                .and_then(|s| Moment::from_parts(s, 0, 0).ok()),
            oldest_recovery: time(&c["recoverable_from"]),
        }
    };
    Some(clusters(document).map(state).collect())
}

/// What stands in an error's sentence, and the class that it means. The first that fits counts; the sentences are ours.
const WORDS: &[(&str, ErrorClass)] = &[
    ("no space left", ErrorClass::Space),
    ("not enough space", ErrorClass::Space),
    ("quota exceeded", ErrorClass::Space),
    ("file too large", ErrorClass::Space),
    ("another prune", ErrorClass::Lock),
    ("writer key", ErrorClass::Auth),
    ("owner key", ErrorClass::Auth),
    ("identity", ErrorClass::Auth),
    ("credential", ErrorClass::Auth),
    ("access key", ErrorClass::Auth),
    ("accessdenied", ErrorClass::Auth),
    ("access denied", ErrorClass::Auth),
    ("forbidden", ErrorClass::Auth),
    ("cannot back up the source", ErrorClass::Source),
    ("the command '", ErrorClass::Source),
    ("the stream", ErrorClass::Source),
    ("the base backup by", ErrorClass::Source),
    ("cannot back up /", ErrorClass::Source),
    ("none of the sources", ErrorClass::Source),
    ("could not be read back", ErrorClass::Verify),
    ("to the end of its log", ErrorClass::Verify),
    ("mistake in keepwatch", ErrorClass::Internal),
    ("out of memory", ErrorClass::Internal),
];

/// The class that a sentence means.
pub fn class(text: &str, exit: Exit) -> ErrorClass {
    let text = text.to_lowercase();
    if let Some((_, class)) = WORDS.iter().find(|(word, _)| text.contains(word)) {
        return *class;
    }
    match exit {
        Exit::WrongUse => ErrorClass::Internal,
        _ => ErrorClass::Repository,
    }
}

fn bounded(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(TEXT_MAX)
        .collect();
    line.trim().to_owned()
}

/// The numbers of the document of each verb.
fn numbers(record: &mut RunRecord, document: &Value) {
    let number = |name: &str| document[name].as_u64();
    let length = |name: &str| document[name].as_array().map(|a| a.len() as u64);
    let totals = &document["totals"];
    record.traffic = serde_json::from_value(document["traffic"].clone()).ok();
    match record.kind {
        RunKind::Backup => {
            record.snapshot = id(&document["snapshot"]);
            record.totals = RunTotals {
                files: totals["files"].as_u64(),
                source_bytes: totals["bytes"].as_u64(),
                added_bytes: totals["bytes_added"].as_u64(),
                source_errors: number("problems_total"),
                ..RunTotals::default()
            };
        }
        RunKind::Verify => {
            record.totals.checked_bytes = number("bytes_read");
            record.totals.damages = length("damages");
        }
        RunKind::Prune => record.totals.freed_bytes = number("bytes_freed"),
        RunKind::Copy => {
            record.totals.added_bytes = number("bytes_written");
            record.totals.source_errors = length("failed");
            let copied = document["copied"].as_array();
            record.snapshot = copied.and_then(|c| c.iter().rev().find_map(|c| id(&c["copy"])));
        }
        RunKind::Forget => record.retention = retention(document),
        RunKind::Drill => {
            record.snapshot = id(&document["snapshot"]);
            record.totals.files = number("restored_files");
            record.totals.restored_bytes = number("restored_bytes");
        }
        RunKind::Restore => {}
    }
}

/// An id is short, plain text.
fn id(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let is_id =
        !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| text.to_owned())
}

fn retention(document: &Value) -> Option<RetentionCounts> {
    let groups = document["groups"].as_array()?;
    let kept = || {
        groups
            .iter()
            .filter_map(|g| g["decisions"].as_array())
            .flatten()
            .filter(|d| d["keep"].as_bool() == Some(true))
    };
    let times = || kept().filter_map(|d| d["snapshot"]["time"].as_str()?.parse::<Moment>().ok());
    Some(RetentionCounts {
        snapshots: kept().count() as u64,
        oldest: times().min_by_key(Moment::unix_nanos),
        newest: times().max_by_key(Moment::unix_nanos),
        overdue: 0,
        // A policy always leaves the newest complete snapshot of a group.
        minimum: groups.len() as u64,
        removed: document["forgotten"].as_array()?.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_model::ids::RunId;
    use keepwatch_model::runs::Trigger;
    use serde_json::json;
    use std::os::unix::process::ExitStatusExt;

    fn now() -> Moment {
        "2026-11-22T04:20:24Z".parse().expect("a time")
    }

    fn of(
        kind: RunKind,
        raw: i32,
        cut: Option<Cut>,
        document: Option<Value>,
        fail_on_warnings: bool,
    ) -> (RunRecord, Verdict) {
        let id = RunId::new(now(), [7; 10]);
        let mut record = RunRecord::begin(id, kind, "h", now(), Trigger::Manual);
        let rules = Rules {
            fail_on_warnings,
            timeout: Duration::from_secs(60),
        };
        let ending = Ending::Child {
            status: ExitStatus::from_raw(raw),
            cut,
        };
        let took = Duration::from_secs(5);
        let verdict = finish(&mut record, &ending, document.as_ref(), &rules, now(), took);
        assert_eq!(
            (record.finished, record.duration),
            (Some(now()), Some(took))
        );
        (record, verdict)
    }

    #[test]
    fn traffic_is_taken_from_the_document() {
        let mut document = backed_up(0).expect("a document");
        document["traffic"] = json!({ "requests": 9, "puts": 3, "retries": 1, "sent_bytes": 70 });
        let (record, _) = of(RunKind::Backup, 0, None, Some(document), false);
        let traffic = record.traffic.expect("traffic");
        assert_eq!(
            (traffic.puts, traffic.retries, traffic.sent_bytes),
            (3, 1, 70)
        );
        let (record, _) = of(RunKind::Backup, 0, None, backed_up(0), false);
        assert_eq!(record.traffic, None, "a local repository has none");
    }

    fn backed_up(problems: u64) -> Option<Value> {
        Some(json!({
            "snapshot": "ab12", "problems_total": problems,
            "totals": { "files": 3, "bytes": 1000, "bytes_added": 400 },
        }))
    }

    fn failed(text: &str) -> Option<Value> {
        Some(json!({ "error": text, "advice": null, "exit_code": 1 }))
    }

    #[test]
    fn ends_become_outcomes_classes_and_retries() {
        use ErrorClass as C;
        use RunOutcome as O;
        // What the kernel reports: the exit code in the second byte, the signal in the first.
        for (raw, cut, document, warnings, outcome, class, exit, may_pass) in [
            (0, None, backed_up(0), false, O::Succeeded, None, 0, false),
            (0, None, None, false, O::Succeeded, None, 0, false),
            (
                0,
                Some(Cut::Timeout),
                backed_up(0),
                false,
                O::Succeeded,
                None,
                0,
                false,
            ),
            (
                3 << 8,
                None,
                backed_up(2),
                false,
                O::Partial,
                None,
                3,
                false,
            ),
            (
                3 << 8,
                None,
                backed_up(2),
                true,
                O::Failed,
                Some(C::Source),
                1,
                false,
            ),
            (9, None, None, false, O::Failed, Some(C::Killed), 1, true),
            (6, None, None, false, O::Failed, Some(C::Killed), 1, true),
            (
                9,
                Some(Cut::Timeout),
                None,
                false,
                O::Failed,
                Some(C::Timeout),
                1,
                true,
            ),
            (
                1 << 8,
                Some(Cut::Timeout),
                failed("stopped on request"),
                false,
                O::Failed,
                Some(C::Timeout),
                1,
                true,
            ),
            (
                15,
                Some(Cut::Stop),
                None,
                false,
                O::Failed,
                Some(C::Killed),
                1,
                false,
            ),
            (
                1 << 8,
                None,
                failed("cannot write /r/packs/x: no space left on device"),
                false,
                O::Failed,
                Some(C::Space),
                1,
                true,
            ),
            (
                1 << 8,
                None,
                failed("writing to the repository /r needs a writer key, and none was given"),
                false,
                O::Failed,
                Some(C::Auth),
                1,
                false,
            ),
            (
                1 << 8,
                None,
                failed("the command 'pg_dump' failed with status 1; no snapshot was made"),
                false,
                O::Failed,
                Some(C::Source),
                1,
                true,
            ),
            (
                1 << 8,
                None,
                failed("there is no repository at /r: No such file"),
                false,
                O::Failed,
                Some(C::Repository),
                1,
                true,
            ),
            (
                1 << 8,
                None,
                None,
                false,
                O::Failed,
                Some(C::Repository),
                1,
                true,
            ),
            (
                2 << 8,
                None,
                failed("bad pattern"),
                false,
                O::Failed,
                Some(C::Internal),
                2,
                false,
            ),
            (
                5 << 8,
                None,
                failed("another prune is at work"),
                false,
                O::Failed,
                Some(C::Lock),
                5,
                false,
            ),
            (
                101 << 8,
                None,
                Some(json!("nonsense")),
                false,
                O::Failed,
                Some(C::Repository),
                1,
                true,
            ),
        ] {
            let what = format!("{raw} {cut:?} {document:?}");
            let (record, verdict) = of(RunKind::Backup, raw, cut, document, warnings);
            assert_eq!(record.outcome, outcome, "{what}");
            assert_eq!(record.error.as_ref().map(|e| e.class), class, "{what}");
            assert_eq!(
                (verdict.exit as u8, verdict.may_pass),
                (exit, may_pass),
                "{what}"
            );
        }
    }

    #[test]
    fn documents_give_numbers() {
        let (r, _) = of(RunKind::Backup, 0, None, backed_up(0), false);
        assert_eq!(r.snapshot.as_deref(), Some("ab12"));
        assert_eq!(
            (
                r.totals.files,
                r.totals.source_bytes,
                r.totals.added_bytes,
                r.totals.source_errors
            ),
            (Some(3), Some(1000), Some(400), Some(0))
        );
        let (r, v) = of(
            RunKind::Verify,
            1 << 8,
            None,
            Some(json!({ "damages": [{}, {}], "bytes_read": 7, "sound": false })),
            false,
        );
        assert_eq!(
            (r.totals.damages, r.totals.checked_bytes),
            (Some(2), Some(7))
        );
        assert_eq!(r.error.expect("an error").class, ErrorClass::Verify);
        assert!(!v.may_pass);
        let (r, _) = of(
            RunKind::Prune,
            0,
            None,
            Some(json!({ "bytes_freed": 9 })),
            false,
        );
        assert_eq!(r.totals.freed_bytes, Some(9));
        let (r, _) = of(
            RunKind::Copy,
            0,
            None,
            Some(
                json!({ "copied": [{ "copy": "aa" }, { "copy": "bb" }, { "copy": null }], "failed": [], "bytes_written": 5 }),
            ),
            false,
        );
        assert_eq!(r.snapshot.as_deref(), Some("bb"));
        let decision =
            |keep: bool, time: &str| json!({ "keep": keep, "snapshot": { "time": time } });
        let (r, _) = of(
            RunKind::Forget,
            0,
            None,
            Some(json!({
                "groups": [{ "decisions": [
                    decision(true, "2026-11-22T00:00:00Z"),
                    decision(false, "2026-11-01T00:00:00Z"),
                    decision(true, "2026-11-20T00:00:00Z"),
                ] }],
                "forgotten": ["x"],
            })),
            false,
        );
        let counts = r.retention.expect("counts");
        assert_eq!((counts.snapshots, counts.removed), (2, 1));
        assert_eq!(counts.oldest, "2026-11-20T00:00:00Z".parse().ok());
        assert_eq!(counts.newest, "2026-11-22T00:00:00Z".parse().ok());
    }

    /// A cluster in a verification's document.
    fn cluster(state: &str, recoverable: bool, missing: u64) -> Value {
        json!({
            "cluster": "00ff00ff00ff00ff", "system": "7312345678901234567", "state": state, "recoverable": recoverable,
            "recoverable_from": recoverable.then_some(1_700_000_000), "newest": 1_700_000_500,
            "gaps_total": u64::from(missing > 0), "segments_missing": missing,
            "bases": [
                { "restorable": true, "done": 1_700_000_000 },
                { "restorable": true, "done": 1_700_000_300 },
                { "restorable": false, "done": 1_700_000_400 },
            ],
        })
    }

    #[test]
    fn a_log_whose_end_cannot_be_recovered_fails_a_verification() {
        let of_wal = |status: i32, wal: Value| {
            let document = json!({ "damages": [], "bytes_read": 0, "wal": wal });
            of(RunKind::Verify, status << 8, None, Some(document), false)
        };
        let (r, v) = of_wal(1, json!([cluster("broken", false, 3)]));
        let error = r.error.expect("an error");
        assert_eq!(error.class, ErrorClass::Verify);
        assert!(
            error.text.contains("7312345678901234567 lacks 3 segments"),
            "{}",
            error.text
        );
        assert!(!v.may_pass);
        // What hits older base backups only is no failure, and no reason of another one.
        let (r, _) = of_wal(0, json!([cluster("gaps", true, 3)]));
        assert_eq!((r.outcome, r.error), (RunOutcome::Succeeded, None));
        let (r, _) = of_wal(1, json!([cluster("gaps", true, 3)]));
        assert_eq!(r.error.expect("an error").class, ErrorClass::Repository);
    }

    #[test]
    fn logs_are_noted_of_a_verification() {
        let document = json!({ "wal": [cluster("gaps", true, 3), cluster("broken", false, 0)] });
        let found = wal(Some(&document)).expect("logs");
        let at = |s| Moment::from_parts(s, 0, 0).ok();
        assert_eq!(
            found[0],
            WalState {
                cluster: "7312345678901234567".into(),
                recoverable: true,
                gaps: 1,
                segments_missing: 3,
                base_backups: 2,
                newest_segment: at(1_700_000_500),
                newest_base_backup: at(1_700_000_300),
                oldest_recovery: at(1_700_000_000),
            }
        );
        assert!(!found[1].recoverable && found[1].oldest_recovery.is_none());
        assert_eq!(wal(Some(&json!({ "wal": [] }))), Some(vec![]));
        for none in [json!({}), json!({ "wal": 7 }), json!("x")] {
            assert_eq!(wal(Some(&none)), None, "{none}");
        }
        assert_eq!(wal(None), None);
        let odd = wal(Some(
            &json!({ "wal": [{ "system": "a\nb", "newest": "x" }, 7] }),
        ));
        assert!(odd.expect("logs").iter().all(|c| c.cluster == "?"));
    }

    #[test]
    fn hostile_documents_are_bounded() {
        for snapshot in [
            json!("x".repeat(500)),
            json!("../../etc"),
            json!(7),
            json!(""),
        ] {
            let document = json!({ "snapshot": snapshot, "totals": [], "problems_total": -1 });
            let (r, _) = of(RunKind::Backup, 0, None, Some(document), false);
            assert_eq!((r.snapshot, r.totals), (None, RunTotals::default()));
        }
        let (r, _) = of(
            RunKind::Backup,
            1 << 8,
            None,
            failed(&format!("a\n\u{1b}[31m{}", "é".repeat(5000))),
            false,
        );
        let text = r.error.expect("an error").text;
        assert!(text.chars().count() <= TEXT_MAX && !text.contains(char::is_control));
    }
}
