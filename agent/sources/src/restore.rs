//! What is needed to restore: access to the streams of a snapshot, and what came of it.

use std::io::{self, Write};

use crate::about::Item;
use crate::fault::{Fault, Reason};

/// The streams of one dump in a snapshot. Names are those of [`crate::about::Item`].
pub trait Stored: Sync {
    /// The length of a stream, when it is there.
    fn length(&self, name: &str) -> Option<u64>;

    /// Writes a stream, each piece checked before it goes out.
    ///
    /// # Errors
    /// It cannot be read, or not be written.
    fn write(&self, name: &str, out: &mut dyn Write) -> Result<u64, Fault>;

    /// Looks whether a stream is there as it was described.
    ///
    /// # Errors
    /// It is not.
    fn there(&self, item: &Item) -> Result<(), Fault> {
        match self.length(&item.name) {
            Some(n) if n == item.bytes => Ok(()),
            Some(n) => Err(Fault::new(
                Reason::NotWhole,
                format!(
                    "'{}' has {n} bytes in the snapshot, and its description says {}; nothing was touched",
                    item.name, item.bytes
                ),
            )),
            None => Err(Fault::new(
                Reason::NotWhole,
                format!(
                    "'{}' is described in the snapshot, but is not in it; nothing was touched",
                    item.name
                ),
            )),
        }
    }

    /// A short stream as a whole.
    ///
    /// # Errors
    /// It is longer, or cannot be read.
    fn small(&self, name: &str, most: u64) -> Result<Vec<u8>, Fault> {
        if self.length(name).is_none_or(|n| n > most) {
            return Err(Fault::new(
                Reason::NotWhole,
                format!("'{name}' is not there, or longer than {most} bytes"),
            ));
        }
        let mut out = Bounded(Vec::new(), most);
        self.write(name, &mut out)?;
        Ok(out.0)
    }
}

struct Bounded(Vec<u8>, u64);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() as u64 + bytes.len() as u64 > self.1 {
            return Err(io::Error::other("it is longer than it may be"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was restored.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Report {
    /// Databases, files, collections: a few words each.
    pub restored: Vec<String>,
    /// Bytes of their dumps.
    pub bytes: u64,
    /// What a person should know.
    pub notes: Vec<String>,
}
