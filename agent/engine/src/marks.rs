//! The marks of `prune`: packs that will be deleted. A writer must not rely on them (FORMAT.md, section 8).
//!
//! A marks record counts when its signer has the right *maintain*; others are passed over. Prune replaces records (it writes the new one before it deletes the old
//! one), so a record that was listed and is gone when it is read may have a successor that the listing did not have: then everything is read again.

use std::collections::HashSet;
use std::time::SystemTime;

use crate::ids::ObjectId;
use crate::object::ObjectError;
use crate::records::Marks;
use crate::repository::Repository;
use crate::store::{Area, Fault, StoreError, list_all};

/// Times everything is read again because a record vanished while it was read.
const ATTEMPTS: usize = 10;

/// A marks record that is believed.
#[derive(Clone, Debug)]
pub struct MarksRecord {
    /// Its object.
    pub id: ObjectId,
    /// Seconds since 1970, as signed.
    pub time: i64,
    /// When the store took it.
    pub modified: SystemTime,
    /// The packs it names.
    pub packs: Vec<ObjectId>,
}

/// All marks of a repository. Memory: 32 bytes for each marked pack.
#[derive(Clone, Debug, Default)]
pub struct MarkedPacks {
    /// Those that count, by their ids.
    pub records: Vec<MarksRecord>,
    /// Records whose signer may not mark.
    pub ignored: Vec<ObjectId>,
}

impl MarkedPacks {
    /// Every marked pack.
    pub fn set(&self) -> HashSet<ObjectId> {
        self.records
            .iter()
            .flat_map(|r| r.packs.iter().copied())
            .collect()
    }
}

/// Reads all marks. A record that cannot be read is an error: in doubt, do not go on.
pub fn load(repository: &Repository) -> Result<MarkedPacks, ObjectError> {
    'again: for _ in 0..ATTEMPTS {
        let mut out = MarkedPacks::default();
        for listed in list_all(&**repository.store(), Area::Marks)? {
            let Some(id) = listed.name.object_id() else {
                continue;
            };
            match repository.get_record::<Marks>(Area::Marks, id) {
                Ok((signer, marks)) => {
                    let counts = repository
                        .writers()
                        .get(&signer)
                        .is_some_and(|w| w.maintain);
                    if counts {
                        out.records.push(MarksRecord {
                            id,
                            time: marks.time,
                            modified: listed.modified,
                            packs: marks.packs,
                        });
                    } else {
                        out.ignored.push(id);
                    }
                }
                Err(e) if e.is_missing() => continue 'again,
                Err(e) if e.is_revoked() => out.ignored.push(id),
                Err(e) => return Err(e),
            }
        }
        return Ok(out);
    }
    Err(StoreError {
        verb: "read",
        object: "marks/".to_owned(),
        store: repository.store().location(),
        fault: Fault::Other,
        cause: std::io::Error::other("records vanish again and again while they are read"),
    }
    .into())
}

/// All marked packs, for a writer. Marks of a signer without the right *maintain* do not count; marks that cannot be read are an error: in doubt, do not go on.
pub fn marked_packs(repository: &Repository) -> Result<HashSet<ObjectId>, ObjectError> {
    Ok(load(repository)?.set())
}
