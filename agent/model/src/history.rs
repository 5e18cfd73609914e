//! An entry of history: any one record, as it is queued, spooled and stored.

use serde::{Deserialize, Serialize};

use crate::checks::{CheckResult, CheckTransition};
use crate::incidents::{Incident, NotificationRecord, RestartRecord};
use crate::runs::{RepositoryState, RunRecord};
use crate::time::Moment;

/// One record of what happened. As JSON: the record with a member `record` that says which it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Entry {
    /// A run that started or ended.
    Run(Box<RunRecord>),
    /// A run of a check.
    Result(CheckResult),
    /// A change of a check's state.
    Transition(CheckTransition),
    /// An incident that was opened or closed.
    Incident(Incident),
    /// A restart.
    Restart(RestartRecord),
    /// A notification and where it stands.
    Notification(NotificationRecord),
    /// A look at a repository.
    Repository(RepositoryState),
}

impl Entry {
    /// Whether it may be dropped first when there is no room: raw results are many, and each matters little.
    pub const fn is_raw(&self) -> bool {
        matches!(self, Self::Result(_))
    }

    /// When it happened: for a run when it began.
    pub fn at(&self) -> Moment {
        match self {
            Self::Run(run) => run.started,
            Self::Result(result) => result.at,
            Self::Transition(change) => change.at,
            Self::Incident(incident) => incident.opened,
            Self::Restart(restart) => restart.at,
            Self::Notification(message) => message.created,
            Self::Repository(state) => state.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RunId;
    use crate::runs::{RunKind, Trigger};

    #[test]
    fn an_entry_says_which_record_it_is() {
        let at: Moment = "2026-11-22T04:20:24Z".parse().expect("a time");
        let run = RunRecord::begin(
            RunId::new(at, [7; 10]),
            RunKind::Backup,
            "h",
            at,
            Trigger::Timer,
        );
        let entry = Entry::Run(Box::new(run));
        let json = serde_json::to_value(&entry).expect("json");
        assert_eq!(json["record"], "run");
        assert_eq!(json["kind"], "backup");
        assert_eq!(
            serde_json::from_value::<Entry>(json).expect("reads back"),
            entry
        );
        assert_eq!(entry.at(), at);
        assert!(!entry.is_raw());
        assert!(serde_json::from_str::<Entry>("{\"record\":\"gossip\"}").is_err());
    }
}
