//! Carrying ciphertext from a twin to its twin: packs are fetched, checked, and stored whole under their own name, or, where only a part of one is needed, envelope by
//! envelope in new packs. No identity is needed, and none is used.
//!
//! ```text
//! fetchers ──checked packs──▶ router ──packs──▶ uploaders ──read back──▶ index object, from time to time
//! ```
//!
//! A pack is copied from only when it is whole: its bytes have the hash that is its name, its footer agrees with the index, and the index objects agree with each other.
//! What was stored is read back before it is indexed: so nothing ever relies on a pack that was damaged on its way, also when this run is interrupted and the next goes on.
//!
//! A pack whose name the destination has, but must not rely on (marked by `prune`, or damaged), needs another name: a chunk of noise that nobody needs is added to it.
//!
//! Memory with packs of 17 MiB: [`FETCHES`] being fetched, one being routed, two being filled, [`UPLOADS`] being stored: 120 MiB at worst (190 MiB over networks), 85 MiB while packs are
//! copied whole. Packs of others may have [`READ_MAX`]. The rows of a batch of packs (16 MB), and of packs not yet indexed (64 bytes a chunk, 4 MB).

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::envelope::{Draft, Sealer};
use crate::ids::{ChunkKind, ObjectId, PackClass};
use crate::inventory::{Bits, Content, Inventory};
use crate::lookup::{Gather, Lookup};
use crate::object::{ContentError, ObjectError};
use crate::pack::{self, Finished, Packer};
use crate::progress::Event;
use crate::records::{Index, IndexedPack};
use crate::repository::{PutError, Repository};
use crate::store::{Area, Fault, Name, StoreError};

use super::target::Target;
use super::{CopyError, Run};

/// Packs being fetched at once from a store that is near. From one behind a network: half as many as it takes calls at once, at most [`AT_ONCE`].
const FETCHES: usize = 2;
/// Packs being stored at once; the same holds.
const UPLOADS: usize = 2;
/// See [`FETCHES`]: 68 MiB on either side.
const AT_ONCE: usize = 4;
/// Longer packs are not copied. Ours have about 16 MiB.
const READ_MAX: u64 = 64 << 20;
/// An index object is written when so many chunks are stored and not yet indexed.
const INDEX_CHUNKS: usize = 60_000;
/// It is also written when the last one is so many seconds old and [`INDEX_PACKS`] packs are stored, so that an interrupted run goes on where it was.
const INDEX_AGE: i64 = 60;
/// See [`INDEX_AGE`].
const INDEX_PACKS: usize = 4;
/// So many packs in a row that the source cannot read: it is the source that fails, not a pack.
const FAILURES: u32 = 8;

/// Sums over all that was carried.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) packs: AtomicU64,
    pub(super) packs_whole: AtomicU64,
    /// Of packs, as fetched from the source.
    pub(super) bytes_read: AtomicU64,
    /// Of packs and index objects, as sent to the destination.
    pub(super) bytes_written: AtomicU64,
}

/// Why a pack is not copied from.
enum Refused {
    /// It is damaged, or gone.
    Pack(String),
    /// The source did not give it.
    Store(StoreError),
}

struct Fetched {
    content: Content,
    bytes: Result<(Vec<u8>, PackClass, usize), Refused>,
}

/// What the uploaders share.
struct Uploader<'a> {
    target: &'a Target<'a>,
    read_back: bool,
    sums: &'a Sums,
    stored: Mutex<Vec<IndexedPack>>,
    error: Mutex<Option<CopyError>>,
    stop: AtomicBool,
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A poisoned lock means that another thread panicked, which the scope reports.
    m.lock().unwrap_or_else(|e| e.into_inner())
}

fn at_once(near: usize, repository: &Repository) -> usize {
    near.max(repository.store().connections() / 4).min(AT_ONCE)
}

/// One call of [`carry`].
pub(super) struct Carrier<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) source: &'a Lookup,
    pub(super) inventory: &'a Inventory,
    pub(super) target: &'a Target<'a>,
    pub(super) sums: &'a Sums,
}

impl Carrier<'_> {
    /// Copies the envelopes in `now`, and of each pack that it reads for them also those in `wanted`; all of them are cleared. Returns the packs that could
    /// not be copied from, and why. What was stored is in `lookup`.
    pub(super) fn carry(
        &self,
        now: &Bits,
        wanted: &mut Bits,
        lookup: &mut Lookup,
    ) -> Result<Vec<(u32, String)>, CopyError> {
        let packs: Vec<u32> = (0..self.inventory.packs.len() as u32)
            .filter(|p| self.inventory.envelopes_of(*p).any(|e| now.get(e)))
            .collect();
        let uploader = Uploader {
            target: self.target,
            read_back: self.run.options.read_back,
            sums: self.sums,
            stored: Mutex::default(),
            error: Mutex::new(None),
            stop: AtomicBool::new(false),
        };
        let mut routing = Routing {
            carrier: self,
            uploader: &uploader,
            packers: [
                Packer::new(PackClass::Content),
                Packer::new(PackClass::Lists),
            ],
            indexed_at: (self.run.clock)().unix_seconds(),
            failures: 0,
            bad: Vec::new(),
        };
        let mut done = Ok(());
        for batch in self.inventory.batches(&packs) {
            let contents = self
                .inventory
                .contents(self.source, batch)
                .map_err(CopyError::cache)?;
            done = routing.batch(contents, now, wanted, lookup);
            if done.is_err() {
                break;
            }
        }
        for class in [PackClass::Content, PackClass::Lists] {
            done = done.and_then(|()| match routing.take(class) {
                Some(last) => uploader.store(last),
                None => Ok(()),
            });
        }
        // What is stored is indexed in any case, so that the next run need not send it again.
        let indexed = routing.write_index(lookup, true);
        let bad = routing.bad;
        done.and(indexed)?;
        Ok(bad)
    }
}

struct Routing<'a> {
    carrier: &'a Carrier<'a>,
    uploader: &'a Uploader<'a>,
    packers: [Packer; 2],
    indexed_at: i64,
    failures: u32,
    bad: Vec<(u32, String)>,
}

impl Routing<'_> {
    fn batch(
        &mut self,
        contents: Vec<Content>,
        now: &Bits,
        wanted: &mut Bits,
        lookup: &mut Lookup,
    ) -> Result<(), CopyError> {
        let (from, inventory) = (self.carrier.run.from, self.carrier.inventory);
        let uploader = self.uploader;
        let contents = Mutex::new(contents.into_iter());
        let (fetched_in, fetched) = bounded::<Fetched>(0);
        let (packs, packs_out) = bounded::<Finished>(0);
        let routed = std::thread::scope(|scope| {
            for _ in 0..at_once(FETCHES, from) {
                let (contents, out) = (&contents, fetched_in.clone());
                scope.spawn(move || fetch(from, inventory, contents, &out));
            }
            drop(fetched_in);
            for _ in 0..at_once(UPLOADS, self.carrier.target.repository) {
                let input: Receiver<Finished> = packs_out.clone();
                scope.spawn(move || {
                    for pack in input {
                        if let Err(e) = uploader.store(pack) {
                            uploader.fail(e);
                            break;
                        }
                    }
                });
            }
            drop(packs_out);
            let mut routed = Ok(());
            for f in &fetched {
                routed = self.route(f, now, wanted, &packs, lookup);
                if routed.is_err() || uploader.stop.load(Ordering::Relaxed) {
                    break;
                }
            }
            // The fetchers find nobody who takes what they have, the uploaders nothing more to do.
            drop((fetched, packs));
            routed
        });
        match lock(&uploader.error).take() {
            Some(e) => Err(e),
            None => routed,
        }
    }

    fn route(
        &mut self,
        fetched: Fetched,
        now: &Bits,
        wanted: &mut Bits,
        packs: &Sender<Finished>,
        lookup: &mut Lookup,
    ) -> Result<(), CopyError> {
        let Carrier {
            run,
            inventory,
            sums,
            ..
        } = self.carrier;
        run.cancel.check()?;
        let Fetched { content, bytes } = fetched;
        let number = content.pack;
        let id = inventory.packs[number as usize].id;
        let (bytes, class, envelopes) = match bytes {
            Ok(whole) => whole,
            Err(refused) => {
                for e in inventory.envelopes_of(number) {
                    wanted.clear(e);
                }
                let why = match refused {
                    Refused::Pack(why) => why,
                    Refused::Store(e) => {
                        self.failures += 1;
                        if self.failures >= FAILURES {
                            return Err(CopyError::Source(e));
                        }
                        e.to_string()
                    }
                };
                self.bad.push((number, why));
                return Ok(());
            }
        };
        self.failures = 0;
        let length = bytes.len() as u64;
        sums.bytes_read.fetch_add(length, Ordering::Relaxed);
        let is_wanted = |number: u16| {
            let e = inventory.envelope(content.pack, number);
            now.get(e) || wanted.get(e)
        };
        let all = content.envelopes.len() == envelopes
            && content.envelopes.iter().all(|e| is_wanted(e.number));
        // A closed channel means that an uploader failed; it says why.
        if all {
            sums.packs_whole.fetch_add(1, Ordering::Relaxed);
            let indexed = IndexedPack {
                id,
                class: class as u8,
                size: length,
                envelopes: content.envelopes.iter().map(|e| e.indexed()).collect(),
            };
            let _ = packs.send(Finished { id, bytes, indexed });
        } else {
            for e in content.envelopes.iter().filter(|e| is_wanted(e.number)) {
                let at = e.offset as usize;
                let packer = &mut self.packers[class as usize];
                packer.push_indexed(&bytes[at..at + e.length as usize], e.indexed());
                if packer.is_full() {
                    if let Some(full) = self.take(class) {
                        let _ = packs.send(full);
                    }
                }
            }
        }
        for e in inventory.envelopes_of(number) {
            wanted.clear(e);
        }
        run.progress.event(Event::Done {
            items: 1,
            bytes: length,
        });
        self.write_index(lookup, false)
    }

    /// The pack that was being filled.
    fn take(&mut self, class: PackClass) -> Option<Finished> {
        let full = std::mem::replace(&mut self.packers[class as usize], Packer::new(class));
        (!full.is_empty()).then(|| full.finish())
    }

    /// Writes an index object for the packs that are stored, when it is time to, and makes them known to the lookup.
    fn write_index(&mut self, lookup: &mut Lookup, last: bool) -> Result<(), CopyError> {
        let now = (self.carrier.run.clock)().unix_seconds();
        let packs = {
            let mut stored = lock(&self.uploader.stored);
            let chunks: usize = stored
                .iter()
                .flat_map(|p| &p.envelopes)
                .map(|e| e.lengths.len())
                .sum();
            let old = stored.len() >= INDEX_PACKS && (now - self.indexed_at).abs() >= INDEX_AGE;
            if stored.is_empty() || (!last && chunks < INDEX_CHUNKS && !old) {
                return Ok(());
            }
            std::mem::take(&mut *stored)
        };
        self.indexed_at = now;
        let to = self.carrier.target.repository;
        let index = Index { packs };
        let (bytes, id) = to.make_record(Area::Index, &index)?;
        let name = Name::Index(id);
        to.store().put(&name, &bytes).map_err(PutError::from)?;
        if self.uploader.read_back {
            let there = to.store().get(&name, bytes.len() as u64);
            if there.map_err(PutError::from)? != bytes {
                return Err(CopyError::ReadBack(name));
            }
        }
        let length = bytes.len() as u64;
        self.carrier
            .sums
            .bytes_written
            .fetch_add(length, Ordering::Relaxed);
        let mut gather = Gather::default();
        gather
            .add(id, &index)
            .map_err(|e| ObjectError::content(name, ContentError::Decode(e.to_string())))?;
        let part = gather.write(lookup.dir()).map_err(CopyError::cache)?;
        lookup.add(part).map_err(CopyError::cache)
    }
}

/// Fetches packs and checks them, until there are no more or nobody takes them.
fn fetch(
    from: &Repository,
    inventory: &Inventory,
    contents: &Mutex<std::vec::IntoIter<Content>>,
    out: &Sender<Fetched>,
) {
    loop {
        let next = lock(contents).next();
        let Some(content) = next else { return };
        let bytes = fetch_pack(from, inventory, &content);
        if out.send(Fetched { content, bytes }).is_err() {
            return;
        }
    }
}

fn fetch_pack(
    from: &Repository,
    inventory: &Inventory,
    content: &Content,
) -> Result<(Vec<u8>, PackClass, usize), Refused> {
    let id = inventory.packs[content.pack as usize].id;
    let bytes = match from.store().get(&Name::Pack(id), READ_MAX) {
        Ok(bytes) => bytes,
        Err(e) if e.is_missing() => return Err(Refused::Pack("it is gone".into())),
        Err(e) => return Err(Refused::Store(e)),
    };
    if ObjectId::of(&bytes) != id {
        let why = "its bytes do not have the hash that is its name: it is damaged";
        return Err(Refused::Pack(why.into()));
    }
    match pack::footer(&bytes) {
        Some((class, lengths)) if !content.contradicted && content.agrees_with(class, &lengths) => {
            Ok((bytes, class, lengths.len()))
        }
        _ => Err(Refused::Pack(
            "the index does not agree with it, or with itself".into(),
        )),
    }
}

impl Uploader<'_> {
    fn fail(&self, e: CopyError) {
        lock(&self.error).get_or_insert(e);
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Stores a pack, reads it back, and leaves its row for the index.
    fn store(&self, mut pack: Finished) -> Result<(), CopyError> {
        let to = self.target.repository;
        let store = to.store();
        loop {
            if self.target.unusable.contains(&pack.id) {
                pack = under_another_name(to, pack)?;
                continue;
            }
            let (id, name) = (pack.id, Name::Pack(pack.id));
            let length = pack.bytes.len() as u64;
            let exists = if self.target.orphans.get(&id) == Some(&length) {
                true
            } else {
                match store.put(&name, &pack.bytes) {
                    Ok(()) => false,
                    Err(e) if e.fault == Fault::Exists => true,
                    Err(e) => return Err(PutError::from(e).into()),
                }
            };
            if exists {
                // An interrupted run stored it: fine, if it is whole. It is read, whatever the options say: nobody may have done that.
                let whole = match store.get(&name, length) {
                    Ok(there) => there == pack.bytes,
                    Err(e) if store.size(&name).map_err(PutError::from)? == length => {
                        return Err(PutError::from(e).into());
                    }
                    Err(_) => false,
                };
                if !whole {
                    pack = under_another_name(to, pack)?;
                    continue;
                }
            } else {
                self.sums.bytes_written.fetch_add(length, Ordering::Relaxed);
                self.sums.packs.fetch_add(1, Ordering::Relaxed);
                drop(std::mem::take(&mut pack.bytes));
                if self.read_back {
                    let there = store.get(&name, length).map_err(PutError::from)?;
                    if ObjectId::of(&there) != id {
                        return Err(CopyError::ReadBack(name));
                    }
                }
            }
            lock(&self.stored).push(pack.indexed);
            return Ok(());
        }
    }
}

/// The same envelopes and a chunk of noise: a pack with another name.
fn under_another_name(to: &Repository, pack: Finished) -> Result<Finished, CopyError> {
    let class = PackClass::from_u8(pack.indexed.class).unwrap_or(PackClass::Content);
    let (kind, recipient) = match class {
        PackClass::Content => (ChunkKind::Data, to.recipient()),
        PackClass::Lists => (ChunkKind::List, to.host_recipient()),
    };
    let mut noise = [0; 16];
    getrandom::fill(&mut noise).map_err(|e| CopyError::Random(e.to_string()))?;
    let mut draft = Draft::new(kind);
    draft.push(to.hash().id(kind, &noise), &noise);
    let sealed = Sealer::new(1)
        .and_then(|mut sealer| sealer.seal(&draft, recipient))
        .map_err(|e| CopyError::Random(e.to_string()))?;
    let mut packer = Packer::new(class);
    let mut at = 0;
    for e in pack.indexed.envelopes {
        let end = at + e.length as usize;
        packer.push_indexed(&pack.bytes[at..end], e);
        at = end;
    }
    packer.push(&sealed);
    Ok(packer.finish())
}
