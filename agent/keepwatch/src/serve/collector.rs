//! The task that asks the catalog and the host every 15 s, and puts down what it found.
//!
//! Most of the time nothing has run since the last round. Two questions to the file system tell that for SQLite ([`facts::stamp`]),
//! else one small question to the database ([`facts::sign`]). Only when its answer is another one, or after ten minutes, all facts are
//! asked for: dozens of statements, each of which wakes two threads.
//!
//! A scrape never waits for it. When the catalog does not answer, the last values stay and `collector_success` says so; what was
//! spooled meanwhile is imported when it answers again. Runs whose process is gone are written down as lost here, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keepwatch_catalog::facts::{Sign, Stamp};
use keepwatch_catalog::recorder::Recorder;
use keepwatch_catalog::{
    Catalog, CatalogError, Numbers, Operation, counters, events, facts, process, runs,
};
use keepwatch_expose::counters::{Counters, DbOperation};
use keepwatch_model::runs::RunRecord;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::collect::{self, Answers, Collected, collector};
use super::local::Looks;
use super::scene::{Scene, Stop};
use super::writing::{self, Tally, Writing};
use super::{host, proofs, quiet};
use crate::{clock, told};

/// How often.
const EVERY: Duration = Duration::from_secs(15);
/// So long after the daemon's own writing, whose beat is the same: then the files' times have settled.
pub const AFTER: Duration = Duration::from_secs(5);
/// All facts are asked for at least this often.
const WHOLE: Duration = Duration::from_secs(600);
/// The longest that importing from the spool takes in one round.
const IMPORT: Duration = Duration::from_secs(2);
/// Operations of the catalog that are counted in one round; more than it does in that time.
const COUNTED_MAX: u64 = 1000;

/// What it works with.
pub struct Parts {
    /// The catalog.
    pub catalog: Catalog,
    /// The queue in front of it.
    pub recorder: Recorder,
    /// Numbers.
    pub counters: Arc<Counters>,
    /// What is watched.
    pub scenes: watch::Receiver<Arc<Scene>>,
    /// Where it puts what it found.
    pub out: watch::Sender<Arc<Collected>>,
    /// The name of this host.
    pub host: String,
    /// From when on rounds are counted.
    pub beat: Instant,
    /// Whether there are the sockets on which it can be asked.
    pub sockets: [Arc<AtomicBool>; 2],
}

/// What was asked last.
struct Asked {
    sign: Sign,
    /// As the files were then.
    stamp: Option<Stamp>,
    /// For which configuration.
    scene: Arc<Scene>,
    at: Instant,
}

/// Collects until it is told to stop.
pub async fn run(parts: Parts, mut stop: Stop) {
    let mut every = interval_at(parts.beat + AFTER, EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut first = true;
    let mut before: Option<Numbers> = None;
    let mut last: Option<Asked> = None;
    let mut was_away = false;
    let mut looks = Looks::default();
    let mut writing = Writing::default();
    loop {
        // The first round is now, the others are with the beat.
        if !std::mem::take(&mut first) {
            tokio::select! {
                () = stop.wait() => return,
                _ = every.tick() => {}
            }
        }
        let scene = parts.scenes.borrow().clone();
        let mut found = Collected::clone(&parts.out.borrow());
        let begun = Instant::now();
        let stamp = facts::stamp(&parts.catalog, clock::now());
        let tells = stamp.is_some_and(|stamp| stamp.settled);
        let untouched = last.as_ref().filter(|last| tells && last.stamp == stamp);
        let sign = match untouched {
            Some(last) => Some(last.sign),
            None => facts::sign(&parts.catalog).await.ok().flatten(),
        };
        let is_known = last.as_mut().is_some_and(|last| {
            last.stamp = stamp;
            Some(last.sign) == sign && Arc::ptr_eq(&last.scene, &scene) && last.at.elapsed() < WHOLE
        });
        let mut answers = true;
        if !is_known {
            last = None;
            match ask(&parts.catalog).await {
                Ok(facts) => {
                    found.backups = collect::backups(&scene.loaded.config, &facts);
                    found.repositories = collect::repositories(&scene.loaded.config, &facts);
                    // The sign is older than the facts, so what came between is asked for again.
                    last = sign.map(|sign| Asked {
                        sign,
                        stamp,
                        scene: Arc::clone(&scene),
                        at: begun,
                    });
                }
                Err(e) => {
                    answers = false;
                    if !was_away {
                        tracing::warn!("what is known of backups stays as it was: {e}");
                    }
                }
            }
        }
        let asked = begun.elapsed();
        looks
            .complete(&scene.loaded.config, &mut found.repositories, clock::now())
            .await;
        if was_away && answers {
            tracing::info!("the catalog answers again");
        }
        was_away = !answers;
        // A process of a run that is open may be gone at any time.
        if answers && (!is_known || sign.is_some_and(|sign| sign.open > 0)) {
            look_at_runs(&parts.catalog, &scene).await;
        }
        let name = parts.host.clone();
        let state = scene.loaded.config.state_directory.clone();
        let catalog = parts.catalog.clone();
        let is_lossy = !writing.is_well();
        // All of it looks into files, so not on a thread that others wait for.
        let sampled = tokio::task::spawn_blocking(move || {
            let process = keepwatch_expose::process::sample();
            let (host, keys) = (host::sample(&name), proofs::read(&state));
            let trial = is_lossy.then(|| writing::trial(&state));
            // The numbers after the trial: what was lost meanwhile counts.
            (catalog.numbers(), host, process, keys, trial)
        });
        found.answered |= answers;
        let control = parts.sockets.iter().all(|s| s.load(Ordering::Relaxed));
        found.collectors = vec![
            collector("catalog", answers, asked),
            collector(collect::CONTROL, control, Duration::ZERO),
        ];
        found.queued = parts.recorder.waiting() as u64;
        found.ready = true;
        if let Ok((numbers, host, process, keys, trial)) = sampled.await {
            found.keys = keys;
            found.host = host;
            found.process = Some(process);
            let lost = numbers.lost_total + parts.recorder.dropped_total();
            let tally = Tally {
                kept: numbers.stored_total + numbers.spooled_total,
                lost,
                waiting: parts.recorder.waiting(),
            };
            found.writable = writing.judge(tally, trial);
            found.dropped.insert("catalog".into(), lost);
            found.dropped.insert("spool".into(), numbers.spool.dropped);
            found.size = numbers.size_bytes.or(found.size);
            found.trouble = numbers.standing.trouble.as_ref().map(ToString::to_string);
            let operations = numbers.operations.iter();
            found.errors = operations.map(|(_, n)| n.errors).sum();
            count(&parts.counters, before.as_ref(), &numbers);
            if answers && numbers.spool.files > 0 {
                import(&parts.catalog).await;
            }
            before = Some(numbers);
        }
        parts.out.send_replace(Arc::new(found));
    }
}

async fn ask(catalog: &Catalog) -> Result<Answers, CatalogError> {
    Ok(Answers {
        backups: facts::backup_facts(catalog).await?,
        verifications: facts::verification_facts(catalog).await?,
        drills: facts::drill_facts(catalog).await?,
        retention: facts::retention_facts(catalog).await?,
        counters: counters::list(catalog).await?,
        repositories: events::repositories(catalog, Some(catalog.host())).await?,
    })
}

/// Runs that are under way: those without a process are lost, those of jobs with quiet checks open a maintenance window.
async fn look_at_runs(catalog: &Catalog, scene: &Scene) {
    match runs::reconcile(catalog, crate::clock::now(), process::run_lives).await {
        Ok(lost) => lost.iter().for_each(told::lost),
        Err(e) => tracing::debug!("runs that were lost are looked for later: {e}"),
    }
    let open: Vec<RunRecord> = match runs::open(catalog).await {
        Ok(open) => open,
        Err(e) => return tracing::debug!("runs that are under way are looked for later: {e}"),
    };
    quiet::apply(scene, &open).await;
}

async fn import(catalog: &Catalog) {
    match catalog.import_spool(IMPORT).await {
        Ok(done) if done.records > 0 => tracing::info!(
            "{} records came from the spool into the catalog",
            done.records
        ),
        Ok(_) => {}
        Err(e) => tracing::debug!("the spool is imported later: {e}"),
    }
}

/// Counts what the catalog did since the last round. It tells sums and not each operation, so each counts with their mean.
fn count(counters: &Counters, before: Option<&Numbers>, now: &Numbers) {
    for (operation, numbers) in &now.operations {
        let old = before.and_then(|b| b.operations.iter().find(|(o, _)| o == operation));
        let (total, errors, sum) = old.map_or((0, 0, Duration::ZERO), |(_, n)| {
            (n.total, n.errors, n.duration_sum)
        });
        let times = numbers.total.saturating_sub(total).min(COUNTED_MAX);
        let failed = numbers.errors.saturating_sub(errors);
        let mean = numbers
            .duration_sum
            .saturating_sub(sum)
            .checked_div(u32::try_from(times).unwrap_or(u32::MAX))
            .unwrap_or_default();
        let kind = match operation {
            Operation::Open => DbOperation::Migrate,
            Operation::Record | Operation::Import => DbOperation::Write,
            Operation::Read => DbOperation::Read,
            Operation::Upkeep | Operation::Integrity => DbOperation::Upkeep,
        };
        for n in 0..times {
            counters.database(kind, mean, n >= failed);
        }
    }
}
