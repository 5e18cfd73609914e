//! Which snapshots and files are hit by what is damaged or missing: the walk over lists, manifests and refs.

use super::findings::*;
use super::*;

pub(super) struct Examiner<'a> {
    pub(super) repository: &'a Repository,
    pub(super) lookup: &'a Lookup,
    pub(super) inventory: &'a Inventory,
    pub(super) cancel: &'a Cancel,
    /// Damaged packs, by number.
    pub(super) damage_of: HashMap<u32, u32>,
    /// Packs nothing of which may be relied on.
    pub(super) whole: Bits,
    /// Bad places: pack, envelope, offset of a chunk or [`WHOLE`].
    pub(super) bad: HashSet<(u32, u16, u32)>,
    pub(super) bad_indexes: Vec<u32>,
    pub(super) not_indexed: Option<u32>,
    /// Per record: list chunks beneath which all is well, manifest chunks that were decoded.
    pub(super) clean: Vec<Bits>,
    /// List and manifest chunks beneath which something is lost, with the damages.
    pub(super) dirty: HashMap<ChunkId, Vec<u32>>,
    pub(super) windows: Vec<Window>,
    pub(super) reader: ChunkReader<'a>,
    /// While it is only asked whether anything is lost: ids of data chunks to look up together.
    pub(super) batch: Option<Vec<ChunkId>>,
    /// Something in a batch was lost.
    pub(super) lost: bool,
    pub(super) findings: Findings<'a>,
}

/// What was found in one pack.
pub(super) struct Found {
    pub(super) pack: u32,
    pub(super) bytes: u64,
    pub(super) opened: u64,
    pub(super) vanished: bool,
    pub(super) what: Option<String>,
    pub(super) whole: bool,
    pub(super) bad: Vec<(u16, u32)>,
}

/// A copy of a chunk: part, record, pack, envelope, offset.
pub(super) type Copy = (usize, u64, u32, u16, u32);

impl<'a> Examiner<'a> {
    pub(super) fn pack_damage(&mut self, pack: u32, what: String) -> u32 {
        if let Some(d) = self.damage_of.get(&pack) {
            return *d;
        }
        let name = Name::Pack(self.inventory.packs[pack as usize].id);
        let d = self.findings.damage(name.to_string(), what);
        self.damage_of.insert(pack, d);
        d
    }

    /// Compares index and listing.
    pub(super) fn listing(&mut self) {
        let (mut orphans, mut orphan_bytes) = (0u64, 0u64);
        for n in 0..self.inventory.packs.len() {
            let p = self.inventory.packs[n];
            if !p.indexed {
                orphans += 1;
                orphan_bytes += p.stored.unwrap_or(0);
                continue;
            }
            self.findings.report.packs += 1;
            let what = match p.stored {
                None => "it is not there, though an index names it".to_owned(),
                Some(s) if s != p.size => {
                    format!("it has {s} bytes, the index says {}", p.size)
                }
                Some(_) if p.contradicted => "index objects contradict each other about it".into(),
                Some(_) => continue,
            };
            self.pack_damage(n as u32, what);
            self.whole.set(n as u64);
        }
        if orphans > 0 {
            self.findings.note(format!(
                "{orphans} packs ({orphan_bytes} bytes) stand in no index: of a backup that runs or was interrupted; prune collects them"
            ));
        }
    }

    /// Reads packs, in several threads.
    pub(super) fn packs(&mut self, read: ReadData, seed: u64) -> Result<(), VerifyError> {
        let percent = match read {
            ReadData::No => 0,
            ReadData::All => 100,
            ReadData::Percent(p) => p.min(100) as u64,
        };
        let chosen: Vec<u32> = (0..self.inventory.packs.len() as u32)
            .filter(|n| {
                let p = &self.inventory.packs[*n as usize];
                let draw = blake3::Hasher::new()
                    .update(&seed.to_le_bytes())
                    .update(&p.id.0)
                    .finalize();
                let draw =
                    u64::from_le_bytes(draw.as_bytes()[..8].try_into().expect("eight bytes"));
                // A pack of another length is damaged; what is left of it is always looked at.
                let cut = p.indexed && p.stored != Some(p.size);
                p.stored.is_some_and(|s| s <= limits::PACK_BYTES) && (cut || draw % 100 < percent)
            })
            .collect();
        let bytes = chosen
            .iter()
            .map(|n| self.inventory.packs[*n as usize].stored.unwrap_or(0))
            .sum();
        let progress = self.findings.progress;
        if chosen.is_empty() {
            return Ok(());
        }
        progress.event(Event::Phase("packs"));
        progress.event(Event::Total {
            items: chosen.len() as u64,
            bytes,
        });
        let threads = std::thread::available_parallelism()
            .map_or(2, |n| n.get())
            .max(self.repository.store().connections() / 4)
            .min(THREADS);
        let large = Mutex::new(());
        let (repository, inventory, cancel) = (self.repository, self.inventory, self.cancel);
        for batch in inventory.batches(&chosen) {
            let contents = inventory.contents(self.lookup, batch)?;
            // Two packs' rows wait for each thread; the rows are bounded by the batch.
            let (send, receive) = bounded::<Content>(threads);
            let (answer, answers) = bounded::<Found>(threads);
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    let (receive, answer, large) = (receive.clone(), answer.clone(), &large);
                    scope.spawn(move || {
                        for content in receive {
                            let stored = inventory.packs[content.pack as usize].stored;
                            let guard = stored
                                .is_some_and(|s| s > LARGE_PACK)
                                .then(|| large.lock().unwrap_or_else(|e| e.into_inner()));
                            let found = examine(repository, inventory, &content);
                            drop(guard);
                            if cancel.is_cancelled() || answer.send(found).is_err() {
                                return;
                            }
                        }
                    });
                }
                drop((receive, answer));
                scope.spawn(move || {
                    for content in contents {
                        if cancel.is_cancelled() || send.send(content).is_err() {
                            return;
                        }
                    }
                });
                for found in answers {
                    progress.event(Event::Done {
                        items: 1,
                        bytes: found.bytes,
                    });
                    self.take(found);
                }
            });
            self.cancel.check()?;
        }
        Ok(())
    }

    pub(super) fn take(&mut self, found: Found) {
        let pack = found.pack;
        if found.vanished {
            let name = Name::Pack(self.inventory.packs[pack as usize].id);
            self.findings
                .note(format!("{name} was deleted by a prune meanwhile"));
            return;
        }
        let p = &self.inventory.packs[pack as usize];
        if !p.contradicted {
            // What was found within it says more than its length.
            self.whole.clear(pack as u64);
        }
        self.findings.report.packs_read += 1;
        self.findings.report.bytes_read += found.bytes;
        self.findings.report.envelopes_opened += found.opened;
        if let Some(what) = found.what {
            self.pack_damage(pack, what);
            if found.whole || self.bad.len() + found.bad.len() > BAD_KEPT {
                self.whole.set(pack as u64);
            } else {
                self.bad
                    .extend(found.bad.into_iter().map(|(e, o)| (pack, e, o)));
            }
        }
    }

    /// All copies of a chunk.
    pub(super) fn copies(
        &mut self,
        kind: ChunkKind,
        id: &ChunkId,
    ) -> Result<Vec<Copy>, VerifyError> {
        let mut out = Vec::new();
        for (n, part) in self.lookup.parts().iter().enumerate() {
            for (record, r) in part.find(id, &mut self.windows[n])? {
                if r.kind == kind {
                    let pack = self.inventory.of(n, &r);
                    out.push((n, record, pack, r.envelope, r.offset));
                }
            }
        }
        Ok(out)
    }

    /// Looks up what was gathered.
    pub(super) fn flush(&mut self) -> Result<(), VerifyError> {
        let mut batch = self.batch.take().unwrap_or_default();
        batch.sort_unstable();
        batch.dedup();
        for id in &batch {
            if self.lost {
                break;
            }
            let copies = self.copies(ChunkKind::Data, id)?;
            self.lost |= !copies.iter().any(|c| self.is_sound(c));
        }
        batch.clear();
        self.batch = Some(batch);
        Ok(())
    }

    pub(super) fn is_sound(&self, &(_, _, pack, envelope, offset): &Copy) -> bool {
        !self.whole.get(pack as u64)
            && !self.bad.contains(&(pack, envelope, WHOLE))
            && !self.bad.contains(&(pack, envelope, offset))
    }

    /// The damages to which the loss of a chunk is due.
    pub(super) fn blame(&mut self, copies: &[Copy]) -> Vec<u32> {
        let mut out: Vec<u32> = copies
            .iter()
            .filter_map(|c| self.damage_of.get(&c.2).copied())
            .collect();
        if copies.is_empty() {
            let d = match (self.not_indexed, &self.bad_indexes[..]) {
                (Some(d), _) => d,
                // There is one index object that cannot be read: it named the chunk.
                (None, [one]) => *one,
                (None, _) => self.findings.damage(
                    "index/".into(),
                    "chunks that snapshots need stand in no index object: one was lost; 'keepwatch repair index' finds what is still in the packs".into(),
                ),
            };
            self.not_indexed = Some(d);
            out.push(d);
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// A list chunk or manifest chunk, or the damages to which its loss is due.
    pub(super) fn fetch(
        &mut self,
        kind: ChunkKind,
        id: &ChunkId,
        copies: &[Copy],
    ) -> Result<Vec<u8>, Vec<u32>> {
        if !copies.iter().any(|c| self.is_sound(c)) {
            return Err(self.blame(copies));
        }
        match self.reader.read(kind, id) {
            Ok(plain) => Ok(plain),
            Err(e) => {
                for c in copies {
                    let what = match &e {
                        ObjectError::Content { cause, .. } => {
                            format!("envelope {} in it: {cause}", c.3)
                        }
                        ObjectError::Store(s) => format!("it cannot be read: {}", s.cause),
                    };
                    self.pack_damage(c.2, what);
                    self.bad.insert((c.2, c.3, WHOLE));
                }
                Err(self.blame(copies))
            }
        }
    }

    /// Walks a snapshot's lists; the damages that hit it.
    pub(super) fn snapshot(&mut self, s: &SnapshotRecord) -> Result<BTreeSet<u32>, VerifyError> {
        let mut hits = BTreeSet::new();
        let mut refs = 0u64;
        for (root, form) in [(&s.body.manifest, Form::Parts), (&s.body.refs, Form::Refs)] {
            let level = Level {
                depth: root.depth,
                form,
            };
            let malformed = match self.walk(level, &root.items, &mut hits)? {
                Err(why) => Some(why),
                Ok((leaves, _)) if leaves != root.count => {
                    Some("it does not have as many items as the snapshot says")
                }
                Ok((_, sum)) if form == Form::Parts => {
                    refs = sum;
                    None
                }
                Ok((_, sum)) if sum != refs => {
                    Some("manifest and content do not have the same number of chunks")
                }
                Ok(_) => None,
            };
            if let Some(why) = malformed {
                let name = Name::Snapshot(s.id).to_string();
                let d = self
                    .findings
                    .damage(name, format!("one of its lists is malformed: {why}"));
                hits.insert(d);
            }
        }
        Ok(hits)
    }

    /// Leaf items and refs beneath, or why it is malformed.
    #[allow(clippy::type_complexity)]
    pub(super) fn walk(
        &mut self,
        at: Level,
        items: &[u8],
        hits: &mut BTreeSet<u32>,
    ) -> Result<Result<(u64, u64), &'static str>, VerifyError> {
        if at.depth > limits::LIST_DEPTH || items.len() % at.width() != 0 {
            return Ok(Err("it is too deep, or ends within an item"));
        }
        let (mut leaves, mut refs) = (0u64, 0u64);
        for item in items.chunks_exact(at.width()) {
            let id = ChunkId(item[..32].try_into().expect("32 bytes"));
            if at.depth == 0 {
                leaves += 1;
                match at.form {
                    Form::Refs => {
                        refs += 1;
                        if let Some(batch) = &mut self.batch {
                            batch.push(id);
                            if batch.len() >= BATCH {
                                self.flush()?;
                            }
                            continue;
                        }
                        let copies = self.copies(ChunkKind::Data, &id)?;
                        if !copies.iter().any(|c| self.is_sound(c)) {
                            hits.extend(self.blame(&copies));
                        }
                    }
                    Form::Parts => {
                        let part = Part::from_bytes(item.try_into().expect("40 bytes"));
                        refs = refs.saturating_add(part.refs as u64);
                        self.manifest(&part, hits)?;
                    }
                }
                continue;
            }
            self.cancel.check()?;
            let (below, below_refs) = counts(item);
            leaves = leaves.saturating_add(below);
            refs = refs.saturating_add(below_refs);
            if let Some(known) = self.dirty.get(&id) {
                hits.extend(known);
                continue;
            }
            let copies = self.copies(ChunkKind::List, &id)?;
            if copies.iter().any(|c| self.clean[c.0].get(c.1)) {
                continue;
            }
            let chunk = match self.fetch(ChunkKind::List, &id, &copies) {
                Ok(c) => c,
                Err(blamed) => {
                    hits.extend(&blamed);
                    self.dirty.insert(id, blamed);
                    continue;
                }
            };
            let mut here = BTreeSet::new();
            let next = at.below();
            let fits = chunk.len() >= 2 && chunk[0] == at.depth && chunk[1] == at.form as u8;
            let counted = if fits {
                self.walk(next, &chunk[2..], &mut here)?
            } else {
                Err("a list chunk stands at a level that is not its own")
            };
            if counted != Ok((below, below_refs)) {
                let why = counted.err().unwrap_or("its counts are wrong");
                let d = self
                    .findings
                    .damage(format!("chunk {id}"), format!("a list is malformed: {why}"));
                here.insert(d);
            }
            if here.is_empty() {
                for c in &copies {
                    self.clean[c.0].set(c.1);
                }
            } else {
                hits.extend(&here);
                self.dirty.insert(id, here.into_iter().collect());
            }
        }
        Ok(Ok((leaves, refs)))
    }

    /// A manifest chunk: there, and with an identity decoded, once.
    pub(super) fn manifest(
        &mut self,
        part: &Part,
        hits: &mut BTreeSet<u32>,
    ) -> Result<(), VerifyError> {
        if let Some(known) = self.dirty.get(&part.id) {
            hits.extend(known);
            return Ok(());
        }
        let copies = self.copies(ChunkKind::Manifest, &part.id)?;
        if copies.iter().any(|c| self.clean[c.0].get(c.1)) {
            return Ok(());
        }
        let blamed = if !copies.iter().any(|c| self.is_sound(c)) {
            self.blame(&copies)
        } else if self.repository.reader().is_none() {
            Vec::new()
        } else {
            match self.fetch(ChunkKind::Manifest, &part.id, &copies) {
                Err(blamed) => blamed,
                Ok(plain) => {
                    let why = match manifest::decode_chunk(&plain, &mut Vec::new(), &mut |_| {}) {
                        Ok(counts) if counts == (part.entries, part.refs) => None,
                        Ok(_) => Some("it does not hold what its list says".to_owned()),
                        Err(e) => Some(e.to_string()),
                    };
                    why.map(|why| {
                        self.findings.damage(
                            format!("chunk {}", part.id),
                            format!("a part of a manifest is malformed: {why}"),
                        )
                    })
                    .into_iter()
                    .collect()
                }
            }
        };
        if blamed.is_empty() {
            for c in &copies {
                self.clean[c.0].set(c.1);
            }
        } else {
            hits.extend(&blamed);
            self.dirty.insert(part.id, blamed);
        }
        Ok(())
    }

    /// What a hit snapshot lost.
    pub(super) fn losses(&mut self, s: &SnapshotRecord) -> Result<(), VerifyError> {
        let mut lost = Lost::default();
        self.lost_refs(&s.body.refs, &mut lost)?;
        let mut loss = Loss {
            snapshot: s.id,
            host: s.body.host.clone(),
            time: s.start,
            refs: lost.count,
            manifest_parts: 0,
            files: Vec::new(),
            files_cut: lost.cut,
        };
        let mut parts = Lost::default();
        self.lost_parts(&s.body.manifest, &mut parts)?;
        loss.manifest_parts = parts.count;
        if self.repository.reader().is_some() {
            let mut reader = ChunkReader::new(self.repository, self.lookup);
            let mut files = BTreeSet::new();
            let findings = &mut self.findings;
            let mut each = |e: manifest::Entry, first: u64| {
                let end = first.saturating_add(e.refs() as u64);
                let from = lost.runs.partition_point(|r| r.1 <= first);
                let mut damages: Vec<u32> = lost.runs[from..]
                    .iter()
                    .take_while(|r| r.0 < end)
                    .map(|r| r.2)
                    .collect();
                damages.dedup();
                if !damages.is_empty() {
                    if files.len() < FILES_KEPT {
                        files.insert(e.path.clone());
                    } else {
                        loss.files_cut = true;
                    }
                    for d in damages {
                        findings.file(d, &e.path);
                    }
                }
                Ok(())
            };
            // Parts that cannot be read were blamed before.
            let walked = reader.each_entry(&s.body, &mut each, &mut |_| {});
            if let Err(e) = walked {
                findings.note(format!(
                    "the files of snapshot {} cannot all be named: {e}",
                    s.id.short()
                ));
            }
            loss.files = files.into_iter().collect();
        }
        self.findings.report.losses.push(loss);
        Ok(())
    }

    pub(super) fn lost_refs(
        &mut self,
        root: &ListRoot,
        lost: &mut Lost,
    ) -> Result<(), VerifyError> {
        let level = Level {
            depth: root.depth,
            form: Form::Refs,
        };
        self.find_lost(level, &root.items, lost)
    }
    pub(super) fn lost_parts(
        &mut self,
        root: &ListRoot,
        lost: &mut Lost,
    ) -> Result<(), VerifyError> {
        let level = Level {
            depth: root.depth,
            form: Form::Parts,
        };
        self.find_lost(level, &root.items, lost)
    }

    /// Positions of what is lost; goes only where the first walk found something.
    pub(super) fn find_lost(
        &mut self,
        at: Level,
        items: &[u8],
        lost: &mut Lost,
    ) -> Result<(), VerifyError> {
        if at.depth > limits::LIST_DEPTH {
            return Ok(());
        }
        for item in items.chunks_exact(at.width()) {
            let id = ChunkId(item[..32].try_into().expect("32 bytes"));
            if at.depth == 0 {
                let blamed = match at.form {
                    Form::Parts => self.dirty.get(&id).cloned().unwrap_or_default(),
                    Form::Refs => {
                        let copies = self.copies(ChunkKind::Data, &id)?;
                        if copies.iter().any(|c| self.is_sound(c)) {
                            Vec::new()
                        } else {
                            self.blame(&copies)
                        }
                    }
                };
                lost.add(1, &blamed);
                continue;
            }
            let (below, _) = counts(item);
            let Some(known) = self.dirty.get(&id) else {
                lost.add(below, &[]);
                continue;
            };
            if !lost.seen.insert(id) {
                lost.again += 1;
                if lost.again > AGAIN {
                    let known = known.clone();
                    lost.add(below, &known);
                    lost.cut = true;
                    continue;
                }
            }
            let copies = self.copies(ChunkKind::List, &id)?;
            let before = lost.at;
            match self.fetch(ChunkKind::List, &id, &copies) {
                Err(blamed) => lost.add(below, &blamed),
                Ok(chunk) => {
                    if chunk.len() >= 2 && chunk[0] == at.depth && chunk[1] == at.form as u8 {
                        self.find_lost(at.below(), &chunk[2..], lost)?;
                    }
                    lost.at = before.saturating_add(below);
                }
            }
        }
        Ok(())
    }
}

/// Positions in a list that are lost.
#[derive(Default)]
pub(super) struct Lost {
    pub(super) at: u64,
    pub(super) count: u64,
    /// From, to, damage; ascending.
    pub(super) runs: Vec<(u64, u64, u32)>,
    pub(super) cut: bool,
    /// List chunks that were gone through, and how often one of them once more.
    seen: HashSet<ChunkId>,
    again: u64,
}

impl Lost {
    pub(super) fn add(&mut self, n: u64, blamed: &[u32]) {
        let (from, to) = (self.at, self.at.saturating_add(n));
        self.at = to;
        if blamed.is_empty() {
            return;
        }
        self.count = self.count.saturating_add(n);
        for &d in blamed {
            let room = self.runs.len() < LOST_KEPT;
            match self.runs.last_mut() {
                Some(last) if last.2 == d && last.1 == from && blamed.len() == 1 => last.1 = to,
                _ if room => self.runs.push((from, to, d)),
                _ => self.cut = true,
            }
        }
    }
}

#[derive(Clone, std::marker::Copy)]
pub(super) struct Level {
    pub(super) depth: u8,
    pub(super) form: Form,
}

impl Level {
    pub(super) fn width(self) -> usize {
        if self.depth == 0 {
            self.form.item()
        } else {
            list::NODE
        }
    }
    pub(super) fn below(self) -> Level {
        Level {
            depth: self.depth - 1,
            ..self
        }
    }
}

/// Leaf items and refs beneath a node.
pub(super) fn counts(node: &[u8]) -> (u64, u64) {
    let word = |at: usize| u64::from_le_bytes(node[at..at + 8].try_into().expect("eight bytes"));
    (word(32), word(40))
}

/// Reads one pack and compares it with the index.
pub(super) fn examine(repository: &Repository, inventory: &Inventory, content: &Content) -> Found {
    let p = &inventory.packs[content.pack as usize];
    let mut found = Found {
        pack: content.pack,
        bytes: 0,
        opened: 0,
        vanished: false,
        what: None,
        whole: false,
        bad: Vec::new(),
    };
    let bytes = match repository
        .store()
        .get(&Name::Pack(p.id), limits::PACK_BYTES)
    {
        Ok(b) => b,
        Err(e) if e.is_missing() => {
            found.vanished = true;
            return found;
        }
        Err(e) => {
            found.what = Some(format!("it cannot be read: {}", e.cause));
            found.whole = true;
            return found;
        }
    };
    found.bytes = bytes.len() as u64;
    let whole = ObjectId::of(&bytes) == p.id;
    let footer = pack::footer(&bytes);
    if !whole {
        found.what = Some(ContentError::Hash.to_string());
    } else if footer.is_none() {
        found.what = Some("it is not a pack: its footer is malformed".into());
    }
    for e in &content.envelopes {
        let openable = e.kind == ChunkKind::List || repository.reader().is_some();
        if !openable && !whole {
            // It may be this envelope that is damaged.
            found.bad.push((e.number, WHOLE));
            continue;
        }
        let at = e.offset as usize;
        let sealed = bytes.get(at..at + e.length as usize);
        let agrees = !whole
            || footer.as_ref().is_none_or(|(class, lengths)| {
                *class == e.kind.class() && lengths.get(e.number as usize) == Some(&e.length)
            });
        let (Some(sealed), true) = (sealed, agrees) else {
            found.bad.push((e.number, WHOLE));
            found.what.get_or_insert_with(|| {
                format!("envelope {} does not lie where the index says", e.number)
            });
            continue;
        };
        if !openable {
            continue;
        }
        found.opened += 1;
        let opened = match open_sealed(repository, p.id, e.kind, sealed) {
            Ok(o) => o,
            Err(err) => {
                found.bad.push((e.number, WHOLE));
                let cause = match err {
                    ObjectError::Content { cause, .. } => cause.to_string(),
                    ObjectError::Store(s) => s.to_string(),
                };
                found
                    .what
                    .get_or_insert_with(|| format!("envelope {}: {cause}", e.number));
                continue;
            }
        };
        if opened.lengths != e.lengths && !content.contradicted {
            found.bad.push((e.number, WHOLE));
            found.what.get_or_insert_with(|| {
                format!("envelope {}: {}", e.number, ContentError::Misindexed)
            });
            continue;
        }
        let mut at: BTreeMap<u32, &[u8]> = BTreeMap::new();
        let mut offset = 0u32;
        for chunk in opened.chunks() {
            at.insert(offset, chunk);
            offset += chunk.len() as u32;
        }
        let mut offset = 0u32;
        for (id, &length) in e.ids.iter().zip(&e.lengths) {
            let right = at.get(&offset).is_some_and(|c| {
                c.len() == length as usize && repository.hash().id(e.kind, c) == *id
            });
            if !right {
                found.bad.push((e.number, offset));
                found.what.get_or_insert_with(|| {
                    format!(
                        "envelope {}: chunk {}: {}",
                        e.number,
                        id.short(),
                        ContentError::ChunkId
                    )
                });
            }
            offset = offset.saturating_add(length);
        }
    }
    found
}
