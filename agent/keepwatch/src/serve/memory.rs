//! What the daemon finds again after a restart: the states of checks and units, and what people were told.
//!
//! It lies in the catalog's table of states, in parts below the catalog's bound: `watch` (units, windows, heartbeats), `watch.0`,
//! `watch.1`, … (200 checks each), `alerts` and `people.NAME`. While the catalog is away it lies in a file beside the spool, so that an agent
//! that watches the database of its own catalog forgets nothing; of the two the newer one is believed. What cannot be read is as
//! if it had never been: checks then begin as unknown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keepwatch_catalog::events::{self, EventFilter};
use keepwatch_catalog::{Catalog, STATE_MAX, states};
use keepwatch_notify::plan::State;
use keepwatch_watch::clock::{At, Clock as _, HostClock};
use keepwatch_watch::conductor::{SAVED_VERSION, Saved};
use tokio::sync::watch;
use tokio::time::timeout;

use super::alerts::Beginnings;
use super::records::{self, Restarts};
use super::scene::{Scene, Stop};
use super::world::moment;

/// Checks in one part. Below 4 KiB each, so a part is below 1 MiB.
const CHECKS_IN_PART: usize = 200;
/// The wait before a watcher or an office that is gone is looked for again.
const LOOK: Duration = Duration::from_secs(2);
/// How long ago restarts are looked for, in milliseconds: what is not well again within a day was not mended by its restart.
const RESTARTS_OF: i64 = 86_400_000;
/// How many: 1 KiB each. A host restarts at most five units in ten minutes, and refusals are written once.
const RESTARTS_MAX: u32 = 2000;
/// The largest file that is read back, in bytes: 1000 checks and 256 receivers take 8 MiB at worst.
const FILE_MAX: u64 = 64 << 20;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Of checks, units and windows.
    pub watch: Saved,
    /// Of what people were told, by receiver.
    pub people: BTreeMap<String, State>,
    /// Since when what is wrong was seen.
    pub alerts: Beginnings,
}

type Parts = BTreeMap<String, String>;

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn parts(memory: &Memory) -> Parts {
    let mut out = Parts::new();
    let mut rest = memory.watch.clone();
    let judges: Vec<_> = std::mem::take(&mut rest.judges).into_iter().collect();
    out.insert("watch".into(), json(&rest));
    for (n, some) in judges.chunks(CHECKS_IN_PART).enumerate() {
        let part = Saved {
            version: memory.watch.version,
            at: memory.watch.at,
            judges: some.iter().cloned().collect(),
            ..Saved::default()
        };
        out.insert(format!("watch.{n}"), json(&part));
    }
    for (name, state) in &memory.people {
        out.insert(format!("people.{name}"), json(state));
    }
    out.insert("alerts".into(), json(&memory.alerts));
    out
}

/// Parts of another moment than `watch` are left over from a time with more checks.
fn whole(parts: &Parts) -> Memory {
    let read = |text: &String| match serde_json::from_str::<Saved>(text) {
        Ok(saved) if saved.version <= SAVED_VERSION => Some(saved),
        Ok(_) => None,
        Err(e) => {
            tracing::warn!("what was remembered of checks cannot be read, they begin anew: {e}");
            None
        }
    };
    let mut memory = Memory {
        watch: parts.get("watch").and_then(read).unwrap_or_default(),
        ..Memory::default()
    };
    if let Some(text) = parts.get("alerts") {
        match serde_json::from_str(text) {
            Ok(seen) => memory.alerts = seen,
            Err(e) => {
                tracing::warn!(
                    "since when what is wrong was seen cannot be read, it begins anew: {e}"
                );
            }
        }
    }
    for (name, text) in parts {
        if let Some(receiver) = name.strip_prefix("people.") {
            match serde_json::from_str(text) {
                Ok(state) => drop(memory.people.insert(receiver.to_owned(), state)),
                Err(e) => {
                    tracing::warn!("what {receiver} was told cannot be read, it begins anew: {e}");
                }
            }
        } else if name.starts_with("watch.") {
            let part = read(text).filter(|p| p.at == memory.watch.at);
            memory.watch.judges.extend(part.unwrap_or_default().judges);
        }
    }
    memory
}

/// The file for when the catalog is away.
pub fn file(state_directory: &Path) -> PathBuf {
    state_directory.join("memory.json")
}

/// What is remembered, from the catalog or from the file.
pub async fn load(catalog: &Catalog, file: &Path) -> Memory {
    let of_catalog = match states::load(catalog).await {
        Ok(rows) => whole(
            &rows
                .into_iter()
                .map(|(name, _, body)| (name, body))
                .collect(),
        ),
        Err(e) => {
            tracing::warn!(
                "what is remembered is read from {} because of: {e}",
                file.display()
            );
            Memory::default()
        }
    };
    let path = file.to_owned();
    let text = tokio::task::spawn_blocking(move || read_file(&path)).await;
    match text.ok().flatten().map(|parts| whole(&parts)) {
        Some(of_file) if of_file.watch.at > of_catalog.watch.at => of_file,
        _ => of_catalog,
    }
}

/// Restarts of which the daemon before this one did not live to see whether they helped.
pub async fn restarts(catalog: &Catalog) -> Restarts {
    let of_late = EventFilter {
        host: Some(catalog.host().to_owned()),
        since: Some(moment(At(HostClock.wall().0 - RESTARTS_OF))),
        limit: RESTARTS_MAX,
        ..EventFilter::default()
    };
    match events::restarts(catalog, &of_late).await {
        Ok(told) => records::unsettled(told),
        Err(e) => {
            tracing::debug!("whether the last restarts helped will not be written down: {e}");
            Restarts::new()
        }
    }
}

fn read_file(path: &Path) -> Option<Parts> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).ok()?;
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// Stores it, in the catalog or else in the file. Whether it is stored.
pub async fn save(catalog: &Catalog, file: &Path, memory: &Memory) -> bool {
    save_within(Duration::MAX, catalog, file, memory).await
}

/// As [`save`], for one who cannot wait for as long as the catalog may take: neither for it nor then for the disk longer than `most`.
pub async fn save_within(most: Duration, catalog: &Catalog, file: &Path, memory: &Memory) -> bool {
    let parts = parts(memory);
    let (fitting, large): (Vec<_>, Vec<_>) = parts
        .clone()
        .into_iter()
        .partition(|(_, body)| body.len() <= STATE_MAX);
    for (name, _) in &large {
        tracing::warn!("'{name}' is too large to be remembered in the catalog");
    }
    let path = file.to_owned();
    let why = match timeout(most, states::save(catalog, &fitting)).await {
        Ok(Ok(())) => {
            // An older one must not be believed later, when the clock was set back.
            let _ = tokio::task::spawn_blocking(move || std::fs::remove_file(path)).await;
            return true;
        }
        Ok(Err(e)) => e.to_string(),
        Err(_) => "the catalog does not answer in time".to_owned(),
    };
    tracing::debug!("what is to be remembered goes to a file: {why}");
    let text = json(&parts);
    let writing = tokio::task::spawn_blocking(move || crate::places::replace_private(&path, &text));
    let why = match timeout(most, writing).await {
        Ok(Ok(Ok(()))) => return true,
        Ok(Ok(Err(e))) => e.to_string(),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "the disk does not answer".to_owned(),
    };
    tracing::error!(
        "nothing is remembered after a restart: neither the catalog nor {} can be written: {why}",
        file.display()
    );
    false
}

/// Stores what changes until it is told to stop. The last state is stored by who stops everything.
pub async fn keep(
    catalog: Catalog,
    file: PathBuf,
    mut scenes: watch::Receiver<Arc<Scene>>,
    mut seen: watch::Receiver<Beginnings>,
    mut stop: Stop,
) {
    let mut before = Memory::default();
    loop {
        let scene = scenes.borrow_and_update().clone();
        let mut saved = scene.saved.clone();
        let mut told = scene.office.told();
        let same_scene = loop {
            let gone = tokio::select! {
                () = stop.wait() => return,
                changed = scenes.changed() => break changed.is_ok(),
                changed = saved.changed() => changed.is_err(),
                open = told.changed() => !open,
                changed = seen.changed() => changed.is_err(),
            };
            if gone {
                // Another comes with the next scene.
                tokio::time::sleep(LOOK).await;
            }
            let watch = Saved::clone(&saved.borrow_and_update());
            let memory = Memory {
                watch,
                people: scene.office.states(),
                alerts: seen.borrow_and_update().clone(),
            };
            // The one that the channel began with is empty.
            if memory.watch.at != At::default() && memory != before {
                // Who stops everything stores a later one at once, in the same places.
                tokio::select! {
                    () = stop.wait() => return,
                    _ = save(&catalog, &file, &memory) => {}
                }
                before = memory;
            }
        };
        if !same_scene {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepwatch_watch::judge::JudgeState;

    #[test]
    fn it_comes_back_whole_and_leftovers_do_not() {
        let mut memory = Memory::default();
        memory.watch.version = SAVED_VERSION;
        memory.watch.at = At(5);
        for n in 0..450 {
            let name = format!("c{n}").parse().expect("a name");
            memory.watch.judges.insert(name, JudgeState::new(At(n)));
        }
        memory.people.insert("mail".into(), State::default());
        memory.alerts.at = keepwatch_notify::time::At(7);
        let mut all = parts(&memory);
        assert_eq!(all.keys().filter(|k| k.starts_with("watch.")).count(), 3);
        assert_eq!(whole(&all), memory);
        let mut old = memory.clone();
        old.watch.at = At(4);
        let name = "gone".parse().expect("a name");
        old.watch.judges = BTreeMap::from([(name, JudgeState::new(At(0)))]);
        let leftover = parts(&old).remove("watch.0").expect("a part");
        all.insert("watch.7".into(), leftover);
        assert_eq!(whole(&all), memory);
    }

    #[test]
    fn damage_begins_anew_and_harms_nothing_else() {
        let mut memory = Memory::default();
        memory.watch.at = At(5);
        memory.people.insert("mail".into(), State::default());
        let mut all = parts(&memory);
        all.insert("watch".into(), "{\"at\":".into());
        all.insert("people.other".into(), "[]x".into());
        all.insert("alerts".into(), "[]x".into());
        let back = whole(&all);
        assert_eq!(back.watch, Saved::default());
        assert_eq!(back.people.len(), 1);
        let newer = format!("{{\"version\":{}}}", SAVED_VERSION + 1);
        all.insert("watch".into(), newer);
        assert_eq!(whole(&all).watch, Saved::default());
    }
}
