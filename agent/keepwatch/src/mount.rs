//! Whether something is mounted at a place: an absent disk must not fill the one beneath it.
//!
//! The kernel's list (`/proc/self/mountinfo`, proc_pid_mountinfo(5)) has the mount point in its fifth field, with white space and `\` as
//! `\` and three octal digits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Whether the kernel's list names this place.
pub fn is_mounted(mountinfo: &[u8], place: &Path) -> bool {
    let is_root = |c: &Component<'_>| !matches!(c, Component::CurDir);
    let place: std::path::PathBuf = place.components().filter(is_root).collect();
    mountinfo.split(|b| *b == b'\n').any(|line| {
        let field = line.split(|b| *b == b' ').nth(4).map(unescape);
        field.is_some_and(|f| Path::new(OsStr::from_bytes(&f)) == place)
    })
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(byte) = field.get(at) {
        let digits = field.get(at + 1..at + 4).filter(|_| *byte == b'\\');
        let value = digits.and_then(|d| {
            std::str::from_utf8(d)
                .ok()
                .and_then(|d| u8::from_str_radix(d, 8).ok())
        });
        out.push(value.unwrap_or(*byte));
        at += if value.is_some() { 4 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_as_the_kernel_writes_them() {
        let list = b"22 1 0:21 / / rw - ext4 /dev/a rw\n36 35 98:0 /x /mnt/my\\040disk rw,noatime master:1 - ext3 /dev/r rw\n\nbad\n40 22 0:1 / /mnt/b\\134c rw - tmpfs t rw\n";
        for (place, want) in [
            ("/", true),
            ("/mnt/my disk", true),
            ("/mnt/my disk/", true),
            ("/mnt/b\\c", true),
            ("/mnt", false),
            ("/mnt/my", false),
            ("/x", false),
        ] {
            assert_eq!(is_mounted(list, Path::new(place)), want, "{place}");
        }
        assert!(is_mounted(
            &std::fs::read("/proc/self/mountinfo").expect("/proc"),
            Path::new("/proc")
        ));
    }
}
