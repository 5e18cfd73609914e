//! Whether what happens is still written down: the state database, or the spool in its stead, takes records.
//!
//! Records are written when there are some: changes at once, results of checks once a minute. So that nothing was lost for a while
//! proves nothing. After a loss it counts as mended when a record was kept since, or none waits to be; and in both cases only if the
//! state directory takes a trial file of the size of a large batch, for on a full disk small records still find room now and then.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// Bytes of the trial file: more than a batch of records needs in the database's log or in the spool.
const TRIAL: usize = 1 << 20;
/// Its name in the state directory. One that a crash left behind is replaced.
const NAME: &str = ".trial";

/// What became of records since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// In the database or in the spool.
    pub kept: u64,
    /// Nowhere.
    pub lost: u64,
    /// Still in the queue.
    pub waiting: usize,
}

/// Whether records are kept.
#[derive(Debug)]
pub struct Writing {
    last: Tally,
    well: bool,
}

impl Default for Writing {
    fn default() -> Self {
        Self {
            last: Tally::default(),
            well: true,
        }
    }
}

impl Writing {
    /// The verdict after the last round.
    pub fn is_well(&self) -> bool {
        self.well
    }

    /// The verdict with this tally, and with how a trial ended, which is made as long as it is not well.
    pub fn judge(&mut self, now: Tally, trial: Option<bool>) -> bool {
        let last = std::mem::replace(&mut self.last, now);
        if now.lost > last.lost {
            self.well = false;
        } else if trial == Some(true) && (now.kept > last.kept || now.waiting == 0) {
            self.well = true;
        }
        self.well
    }
}

/// Whether this directory takes a file of [`TRIAL`] bytes; nothing of it stays.
pub fn trial(state: &Path) -> bool {
    let path = state.join(NAME);
    let written = write(&path);
    let removed = fs::remove_file(&path);
    written.is_ok() && removed.is_ok()
}

fn write(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    // No hole, and nothing that a file system would compress to one.
    let mut block = [0; 4096];
    for (n, byte) in block.iter_mut().enumerate() {
        *byte = (n.wrapping_mul(167) >> 3) as u8;
    }
    for _ in 0..TRIAL / block.len() {
        file.write_all(&block)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_records_count_until_one_is_kept() {
        let mut w = Writing::default();
        assert!(w.is_well());
        let mut tell = |kept, lost, waiting, trial| {
            let tally = Tally {
                kept,
                lost,
                waiting,
            };
            w.judge(tally, trial)
        };
        // Nothing was to be written, then something was.
        assert!(tell(0, 0, 3, None) && tell(5, 0, 0, None) && tell(5, 0, 2, None));
        // Once a minute records are lost; the rounds between prove nothing.
        assert!(!tell(5, 10, 2, None));
        for loss in 2..5 {
            for round in 0..3 {
                assert!(!tell(5, (loss - 1) * 10, 4, Some(false)), "round {round}");
                assert!(!tell(5, (loss - 1) * 10, 4, Some(true)), "room alone");
            }
            assert!(!tell(5, loss * 10, 0, Some(true)), "loss {loss}");
        }
        // Some are kept and some are lost, or a small one was kept on a full disk: not well.
        assert!(!tell(7, 41, 0, Some(true)) && !tell(8, 41, 0, Some(false)));
        // Kept, with room for more; then no trial is made any more.
        assert!(tell(9, 41, 5, Some(true)) && tell(9, 41, 5, None));
        // Nothing waits that could be kept: the trial alone counts.
        assert!(!tell(9, 42, 0, None) && !tell(9, 42, 0, Some(false)));
        assert!(tell(9, 42, 0, Some(true)));
        // What was lost before the first look counts.
        let lost = Tally {
            lost: 1,
            ..Tally::default()
        };
        assert!(!Writing::default().judge(lost, None));
    }

    #[test]
    fn a_trial_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), "left by a crash").unwrap();
        assert!(trial(dir.path()) && trial(dir.path()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(!trial(&dir.path().join("none")));
        // Something else of this name is in the way, and stays.
        fs::create_dir(dir.path().join(NAME)).unwrap();
        assert!(!trial(dir.path()));
        assert!(dir.path().join(NAME).is_dir());
    }
}
