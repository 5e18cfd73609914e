//! Looking at a stream while it goes by: whether it is whole.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::dump::Body;
use crate::fault::{Fault, Reason};
use crate::text::hex;

/// Looks at a stream.
pub trait Check: Send {
    /// The next bytes.
    ///
    /// # Errors
    /// They cannot be part of such a stream.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), String>;
    /// At its end.
    ///
    /// # Errors
    /// It is not whole.
    fn end(&mut self) -> Result<(), String>;
}

/// A stream that is looked at. What is wrong with it is told as soon as it is seen.
pub struct Checked<C> {
    body: Box<dyn Body>,
    check: C,
    what: String,
}

impl<C: Check + 'static> Checked<C> {
    /// `what` is what the stream is called in sentences.
    pub fn over(body: Box<dyn Body>, check: C, what: impl Into<String>) -> Box<dyn Body> {
        Box::new(Checked {
            body,
            check,
            what: what.into(),
        })
    }
}

impl<C: Check> Read for Checked<C> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read(buffer)?;
        self.check.feed(&buffer[..n]).map_err(|why| {
            Fault::new(Reason::NotWhole, format!("{} is damaged: {why}", self.what)).into_io()
        })?;
        Ok(n)
    }
}

impl<C: Check> Body for Checked<C> {
    fn finish(mut self: Box<Self>) -> Result<(), Fault> {
        // What the program says of its own end is the cause; how the stream ends is the effect.
        self.body.finish()?;
        self.check.end().map_err(|why| {
            Fault::new(
                Reason::NotWhole,
                format!("{} is not whole: {why}", self.what),
            )
        })
    }
}

/// It must hold something.
#[derive(Default)]
pub struct NotEmpty(bool);

impl Check for NotEmpty {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0 |= !bytes.is_empty();
        Ok(())
    }
    fn end(&mut self) -> Result<(), String> {
        match self.0 {
            true => Ok(()),
            false => Err("it is empty".into()),
        }
    }
}

/// Near its end stands a line.
pub struct EndLine {
    line: &'static str,
    tail: Vec<u8>,
}

/// How far from the end the line may stand, in bytes.
const END: usize = 512;

impl EndLine {
    /// The last line that is no empty line and no `\unrestrict` must begin with this.
    pub fn new(line: &'static str) -> Self {
        EndLine {
            line,
            tail: Vec::with_capacity(2 * END),
        }
    }
}

impl Check for EndLine {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        let from = bytes.len().saturating_sub(END);
        self.tail.extend_from_slice(&bytes[from..]);
        if self.tail.len() > END {
            self.tail.drain(..self.tail.len() - END);
        }
        Ok(())
    }
    fn end(&mut self) -> Result<(), String> {
        let text = String::from_utf8_lossy(&self.tail);
        let last = text
            .lines()
            .rev()
            .map(str::trim)
            .find(|l| !l.is_empty() && *l != "--" && !l.starts_with("\\unrestrict"));
        match last {
            Some(_) if !text.ends_with('\n') => {
                Err("it ends within a line, so it ended early".into())
            }
            Some(l) if l.starts_with(self.line) => Ok(()),
            None => Err("it is empty".into()),
            Some(_) => Err(format!(
                "its last line is not '{}', so it ended early",
                self.line
            )),
        }
    }
}

/// It ends as a tar archive ends: with two blocks of zeros.
#[derive(Default)]
pub struct TarEnd {
    zeros: u64,
    length: u64,
}

impl Check for TarEnd {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.length += bytes.len() as u64;
        let zeros = bytes.iter().rev().take_while(|b| **b == 0).count();
        match zeros == bytes.len() {
            true => self.zeros += zeros as u64,
            false => self.zeros = zeros as u64,
        }
        Ok(())
    }
    fn end(&mut self) -> Result<(), String> {
        match self.zeros >= 1024 && self.length > 1024 && self.length % 512 == 0 {
            true => Ok(()),
            false => Err("the archive has no end, or nothing is in it".into()),
        }
    }
}

/// It has this length and this SHA-256.
pub struct Sum {
    hash: Sha256,
    length: u64,
    expected: Option<(Option<u64>, Option<String>)>,
}

impl Sum {
    /// What is known of either.
    pub fn new(length: Option<u64>, sha256: Option<String>) -> Self {
        Sum {
            hash: Sha256::new(),
            length: 0,
            expected: Some((length, sha256)),
        }
    }
}

impl Check for Sum {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }
    fn end(&mut self) -> Result<(), String> {
        let Some((length, sha256)) = self.expected.take() else {
            return Ok(());
        };
        if self.length == 0 {
            return Err("it is empty".into());
        }
        if let Some(n) = length.filter(|n| *n != self.length) {
            return Err(format!("it has {} bytes instead of {n}", self.length));
        }
        let got = hex(&std::mem::take(&mut self.hash).finalize());
        match sha256 {
            Some(want) if !want.eq_ignore_ascii_case(&got) => {
                Err("its SHA-256 is not what the server says".into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole<C: Check>(mut check: C, bytes: &[u8], step: usize) -> Result<(), String> {
        for part in bytes.chunks(step.max(1)) {
            check.feed(part)?;
        }
        check.end()
    }

    #[test]
    fn the_last_line_decides() {
        let line = || EndLine::new("-- Dump completed");
        let good = [
            b"x".repeat(5000),
            b"\n-- Dump completed on 2026-11-22\n\n".to_vec(),
        ]
        .concat();
        for step in [1, 7, 512, 9000] {
            assert_eq!(whole(line(), &good, step), Ok(()));
            for cut in [0, 1, 5000, good.len() - 25] {
                assert!(whole(line(), &good[..cut], step).is_err(), "{cut}");
            }
            assert!(whole(line(), b"-- Dump completed", step).is_err());
            // Data that holds the line before the end of something else.
            assert!(whole(line(), b"-- Dump completed\nINSERT\n", step).is_err());
            assert_eq!(
                whole(line(), b"-- Dump completed\n--\n\n\\unrestrict x\n", step),
                Ok(())
            );
        }
    }

    #[test]
    fn an_archive_that_ends_early_is_told() {
        let good = [vec![1; 1024], vec![0; 1024]].concat();
        for step in [1, 512, 5000] {
            assert_eq!(whole(TarEnd::default(), &good, step), Ok(()));
            assert!(whole(TarEnd::default(), &good[..1024], step).is_err());
            assert!(whole(TarEnd::default(), &good[..1536], step).is_err());
            assert!(whole(TarEnd::default(), &[], step).is_err());
            assert!(whole(TarEnd::default(), &[0; 1024], step).is_err());
        }
    }

    #[test]
    fn sums_are_compared() {
        let sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(
            whole(Sum::new(Some(3), Some(sum.into())), b"abc", 1),
            Ok(())
        );
        assert!(whole(Sum::new(Some(3), Some(sum.into())), b"abd", 1).is_err());
        assert!(whole(Sum::new(Some(4), None), b"abc", 1).is_err());
        assert!(whole(Sum::new(None, None), b"", 1).is_err());
    }
}
