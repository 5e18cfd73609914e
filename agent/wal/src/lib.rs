//! PostgreSQL with point-in-time recovery: what its base backups and its write-ahead log are, and whether they suffice for a restore.
//!
//! The engine stores a base backup as a stream and each file of the log as an object; it knows their names and no more. Here is what PostgreSQL means by them.
//!
//! 1. words: [`lsn`], [`history`], [`tar`]
//! 2. what the server writes: [`pages`] (segments), [`label`] (of a base backup)
//! 3. [`source`] (a file to push), [`stream`] (a base backup as it passes), [`extract`] (one put into a directory), [`settings`] (of a recovery)
//! 4. [`log`] (what is in a repository), [`gaps`] (what is not)

pub mod extract;
pub mod gaps;
pub mod history;
pub mod label;
pub mod log;
pub mod lsn;
pub mod pages;
pub mod settings;
pub mod source;
pub mod stream;
pub mod tar;

#[cfg(test)]
mod tests {
    use crate::{history, label, pages, stream, tar};
    use proptest::prelude::*;
    use std::io::Read;

    proptest! {
        #[test]
        fn any_bytes_end_in_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..2000), at in 0usize..4000, value: u8) {
            let _ = history::parse(&bytes);
            let _ = label::parse(&bytes);
            let _ = label::end_of_manifest(&bytes);
            let _ = label::foundation_of_manifest(&bytes);
            let _ = pages::FirstPage::parse(&bytes);
            let _ = pages::system_of_control(&bytes);
            // And an archive in which one byte is another.
            let mut archive = tar::made::archive(&[("backup_label", b'0', &bytes), ("global/pg_control", b'0', &bytes)]);
            if let Some(b) = archive.get_mut(at) {
                *b = value;
            }
            let (mut watched, learnt) = stream::watch(&archive[..], None);
            let _ = watched.read_to_end(&mut Vec::new());
            let _ = learnt.base();
        }
    }
}
