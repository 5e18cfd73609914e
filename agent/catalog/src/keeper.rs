//! Keeps one database at hand: connects when it is needed, rests when it is away, moves a damaged file aside.
//!
//! A database that failed is left alone for a while, twice as long each time up to a minute, with some chance in it, so that a
//! fleet does not come back all at once. Meanwhile callers are told at once, and nobody waits.
//!
//! A damaged SQLite file is renamed to `<name>.corrupt-<time>` with its companions, under a lock file, and only if the path
//! still names the file in which the damage was seen: of two processes that see it, one renames. Another process that has
//! the renamed file open notices before its next transaction that the path names another file, and opens that.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keepwatch_model::time::Moment;
use tokio::time::Instant;

use crate::Random;
use crate::database::{self, Database, FileId, Migrate, file_id};
use crate::fault::{CatalogError, Fault, Trouble, fault, reason};
use crate::place::Place;
use crate::sql;

/// The first rest after a failure; each further one is twice as long.
pub const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest rest.
pub const LONGEST_REST: Duration = Duration::from_secs(60);
/// Damaged files that are kept; older ones are deleted, so that damage in a loop does not fill the disk.
pub const DAMAGED_KEPT: usize = 3;

/// One database, connected or resting.
pub(crate) struct Keeper {
    place: Place,
    random: Random,
    connecting: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    database: Option<Database>,
    rest: Option<Rest>,
    tries: u32,
    moved: Vec<PathBuf>,
    moved_total: u64,
    connects: u64,
}

struct Rest {
    until: Instant,
    error: CatalogError,
}

/// How the catalog stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whether a database is connected.
    pub connected: bool,
    /// Why it is not used now.
    pub trouble: Option<CatalogError>,
    /// Damaged files that this process moved aside, the newest last.
    pub moved_aside: Vec<PathBuf>,
    /// How many they were in all.
    pub moved_aside_total: u64,
    /// How often a connection was made.
    pub connects_total: u64,
}

impl Keeper {
    pub(crate) fn new(place: Place, random: Random) -> Self {
        Self {
            place,
            random,
            connecting: tokio::sync::Mutex::new(()),
            state: Mutex::default(),
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn standing(&self) -> Standing {
        let state = self.state();
        Standing {
            connected: state.database.is_some(),
            trouble: state.rest.as_ref().map(|rest| rest.error.clone()),
            moved_aside: state.moved.clone(),
            moved_aside_total: state.moved_total,
            connects_total: state.connects,
        }
    }

    /// Why it is not to be asked now.
    pub(crate) fn resting(&self) -> Option<CatalogError> {
        let state = self.state();
        state
            .rest
            .as_ref()
            .filter(|rest| Instant::now() < rest.until)
            .map(|rest| rest.error.clone())
    }

    /// Forgets a rest: a caller has time to wait and wants to know.
    pub(crate) fn wake(&self) {
        if let Some(rest) = &mut self.state().rest {
            rest.until = Instant::now();
        }
    }

    /// The database, connected now if it is not yet.
    pub(crate) async fn database(
        &self,
        migrate: Migrate,
        now: Moment,
    ) -> Result<Database, Trouble> {
        if let Some(database) = self.at_hand().await? {
            return Ok(database);
        }
        let _one = self.connecting.lock().await;
        if let Some(database) = self.at_hand().await? {
            return Ok(database);
        }
        let before = self.file();
        let mut result = database::open(&self.place, migrate, sql::instant(now)).await;
        let damage = match &result {
            Err(Trouble::Sql(e)) if fault(e) == Fault::Damaged => Some(reason(e)),
            Err(Trouble::Garbled(e)) => Some(reason(e)),
            _ => None,
        };
        if let Some(why) = damage {
            self.move_aside(before.or_else(|| self.file()), now, &why);
            result = database::open(&self.place, Migrate::Fresh, sql::instant(now)).await;
        }
        let database = result?;
        let mut state = self.state();
        state.database = Some(database.clone());
        state.rest = None;
        state.tries = 0;
        state.connects += 1;
        Ok(database)
    }

    /// The database that is connected and still in its place; an error while it rests.
    async fn at_hand(&self) -> Result<Option<Database>, CatalogError> {
        if let Some(error) = self.resting() {
            return Err(error);
        }
        let held = self.state().database.clone();
        match held {
            Some(database) if database.still_there() => Ok(Some(database)),
            Some(database) => {
                self.state().database = None;
                database.pool.close().await;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn file(&self) -> Option<FileId> {
        match &self.place {
            Place::Sqlite(path) => file_id(path),
            Place::Postgres(_) => None,
        }
    }

    /// What an error means, and what follows from it: a rest, a new connection, a new file. `writing`: whether the caller wanted
    /// to write, so that the next writers are spared the wait.
    pub(crate) async fn judge(&self, trouble: Trouble, writing: bool, now: Moment) -> CatalogError {
        let place = self.place.to_string();
        match trouble {
            Trouble::Judged(error) => {
                match error {
                    // What was refused because of a rest must not renew it.
                    _ if self.resting().is_some() => {}
                    CatalogError::Newer { .. } => self.rest(&error, Some(LONGEST_REST)),
                    CatalogError::Unusable { .. } | CatalogError::Away { .. } => {
                        self.rest(&error, None);
                    }
                    _ => {}
                }
                error
            }
            Trouble::Late(after) => {
                let error = CatalogError::Late { place, after };
                // A long query in SQLite is slow, not away; a server that says nothing is gone.
                if writing || matches!(self.place, Place::Postgres(_)) {
                    self.rest(&error, None);
                }
                error
            }
            Trouble::Sql(e) | Trouble::Garbled(e) => {
                let why = reason(&e);
                match fault(&e) {
                    Fault::Busy => {
                        let error = CatalogError::Away { place, why };
                        if writing {
                            self.pause(&error);
                        }
                        error
                    }
                    Fault::Away => {
                        let error = CatalogError::Away { place, why };
                        self.rest(&error, None);
                        error
                    }
                    Fault::Damaged => {
                        self.damaged(&why, now).await;
                        CatalogError::Damaged { place, why }
                    }
                    Fault::Record | Fault::Other => CatalogError::Refused { place, why },
                }
            }
        }
    }

    /// Closes the damaged file that is open, and moves it aside.
    pub(crate) async fn damaged(&self, why: &str, now: Moment) {
        let database = self.state().database.take();
        let seen = database
            .as_ref()
            .and_then(|d| d.file.as_ref().map(|(_, id)| *id));
        if let Some(database) = database {
            database.pool.close().await;
        }
        self.move_aside(seen, now, why);
    }

    /// Drops the connections and rests.
    fn rest(&self, error: &CatalogError, length: Option<Duration>) {
        // Dropped, not closed: a server that hangs is not waited for.
        drop(self.state().database.take());
        self.set_rest(error, length);
    }

    /// Rests, but keeps the connections.
    fn pause(&self, error: &CatalogError) {
        self.set_rest(error, None);
    }

    fn set_rest(&self, error: &CatalogError, length: Option<Duration>) {
        let mut chance = [0u8; 2];
        (self.random)(&mut chance);
        let mut state = self.state();
        let length = length.unwrap_or_else(|| rest_after(state.tries, u16::from_be_bytes(chance)));
        state.tries = state.tries.saturating_add(1);
        state.rest = Some(Rest {
            until: Instant::now() + length,
            error: error.clone(),
        });
        tracing::warn!(error = %error, rest_ms = length.as_millis() as u64, "catalog: the database is not used for a while");
    }

    /// A transaction succeeded: the next failure rests for the first time again.
    pub(crate) fn well(&self) {
        let mut state = self.state();
        if state.database.is_some() {
            state.rest = None;
            state.tries = 0;
        }
    }

    /// Ends the connections.
    pub(crate) async fn close(&self) {
        let database = self.state().database.take();
        if let Some(database) = database {
            database.pool.close().await;
        }
    }

    /// Renames a damaged file, if the path still names the one that was seen.
    fn move_aside(&self, seen: Option<FileId>, now: Moment, why: &str) {
        let Place::Sqlite(path) = &self.place else {
            return;
        };
        match aside(path, seen, now) {
            Ok(Some(to)) => {
                tracing::error!(moved_to = %to.display(), why, "catalog: the database file was damaged; a new one is begun");
                let mut state = self.state();
                state.moved_total += 1;
                if state.moved.len() >= DAMAGED_KEPT {
                    state.moved.remove(0);
                }
                state.moved.push(to);
            }
            Ok(None) => {}
            Err(e) => {
                tracing::error!(error = %e, "catalog: the damaged database file cannot be moved aside")
            }
        }
    }
}

/// The rest after so many failures: doubled each time, then up to a fifth more or less by chance.
fn rest_after(tries: u32, chance: u16) -> Duration {
    let base = FIRST_REST
        .saturating_mul(1 << tries.min(6))
        .min(LONGEST_REST);
    base.mul_f64(0.8 + 0.4 * f64::from(chance) / f64::from(u16::MAX))
}

fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Renames `path` and its companions; `None` if another process did it before.
fn aside(path: &Path, seen: Option<FileId>, now: Moment) -> std::io::Result<Option<PathBuf>> {
    let lock: File = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(companion(path, ".lock"))?;
    // Whoever holds it is another process that saw the same damage, and renames.
    if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    if seen.is_none() || file_id(path) != seen {
        return Ok(None);
    }
    let stamp = now.unix_nanos() / 1_000_000;
    let mut to = companion(path, &format!(".corrupt-{stamp}"));
    for n in 1..100 {
        if !to.exists() {
            break;
        }
        to = companion(path, &format!(".corrupt-{stamp}-{n}"));
    }
    // The companions first: a new file must never find the old one's WAL.
    for suffix in ["-wal", "-shm", "-journal"] {
        match fs::rename(companion(path, suffix), companion(&to, suffix)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    fs::rename(path, &to)?;
    forget_oldest(path);
    Ok(Some(to))
}

/// Deletes damaged files but the newest few.
fn forget_oldest(path: &Path) {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return;
    };
    let start = format!("{name}.corrupt-");
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut found: Vec<(u128, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let rest = name.strip_prefix(&start)?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            (!rest.ends_with("-wal") && !rest.ends_with("-shm") && !rest.ends_with("-journal"))
                .then(|| Some((digits.parse().ok()?, entry.path())))?
        })
        .collect();
    found.sort();
    let surplus = found.len().saturating_sub(DAMAGED_KEPT);
    for (_, old) in found.into_iter().take(surplus) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(companion(&old, suffix));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(secs: i64) -> Moment {
        Moment::from_parts(secs, 0, 0).expect("a time")
    }

    #[test]
    fn rests_grow_to_a_minute() {
        let rests: Vec<u64> = (0..9)
            .map(|n| rest_after(n, u16::MAX / 2).as_millis() as u64)
            .collect();
        assert!(
            rests[0].abs_diff(1000) < 5 && rests[3].abs_diff(8000) < 5,
            "{rests:?}"
        );
        assert!(rests[8].abs_diff(60_000) < 5, "{rests:?}");
        assert!(
            rest_after(0, 0) >= Duration::from_millis(799)
                && rest_after(u32::MAX, u16::MAX) <= Duration::from_secs(73)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_because_of_a_rest_does_not_renew_it() {
        let random: Random = std::sync::Arc::new(|bytes: &mut [u8]| bytes.fill(128));
        for error in [
            CatalogError::Newer {
                place: "x".into(),
                found: 9,
                known: 1,
            },
            CatalogError::Unusable {
                place: "x".into(),
                why: "y".into(),
            },
        ] {
            let keeper = Keeper::new(Place::Sqlite("nowhere".into()), random.clone());
            keeper.judge(Trouble::Judged(error), true, now(0)).await;
            let begun = Instant::now();
            while let Some(refused) = keeper.resting() {
                // As the daemon does: it asks again and again.
                keeper.judge(Trouble::Judged(refused), true, now(0)).await;
                tokio::time::advance(Duration::from_millis(500)).await;
                assert!(
                    begun.elapsed() < Duration::from_secs(75),
                    "it rests for ever"
                );
            }
            assert!(begun.elapsed() >= Duration::from_millis(500));
        }
    }

    #[test]
    fn a_file_is_moved_once_and_few_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("catalog.db");
        for n in 0..6 {
            fs::write(&path, b"damaged").expect("written");
            fs::write(companion(&path, "-wal"), b"wal").expect("written");
            let seen = file_id(&path);
            let to = aside(&path, seen, now(1000 + n))
                .expect("renamed")
                .expect("moved");
            assert!(
                to.exists() && !path.exists() && !companion(&path, "-wal").exists(),
                "{n}"
            );
            // Another process that saw the same damage finds a new file there.
            fs::write(&path, b"new").expect("written");
            if file_id(&path) != seen {
                assert_eq!(aside(&path, seen, now(2000)).expect("looked"), None);
                assert_eq!(fs::read(&path).expect("there"), b"new");
            }
        }
        let kept = fs::read_dir(dir.path())
            .expect("listed")
            .filter_map(Result::ok);
        let kept: Vec<_> = kept
            .map(|e| e.file_name().into_string().expect("a name"))
            .collect();
        let files = kept
            .iter()
            .filter(|n| n.contains(".corrupt-") && !n.ends_with("-wal"))
            .count();
        assert_eq!(files, DAMAGED_KEPT, "{kept:?}");
    }
}
