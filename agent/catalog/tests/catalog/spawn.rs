//! Whoever records or asks may do so in a task of a runtime with many threads. That it compiles is most of the test: the
//! compiler must be able to show that each future is `Send`.

use std::time::Duration;

use keepwatch_catalog::events::{self, EventFilter};
use keepwatch_catalog::history::{self, HistoryFilter};
use keepwatch_catalog::rollups::{self, Span};
use keepwatch_catalog::runs::{self, RunFilter};
use keepwatch_catalog::upkeep::{self, Integrity};
use keepwatch_catalog::{Catalog, CatalogError, checks, counters, facts, rebuild, states};
use keepwatch_model::ids::IncidentId;
use keepwatch_model::runs::RunKind;

use crate::support::*;

async fn ask_everything(catalog: Catalog) -> Result<(), CatalogError> {
    let (some, all) = (Duration::from_secs(20), EventFilter::default());
    let web = ("web1", "api");
    rebuild::import(&catalog, &[]).await;
    catalog.connect().await?;
    catalog.import_spool(some).await?;
    checks::results(&catalog, web, None, None, 0).await?;
    checks::transitions(&catalog, None, None, None, None, 0).await?;
    checks::now(&catalog, None).await?;
    rollups::list(&catalog, web, Span::Day, None, None, 0).await?;
    history::list(&catalog, &HistoryFilter::default()).await?;
    facts::backup_facts(&catalog).await?;
    facts::verification_facts(&catalog).await?;
    facts::drill_facts(&catalog).await?;
    facts::retention_facts(&catalog).await?;
    events::incidents(&catalog, &all).await?;
    let nobody = IncidentId::new(at(MONDAY), [0; 10]);
    assert!(!events::close_incident(&catalog, nobody, at(MONDAY)).await?);
    events::restarts(&catalog, &all).await?;
    events::notifications(&catalog, &all, None).await?;
    events::notifications_due(&catalog, at(MONDAY), 9).await?;
    events::repositories(&catalog, None).await?;
    assert_eq!(runs::list(&catalog, &RunFilter::default()).await?.len(), 1);
    runs::open(&catalog).await?;
    runs::note_configured(&catalog, &[(RunKind::Backup, "home", "main")], at(MONDAY)).await?;
    let lost = runs::reconcile(&catalog, at(MONDAY), |_| true).await?;
    assert_eq!(lost, [], "it lives");
    states::save(&catalog, &[("judge".into(), "{}".into())]).await?;
    assert_eq!(states::load(&catalog).await?.len(), 1);
    states::delete(&catalog, "judge").await?;
    counters::list(&catalog).await?;
    upkeep::maintain(&catalog, some).await?;
    assert_eq!(upkeep::integrity(&catalog, some).await?, Integrity::Sound);
    catalog.close().await;
    Ok(())
}

#[test]
fn everything_can_be_spawned() {
    block_on(async {
        let env = Env::sqlite();
        let catalog = env.open().await;
        let (recording, run) = (catalog.clone(), env.run(MONDAY));
        let stored = tokio::spawn(async move { recording.record_run(&run).await });
        assert_eq!(stored.await.expect("joined").stored, 1);
        let asked = tokio::spawn(ask_everything(catalog)).await;
        asked.expect("joined").expect("asked");
    });
}
