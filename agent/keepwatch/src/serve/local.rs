//! Repositories on local disks, looked at by the daemon itself, so that one that vanished is noticed before its next backup.
//!
//! A look may hang for as long as a network file system likes. Each repository has at most one look under way, in a thread that
//! nobody waits for longer than [`WAIT`]: a repository whose look does not come back is not reachable.

use std::collections::BTreeMap;
use std::time::Duration;

use keepwatch_config::Config;
use keepwatch_config::sections::repositories::Backend;
use keepwatch_expose::facts::Repository;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::standing::{self, Standing};

/// A look that takes longer counts as none.
const WAIT: Duration = Duration::from_secs(3);

/// Looks that are under way, by repository: one thread each at most.
#[derive(Default)]
pub struct Looks(BTreeMap<String, JoinHandle<Standing>>);

impl Looks {
    /// Completes the rows of local repositories. One that nobody ever saw there is not made yet, which is no fault.
    pub async fn complete(&mut self, config: &Config, rows: &mut [Repository]) {
        self.0
            .retain(|name, _| config.repositories.contains_key(name));
        for row in rows {
            let declared = config.repositories.get(&row.name).map(|r| &r.backend);
            let Some(Backend::Local(local)) = declared else {
                continue;
            };
            let local = local.clone();
            let look = self.0.remove(&row.name).unwrap_or_else(|| {
                tokio::task::spawn_blocking(move || {
                    standing::look(&local.path, local.require_mount.as_deref())
                })
            });
            let standing = self.wait(&row.name, look).await;
            fill(row, standing);
        }
    }

    async fn wait(&mut self, name: &str, mut look: JoinHandle<Standing>) -> Standing {
        match timeout(WAIT, &mut look).await {
            Ok(seen) => seen.unwrap_or_default(),
            Err(_) => {
                self.0.insert(name.to_owned(), look);
                Standing {
                    reachable: Some(false),
                    ..Standing::default()
                }
            }
        }
    }
}

fn fill(row: &mut Repository, seen: Standing) {
    let was_ever_seen = row.reachable.is_some();
    match seen.reachable {
        Some(true) => row.reachable = Some(true),
        Some(false) if was_ever_seen => row.reachable = Some(false),
        Some(false) | None => {}
    }
    if seen.capacity.is_some() {
        row.available = seen.available;
        row.capacity = seen.capacity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_seen_counts_more_than_what_was() {
        let there = Standing {
            reachable: Some(true),
            available: Some(1),
            capacity: Some(2),
        };
        let gone = Standing {
            reachable: Some(false),
            ..Standing::default()
        };
        for (before, seen, want) in [
            (None, gone, None),
            (None, there, Some(true)),
            (Some(true), gone, Some(false)),
            (Some(false), there, Some(true)),
            (Some(true), Standing::default(), Some(true)),
        ] {
            let mut row = Repository {
                reachable: before,
                available: Some(9),
                ..Repository::default()
            };
            fill(&mut row, seen);
            assert_eq!(row.reachable, want, "{before:?} {seen:?}");
            let room = if seen == there { Some(1) } else { Some(9) };
            assert_eq!(row.available, room);
        }
    }
}
