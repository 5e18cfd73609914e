//! Incidents, the restarts that belong to them, and what people are told.
//!
//! As with runs, a record is written whole each time something about it becomes known, under one id, and the later writing is
//! told from the earlier by its own fields (`rank`), not by the order of arrival.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::check::Severity;
use crate::checks::FailureReason;
use crate::ids::{EventId, IncidentId};
use crate::time::Moment;
use crate::words::{micros_opt, words};

/// From opened to closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Made when it was opened.
    pub id: IncidentId,
    /// The host that it happened on.
    pub host: String,
    /// What is affected: the name of a check, or of a job.
    pub subject: String,
    /// The systemd unit behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// How much it matters.
    pub severity: Severity,
    /// When it was opened.
    pub opened: Moment,
    /// When it was closed; missing while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<Moment>,
    /// Why it was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<FailureReason>,
    /// What to tell a person. The catalog keeps its first 2 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl Incident {
    /// Of two writings the one with the higher rank is believed: open 0, closed 1.
    pub const fn rank(&self) -> u8 {
        self.closed.is_some() as u8
    }
}

words! {
    /// What came of a restart.
    RestartOutcome, "the outcome of a restart", {
        /// Asked for; systemd has not said yet.
        Asked = "asked",
        /// The job is done.
        Done = "done",
        /// The job failed.
        Failed = "failed",
        /// The job took too long.
        Timeout = "timeout",
        /// A unit that it needs failed.
        Dependency = "dependency",
        /// The job was cancelled.
        Canceled = "canceled",
        /// It was not tried: see the refusal.
        Refused = "refused",
        /// All tries are used up; a person must act.
        GaveUp = "gave_up",
        /// A person reset the count.
        Reset = "reset",
    }
}

words! {
    /// Why a restart was refused. A closed set: it is a label of metrics.
    RestartRefusal, "a reason not to restart", {
        /// The check is in a maintenance window (a backup of the unit's data opens one).
        Maintenance = "maintenance",
        /// A check that it depends on is down.
        ParentUnhealthy = "parent_unhealthy",
        /// The check flaps.
        Flapping = "flapping",
        /// Only deciding, by configuration.
        DryRun = "dry_run",
        /// Too soon after the last attempt.
        Cooldown = "cooldown",
        /// Given up: too many attempts.
        GaveUp = "gave_up",
        /// Too many restarts on this host.
        HostBudget = "host_budget",
        /// An attempt is under way.
        InProgress = "in_progress",
        /// systemd is already at it.
        UnitBusy = "unit_busy",
        /// An operator stopped the unit.
        StoppedByOperator = "stopped_by_operator",
        /// The unit does not exist or is masked.
        NoSuchUnit = "no_such_unit",
        /// The host is going down.
        SystemStopping = "system_stopping",
        /// A new configuration of NixOS is being activated.
        Activation = "activation",
        /// The unit is not one that may be restarted.
        NotAllowed = "not_allowed",
        /// systemd could not be asked.
        Unreachable = "unreachable",
    }
}

/// One restart, tried or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRecord {
    /// Made when it was decided.
    pub id: EventId,
    /// The host.
    pub host: String,
    /// The systemd unit.
    pub unit: String,
    /// The check that asked; missing when a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// The incident that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<IncidentId>,
    /// 1 for the first try of this incident.
    pub attempt: u32,
    /// When it was decided.
    pub at: Moment,
    /// What came of it.
    pub outcome: RestartOutcome,
    /// Why it was not tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RestartRefusal>,
    /// Whether the check was healthy again afterwards; missing until that is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
    /// How long systemd took.
    #[serde(
        default,
        rename = "duration_us",
        with = "micros_opt",
        skip_serializing_if = "Option::is_none"
    )]
    pub duration: Option<Duration>,
    /// What to tell a person. The catalog keeps its first 2 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl RestartRecord {
    /// Of two writings the one with the higher rank is believed: asked 0, with its outcome 1, with the judgement 2.
    pub const fn rank(&self) -> u8 {
        if self.recovered.is_some() {
            2
        } else if matches!(self.outcome, RestartOutcome::Asked) {
            0
        } else {
            1
        }
    }
}

words! {
    /// Where a notification stands.
    NotificationState, "the state of a notification", {
        /// To be sent.
        Queued = "queued",
        /// Handed over.
        Sent = "sent",
        /// Given up.
        Failed = "failed",
    }
}

/// Something to tell a person, by one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationRecord {
    /// Made when it was queued.
    pub id: EventId,
    /// The host that tells.
    pub host: String,
    /// By which way: the name of a sink in the configuration.
    pub sink: String,
    /// What it is about, so that one thing is told once.
    pub topic: String,
    /// What to send. The catalog keeps its first 16 KiB.
    pub body: String,
    /// When it was queued.
    pub created: Moment,
    /// Not to be sent before.
    pub due: Moment,
    /// How often it was tried.
    pub attempts: u32,
    /// Where it stands.
    pub state: NotificationState,
    /// When it was handed over or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<Moment>,
    /// Why the last try failed. The catalog keeps its first 2 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl NotificationRecord {
    /// Of two writings the one with the higher rank is believed: more tries, and in the end sent or given up.
    pub const fn rank(&self) -> u64 {
        match self.state {
            NotificationState::Queued => self.attempts as u64,
            NotificationState::Sent | NotificationState::Failed => 1 << 32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Moment {
        "2026-11-22T04:20:24Z".parse().expect("a time")
    }

    #[test]
    fn later_writings_rank_higher() {
        let mut incident = Incident {
            id: IncidentId::new(at(), [0; 10]),
            host: "h".into(),
            subject: "api".into(),
            unit: None,
            severity: Severity::Critical,
            opened: at(),
            closed: None,
            reason: Some(FailureReason::Connect),
            text: None,
        };
        assert_eq!(incident.rank(), 0);
        incident.closed = Some(at());
        assert_eq!(incident.rank(), 1);
        let json = serde_json::to_string(&incident).expect("json");
        assert_eq!(
            serde_json::from_str::<Incident>(&json).expect("reads back"),
            incident
        );

        let mut restart = RestartRecord {
            id: EventId::new(at(), [0; 10]),
            host: "h".into(),
            unit: "api.service".into(),
            check: Some("api".into()),
            incident: Some(incident.id),
            attempt: 1,
            at: at(),
            outcome: RestartOutcome::Asked,
            refusal: None,
            recovered: None,
            duration: None,
            text: None,
        };
        assert_eq!(restart.rank(), 0);
        restart.outcome = RestartOutcome::Done;
        restart.duration = Some(Duration::from_micros(5));
        assert_eq!(restart.rank(), 1);
        restart.recovered = Some(false);
        assert_eq!(restart.rank(), 2);
        let json = serde_json::to_string(&restart).expect("json");
        assert_eq!(
            serde_json::from_str::<RestartRecord>(&json).expect("reads back"),
            restart
        );

        let mut message = NotificationRecord {
            id: EventId::new(at(), [0; 10]),
            host: "h".into(),
            sink: "mail".into(),
            topic: "api".into(),
            body: "down".into(),
            created: at(),
            due: at(),
            attempts: u32::MAX,
            state: NotificationState::Queued,
            done: None,
            error: None,
        };
        let tried = message.rank();
        message.state = NotificationState::Sent;
        message.attempts = 1;
        assert!(message.rank() > tried);
        let json = serde_json::to_string(&message).expect("json");
        assert_eq!(
            serde_json::from_str::<NotificationRecord>(&json).expect("reads back"),
            message
        );
    }
}
