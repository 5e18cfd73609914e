//! History as a person reads it: runs, changes of state, incidents and restarts in one list, the newest first.

use keepwatch_model::history::Entry;
use keepwatch_model::time::Moment;

use crate::catalog::Catalog;
use crate::checks;
use crate::events::{self, EventFilter};
use crate::fault::CatalogError;
use crate::runs::{self, LIST_MAX, RunFilter};

/// What is wanted; what is missing does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryFilter {
    /// Of this host; missing: of all that share the catalog.
    pub host: Option<String>,
    /// About this job, check or unit.
    pub subject: Option<String>,
    /// Then or later.
    pub since: Option<Moment>,
    /// Before.
    pub until: Option<Moment>,
    /// How many at most; 0 and what is above [`LIST_MAX`] means that.
    pub limit: u32,
    /// With runs.
    pub runs: bool,
    /// With changes of checks' states.
    pub transitions: bool,
    /// With incidents.
    pub incidents: bool,
    /// With restarts.
    pub restarts: bool,
}

impl Default for HistoryFilter {
    fn default() -> Self {
        Self {
            host: None,
            subject: None,
            since: None,
            until: None,
            limit: 0,
            runs: true,
            transitions: true,
            incidents: true,
            restarts: true,
        }
    }
}

/// Entries of history, the newest first.
///
/// # Errors
/// The database is away or refuses.
pub async fn list(catalog: &Catalog, filter: &HistoryFilter) -> Result<Vec<Entry>, CatalogError> {
    let mut out = Vec::new();
    if filter.runs {
        let wanted = RunFilter {
            host: filter.host.clone(),
            job: filter.subject.clone(),
            since: filter.since,
            until: filter.until,
            limit: filter.limit,
            ..RunFilter::default()
        };
        out.extend(
            runs::list(catalog, &wanted)
                .await?
                .into_iter()
                .map(|run| Entry::Run(Box::new(run))),
        );
    }
    if filter.transitions {
        let (host, check) = (filter.host.as_deref(), filter.subject.as_deref());
        let found = checks::transitions(
            catalog,
            host,
            check,
            filter.since,
            filter.until,
            filter.limit,
        );
        out.extend(found.await?.into_iter().map(Entry::Transition));
    }
    let wanted = EventFilter {
        host: filter.host.clone(),
        subject: filter.subject.clone(),
        since: filter.since,
        until: filter.until,
        limit: filter.limit,
        ..EventFilter::default()
    };
    if filter.incidents {
        out.extend(
            events::incidents(catalog, &wanted)
                .await?
                .into_iter()
                .map(Entry::Incident),
        );
    }
    if filter.restarts {
        out.extend(
            events::restarts(catalog, &wanted)
                .await?
                .into_iter()
                .map(Entry::Restart),
        );
    }
    out.sort_by_key(|entry| std::cmp::Reverse(entry.at()));
    let limit = if filter.limit == 0 {
        LIST_MAX
    } else {
        filter.limit.min(LIST_MAX)
    };
    out.truncate(limit as usize);
    Ok(out)
}
