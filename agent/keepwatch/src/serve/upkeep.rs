//! The catalog's upkeep on a timer: roll-ups, retention and vacuum each hour, a look for damage each day.

use std::time::Duration;

use keepwatch_catalog::Catalog;
use keepwatch_catalog::upkeep::{Integrity, integrity, maintain, measure};
use tokio::time::{Instant, sleep_until};

use super::scene::Stop;

/// The first time, after the start: then other things are more urgent.
const FIRST: Duration = Duration::from_secs(90);
/// From one time to the next.
const EVERY: Duration = Duration::from_secs(3600);
/// While there is more to do than fits into one budget.
const AGAIN: Duration = Duration::from_secs(30);
/// One time lasts no longer.
const BUDGET: Duration = Duration::from_secs(10);
/// From one look for damage to the next.
const INTEGRITY_EVERY: Duration = Duration::from_secs(86_400);
/// One look lasts no longer.
const INTEGRITY_BUDGET: Duration = Duration::from_secs(60);

/// Looks after the catalog until it is told to stop.
pub async fn run(catalog: Catalog, mut stop: Stop) {
    let begun = Instant::now();
    let mut next = begun + FIRST;
    let mut look = begun + EVERY;
    // How large it is, is known from the start on. When it is away, another part says so.
    tokio::select! {
        () = stop.wait() => return,
        _ = measure(&catalog) => {}
    }
    loop {
        tokio::select! {
            () = stop.wait() => return,
            () = sleep_until(next) => {}
        }
        next = Instant::now() + EVERY;
        match maintain(&catalog, BUDGET).await {
            Ok(done) => {
                tracing::debug!(
                    "upkeep of the catalog: {} hours rolled up, {} rows deleted",
                    done.hours,
                    done.deleted
                );
                if done.put_off {
                    tracing::warn!(
                        "nothing is deleted from the catalog for now, because the clock jumped"
                    );
                }
                if done.more {
                    next = Instant::now() + AGAIN;
                }
            }
            Err(e) => tracing::warn!("upkeep of the catalog is put off: {e}"),
        }
        if Instant::now() >= look {
            look = Instant::now() + INTEGRITY_EVERY;
            match integrity(&catalog, INTEGRITY_BUDGET).await {
                Ok(Integrity::Damaged(why)) => tracing::error!(
                    "the catalog is damaged: {why}; it was moved aside and begun anew"
                ),
                Ok(Integrity::Sound | Integrity::Unfinished | Integrity::NotOurs) => {}
                Err(e) => tracing::warn!("the catalog was not looked through for damage: {e}"),
            }
        }
    }
}
