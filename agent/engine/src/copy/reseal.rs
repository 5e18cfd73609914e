//! Sealing anew, between repositories of different keys: what the source's identity opens is read chunk by chunk in the order of the snapshot, gets its id and its seal
//! from the destination, and goes through the same pipeline as a backup ([`crate::backup::sink`]). The boundaries of the chunks stay; manifests keep their text, in which no
//! id stands; lists are built anew.
//!
//! So that the copy of a day does not read what was copied before, pairs of ids are learnt ([`super::pairs`]): the lists of a snapshot that was copied before and those of
//! its copy run in parallel. Only copies that this very writer signed teach: a pair says which content stands for which, and a wrong one would go unnoticed.
//!
//! Memory: that of the pipeline and of the pipe that reads ahead (32 MiB), the pairs, [`AHEAD`] ids.

use std::collections::VecDeque;

use crate::backup::sink::{Gatherer, Sink, SinkError};
use crate::chunks::ChunkReader;
use crate::contents::{ListCursor, Run as ListRun};
use crate::dump::pipe::{NextError, Pipe, RUN, with_pipe_of};
use crate::ids::{ChunkId, ChunkKind};
use crate::list::{self, Form, ListWriter, Visit};
use crate::lookup::{Lookup, Window};
use crate::object::ObjectError;
use crate::progress::Event;
use crate::records::{ListRoot, Snapshot};

use super::pairs::Pairs;
use super::{CopyError, Run, Trouble};

/// Items of a list that are decided on ahead of the one that is being stored: 80 bytes each.
const AHEAD: usize = RUN;

/// The lists of a copy.
pub(super) struct Resealed {
    pub(super) manifest: ListRoot,
    pub(super) refs: ListRoot,
    /// Plaintext that was read for it.
    pub(super) bytes_read: u64,
}

/// An item of a list on its way.
struct Item {
    id: ChunkId,
    /// What it became, when that is known and there.
    known: Option<ChunkId>,
    /// What stands behind the id: the counts of a manifest part.
    rest: [u8; 8],
}

struct Resealer<'a> {
    run: &'a Run<'a>,
    source: &'a Lookup,
    sink: &'a Sink<'a>,
    pairs: &'a mut Pairs,
    window: Window,
    lists: Gatherer,
    bytes_read: u64,
}

/// Stores what the snapshot needs, and says what its copy's lists are. To be called within the pipeline.
pub(super) fn reseal(
    run: &Run<'_>,
    source: &Lookup,
    snapshot: &Snapshot,
    pairs: &mut Pairs,
    sink: &Sink<'_>,
) -> Result<Resealed, Trouble> {
    let mut r = Resealer {
        run,
        source,
        sink,
        pairs,
        window: Window::default(),
        lists: Gatherer::new(ChunkKind::List),
        bytes_read: 0,
    };
    let refs = r.list(&snapshot.refs, Form::Refs)?;
    let manifest = r.list(&snapshot.manifest, Form::Parts)?;
    r.lists.flush(sink).map_err(CopyError::from)?;
    Ok(Resealed {
        manifest,
        refs,
        bytes_read: r.bytes_read,
    })
}

impl Resealer<'_> {
    fn list(&mut self, root: &ListRoot, form: Form) -> Result<ListRoot, Trouble> {
        let kind = match form {
            Form::Refs => ChunkKind::Data,
            Form::Parts => ChunkKind::Manifest,
        };
        let (from, source) = (self.run.from, self.source);
        with_pipe_of(kind, from, source, |pipe| {
            let mut reader = ChunkReader::new(from, source);
            let mut out = Output {
                kind,
                list: ListWriter::new(form),
                chunks: Gatherer::new(kind),
            };
            let mut queue: VecDeque<Item> = VecDeque::new();
            let mut fetch =
                |id: &ChunkId| reader.read(ChunkKind::List, id).map_err(Trouble::source);
            let mut visit = |v: Visit<'_>| -> Result<bool, Trouble> {
                let Visit::Leaves(items) = v else {
                    // A list chunk that cannot be read ends it.
                    return Ok(matches!(v, Visit::Node(_)));
                };
                for item in items.chunks_exact(form.item()) {
                    let item = self.decide(item)?;
                    if item.known.is_none() {
                        pipe.ask(&[item.id]);
                    }
                    queue.push_back(item);
                    if queue.len() >= AHEAD {
                        if let Some(first) = queue.pop_front() {
                            self.settle(first, pipe, &mut out)?;
                        }
                    }
                }
                Ok(true)
            };
            list::walk(root, form, &mut fetch, &mut visit).map_err(|e| match e {
                list::ListError::Chunk(t) => t,
                list::ListError::Malformed(why) => {
                    Trouble::Source(format!("a list is malformed: {why}"))
                }
            })?;
            for item in queue {
                self.settle(item, pipe, &mut out)?;
            }
            out.chunks.flush(self.sink).map_err(CopyError::from)?;
            let root = out.list.finish(&mut |plain| self.store_list(plain));
            Ok(root.map_err(CopyError::from)?)
        })
    }

    fn decide(&mut self, item: &[u8]) -> Result<Item, Trouble> {
        let id = ChunkId(item[..32].try_into().expect("32 bytes"));
        let mut rest = [0; 8];
        rest[..item.len() - 32].copy_from_slice(&item[32..]);
        let mut known = self.pairs.get(&id).map_err(CopyError::cache)?;
        if let Some(there) = &known {
            if !self
                .sink
                .knows(there, &mut self.window)
                .map_err(CopyError::from)?
            {
                known = None;
            }
        }
        Ok(Item { id, known, rest })
    }

    fn settle(&mut self, item: Item, pipe: &mut Pipe<'_>, out: &mut Output) -> Result<(), Trouble> {
        self.run.cancel.check().map_err(CopyError::from)?;
        if self.sink.is_stopped() {
            return Err(CopyError::from(SinkError::Stopped).into());
        }
        let id = match item.known {
            Some(id) => id,
            None => {
                let plain = match pipe.next() {
                    Ok(Some(plain)) => plain,
                    Ok(None) => return Err(Trouble::Source("a list ended too early".into())),
                    Err(NextError::Io(e)) => return Err(CopyError::cache(e).into()),
                    Err(NextError::Object(e)) => return Err(Trouble::source(e)),
                };
                let plain = plain.bytes();
                let id = self.run.to.hash().id(out.kind, plain);
                self.bytes_read += plain.len() as u64;
                self.run.progress.event(Event::Done {
                    items: 1,
                    bytes: plain.len() as u64,
                });
                let claimed = self.sink.claim(&id, &mut self.window);
                if claimed.map_err(CopyError::from)? {
                    out.chunks
                        .push(self.sink, id, plain)
                        .map_err(CopyError::from)?;
                }
                self.pairs.insert(item.id, id).map_err(CopyError::cache)?;
                id
            }
        };
        let mut bytes = [0; list::PART];
        bytes[..32].copy_from_slice(&id.0);
        bytes[32..].copy_from_slice(&item.rest);
        let length = out.list.item();
        let pushed = out
            .list
            .push(&bytes[..length], &mut |plain| self.store_list(plain));
        Ok(pushed.map_err(CopyError::from)?)
    }

    fn store_list(&mut self, plain: &[u8]) -> Result<ChunkId, SinkError> {
        let id = self.run.to.hash().id(ChunkKind::List, plain);
        if self.sink.claim(&id, &mut self.window)? {
            self.lists.push(self.sink, id, plain)?;
        }
        Ok(id)
    }
}

struct Output {
    kind: ChunkKind,
    list: ListWriter,
    chunks: Gatherer,
}

/// Learns from a snapshot that was copied before and its copy. What cannot be read teaches nothing.
pub(super) fn learn(
    run: &Run<'_>,
    source: &Lookup,
    target: &Lookup,
    before: &Snapshot,
    copy: &Snapshot,
    pairs: &mut Pairs,
) -> Result<(), CopyError> {
    let lists = [
        (&before.refs, &copy.refs, Form::Refs),
        (&before.manifest, &copy.manifest, Form::Parts),
    ];
    for (there, here, form) in lists {
        if there.count != here.count {
            continue;
        }
        let (Ok(mut a), Ok(mut b)) = (ListCursor::new(there, form), ListCursor::new(here, form))
        else {
            continue;
        };
        let mut from = ChunkReader::new(run.from, source);
        let mut to = ChunkReader::new(run.to, target);
        let mut at = 0;
        while at < a.count() {
            run.cancel.check()?;
            let (first, second) = match (a.run(&mut from, at), b.run(&mut to, at)) {
                (Ok(first), Ok(second)) => (first, second),
                _ => break,
            };
            at = match (first, second) {
                (
                    ListRun::Items { start, items, .. },
                    ListRun::Items {
                        start: other_start,
                        items: others,
                        ..
                    },
                ) => {
                    let width = form.item() as u64;
                    let end = (start + items.len() as u64 / width)
                        .min(other_start + others.len() as u64 / width);
                    let of = |items: &[u8], start: u64, i: u64| -> ([u8; 32], Vec<u8>) {
                        let at = ((i - start) * width) as usize;
                        let item = &items[at..at + width as usize];
                        (
                            item[..32].try_into().expect("32 bytes"),
                            item[32..].to_vec(),
                        )
                    };
                    for i in at..end {
                        let (id, rest) = of(items, start, i);
                        let (became, same_rest) = of(others, other_start, i);
                        if rest == same_rest {
                            pairs
                                .insert(ChunkId(id), ChunkId(became))
                                .map_err(CopyError::cache)?;
                        }
                    }
                    if end <= at {
                        break;
                    }
                    end
                }
                (ListRun::Lost { end, .. }, ListRun::Lost { end: other, .. }) => end.max(other),
                (ListRun::Lost { end, .. }, _) | (_, ListRun::Lost { end, .. }) => end,
            };
        }
    }
    Ok(())
}

/// True when everything that the lists name has a usable copy.
pub(super) fn all_usable(
    run: &Run<'_>,
    target: &Lookup,
    resealed: &Resealed,
) -> Result<bool, CopyError> {
    let mut reader = ChunkReader::new(run.to, target);
    let mut window = Window::default();
    for (root, form) in [
        (&resealed.refs, Form::Refs),
        (&resealed.manifest, Form::Parts),
    ] {
        let mut all = true;
        let mut fetch =
            |id: &ChunkId| -> Result<Vec<u8>, ObjectError> { reader.read(ChunkKind::List, id) };
        let mut has = |id: &ChunkId| {
            target.contains(id, &mut window).map_err(|e| {
                ObjectError::chunk(id, crate::object::ContentError::Cache(e.to_string()))
            })
        };
        list::walk(root, form, &mut fetch, &mut |v| {
            match v {
                Visit::Node(id) => all &= has(&id)?,
                Visit::Leaves(items) => {
                    for item in items.chunks_exact(form.item()) {
                        all &= has(&ChunkId(item[..32].try_into().expect("32 bytes")))?;
                    }
                }
                Visit::Lost(..) => return Ok(false),
            }
            Ok(all)
        })
        .map_err(ObjectError::from)?;
        if !all {
            return Ok(false);
        }
    }
    Ok(true)
}
