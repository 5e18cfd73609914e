//! What parts of the agent want to find again after a restart: a text under a name, in a form that only they know.

use keepwatch_model::time::Moment;

use crate::catalog::Catalog;
use crate::fault::CatalogError;
use crate::meter::Operation;
use crate::sql::{Sql, values};
use crate::text::{NAME_MAX, STATE_MAX};

const SAVE: Sql = Sql::both(
    "INSERT INTO states (host, name, at, body) VALUES ($1, $2, $3, $4)
     ON CONFLICT (host, name) DO UPDATE SET at = excluded.at, body = excluded.body",
);
const LOAD: Sql =
    Sql::both("SELECT name, at, body FROM states WHERE host = $1 ORDER BY name LIMIT 10000");
const DELETE: Sql = Sql::both("DELETE FROM states WHERE host = $1 AND name = $2");

/// Saves states under their names, all or none.
///
/// # Errors
/// The database is away or refuses; a name above [`NAME_MAX`] or a text above [`STATE_MAX`] bytes.
pub async fn save(catalog: &Catalog, states: &[(String, String)]) -> Result<(), CatalogError> {
    let large = states
        .iter()
        .find(|(name, body)| name.len() > NAME_MAX || body.len() > STATE_MAX);
    if let Some((name, _)) = large {
        let name = crate::fault::one_line(name);
        return Err(CatalogError::Refused {
            place: catalog.place().to_string(),
            why: format!(
                "the state '{name}' is larger than {STATE_MAX} bytes, or its name than {NAME_MAX}"
            ),
        });
    }
    let now = catalog.now();
    let work = async {
        let mut tx = catalog.begin_write().await?;
        for (name, body) in states {
            tx.execute(SAVE, &values![catalog.host(), name, now, body])
                .await?;
        }
        Ok(tx.commit().await?)
    };
    catalog.ask(Operation::Record, work).await
}

/// All saved states of this host: name, when it was saved, text.
///
/// # Errors
/// The database is away or refuses.
pub async fn load(catalog: &Catalog) -> Result<Vec<(String, Moment, String)>, CatalogError> {
    let work = async {
        let mut tx = catalog.begin_read().await?;
        let mut out = Vec::new();
        for mut row in tx.rows(LOAD, &values![catalog.host()]).await? {
            out.push((row.text()?, row.moment()?, row.text()?));
        }
        Ok(out)
    };
    catalog.ask(Operation::Read, work).await
}

/// Forgets a state.
///
/// # Errors
/// The database is away or refuses.
pub async fn delete(catalog: &Catalog, name: &str) -> Result<(), CatalogError> {
    let work = async {
        let mut tx = catalog.begin_write().await?;
        tx.execute(DELETE, &values![catalog.host(), name]).await?;
        Ok(tx.commit().await?)
    };
    catalog.ask(Operation::Record, work).await
}
