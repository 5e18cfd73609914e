//! Standard input that may be silent for long: whoever asks the run to stop need not wait for its next byte.

use std::io::{self, Read};

use keepwatch_engine::progress::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often it is looked whether to stop, in nanoseconds.
const LOOK: i64 = 200_000_000;

/// Reads it until its end, or until it is asked to stop.
pub struct Stdin {
    inner: io::Stdin,
    cancel: Cancel,
}

impl Stdin {
    /// That of this process.
    pub fn new(cancel: Cancel) -> Self {
        Stdin {
            inner: io::stdin(),
            cancel,
        }
    }
}

impl Read for Stdin {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("stopped on request"));
            }
            let mut at = [PollFd::new(&self.inner, PollFlags::IN)];
            let within = Timespec {
                tv_sec: 0,
                tv_nsec: LOOK,
            };
            match poll(&mut at, Some(&within)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                // The end, and what went wrong, are told by reading: past the library's buffer, of which poll knows nothing.
                Ok(_) => return Ok(rustix::io::read(&self.inner, into)?),
                Err(e) => return Err(e.into()),
            }
        }
    }
}
