//! What is mounted where, from the kernel's list (`/proc/self/mountinfo`, proc_pid_mountinfo(5)): a line for each mount in the order in which they
//! were made, with white space and `\\` in paths as octal numbers.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The device of its file system, `MAJOR:MINOR`.
    pub device: String,
    /// Which directory of the file system is mounted.
    pub part: PathBuf,
    /// Where.
    pub at: PathBuf,
    /// The kind of file system.
    pub kind: String,
}

/// All of this process' mounts.
///
/// # Errors
/// The list cannot be read.
pub fn all() -> io::Result<Vec<Mount>> {
    Ok(read(&std::fs::read("/proc/self/mountinfo")?))
}

/// What is seen at a mount point: the last that was mounted there.
pub fn seen_at<'m>(mounts: &'m [Mount], at: &Path) -> Option<&'m Mount> {
    mounts.iter().rev().find(|m| m.at == at)
}

/// The mount points below a directory, without those that lie below another of them.
pub fn below(mounts: &[Mount], top: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = mounts
        .iter()
        .map(|m| m.at.clone())
        .filter(|at| at != top && at.starts_with(top))
        .collect();
    found.sort();
    found.dedup_by(|later, earlier| later.starts_with(earlier));
    found
}

fn read(list: &[u8]) -> Vec<Mount> {
    list.split(|b| *b == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /part /mnt rw,noatime master:1 - ext4 /dev/root rw`: any number of fields before the dash.
fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let device = fields.nth(2)?;
    let (part, at) = (fields.next()?, fields.next()?);
    fields.find(|f| *f == b"-")?;
    let kind = fields.next()?;
    Some(Mount {
        device: String::from_utf8_lossy(device).into_owned(),
        part: plain(part),
        at: plain(at),
        kind: String::from_utf8_lossy(kind).into_owned(),
    })
}

/// Without the octal numbers.
fn plain(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        match octal {
            Some(number) => {
                out.push(number);
                rest = &after[3..];
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"22 1 0:2 / / rw - rootfs rootfs rw\n\
        30 22 253:1 / /srv rw,relatime shared:1 master:2 - ext4 /dev/mapper/g-v rw\n\
        31 22 253:2 /sub /srv rw - xfs /dev/x rw\n\
        32 31 0:9 / /srv/a\\040b\\134c rw - tmpfs none rw\n\
        33 32 0:10 / /srv/a\\040b\\134c/d rw - tmpfs none rw\n\
        34 31 0:11 / /srv2 rw - tmpfs none rw\n\
        35 31 0:11 / /srv/z\\9 rw - tmpfs none rw\n\
        broken line\n";

    #[test]
    fn the_kernels_list_is_read() {
        let all = read(LIST);
        assert_eq!(all.len(), 7);
        let srv = seen_at(&all, Path::new("/srv")).unwrap();
        assert_eq!(
            (&*srv.device, &*srv.part, &*srv.kind),
            ("253:2", Path::new("/sub"), "xfs")
        );
        assert_eq!(
            below(&all, Path::new("/srv")),
            [PathBuf::from("/srv/a b\\c"), PathBuf::from("/srv/z\\9")]
        );
        assert_eq!(seen_at(&all, Path::new("/sr")), None);
        assert!(super::all().unwrap().iter().any(|m| m.at == Path::new("/")));
    }
}
