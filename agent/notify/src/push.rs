//! What an Alertmanager is to know: pure. Unlike people it wants everything again and again, and forgets by itself what is not
//! repeated; so each alert carries an end a few rounds ahead, and what is over is told with its real end for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keepwatch_model::check::Severity;
use serde::Serialize;

use crate::alert::{Alert, AlertId};
use crate::limits::{ALERTS, BATCH, RESOLVED};
use crate::time::At;

/// Rounds that an alert lives on without being repeated.
const ROUNDS: u32 = 4;

/// Alerts as they were pushed.
#[derive(Clone, Debug)]
pub struct Push {
    resend: Duration,
    min_severity: Severity,
    alerts: BTreeMap<AlertId, (Alert, Option<At>)>,
    overflow: u64,
}

/// One alert in the form of Alertmanager's API v2.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Posting {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<&'static str, String>,
    starts_at: String,
    ends_at: String,
}

impl Push {
    /// Repeating at this interval, those that matter at least so much.
    pub fn new(resend: Duration, min_severity: Severity) -> Self {
        Self {
            resend,
            min_severity,
            alerts: BTreeMap::new(),
            overflow: 0,
        }
    }

    /// Takes over what fires now: all of it. Whether that is news, to be pushed at once.
    pub fn observe(&mut self, now: At, alerts: &[Alert]) -> bool {
        let mut news = false;
        let mut present = BTreeSet::new();
        for alert in alerts.iter().filter(|a| a.severity() <= self.min_severity) {
            let id = alert.id();
            present.insert(id.clone());
            if self.alerts.len() >= ALERTS && !self.alerts.contains_key(&id) {
                self.overflow += 1;
                continue;
            }
            let mut alert = alert.clone();
            // What was said first of its beginning holds for as long as it goes on.
            let goes_on = match self.alerts.get(&id) {
                Some((before, None)) => {
                    let first = before.starts().min(alert.starts());
                    alert = alert.began(first);
                    true
                }
                _ => false,
            };
            news |= !goes_on;
            self.alerts.insert(id, (alert, None));
        }
        for (id, (_, ended)) in &mut self.alerts {
            if ended.is_none() && !present.contains(id) {
                *ended = Some(now);
                news = true;
            }
        }
        // One that ended in the future is of a clock that was wrong.
        self.alerts
            .retain(|_, (_, ended)| ended.is_none_or(|at| at <= now && now.since(at) < RESOLVED));
        news
    }

    /// What to post now, at most [`BATCH`] alerts in one request.
    pub fn batches(&self, now: At) -> Vec<Vec<Posting>> {
        let all: Vec<Posting> = self
            .alerts
            .values()
            .map(|(alert, ended)| self.posting(alert, *ended, now))
            .collect();
        all.chunks(BATCH).map(<[Posting]>::to_vec).collect()
    }

    /// Alerts that there was no room for.
    pub fn overflow(&self) -> u64 {
        self.overflow
    }

    fn posting(&self, alert: &Alert, ended: Option<At>, now: At) -> Posting {
        let annotations = [
            ("summary", alert.summary_text()),
            ("description", alert.description_text()),
            ("runbook_url", alert.runbook_url()),
        ];
        let ends = ended.unwrap_or_else(|| now.plus(self.resend.saturating_mul(ROUNDS)));
        // Alertmanager refuses an end before the start, which a clock that was set back can make.
        let starts = alert.starts().min(ends);
        Posting {
            // Empty labels do not exist for it.
            labels: alert
                .labels()
                .iter()
                .filter(|(_, v)| !v.is_empty())
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
            annotations: annotations
                .into_iter()
                .filter(|(_, t)| !t.is_empty())
                .map(|(k, t)| (k, t.to_owned()))
                .collect(),
            starts_at: starts.rfc3339(),
            ends_at: ends.rfc3339(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(n: usize) -> Alert {
        Alert::new("X", Severity::Warning, At(1000))
            .label("check", &format!("c{n}"))
            .label("empty", "")
            .summary("s")
    }

    #[test]
    fn repeated_while_it_fires_and_told_for_a_while_when_it_is_over() {
        let mut p = Push::new(Duration::from_secs(60), Severity::Warning);
        assert!(p.batches(At(0)).is_empty());
        assert!(p.observe(
            At(1000),
            &[alert(1), Alert::new("I", Severity::Info, At(0))]
        ));
        assert!(!p.observe(At(2000), &[alert(1)]));
        let b = p.batches(At(2000));
        let json = serde_json::to_value(&b[0][0]).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "labels": {"alertname": "X", "severity": "warning", "check": "c1"},
                "annotations": {"summary": "s"},
                "startsAt": "1970-01-01T00:00:01Z",
                "endsAt": "1970-01-01T00:04:02Z",
            })
        );
        // One who does not know when it began does not change it.
        p.observe(At(3000), &[alert(1).began(At(3000))]);
        assert_eq!(p.batches(At(3000))[0][0].starts_at, "1970-01-01T00:00:01Z");
        assert!(p.observe(At(5000), &[]));
        assert!(!p.observe(At(6000), &[]));
        assert_eq!(p.batches(At(9000))[0][0].ends_at, "1970-01-01T00:00:05Z");
        assert!(p.observe(At(7000), &[alert(1)]), "it fires again");
        p.observe(At(8000), &[]);
        p.observe(At(8000 + 900_000), &[]);
        assert!(p.batches(At(0)).is_empty(), "forgotten");
    }

    #[test]
    fn bounded_and_in_batches() {
        let mut p = Push::new(Duration::from_secs(60), Severity::Info);
        let many: Vec<_> = (0..ALERTS + 10).map(alert).collect();
        p.observe(At(0), &many);
        assert_eq!(p.overflow(), 10);
        let b = p.batches(At(0));
        assert_eq!(b.iter().map(Vec::len).sum::<usize>(), ALERTS);
        assert!(b.iter().all(|b| b.len() <= BATCH));
    }
}
