//! A tree as a tar archive (POSIX.1-2001, pax).

use std::collections::HashMap;
use std::io::{self, Write};

use super::content::Content;
use super::pipe::{Pipe, RUN, with_pipe};
use super::{DumpError, TarReport, content_error};
use crate::browse::{self, Entries};
use crate::chunks::ChunkReader;
use crate::contents::RefCursor;
use crate::lookup::Lookup;
use crate::manifest::{Entry, EntryKind};
use crate::progress::Problem;
use crate::repository::Repository;
use crate::restore::Selection;
use crate::snapshots::SnapshotRecord;

/// Entries of an archive looked ahead: about 600 bytes each, attributes aside.
const ENTRIES: usize = 1024;
/// Bytes of attributes in entries looked ahead.
const ATTRIBUTES: usize = 4 << 20;
/// Hard link groups remembered in an archive, estimated bytes; further members carry their content again.
const LINKS_BYTES: usize = 48 << 20;

/// Writes what is at or beneath the paths (empty: everything) as a tar archive (POSIX.1-2001, pax).
pub fn dump_tar(
    repository: &Repository,
    lookup: &Lookup,
    snapshot: &SnapshotRecord,
    select: &[Vec<u8>],
    out: &mut dyn Write,
) -> Result<TarReport, DumpError> {
    let select = browse::paths(select)?;
    let selection = Selection::new(&select, &[], &[]).expect("no patterns");
    let mut entries = Entries::new(repository, lookup, snapshot, &select)?;
    let mut refs = RefCursor::new(&snapshot.body)?;
    let mut report = TarReport::default();
    let mut builder = tar::Builder::new(out);
    with_pipe(repository, lookup, |pipe| {
        let mut refs_reader = ChunkReader::new(repository, lookup);
        let mut links = Links::default();
        let mut ids = Vec::new();
        loop {
            // Small files are looked ahead together, so that their envelopes are fetched while others are written.
            let mut batch: Vec<(Entry, u64, u64)> = Vec::new();
            let (mut asked, mut attributes) = (0, 0);
            while batch.len() < ENTRIES && asked < RUN && attributes < ATTRIBUTES {
                let Some((entry, at)) = entries.next()? else {
                    break;
                };
                if !selection.is_wanted(&entry.path) {
                    continue;
                }
                let n = if links.knows_or_learns(&entry) {
                    0
                } else {
                    entry.refs() as u64
                };
                // A large file asks as it is written, and nothing may be asked before it does.
                let large = n > 0 && asked + n as usize > RUN;
                if n > 0 && !large {
                    ids.clear();
                    let read = refs.read(&mut refs_reader, at, n, &mut ids);
                    read.map_err(|cause| DumpError::Content {
                        path: entry.display(),
                        cause,
                    })?;
                    pipe.ask(&ids);
                    asked += n as usize;
                }
                attributes += entry
                    .xattrs
                    .iter()
                    .flatten()
                    .map(|x| x.name.len() + x.value.len())
                    .sum::<usize>();
                batch.push((entry, at, if large { 0 } else { n }));
                if large {
                    break;
                }
            }
            // A part that is lost would be missing from the archive without a trace.
            if let Some(e) = entries.lost.pop() {
                return Err(e.into());
            }
            if batch.is_empty() {
                break;
            }
            for (entry, at, asked) in batch {
                append(
                    &mut builder,
                    pipe,
                    (&mut refs, &mut refs_reader),
                    &entry,
                    at,
                    asked,
                    &mut links,
                    &mut report,
                )?;
            }
        }
        builder
            .finish()
            .and_then(|()| builder.get_mut().flush())
            .map_err(DumpError::Out)?;
        Ok(report)
    })
}

/// First members of hard link groups.
#[derive(Default)]
struct Links {
    first: HashMap<[u64; 2], Vec<u8>>,
    bytes: usize,
}

impl Links {
    /// True when the content of the entry's group is in the archive, or about to be.
    fn knows_or_learns(&mut self, e: &Entry) -> bool {
        let Some(link) = e.link else { return false };
        match self.first.get(&link) {
            Some(first) => *first != e.path,
            None => {
                let cost = e.path.len() + 96;
                if self.bytes + cost <= LINKS_BYTES {
                    self.bytes += cost;
                    self.first.insert(link, e.path.clone());
                }
                false
            }
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn append<'a>(
    builder: &mut tar::Builder<&mut dyn Write>,
    pipe: &mut Pipe<'a>,
    (refs, refs_reader): (&mut RefCursor, &mut ChunkReader<'a>),
    entry: &Entry,
    first_ref: u64,
    asked: u64,
    links: &mut Links,
    report: &mut TarReport,
) -> Result<(), DumpError> {
    let mut left_out = |what: String| {
        if report.left_out.len() < crate::progress::Problems::KEPT {
            report.left_out.push(Problem::new(entry.path.clone(), what));
        }
    };
    let linked = links
        .knows_or_learns(entry)
        .then(|| links.first[&entry.link.unwrap_or_default()].clone());
    let kind = match entry.kind() {
        EntryKind::Socket => {
            left_out("a socket: archives cannot carry it".into());
            return Ok(());
        }
        EntryKind::File if linked.is_some() => tar::EntryType::Link,
        EntryKind::File => tar::EntryType::Regular,
        EntryKind::Directory => tar::EntryType::Directory,
        EntryKind::Symlink => tar::EntryType::Symlink,
        EntryKind::Fifo => tar::EntryType::Fifo,
        EntryKind::CharDevice => tar::EntryType::Char,
        EntryKind::BlockDevice => tar::EntryType::Block,
    };
    let mut header = tar::Header::new_ustar();
    let mut pax: Vec<(String, Vec<u8>)> = Vec::new();
    let mut path = entry.path.clone();
    if kind == tar::EntryType::Directory {
        path.push(b'/');
    }
    let target = linked.or_else(|| entry.target.as_ref().map(|t| t.to_vec()));
    let plain = |bytes: &[u8]| bytes.len() < 100 && bytes.is_ascii();
    let texts = [
        Some(("path", &path)),
        target.as_ref().map(|t| ("linkpath", t)),
    ];
    // Names are bytes; only with this record readers do not take them for UTF-8.
    if texts
        .iter()
        .flatten()
        .any(|(_, v)| std::str::from_utf8(v).is_err())
    {
        pax.push(("hdrcharset".into(), b"BINARY".to_vec()));
    }
    for (key, value) in texts.into_iter().flatten() {
        if !plain(value) {
            pax.push((key.into(), value.clone()));
        }
    }
    {
        let old = header.as_ustar_mut().expect("it was made as one");
        let put = |field: &mut [u8], value: &[u8]| {
            let n = value.len().min(field.len());
            field[..n].copy_from_slice(&value[..n]);
        };
        put(&mut old.name[..99], &path);
        put(
            &mut old.linkname[..99],
            target.as_deref().unwrap_or_default(),
        );
        for (field, name, key) in [
            (&mut old.uname, &entry.user, "uname"),
            (&mut old.gname, &entry.group, "gname"),
        ] {
            let Some(name) = name else { continue };
            put(&mut field[..31], name.as_bytes());
            if name.len() > 31 || !name.is_ascii() {
                pax.push((key.into(), name.clone().into_bytes()));
            }
        }
    }
    let size = if kind == tar::EntryType::Regular {
        entry.len()
    } else {
        0
    };
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(entry.uid as u64);
    header.set_gid(entry.gid as u64);
    header.set_size(size);
    // Octal fields end at 8 GiB; the header then holds a binary number that not every reader knows.
    if size >= 1 << 33 {
        pax.push(("size".into(), size.to_string().into_bytes()));
    }
    let (seconds, nanoseconds) = (entry.mtime.seconds, entry.mtime.nanoseconds);
    header.set_mtime(seconds.clamp(0, (1 << 33) - 1) as u64);
    if nanoseconds != 0 || !(0..1 << 33).contains(&seconds) {
        pax.push(("mtime".into(), decimal(seconds, nanoseconds).into_bytes()));
    }
    if let Some([major, minor]) = entry.device {
        let set = header
            .set_device_major(major)
            .and_then(|()| header.set_device_minor(minor));
        set.map_err(DumpError::Out)?;
    }
    for x in entry.xattrs.iter().flatten() {
        match std::str::from_utf8(&x.name) {
            Ok(name) if !name.contains(['=', '\n']) => {
                pax.push((format!("SCHILY.xattr.{name}"), x.value.clone()))
            }
            _ => left_out(format!(
                "attribute {}: archives cannot carry its name",
                String::from_utf8_lossy(&x.name)
            )),
        }
    }
    header.set_cksum();
    if !pax.is_empty() {
        let records = pax.iter().map(|(k, v)| (k.as_str(), &v[..]));
        builder
            .append_pax_extensions(records)
            .map_err(DumpError::Out)?;
    }
    if kind == tar::EntryType::Regular {
        let mut content = Content::new(pipe, refs, refs_reader, entry, first_ref, asked);
        if let Err(e) = builder.append(&header, &mut content) {
            return Err(content_error(entry, content.failure.take(), e));
        }
        // The archive takes no more than the size it was told; what is left over is a lie in the manifest.
        if let Err(e) = content.some() {
            return Err(content_error(entry, content.failure.take(), e));
        }
    } else {
        builder
            .append(&header, io::empty())
            .map_err(DumpError::Out)?;
    }
    report.entries += 1;
    report.bytes = report.bytes.saturating_add(size);
    Ok(())
}

/// Seconds as pax writes them; before 1970 the fraction counts towards zero.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        let whole = (seconds + 1).unsigned_abs();
        return format!("-{whole}.{:09}", 1_000_000_000 - nanoseconds);
    }
    format!("{seconds}.{nanoseconds:09}")
}
