//! One small layer over the two drivers: constant SQL, values, rows, transactions.
//!
//! Statements are constants: [`Sql`] holds `&'static str` and nothing else, so that no text of a user can become part of
//! one; everything variable is a bound parameter. Both databases understand `$1`, so most statements have one text. The
//! rest, such as row locks, which SQLite neither has nor needs, have two.
//!
//! Values are integers and texts, no more: times are microseconds since 1970, durations microseconds, ids and words texts.
//! That keeps the two databases the same, and a row readable with `sqlite3` or `psql`.
//!
//! A query is handed to its connection (`tx.execute(query)`), never the other way round (`query.execute(tx)`): the future of the
//! latter cannot be shown to be `Send` by a caller that spawns it.

use std::time::Duration;

use keepwatch_model::time::Moment;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Executor as _, PgPool, Postgres, Row as _, Sqlite, SqlitePool, Transaction};

use crate::text;

/// A statement in both dialects.
#[derive(Clone, Copy)]
pub(crate) struct Sql {
    /// The text for SQLite.
    pub sqlite: &'static str,
    /// The text for PostgreSQL.
    pub postgres: &'static str,
}

impl Sql {
    /// One text for both.
    pub(crate) const fn both(text: &'static str) -> Self {
        Self {
            sqlite: text,
            postgres: text,
        }
    }

    /// A text for each.
    pub(crate) const fn split(sqlite: &'static str, postgres: &'static str) -> Self {
        Self { sqlite, postgres }
    }
}

/// A bound parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A number, a time, a duration, a truth.
    Int(Option<i64>),
    /// A text, in its written form.
    Text(Option<String>),
}

/// Unsigned numbers beyond 2^63 - 1 are kept as that: neither database has them, and no count of ours reaches it.
pub(crate) fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Microseconds since 1970. A moment of the type's whole range fits.
pub(crate) fn instant(at: Moment) -> i64 {
    i64::try_from(at.unix_nanos().div_euclid(1000)).unwrap_or(i64::MAX)
}

/// The moment of so many microseconds since 1970, in UTC; nothing if it is out of range (a damaged row).
pub(crate) fn moment(micros: i64) -> Option<Moment> {
    let nanos = u32::try_from(micros.rem_euclid(1_000_000) * 1000).ok()?;
    Moment::from_parts(micros.div_euclid(1_000_000), nanos, 0).ok()
}

/// Whole microseconds.
pub(crate) fn span(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

macro_rules! value_from {
    ($($from:ty => |$v:ident| $to:expr;)+) => {
        $(
            impl From<$from> for Value {
                fn from($v: $from) -> Self {
                    $to
                }
            }
        )+
    };
}

value_from! {
    i64 => |v| Value::Int(Some(v));
    Option<i64> => |v| Value::Int(v);
    u64 => |v| Value::Int(Some(number(v)));
    Option<u64> => |v| Value::Int(v.map(number));
    u32 => |v| Value::Int(Some(v.into()));
    Option<u32> => |v| Value::Int(v.map(i64::from));
    u8 => |v| Value::Int(Some(v.into()));
    bool => |v| Value::Int(Some(v.into()));
    Option<bool> => |v| Value::Int(v.map(i64::from));
    Moment => |v| Value::Int(Some(instant(v)));
    Option<Moment> => |v| Value::Int(v.map(instant));
    Duration => |v| Value::Int(Some(span(v)));
    Option<Duration> => |v| Value::Int(v.map(span));
    &str => |v| Value::Text(Some(text::written(v).into_owned()));
    Option<&str> => |v| Value::Text(v.map(|t| text::written(t).into_owned()));
    String => |v| Value::from(v.as_str());
    &String => |v| Value::from(v.as_str());
    Option<String> => |v| Value::from(v.as_deref());
    &Option<String> => |v| Value::from(v.as_deref());
}

/// A list of parameters, each made by [`Value::from`].
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        [$($crate::sql::Value::from($value)),*]
    };
}
pub(crate) use values;

macro_rules! bound {
    ($text:expr, $values:expr) => {
        $values
            .iter()
            .fold(sqlx::query($text), |query, value| match value {
                Value::Int(n) => query.bind(*n),
                Value::Text(t) => query.bind(t.clone()),
            })
    };
}

impl Sql {
    /// The first row, asked of SQLite outside a transaction.
    pub(crate) async fn row_sqlite(
        self,
        pool: &SqlitePool,
        values: &[Value],
    ) -> Result<Option<Row>, sqlx::Error> {
        let row = pool.fetch_optional(bound!(self.sqlite, values)).await?;
        Ok(row.map(|row| Row::new(AnyRow::Sqlite(row))))
    }

    /// The first row, asked of PostgreSQL outside a transaction.
    pub(crate) async fn row_postgres(
        self,
        pool: &PgPool,
        values: &[Value],
    ) -> Result<Option<Row>, sqlx::Error> {
        let row = pool.fetch_optional(bound!(self.postgres, values)).await?;
        Ok(row.map(|row| Row::new(AnyRow::Postgres(row))))
    }
}

/// A row, read column by column from the left.
pub(crate) struct Row {
    row: AnyRow,
    next: usize,
}

enum AnyRow {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    fn new(row: AnyRow) -> Self {
        Self { row, next: 0 }
    }

    /// The next column: a number or nothing.
    pub(crate) fn int_opt(&mut self) -> Result<Option<i64>, sqlx::Error> {
        let at = self.next;
        self.next += 1;
        match &self.row {
            AnyRow::Sqlite(row) => row.try_get(at),
            AnyRow::Postgres(row) => row.try_get(at),
        }
    }

    /// The next column: a number.
    pub(crate) fn int(&mut self) -> Result<i64, sqlx::Error> {
        let at = self.next;
        self.int_opt()?
            .ok_or_else(|| damaged(at, "a number is missing"))
    }

    /// The next column: a count, which is never negative.
    pub(crate) fn count(&mut self) -> Result<u64, sqlx::Error> {
        Ok(u64::try_from(self.int()?).unwrap_or(0))
    }

    /// The next column: a count or nothing.
    pub(crate) fn count_opt(&mut self) -> Result<Option<u64>, sqlx::Error> {
        Ok(self.int_opt()?.map(|n| u64::try_from(n).unwrap_or(0)))
    }

    /// The next column: a small count.
    pub(crate) fn small(&mut self) -> Result<u32, sqlx::Error> {
        Ok(u32::try_from(self.int()?).unwrap_or(0))
    }

    /// The next column: a text or nothing.
    pub(crate) fn text_opt(&mut self) -> Result<Option<String>, sqlx::Error> {
        let at = self.next;
        self.next += 1;
        let text: Option<String> = match &self.row {
            AnyRow::Sqlite(row) => row.try_get(at)?,
            AnyRow::Postgres(row) => row.try_get(at)?,
        };
        Ok(text.map(text::read))
    }

    /// The next column: a text.
    pub(crate) fn text(&mut self) -> Result<String, sqlx::Error> {
        let at = self.next;
        self.text_opt()?
            .ok_or_else(|| damaged(at, "a text is missing"))
    }

    /// The next column: a name that may be empty for none.
    pub(crate) fn name(&mut self) -> Result<Option<String>, sqlx::Error> {
        Ok(Some(self.text()?).filter(|t| !t.is_empty()))
    }

    /// The next column: a moment.
    pub(crate) fn moment(&mut self) -> Result<Moment, sqlx::Error> {
        let at = self.next;
        moment(self.int()?).ok_or_else(|| damaged(at, "its time is out of range"))
    }

    /// The next column: a moment or nothing.
    pub(crate) fn moment_opt(&mut self) -> Result<Option<Moment>, sqlx::Error> {
        Ok(self.int_opt()?.and_then(moment))
    }

    /// The next column: a duration or nothing.
    pub(crate) fn span_opt(&mut self) -> Result<Option<Duration>, sqlx::Error> {
        Ok(self.count_opt()?.map(Duration::from_micros))
    }

    /// The next column: a duration.
    pub(crate) fn span(&mut self) -> Result<Duration, sqlx::Error> {
        Ok(Duration::from_micros(self.count()?))
    }

    /// The next column: a word of a closed set, or an id.
    pub(crate) fn word<T: std::str::FromStr>(&mut self) -> Result<T, sqlx::Error> {
        let at = self.next;
        self.text()?
            .parse()
            .map_err(|_| damaged(at, "its word is unknown"))
    }

    /// The next column: a word or nothing.
    pub(crate) fn word_opt<T: std::str::FromStr>(&mut self) -> Result<Option<T>, sqlx::Error> {
        let at = self.next;
        let text = self.text_opt()?;
        text.map(|t| t.parse().map_err(|_| damaged(at, "its word is unknown")))
            .transpose()
    }
}

fn damaged(column: usize, why: &'static str) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_string(),
        source: why.into(),
    }
}

/// An open transaction; dropped without [`Tx::commit`] it is rolled back.
pub(crate) enum Tx {
    /// In SQLite.
    Sqlite(Transaction<'static, Sqlite>),
    /// In PostgreSQL.
    Postgres(Transaction<'static, Postgres>),
}

impl Tx {
    /// Runs a statement; returns how many rows it changed.
    pub(crate) async fn execute(&mut self, sql: Sql, values: &[Value]) -> Result<u64, sqlx::Error> {
        match self {
            Self::Sqlite(tx) => {
                let done = (&mut **tx).execute(bound!(sql.sqlite, values)).await?;
                Ok(done.rows_affected())
            }
            Self::Postgres(tx) => {
                let done = (&mut **tx).execute(bound!(sql.postgres, values)).await?;
                Ok(done.rows_affected())
            }
        }
    }

    /// Runs a query and returns its rows. Every query has a limit or reads a table that is small by its nature.
    pub(crate) async fn rows(
        &mut self,
        sql: Sql,
        values: &[Value],
    ) -> Result<Vec<Row>, sqlx::Error> {
        match self {
            Self::Sqlite(tx) => {
                let rows = (&mut **tx).fetch_all(bound!(sql.sqlite, values)).await?;
                Ok(rows
                    .into_iter()
                    .map(|row| Row::new(AnyRow::Sqlite(row)))
                    .collect())
            }
            Self::Postgres(tx) => {
                let rows = (&mut **tx).fetch_all(bound!(sql.postgres, values)).await?;
                Ok(rows
                    .into_iter()
                    .map(|row| Row::new(AnyRow::Postgres(row)))
                    .collect())
            }
        }
    }

    /// Runs a query and returns its first row.
    pub(crate) async fn row(
        &mut self,
        sql: Sql,
        values: &[Value],
    ) -> Result<Option<Row>, sqlx::Error> {
        Ok(self.rows(sql, values).await?.into_iter().next())
    }

    /// Runs a statement that SQLite needs not: a lock, a setting.
    pub(crate) async fn only_postgres(
        &mut self,
        sql: &'static str,
        values: &[Value],
    ) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(tx) => (&mut **tx).execute(bound!(sql, values)).await.map(drop),
        }
    }

    /// Runs statements without parameters, one after another: a step of a migration.
    pub(crate) async fn script(&mut self, sql: Sql) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => (&mut **tx)
                .execute(sqlx::raw_sql(sql.sqlite))
                .await
                .map(drop),
            Self::Postgres(tx) => (&mut **tx)
                .execute(sqlx::raw_sql(sql.postgres))
                .await
                .map(drop),
        }
    }

    /// Makes it so.
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx) => tx.commit().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn moments_come_back_to_the_microsecond(secs in -62_167_132_800i64..=253_402_207_200, nanos in 0u32..1_000_000_000) {
            let at = Moment::from_parts(secs, nanos, 3600).expect("in range");
            let back = moment(instant(at)).expect("in range");
            prop_assert_eq!(back.unix_seconds(), secs);
            prop_assert_eq!(back.subsec_nanos(), nanos / 1000 * 1000);
        }
    }

    #[test]
    fn numbers_do_not_wrap() {
        assert_eq!(Value::from(u64::MAX), Value::Int(Some(i64::MAX)));
        assert_eq!(Value::from(Duration::MAX), Value::Int(Some(i64::MAX)));
        assert_eq!(moment(i64::MIN), None);
        assert_eq!(moment(i64::MAX), None);
    }
}
