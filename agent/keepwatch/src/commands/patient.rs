//! A pipe that may be silent for long: whoever asks the run to stop need not wait for its next byte, nor for its end.

use std::io::{self, Read};
use std::os::fd::AsFd;

use keepwatch_engine::progress::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often it is looked whether to stop, in nanoseconds.
const LOOK: i64 = 200_000_000;

/// Reads it until its end, or until it is asked to stop. Past the buffers of libraries.
pub struct Patient<T> {
    inner: T,
    cancel: Cancel,
}

impl<T: AsFd> Patient<T> {
    /// Standard input, or what a program prints.
    pub fn new(inner: T, cancel: Cancel) -> Self {
        Patient { inner, cancel }
    }
}

impl<T: AsFd> Read for Patient<T> {
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
