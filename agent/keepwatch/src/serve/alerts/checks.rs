//! What is wrong with checks, certificates, windows, and units that are restarted.

use std::time::Duration;

use keepwatch_expose::facts::{At, Check, Unit};
use keepwatch_model::check::{Overlay, Severity};
use keepwatch_watch::conductor::CheckView;
use keepwatch_watch::judge::Cause;

use super::past::{DAY, HOUR, MINUTE, Past, QUARTER};
use super::rules::{self, Rule};
use super::{Case, Known, after};

/// A certificate that ends within this is told of.
const SOON: Duration = Duration::from_secs(14 * 86_400);
/// Within this it is urgent.
const VERY_SOON: Duration = Duration::from_secs(3 * 86_400);
/// The share of failed runs at which an error budget of one in a hundred is used up in two days.
const BURN: f64 = 14.4 * 0.01;
/// The share of its deadline that a run may take.
const SLOW: f64 = 0.8;
/// Samples of durations, half a minute apart, from which on they are judged.
const ENOUGH: usize = 10;
/// Attempts in an hour that are a loop.
const LOOP: u64 = 3;
/// How long a failed restart is told.
const FAILED: Duration = QUARTER;
/// The health score below which a person should look.
const SCORE: f64 = 0.7;

pub(super) fn cases(known: &Known<'_>, past: &Past, out: &mut Vec<Case>) {
    for view in &known.overview.checks {
        out.extend(incident(known, view));
    }
    for check in &known.facts.checks {
        out.extend(not_running(known, check));
        // What it measured once says nothing any more.
        if check.overlay != Some(Overlay::Disabled) {
            out.extend(certificate(known, check));
            out.extend(slow(known, past, check));
            out.extend(burns(known, past, check));
        }
    }
    for window in known.facts.windows.iter().filter(|w| w.active) {
        let name = &window.name;
        out.push(
            known
                .case(&rules::MAINTENANCE_TOO_LONG)
                .label("window", name)
                .since(window.since)
                .says(
                    &format!("maintenance window {name} is open for over 12 hours"),
                    &format!("Nobody is told and nothing is restarted while it is open. 'keepwatch maintenance end {name}' closes it."),
                ),
        );
    }
    for unit in &known.facts.units {
        units(known, past, unit, out);
    }
    if let Some(score) = known.facts.agent.score.filter(|score| *score < SCORE) {
        out.push(known.case(&rules::HEALTH_SCORE_LOW).says(
            &format!("the health score is {:.0} %", score * 100.0),
            "Several checks or backups are not well at once. The alerts about each of them say more; 'keepwatch status' shows all.",
        ));
    }
}

/// With the labels that the configuration gives its check.
fn of_check(known: &Known<'_>, name: &str, kind: &str, case: Case) -> Case {
    let mut case = case.label("check", name).label("kind", kind);
    let labels = known.config.checks.get(name).map(|c| &c.labels);
    for (name, value) in labels.into_iter().flatten() {
        // What identifies an alert is not to be overwritten.
        if !case.alert.labels().contains_key(name) {
            case = case.label(name, value);
        }
    }
    case
}

fn about(known: &Known<'_>, check: &Check, rule: &Rule) -> Case {
    of_check(
        known,
        check.name.as_str(),
        check.kind.as_str(),
        known.case(rule),
    )
    .muted(check.overlay.is_some())
}

fn incident(known: &Known<'_>, view: &CheckView) -> Option<Case> {
    let incident = view.judge.incident.as_ref()?;
    let name = view.name.as_str();
    let declared = known.config.checks.get(name);
    let promise = declared.map_or("", |c| c.description.as_str());
    let why = view
        .judge
        .last_failure
        .as_ref()
        .or(incident.failure.as_ref())
        .map_or("", |f| f.text.as_str());
    let (case, since, what) = match incident.cause {
        Cause::Down => (
            known.case_as(&rules::CHECK_DOWN, view.severity),
            incident.since,
            "is down",
        ),
        Cause::Flapping => {
            let severity = view.severity.min(Severity::Warning);
            (
                known.case_as(&rules::CHECK_FLAPPING, severity),
                incident.opened,
                "goes up and down",
            )
        }
    };
    let unit = view.unit.as_ref().map_or("", |u| u.as_str());
    let group = declared.and_then(|c| c.group.as_deref()).unwrap_or("");
    let case = case.label("unit", unit).label("group", group);
    let text = [promise, why].into_iter().filter(|t| !t.is_empty());
    let text = text.collect::<Vec<_>>().join(": ");
    Some(
        of_check(known, name, view.kind.as_str(), case)
            .since(Some(At(since.0)))
            .says(&format!("check {name} {what}"), &text),
    )
}

fn not_running(known: &Known<'_>, check: &Check) -> Option<Case> {
    let due = after(check.last_run?, 3 * check.interval + MINUTE);
    if known.now <= due || check.overlay == Some(Overlay::Disabled) {
        return None;
    }
    let case = about(known, check, &rules::CHECK_NOT_RUNNING).muted(false);
    Some(case.since(Some(due)).says(
        &format!("check {} does not run", check.name),
        "Its last run was over three intervals ago: what it says is old. The agent is overloaded or stuck.",
    ))
}

fn certificate(known: &Known<'_>, check: &Check) -> Option<Case> {
    let ends = check.tls_not_after?;
    let left = ends.0.saturating_sub(known.now.0);
    let millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    let (rule, limit) = if left < millis(VERY_SOON) {
        (&rules::CERTIFICATE_VERY_SOON, VERY_SOON)
    } else if left < millis(SOON) {
        (&rules::CERTIFICATE_SOON, SOON)
    } else {
        return None;
    };
    let days = limit.as_secs() / DAY.as_secs();
    let what = format!("the certificate that check {} sees", check.name);
    let summary = if left <= 0 {
        format!("{what} has ended")
    } else {
        format!("{what} ends within {days} days")
    };
    Some(
        about(known, check, rule)
            .since(Some(At(ends.0.saturating_sub(millis(limit)))))
            .says(
                &summary,
                "Clients refuse the service when it has ended; automatic renewal should have happened by now.",
            ),
    )
}

fn slow(known: &Known<'_>, past: &Past, check: &Check) -> Option<Case> {
    let durations = &past.checks.get(check.name.as_str())?.durations;
    let limit = SLOW * check.timeout.as_secs_f64();
    if !durations.reaches(limit) || durations.quantile(0.9, ENOUGH)? <= limit {
        return None;
    }
    Some(about(known, check, &rules::CHECK_SLOW).says(
        &format!("check {} is near its deadline", check.name),
        "Runs of the last quarter of an hour took over 80 % of the deadline: soon it will fail by timeout.",
    ))
}

/// The last hour, and the last five minutes: it still goes on.
fn burns(known: &Known<'_>, past: &Past, check: &Check) -> Option<Case> {
    let series = &past.checks.get(check.name.as_str())?.runs;
    let failed: u64 = check.failures.values().sum();
    let share = |span: Duration, least: Duration| {
        let (at, (runs, bad)) = series.before(known.now, span)?;
        let runs = check.runs.checked_sub(u64::from(runs))?;
        let bad = failed.checked_sub(u64::from(bad))?;
        let is_known = known.now.since(at) >= least && runs > 0;
        is_known.then(|| bad as f64 / runs as f64)
    };
    // A few runs after a start are no hour.
    let hour = share(HOUR, HOUR / 2)?;
    if hour <= BURN || share(5 * MINUTE, Duration::ZERO)? <= BURN {
        return None;
    }
    Some(about(known, check, &rules::CHECK_BURN).says(
        &format!("check {} burns its error budget", check.name),
        &format!("{:.0} % of its runs of the last hour failed. At this pace the errors that 99 % allow in a month are used up in two days.", hour * 100.0),
    ))
}

fn units(known: &Known<'_>, past: &Past, unit: &Unit, out: &mut Vec<Case>) {
    let name = &unit.name;
    let view = known
        .overview
        .units
        .iter()
        .find(|(n, _)| n.as_str() == name)
        .map(|(_, view)| view);
    let make = |rule| known.case(rule).label("unit", name);
    if unit.gave_up {
        let since = view.and_then(|v| v.state.gave_up).map(|at| At(at.0));
        out.push(make(&rules::RESTART_GAVE_UP).since(since).says(
            &format!("{name} stays down: restarts are used up"),
            &format!("Manual intervention required: look at 'journalctl -u {name}', mend it, then 'keepwatch reset {name}'."),
        ));
    }
    // The state remembers attempts of the daemon before this one, the past those by hand.
    let seen = past
        .restarts
        .get(name)
        .and_then(|s| s.before(known.now, HOUR));
    let seen = seen.map_or(0, |(_, before)| unit.restarts.saturating_sub(before));
    let remembered = view.map_or(0, |v| {
        let recent = v.state.attempts.iter();
        let recent = recent.filter(|at| known.now.since(At(at.0)) < HOUR);
        recent.count() as u64
    });
    let attempts = seen.max(remembered);
    if attempts >= LOOP {
        out.push(make(&rules::RESTART_LOOP).says(
            &format!("{name} is restarted again and again"),
            &format!("It was restarted {attempts} times within an hour. Restarting hides the cause: 'journalctl -u {name}' before each restart shows it."),
        ));
    }
    let failures = past.jobs.get(name).into_iter().flatten();
    for (reason, grown) in failures {
        if let Some(at) = grown.within(known.now, FAILED) {
            out.push(
                make(&rules::RESTART_FAILED)
                    .label("reason", reason)
                    .since(Some(at))
                    .says(
                        &format!("{name} could not be restarted: {reason}"),
                        &format!("systemd answered {reason}. 'systemctl status {name}' shows why it does not start."),
                    ),
            );
        }
    }
}
