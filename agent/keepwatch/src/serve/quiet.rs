//! Maintenance windows around our own backups and drills, for the checks that they disturb (`quiet_checks`).
//!
//! A window is opened when the catalog shows a run of the job, and closed when the run is over. Its end is the job's timeout, so
//! that no window outlives a run by more, whatever dies.

use std::collections::BTreeSet;

use keepwatch_config::Config;
use keepwatch_model::check::CheckName;
use keepwatch_model::runs::{RunKind, RunRecord};
use keepwatch_watch::clock::{At, Clock as _, HostClock};
use keepwatch_watch::conductor::Command;
use keepwatch_watch::maintenance::{Covers, Open, Opener};
use tokio::sync::oneshot;

use super::scene::Scene;

/// The windows that these runs want.
fn wanted(open: &[RunRecord], config: &Config, now: At) -> Vec<Open> {
    let one = |run: &RunRecord| {
        let job = run.job.as_deref()?;
        let (checks, timeout) = match run.kind {
            RunKind::Backup => {
                let b = config.backups.get(job)?;
                (&b.quiet_checks, b.timeout)
            }
            RunKind::Drill => {
                let d = config.drills.get(job)?;
                (&d.quiet_checks, d.timeout)
            }
            _ => return None,
        };
        let checks: Vec<CheckName> = checks.iter().filter_map(|c| c.parse().ok()).collect();
        let began = At(i64::try_from(run.started.unix_nanos() / 1_000_000).unwrap_or(now.0));
        let mut name = format!("{}-{job}", run.kind);
        name.truncate(64);
        let window = Open {
            name: name.parse().ok()?,
            opener: Opener::Job,
            covers: Covers::Checks(checks),
            opened: now,
            ends: began.min(now).plus(timeout),
            note: format!("while the {} run of {job} lasts", run.kind),
        };
        let is_sensible =
            window.ends > now && matches!(&window.covers, Covers::Checks(c) if !c.is_empty());
        is_sensible.then_some(window)
    };
    open.iter().filter_map(one).collect()
}

/// Opens and closes windows so that they fit the runs.
pub async fn apply(scene: &Scene, open: &[RunRecord]) {
    let wanted = wanted(open, &scene.loaded.config, HostClock.wall());
    let names: BTreeSet<CheckName> = wanted.iter().map(|w| w.name.clone()).collect();
    let known: Vec<CheckName> = scene
        .saved
        .borrow()
        .windows
        .iter()
        .filter(|w| w.opener == Opener::Job)
        .map(|w| w.name.clone())
        .collect();
    for name in known.iter().filter(|n| !names.contains(*n)) {
        let (reply, answer) = oneshot::channel();
        let name = name.clone();
        if scene
            .commands
            .send(Command::Close { name, reply })
            .await
            .is_ok()
        {
            let _ = answer.await;
        }
    }
    for window in wanted.into_iter().filter(|w| !known.contains(&w.name)) {
        let (reply, answer) = oneshot::channel();
        if scene
            .commands
            .send(Command::Open { window, reply })
            .await
            .is_ok()
        {
            if let Ok(Err(e)) = answer.await {
                tracing::warn!("cannot keep checks quiet during a run: {e}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_model::ids::RunId;
    use keepwatch_model::runs::Trigger;

    #[test]
    fn a_window_lasts_no_longer_than_the_run_may() {
        let key = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        let text = format!(
            "[repositories.disk]\nbackend.local = {{ path = \"/mnt/b\" }}\nrecipients = [\"{key}\"]\n\
             [checks.db]\nprobe.tcp = {{ target = \"127.0.0.1:5432\" }}\n\
             [backups.loud]\nsource.paths = {{ include = [\"/a\"] }}\n\
             [backups.app]\nsource.paths = {{ include = [\"/a\"] }}\nquiet_checks = [\"db\"]\ntimeout = \"1h\"\n"
        );
        let loaded = keepwatch_config::parse(&text, "test").unwrap_or_else(|e| panic!("{e}"));
        let began: keepwatch_model::time::Moment = "2026-11-22T04:00:00Z".parse().expect("a time");
        let run = |job: &str| {
            let id = RunId::new(began, [1; 10]);
            let mut run = RunRecord::begin(id, RunKind::Backup, "h", began, Trigger::Timer);
            run.job = Some(job.into());
            run
        };
        let start = At::from_secs(began.unix_seconds());
        let minute = start.plus(std::time::Duration::from_secs(60));
        let open = wanted(
            &[run("app"), run("loud"), run("gone")],
            &loaded.config,
            minute,
        );
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].name.as_str(), "backup-app");
        assert_eq!(
            open[0].ends,
            start.plus(std::time::Duration::from_secs(3600))
        );
        let late = start.plus(std::time::Duration::from_secs(3601));
        assert!(wanted(&[run("app")], &loaded.config, late).is_empty());
    }
}
