//! What a run saw of its repository: whether it answered, and how much room there is. The daemon, which may not be able to get at the
//! place, shows it.

use std::path::Path;

use keepwatch_config::Config;
use keepwatch_config::sections::repositories::Backend;
use keepwatch_model::runs::{ErrorClass, RepositoryState, RunRecord};
use keepwatch_model::time::Moment;
use rustix::fs::statvfs;

/// What is known after a run; none when it says nothing about its repository.
pub fn seen(config: &Config, record: &RunRecord, at: Moment) -> Option<RepositoryState> {
    let name = record.repository.as_deref()?;
    let local = match &config.repositories.get(name)?.backend {
        Backend::Local(local) => Some(local.path.as_path()),
        Backend::S3(_) => None,
    };
    let reachable = match &record.error {
        None if record.outcome.is_success() => true,
        None => return None,
        Some(error) => answered(error.class, local)?,
    };
    let room = local.filter(|_| reachable).and_then(|p| statvfs(p).ok());
    Some(RepositoryState {
        host: record.host.clone(),
        repository: name.to_owned(),
        at,
        reachable,
        size_bytes: None,
        available_bytes: room.as_ref().map(|v| v.f_bavail.saturating_mul(v.f_frsize)),
        capacity_bytes: room.map(|v| v.f_blocks.saturating_mul(v.f_frsize)),
    })
}

/// Whether a repository answered a run that failed; none when the failure does not tell.
fn answered(class: ErrorClass, local: Option<&Path>) -> Option<bool> {
    match class {
        // What is there and refuses is not away.
        ErrorClass::Repository => Some(local.is_some_and(|p| p.join("config").exists())),
        ErrorClass::Space | ErrorClass::Lock | ErrorClass::Verify => Some(true),
        ErrorClass::Source
        | ErrorClass::Auth
        | ErrorClass::Timeout
        | ErrorClass::Killed
        | ErrorClass::Internal => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_failure_tells_is_believed() {
        let here = tempfile::tempdir().expect("a directory");
        let place = Some(here.path());
        assert_eq!(answered(ErrorClass::Repository, place), Some(false));
        std::fs::write(here.path().join("config"), b"x").expect("written");
        assert_eq!(answered(ErrorClass::Repository, place), Some(true));
        assert_eq!(answered(ErrorClass::Repository, None), Some(false));
        assert_eq!(answered(ErrorClass::Space, None), Some(true));
        assert_eq!(answered(ErrorClass::Source, place), None);
        assert_eq!(answered(ErrorClass::Killed, None), None);
    }
}
