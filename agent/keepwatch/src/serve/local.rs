//! Repositories on local disks, looked at by the daemon itself, so that one that vanished is noticed before its next backup.
//!
//! A look may hang for as long as a network file system likes. Each repository has at most one look under way, in a thread that
//! nobody waits for longer than [`WAIT`]: a repository whose look does not come back is not reachable.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use keepwatch_config::sections::repositories::{self, Backend};
use keepwatch_config::{Config, longest_gap};
use keepwatch_expose::facts::Repository;
use keepwatch_model::time::Moment;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::standing::{self, Marks, Standing};

/// A look that takes longer counts as none.
const WAIT: Duration = Duration::from_secs(3);

/// Looks that are under way, by repository: one thread each at most.
#[derive(Default)]
pub struct Looks(BTreeMap<String, JoinHandle<Seen>>);

/// What one look saw.
#[derive(Clone, Copy, Default)]
struct Seen {
    standing: Standing,
    marks: Option<Marks>,
}

impl Looks {
    /// Completes the rows of local repositories. One that nobody ever saw there is not made yet, which is no fault.
    pub async fn complete(&mut self, config: &Config, rows: &mut [Repository], now: Moment) {
        self.0
            .retain(|name, _| config.repositories.contains_key(name));
        for row in rows {
            let Some(declared) = config.repositories.get(&row.name) else {
                continue;
            };
            let Backend::Local(local) = &declared.backend else {
                continue;
            };
            let (local, due) = (local.clone(), due(declared, now));
            let look = self.0.remove(&row.name).unwrap_or_else(|| {
                tokio::task::spawn_blocking(move || {
                    let standing = standing::look(&local.path, local.require_mount.as_deref());
                    let is_there = standing.reachable == Some(true);
                    let marks = is_there.then(|| standing::marks(&local.path, due));
                    Seen {
                        standing,
                        marks: marks.flatten(),
                    }
                })
            });
            let seen = self.wait(&row.name, look).await;
            fill(row, seen.standing);
            row.locks = seen.marks.map(|m| m.records);
            row.stale_locks = seen.marks.and_then(|m| m.overdue);
        }
    }

    async fn wait(&mut self, name: &str, mut look: JoinHandle<Seen>) -> Seen {
        match timeout(WAIT, &mut look).await {
            Ok(seen) => seen.unwrap_or_default(),
            Err(_) => {
                self.0.insert(name.to_owned(), look);
                Seen {
                    standing: Standing {
                        reachable: Some(false),
                        ..Standing::default()
                    },
                    marks: None,
                }
            }
        }
    }
}

/// From before when no mark should be left: two prunes were due since its grace period ended. Unknown where this host prunes by hand only.
fn due(declared: &repositories::Repository, now: Moment) -> Option<SystemTime> {
    let prune = &declared.prune;
    let every = longest_gap(&prune.start_at).filter(|_| prune.enable)?;
    let now = Duration::from_nanos(u64::try_from(now.unix_nanos()).ok()?);
    (SystemTime::UNIX_EPOCH + now)
        .checked_sub(prune.grace_delete.saturating_add(every.saturating_mul(2)))
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
