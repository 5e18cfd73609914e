//! The content of one file as a reader.

use std::collections::VecDeque;
use std::io::{self, Read};

use super::pipe::{NextError, Pipe, Plain, RUN};
use crate::chunks::ChunkReader;
use crate::contents::RefCursor;
use crate::manifest::Entry;
use crate::object::ObjectError;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The content of one file, holes as zeros.
pub(super) struct Content<'p, 'a> {
    pipe: &'p mut Pipe<'a>,
    refs: &'p mut RefCursor,
    refs_reader: &'p mut ChunkReader<'a>,
    /// Refs not asked for yet.
    next_ref: u64,
    refs_left: u64,
    holes: VecDeque<[u64; 2]>,
    at: u64,
    size: u64,
    chunk: Plain,
    used: usize,
    pub(super) failure: Option<ObjectError>,
}

impl<'p, 'a> Content<'p, 'a> {
    /// `asked`: how many of its refs the pipe knows already.
    pub(super) fn new(
        pipe: &'p mut Pipe<'a>,
        refs: &'p mut RefCursor,
        refs_reader: &'p mut ChunkReader<'a>,
        entry: &Entry,
        first_ref: u64,
        asked: u64,
    ) -> Self {
        Content {
            pipe,
            refs,
            refs_reader,
            next_ref: first_ref + asked,
            refs_left: entry.refs() as u64 - asked,
            holes: entry.holes.iter().flatten().copied().collect(),
            at: 0,
            size: entry.len(),
            chunk: Plain::Own(Vec::new()),
            used: 0,
            failure: None,
        }
    }

    fn fail(&mut self, e: ObjectError) -> io::Error {
        let told = io::Error::other(e.to_string());
        self.failure = Some(e);
        told
    }

    fn wrong_length(&mut self) -> io::Error {
        let e = crate::object::ContentError::List(
            "the chunks of the file do not have the length that the manifest says",
        );
        self.fail(ObjectError::content("manifest", e))
    }

    /// The next bytes; empty at the end.
    pub(super) fn some(&mut self) -> io::Result<&[u8]> {
        if self.at == self.size {
            if self.refs_left > 0 || self.used < self.chunk.bytes().len() {
                return Err(self.wrong_length());
            }
            return Ok(&[]);
        }
        while self.holes.front().is_some_and(|h| self.at >= h[0] + h[1]) {
            self.holes.pop_front();
        }
        let data_end = match self.holes.front() {
            Some(&[offset, length]) if self.at >= offset => {
                let n = (offset + length - self.at).min(ZEROS.len() as u64);
                return Ok(&ZEROS[..n as usize]);
            }
            Some(&[offset, _]) => offset,
            None => self.size,
        };
        if self.used == self.chunk.bytes().len() {
            if self.refs_left > 0 && self.pipe.asked.len() < RUN / 2 {
                let n = self.refs_left.min(RUN as u64);
                let mut ids = Vec::new();
                if let Err(e) = self.refs.read(self.refs_reader, self.next_ref, n, &mut ids) {
                    return Err(self.fail(e));
                }
                self.pipe.ask(&ids);
                self.next_ref += n;
                self.refs_left -= n;
            }
            self.chunk = match self.pipe.next() {
                Ok(Some(plain)) => plain,
                Ok(None) => return Err(self.wrong_length()),
                Err(NextError::Object(e)) => return Err(self.fail(e)),
                Err(NextError::Io(e)) => return Err(e),
            };
            self.used = 0;
        }
        let bytes = &self.chunk.bytes()[self.used..];
        let n = (data_end - self.at).min(bytes.len() as u64) as usize;
        Ok(&bytes[..n])
    }

    pub(super) fn consume(&mut self, n: usize) {
        let in_hole = self.holes.front().is_some_and(|h| self.at >= h[0]);
        if !in_hole {
            self.used += n;
        }
        self.at += n as u64;
    }
}

impl Read for Content<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let bytes = self.some()?;
        let n = bytes.len().min(buf.len());
        buf[..n].copy_from_slice(&bytes[..n]);
        self.consume(n);
        Ok(n)
    }
}
