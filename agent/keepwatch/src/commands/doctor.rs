//! `doctor`: what works between this host and its repository, found by trying, and what does not.

use std::path::Path;

use clap::Args;
use keepwatch_engine::store::{Finding, Verdict};
use keepwatch_model::size::human_bytes;
use serde_json::json;

use crate::context::Context;
use crate::errors::{Exit, Outcome};
use crate::output::{escape, plain, print_after, print_json};
use crate::stores::{Leftover, leftover};

/// Find out what works and what does not
#[derive(Args)]
#[command(
    long_about = "Try what the store of a repository can do, and whether this host can use it: reachable, clock, versions, Object Lock, create-only writes, checksums, deleting; the keys at hand; room for the cache. In S3 two small objects under probe/ are written and removed. Exit status 1 when something will not work.",
    after_help = "Examples:
  keepwatch doctor
  keepwatch doctor --repo s3://backups/web1 --s3-endpoint https://s3.example.net
  keepwatch doctor --repo /mnt/disk/backup --json"
)]
pub struct DoctorArgs {}

/// The verb.
pub fn run(context: &Context, _: &DoctorArgs) -> Outcome {
    let target = context.target()?;
    let mut findings = match target.open(&context.cancel) {
        Err(e) => vec![finding("store", Verdict::Bad, e.cause.to_string())],
        Ok(store) => {
            let mut found = store.examine();
            if let Some(path) = target.path() {
                found.extend(room("room for backups", path));
            }
            if !found
                .iter()
                .any(|f| f.what == "reachable" && f.verdict == Verdict::Bad)
            {
                found.push(match leftover(&*store) {
                    Ok(Some(Leftover::Whole)) => {
                        finding("repository", Verdict::Good, "there is one")
                    }
                    Ok(Some(Leftover::Robbed)) => finding(
                        "repository",
                        Verdict::Bad,
                        "'config' is gone, its data is there: put 'config' back from another copy",
                    ),
                    Ok(Some(Leftover::Begun)) => finding(
                        "repository",
                        Verdict::Bad,
                        "an interrupted 'init' left keys behind: remove them and run 'init' again",
                    ),
                    Ok(None) => finding(
                        "repository",
                        Verdict::Note,
                        "none yet: 'keepwatch init' makes it",
                    ),
                    Err(e) => finding("repository", Verdict::Bad, e.to_string()),
                });
            }
            found
        }
    };
    if findings
        .iter()
        .any(|f| f.what == "repository" && f.verdict == Verdict::Good)
    {
        findings.extend(keys(context));
    }
    let bad = findings
        .iter()
        .filter(|f| f.verdict == Verdict::Bad)
        .count();
    if context.json() {
        print_json(&json!({
            "repository": target.location(),
            "findings": findings.iter().map(|f| json!({ "what": f.what, "verdict": f.verdict, "text": plain(&f.text) })).collect::<Vec<_>>(),
            "bad": bad,
        }))?;
    } else {
        let mut out = format!("{}\n", escape(&target.location()));
        for f in &findings {
            let mark = match f.verdict {
                Verdict::Good => "ok",
                Verdict::Note => "--",
                Verdict::Bad => "!!",
            };
            out.push_str(&format!(
                "  {mark}  {:<20} {}\n",
                f.what,
                escape(&plain(&f.text))
            ));
        }
        out.push_str(&match bad {
            0 => "Nothing is wrong.\n".to_owned(),
            1 => "One thing is wrong (!!).\n".to_owned(),
            n => format!("{n} things are wrong (!!).\n"),
        });
        print_after(&out)?;
    }
    Ok(if bad == 0 { Exit::Done } else { Exit::Failed })
}

fn finding(what: &'static str, verdict: Verdict, text: impl Into<String>) -> Finding {
    Finding {
        what,
        verdict,
        text: text.into(),
    }
}

/// What the keys at hand can do.
fn keys(context: &Context) -> Vec<Finding> {
    let mut out = Vec::new();
    let writer = match context.open_writer() {
        Ok(r) => {
            let maintain = r
                .writer()
                .and_then(|w| r.writers().get(&w.id))
                .is_some_and(|w| w.maintain);
            let also = if maintain {
                ", forget and prune for all"
            } else {
                ", forget its own"
            };
            if let Some(cache) = context.cache(&r) {
                out.extend(room("room for the cache", &cache));
            }
            finding(
                "writer key",
                Verdict::Good,
                format!("this host can back up{also}"),
            )
        }
        Err(f) => finding(
            "writer key",
            Verdict::Note,
            format!("this host cannot back up: {}", f.message),
        ),
    };
    out.push(writer);
    out.push(match context.open_reader() {
        Ok(_) => finding(
            "identity",
            Verdict::Note,
            "at hand: whoever takes this host over can read the backups",
        ),
        Err(f) => finding(
            "identity",
            Verdict::Note,
            format!(
                "not at hand, so this host cannot read backups: {}",
                f.message
            ),
        ),
    });
    out
}

/// Bytes free on the file system of a path or its nearest parent that exists.
fn room(what: &'static str, path: &Path) -> Option<Finding> {
    let there = path.ancestors().find(|p| p.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    let (free, all) = (
        stat.f_bavail.saturating_mul(stat.f_frsize),
        stat.f_blocks.saturating_mul(stat.f_frsize),
    );
    let verdict = if free < 64 << 20 {
        Verdict::Bad
    } else if free < all / 20 {
        Verdict::Note
    } else {
        Verdict::Good
    };
    Some(finding(
        what,
        verdict,
        format!("{} free of {}", human_bytes(free), human_bytes(all)),
    ))
}
