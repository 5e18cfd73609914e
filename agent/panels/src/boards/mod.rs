//! What is shown: seven dashboards, each for one question, over a hundred panels together. A panel stands here only when the
//! agent fills what it asks for.

mod agent;
mod backups;
mod checks;
mod host;
mod overview;
mod restarts;
mod restore;

use crate::dashboard::Dashboard;

/// All of them, in the order in which a person asks.
pub fn all() -> Vec<Dashboard> {
    vec![
        overview::board(),
        backups::board(),
        restore::board(),
        checks::board(),
        restarts::board(),
        host::board(),
        agent::board(),
    ]
}
