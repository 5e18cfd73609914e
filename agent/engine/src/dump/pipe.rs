//! Chunks in the order in which they are asked for; their envelopes are fetched and opened ahead by a few threads.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::rc::{Rc, Weak};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::chunks::{self, ChunkReader};
use crate::envelope::Opened;
use crate::ids::{ChunkId, ChunkKind};
use crate::lookup::{Location, Lookup};
use crate::object::ObjectError;
use crate::repository::Repository;
use crate::restore::window::Resolver;

/// Envelopes fetched or open at once: about 4 MiB each, sealed and opened.
const AHEAD: usize = 6;
/// Refs taken from the list at once, 32 bytes each; as many chunks are looked up ahead.
pub(crate) const RUN: usize = 4096;

type Fetched = Result<Opened, ObjectError>;
/// Which envelope: pack, offset, length.
type Key = ([u8; 32], u32, u32);

/// An envelope on its way.
struct Slot {
    key: Key,
    state: RefCell<State>,
}

enum State {
    Waiting(Receiver<Fetched>),
    Here(Rc<Opened>),
    Failed,
}

struct Item {
    id: ChunkId,
    at: Option<(Location, Rc<Slot>)>,
}

/// Chunks in the order in which they are asked for, fetched ahead.
pub(crate) struct Pipe<'a> {
    repository: &'a Repository,
    kind: ChunkKind,
    resolver: Resolver<'a>,
    reader: ChunkReader<'a>,
    jobs: Sender<(Location, Sender<Fetched>)>,
    pub(super) asked: VecDeque<ChunkId>,
    queue: VecDeque<Item>,
    live: Vec<Weak<Slot>>,
}

/// Checked content.
pub(crate) enum Plain {
    Part(Rc<Opened>, Range<usize>),
    Own(Vec<u8>),
}

impl Plain {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Plain::Part(opened, range) => &opened.content[range.clone()],
            Plain::Own(v) => v,
        }
    }
}

impl Pipe<'_> {
    pub(crate) fn ask(&mut self, ids: &[ChunkId]) {
        self.asked.extend(ids);
    }

    fn fill(&mut self) -> io::Result<()> {
        self.live.retain(|w| w.strong_count() > 0);
        while self.live.len() < AHEAD && !self.asked.is_empty() && self.queue.len() < RUN {
            let Some(id) = self.asked.pop_front() else {
                break;
            };
            let Some(((pack, envelope_offset, envelope_length, offset, length), _)) =
                self.resolver.find(&id)?
            else {
                self.queue.push_back(Item { id, at: None });
                continue;
            };
            let at = Location {
                pack,
                envelope: 0,
                envelope_offset,
                envelope_length,
                offset,
                length,
                kind: self.kind,
            };
            let key = (pack.0, envelope_offset, envelope_length);
            let known = self
                .live
                .iter()
                .filter_map(Weak::upgrade)
                .find(|s| s.key == key);
            let slot = match known {
                Some(s) => s,
                None => {
                    let (send, receive) = bounded(1);
                    // Without a thread to take it, the receiver below reports it.
                    let _ = self.jobs.send((at, send));
                    let slot = Rc::new(Slot {
                        key,
                        state: RefCell::new(State::Waiting(receive)),
                    });
                    self.live.push(Rc::downgrade(&slot));
                    slot
                }
            };
            self.queue.push_back(Item {
                id,
                at: Some((at, slot)),
            });
        }
        Ok(())
    }

    /// The next chunk that was asked for.
    pub(crate) fn next(&mut self) -> Result<Option<Plain>, NextError> {
        self.fill().map_err(NextError::Io)?;
        let Some(item) = self.queue.pop_front() else {
            return Ok(None);
        };
        if let Some((at, slot)) = &item.at {
            let mut state = slot.state.borrow_mut();
            if let State::Waiting(receive) = &*state {
                *state = match receive.recv() {
                    Ok(Ok(opened)) => State::Here(Rc::new(opened)),
                    Ok(Err(_)) | Err(_) => State::Failed,
                };
            }
            if let State::Here(opened) = &*state {
                if chunks::chunk_of(self.repository, opened, at, &item.id).is_ok() {
                    let range = at.offset as usize..(at.offset + at.length) as usize;
                    return Ok(Some(Plain::Part(opened.clone(), range)));
                }
            }
        }
        // Every copy is tried before it is given up.
        self.reader
            .read(self.kind, &item.id)
            .map(|v| Some(Plain::Own(v)))
            .map_err(NextError::Object)
    }
}

pub(crate) enum NextError {
    Io(io::Error),
    Object(ObjectError),
}

/// Runs `body` with a pipe of content and the threads that feed it.
pub(super) fn with_pipe<'a, T>(
    repository: &'a Repository,
    lookup: &'a Lookup,
    body: impl FnOnce(&mut Pipe<'a>) -> T,
) -> T {
    with_pipe_of(ChunkKind::Data, repository, lookup, body)
}

/// The same for chunks of any kind.
pub(crate) fn with_pipe_of<'a, T>(
    kind: ChunkKind,
    repository: &'a Repository,
    lookup: &'a Lookup,
    body: impl FnOnce(&mut Pipe<'a>) -> T,
) -> T {
    let threads = std::thread::available_parallelism()
        .map_or(2, |n| n.get())
        .max(repository.store().connections())
        .min(AHEAD / 2);
    std::thread::scope(|scope| {
        let (jobs, take) = bounded::<(Location, Sender<Fetched>)>(AHEAD);
        for _ in 0..threads {
            let take = take.clone();
            scope.spawn(move || {
                for (at, send) in take {
                    // The asker may have given up.
                    let _ = send.send(chunks::open_envelope(repository, &at));
                }
            });
        }
        drop(take);
        let mut pipe = Pipe {
            repository,
            kind,
            resolver: Resolver::of_kind(lookup, kind),
            reader: ChunkReader::new(repository, lookup),
            jobs,
            asked: VecDeque::new(),
            queue: VecDeque::new(),
            live: Vec::new(),
        };
        body(&mut pipe)
    })
}
