//! What a database's error means for us: wait, spool, begin anew, or leave one record out.

use std::time::Duration;

use crate::text::cut;

/// Bytes of a database's own words that an error of ours repeats.
const REASON_MAX: usize = 300;

/// A catalog that could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// A newer Keepwatch wrote the catalog.
    #[error(
        "the catalog {place} has schema version {found}, this Keepwatch knows up to {known}; nothing was changed: use the newer Keepwatch, or another catalog"
    )]
    Newer {
        /// The database.
        place: String,
        /// The version that it has.
        found: i64,
        /// The version that we know.
        known: i64,
    },
    /// What is configured cannot be a catalog.
    #[error("{place} cannot be used as the catalog: {why}; nothing was changed")]
    Unusable {
        /// The database, without secrets.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// The database cannot be used now. Records go to the spool meanwhile.
    #[error("the catalog {place} is away: {why}; records are kept in the spool until it is back")]
    Away {
        /// The database.
        place: String,
        /// Why.
        why: String,
    },
    /// The database did not answer in time.
    #[error(
        "the catalog {place} did not answer within {after:?}; records are kept in the spool until it does"
    )]
    Late {
        /// The database.
        place: String,
        /// How long was waited.
        after: Duration,
    },
    /// The database file was damaged. It was moved aside, and a new one is begun.
    #[error(
        "the catalog {place} is damaged: {why}; it is moved aside and begun anew, `keepwatch catalog rebuild` brings the backups back into it"
    )]
    Damaged {
        /// The database.
        place: String,
        /// What the database says.
        why: String,
    },
    /// The database refused a statement.
    #[error("the catalog {place} refused: {why}; nothing was changed")]
    Refused {
        /// The database.
        place: String,
        /// What the database says.
        why: String,
    },
}

/// What went wrong inside, before it is told apart.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The driver or the database says so.
    Sql(sqlx::Error),
    /// The database does not understand what every version of it would.
    Garbled(sqlx::Error),
    /// It took too long.
    Late(Duration),
    /// It has been judged already.
    Judged(CatalogError),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<CatalogError> for Trouble {
    fn from(error: CatalogError) -> Self {
        Self::Judged(error)
    }
}

/// What an error asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Somebody else holds a lock: try again soon.
    Busy,
    /// No database: try again later, with a new connection.
    Away,
    /// The file is damaged (SQLite).
    Damaged,
    /// This record cannot be stored, others can.
    Record,
    /// A statement was wrong for this database.
    Other,
}

/// Tells errors apart by their codes, never by their words.
pub(crate) fn fault(error: &sqlx::Error) -> Fault {
    match error {
        sqlx::Error::Database(db) => {
            let code = db.code().unwrap_or_default();
            if db.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
                sqlite_fault(code.parse().unwrap_or(0))
            } else {
                postgres_fault(&code)
            }
        }
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnNotFound(_)
        | sqlx::Error::ColumnIndexOutOfBounds { .. }
        | sqlx::Error::TypeNotFound { .. }
        | sqlx::Error::RowNotFound => Fault::Other,
        sqlx::Error::Encode(_) => Fault::Record,
        _ => Fault::Away,
    }
}

/// By SQLite's result codes (the low byte of the extended ones).
fn sqlite_fault(code: i32) -> Fault {
    match code & 0xff {
        5 | 6 | 9 | 17 => Fault::Busy, // busy, locked, interrupted, schema changed under us
        11 | 26 => Fault::Damaged,     // corrupt, not a database
        18..=20 => Fault::Record,      // too big, constraint, mismatch
        3 | 7 | 8 | 10 | 13..=15 | 23 => Fault::Away, // permission, memory, read-only, I/O, full, cannot open, protocol, authorisation
        _ => Fault::Other,
    }
}

/// By the classes of SQLSTATE.
fn postgres_fault(code: &str) -> Fault {
    match code {
        "57014" | "55P03" | "40001" | "40P01" | "55006" => Fault::Busy, // statement or lock timeout, serialization, deadlock, in use
        _ => match code.get(..2).unwrap_or("") {
            "22" | "23" | "21" | "54" => Fault::Record,
            "42" | "0A" | "2F" | "P0" => Fault::Other,
            _ => Fault::Away, // connection, authorisation, missing database, resources, shutdown, read-only, damage
        },
    }
}

/// The words of a driver's error, bounded, in one line. A driver knows the password, but says it in no error; the texts of
/// errors of this kind are covered by a test that looks for it.
pub(crate) fn reason(error: &sqlx::Error) -> String {
    let text = match error {
        sqlx::Error::Database(db) => db.message().to_owned(),
        other => other.to_string(),
    };
    one_line(&text)
}

/// A text without line breaks and other control characters, bounded.
pub(crate) fn one_line(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    cut(line.trim(), REASON_MAX).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        for (code, want) in [
            (5, Fault::Busy),
            (517, Fault::Busy), // busy snapshot
            (262, Fault::Busy), // locked shared cache
            (11, Fault::Damaged),
            (267, Fault::Damaged), // corrupt virtual table
            (26, Fault::Damaged),
            (13, Fault::Away),
            (10, Fault::Away),
            (522, Fault::Away), // short read
            (14, Fault::Away),
            (1032, Fault::Away), // read-only: the database was moved
            (19, Fault::Record),
            (2067, Fault::Record), // unique
            (1, Fault::Other),
            (0, Fault::Other),
        ] {
            assert_eq!(sqlite_fault(code), want, "{code}");
        }
        for (code, want) in [
            ("57P01", Fault::Away),
            ("08006", Fault::Away),
            ("53100", Fault::Away),
            ("28P01", Fault::Away),
            ("3D000", Fault::Away),
            ("25006", Fault::Away),
            ("XX001", Fault::Away),
            ("57014", Fault::Busy),
            ("55P03", Fault::Busy),
            ("40P01", Fault::Busy),
            ("22021", Fault::Record),
            ("23505", Fault::Record),
            ("54000", Fault::Record),
            ("42P01", Fault::Other),
            ("", Fault::Away),
            ("é", Fault::Away),
        ] {
            assert_eq!(postgres_fault(code), want, "{code}");
        }
        assert_eq!(fault(&sqlx::Error::PoolTimedOut), Fault::Away);
        assert_eq!(fault(&sqlx::Error::RowNotFound), Fault::Other);
    }

    #[test]
    fn reasons_are_one_bounded_line() {
        let text = one_line(&format!(" a\nb\u{1b}[31m{}", "x".repeat(9000)));
        assert!(
            text.starts_with("a b [31mx") && text.len() == REASON_MAX,
            "{text}"
        );
    }
}
