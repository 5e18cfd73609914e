//! A base backup put into an empty data directory.
//!
//! The stream comes from a repository, which is foreign data, and is written as a user who may do much. So there are regular files and directories only, each made new beneath the
//! target and never through a link: a name that climbs, exists, or is a link ends the restore. Files get their permissions at most `0777`.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::tar::{Entry, Kind, Parser, Sink};

/// Of whom the files become, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Written {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Takes the archive as it is written to it.
pub struct Extractor {
    parser: Parser,
    tree: Tree,
}

struct Tree {
    root: PathBuf,
    owner: Option<Owner>,
    /// Directories that were made, so that parents are.
    made: BTreeSet<PathBuf>,
    current: Option<File>,
    written: Written,
}

impl Extractor {
    /// Into `root`, an empty directory.
    pub fn new(root: &Path, owner: Option<Owner>) -> Self {
        Extractor {
            parser: Parser::default(),
            tree: Tree {
                root: root.to_owned(),
                owner,
                made: BTreeSet::new(),
                current: None,
                written: Written::default(),
            },
        }
    }

    /// To be called at the end: an archive without its end is an error. What was written is on the disk then.
    pub fn finish(self) -> io::Result<Written> {
        self.must_be_complete()?;
        let root = File::open(&self.tree.root)?;
        if let Some(o) = self.tree.owner {
            fchown(&root, Some(o.uid), Some(o.gid))?;
        }
        // One call for tens of thousands of files.
        rustix::fs::syncfs(&root)?;
        Ok(self.tree.written)
    }

    /// The same of what is only read once and then removed: it need not come to the disk.
    pub fn finish_part(self) -> io::Result<Written> {
        self.must_be_complete()?;
        Ok(self.tree.written)
    }

    fn must_be_complete(&self) -> io::Result<()> {
        match self.parser.is_complete() {
            true => Ok(()),
            false => Err(io::Error::other("the base backup ends before its end")),
        }
    }
}

impl Write for Extractor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.parser.feed(bytes, &mut self.tree)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tree {
    fn place(&self, name: &str) -> io::Result<PathBuf> {
        let plain = !name.is_empty()
            && name.len() <= 4096
            && name
                .split('/')
                .all(|c| !c.is_empty() && c != "." && c != ".." && c.len() <= 255);
        if !plain || name.contains('\0') {
            let shown: String = name.escape_default().take(200).collect();
            return Err(io::Error::other(format!(
                "'{shown}' cannot be the name of a file in a data directory"
            )));
        }
        Ok(self.root.join(name))
    }

    fn directory(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        if path == self.root || self.made.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent, 0o700)?;
        }
        DirBuilder::new().mode(mode & 0o777).create(path)?;
        if let Some(o) = self.owner {
            let options = OpenOptions::new().read(true).open(path)?;
            fchown(options, Some(o.uid), Some(o.gid))?;
        }
        self.made.insert(path.to_owned());
        Ok(())
    }
}

impl Sink for Tree {
    fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        // The data directory itself.
        if entry.kind == Kind::Directory && matches!(entry.name.as_str(), "" | ".") {
            return Ok(());
        }
        let path = self.place(&entry.name)?;
        match entry.kind {
            Kind::Link => Err(io::Error::other(format!(
                "'{}' is a link; tablespaces outside the data directory cannot be restored",
                entry.name
            ))),
            Kind::Directory => self.directory(&path, entry.mode),
            Kind::File => {
                if let Some(parent) = path.parent() {
                    self.directory(parent, 0o700)?;
                }
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(entry.mode & 0o777)
                    .open(&path)?;
                if let Some(o) = self.owner {
                    fchown(&file, Some(o.uid), Some(o.gid))?;
                }
                self.written.files += 1;
                self.written.bytes += entry.size;
                self.current = Some(file);
                Ok(())
            }
        }
    }
    fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.current {
            Some(file) => file.write_all(bytes),
            None => Ok(()),
        }
    }
    fn end(&mut self) -> io::Result<()> {
        self.current = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::made;

    fn extract(entries: &[(&str, u8, &[u8])]) -> (tempfile::TempDir, io::Result<Written>) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        std::fs::create_dir(&root).unwrap();
        let mut x = Extractor::new(&root, None);
        let result = x
            .write_all(&made::archive(entries))
            .and_then(|()| x.finish());
        (dir, result)
    }

    #[test]
    fn files_and_directories() {
        let (dir, result) = extract(&[
            ("backup_label", b'0', b"label"),
            ("base/", b'5', b""),
            ("base/1/", b'5', b""),
            ("base/1/2", b'0', &[3; 70_000]),
            ("pg_wal/archive_status/", b'5', b""),
        ]);
        assert_eq!(
            result.unwrap(),
            Written {
                files: 2,
                bytes: 70_005
            }
        );
        let data = dir.path().join("data");
        assert_eq!(std::fs::read(data.join("base/1/2")).unwrap(), [3; 70_000]);
        assert!(data.join("pg_wal/archive_status").is_dir());
    }

    #[test]
    fn nothing_is_written_outside_or_twice_or_through_a_link() {
        for entries in [
            &[("../x", b'0', b"1" as &[u8])][..],
            &[("/x", b'0', b"1")],
            &[("a/../../x", b'0', b"1")],
            &[("a//x", b'0', b"1")],
            &[("", b'0', b"1")],
            &[("a", b'0', b"1"), ("a", b'0', b"2")],
            &[("a", b'0', b"1"), ("a/b", b'0', b"2")],
            &[("pg_tblspc/1", b'2', b"")],
        ] {
            let (dir, result) = extract(entries);
            assert!(result.is_err(), "{:?}", entries[0].0);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut x = Extractor::new(dir.path(), None);
        let bytes = made::archive(&[("a", b'0', b"1")]);
        x.write_all(&bytes[..bytes.len() - 512]).unwrap();
        assert!(x.finish().is_err());
    }
}
