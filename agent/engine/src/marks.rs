//! The marks of `prune`: packs that will be deleted. A writer must not rely on them (FORMAT.md, section 8).

use std::collections::HashSet;

use crate::ids::ObjectId;
use crate::object::ObjectError;
use crate::records::Marks;
use crate::repository::Repository;
use crate::store::{Area, list_all};

/// All marked packs. Marks of a signer without the right *maintain* do not count; marks that cannot be read are an error: in doubt, do not go on.
pub fn marked_packs(repository: &Repository) -> Result<HashSet<ObjectId>, ObjectError> {
    let mut out = HashSet::new();
    for listed in list_all(&**repository.store(), Area::Marks)? {
        let id = listed.name.object_id().expect("marks are named by hash");
        match repository.get_record::<Marks>(Area::Marks, id) {
            Ok((signer, marks))
                if repository
                    .writers()
                    .get(&signer)
                    .is_some_and(|w| w.maintain) =>
            {
                out.extend(marks.packs)
            }
            Ok(_) => {}
            Err(e) if e.is_missing() => {} // finished meanwhile
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}
