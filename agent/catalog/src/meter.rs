//! What the catalog says about itself, as plain numbers: the exporter makes metrics of them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::keeper::Standing;
use crate::spool::SpoolNumbers;

/// Upper bounds of the buckets of durations, in microseconds; one more bucket takes the rest.
pub const OPERATION_BOUNDS: [u64; 9] = [
    500, 1_000, 2_500, 5_000, 10_000, 50_000, 250_000, 1_000_000, 5_000_000,
];

/// What is done with the database. A closed set, for a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Opening and migrating.
    Open,
    /// Storing records.
    Record,
    /// Answering a question.
    Read,
    /// Storing spooled records.
    Import,
    /// Roll-ups, deletion, vacuum.
    Upkeep,
    /// Checking the file.
    Integrity,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Open,
        Self::Record,
        Self::Read,
        Self::Import,
        Self::Upkeep,
        Self::Integrity,
    ];

    /// The word for a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Record => "record",
            Self::Read => "read",
            Self::Import => "import",
            Self::Upkeep => "upkeep",
            Self::Integrity => "integrity",
        }
    }
}

/// How one operation went, since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperationNumbers {
    /// How often it was tried.
    pub total: u64,
    /// How often it failed.
    pub errors: u64,
    /// How long it took in all.
    pub duration_sum: Duration,
    /// How many took up to each of [`OPERATION_BOUNDS`], and how many longer; not cumulative.
    pub buckets: [u64; OPERATION_BOUNDS.len() + 1],
}

/// All numbers of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    /// By operation, in the order of [`Operation::ALL`].
    pub operations: [(Operation, OperationNumbers); 6],
    /// Records stored at once by this process.
    pub stored_total: u64,
    /// Records that went to the spool.
    pub spooled_total: u64,
    /// Records that were imported from the spool.
    pub imported_total: u64,
    /// Records that the database refused for their own fault.
    pub refused_total: u64,
    /// Results that came later than results are kept.
    pub late_total: u64,
    /// Records that neither database nor spool could take, or that had no room in the queue.
    pub lost_total: u64,
    /// What waits in the spool.
    pub spool: SpoolNumbers,
    /// How the database stands.
    pub standing: Standing,
    /// Bytes of the database, as last looked up by upkeep; SQLite: the file and its WAL.
    pub size_bytes: Option<u64>,
}

/// The counting itself.
#[derive(Default)]
pub(crate) struct Meter {
    inner: Mutex<Counts>,
}

#[derive(Default, Clone)]
pub(crate) struct Counts {
    operations: [OperationNumbers; 6],
    pub stored: u64,
    pub spooled: u64,
    pub imported: u64,
    pub refused: u64,
    pub late: u64,
    pub lost: u64,
    pub size: Option<u64>,
}

impl Meter {
    /// Starts to measure.
    pub(crate) fn start() -> Instant {
        Instant::now()
    }

    /// An operation ended.
    pub(crate) fn end(&self, operation: Operation, start: Instant, well: bool) {
        let took = start.elapsed();
        self.count(|counts| {
            let Some(numbers) = counts.operations.get_mut(operation as usize) else {
                return;
            };
            numbers.total += 1;
            numbers.errors += u64::from(!well);
            numbers.duration_sum += took;
            let micros = took.as_micros() as u64;
            let at = OPERATION_BOUNDS.iter().position(|bound| micros <= *bound);
            numbers.buckets[at.unwrap_or(OPERATION_BOUNDS.len())] += 1;
        });
    }

    /// Changes a count.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// All of it.
    pub(crate) fn numbers(&self, spool: SpoolNumbers, standing: Standing) -> Numbers {
        let counts = self
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut operations = Operation::ALL.map(|o| (o, counts.operations[o as usize]));
        // A damaged file that was moved aside is history that was lost, although the operation that found it went well in the end.
        for (operation, numbers) in &mut operations {
            if *operation == Operation::Integrity {
                numbers.total += standing.moved_aside_total;
                numbers.errors += standing.moved_aside_total;
            }
        }
        Numbers {
            operations,
            stored_total: counts.stored,
            spooled_total: counts.spooled,
            imported_total: counts.imported,
            refused_total: counts.refused,
            late_total: counts.late,
            lost_total: counts.lost,
            spool,
            standing,
            size_bytes: counts.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_stand_in_the_order_of_their_numbers() {
        for (n, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, n);
        }
    }
}
