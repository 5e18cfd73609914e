//! The bucket as it was at a moment: of each key the newest version that is not younger, unless that is a delete marker.
//!
//! This is how a repository comes back after somebody deleted or overwrote it with stolen credentials: in a bucket with versions (Object Lock needs them) a deletion
//! only puts a marker on top, and an overwriting only a newer version.

use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;

/// A version or a delete marker, as listed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Version {
    pub(crate) key: String,
    pub(crate) id: String,
    pub(crate) modified: SystemTime,
    pub(crate) latest: bool,
    pub(crate) size: u64,
    pub(crate) marker: bool,
}

/// A time of the server; what cannot be is the end of time, and so younger than any moment.
pub(crate) fn time(date: Option<&DateTime>) -> SystemTime {
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    let Some(date) = date else { return far };
    u64::try_from(date.secs())
        .ok()
        .filter(|s| *s < 1 << 40)
        .map_or(far, |s| {
            SystemTime::UNIX_EPOCH + Duration::new(s, date.subsec_nanos())
        })
}

/// Takes versions page by page, keys ascending, and gives those that stood at the moment.
pub(crate) struct AsOf {
    moment: SystemTime,
    pending: Vec<Version>,
}

impl AsOf {
    pub(crate) fn new(moment: SystemTime) -> Self {
        AsOf {
            moment,
            pending: Vec::new(),
        }
    }

    /// A page; the key that it ends with may go on in the next.
    pub(crate) fn page(&mut self, versions: Vec<Version>, each: &mut dyn FnMut(Version)) {
        self.pending.extend(versions);
        // Versions and markers are listed apart. Of one second the one that stands on top counts.
        self.pending.sort_by(|a, b| {
            a.key
                .cmp(&b.key)
                .then(b.modified.cmp(&a.modified))
                .then(b.latest.cmp(&a.latest))
        });
        let Some(last) = self.pending.last().map(|v| v.key.clone()) else {
            return;
        };
        let keep = self.pending.partition_point(|v| v.key < last);
        let rest = self.pending.split_off(keep);
        let done = std::mem::replace(&mut self.pending, rest);
        self.choose(done, each);
    }

    /// The last key.
    pub(crate) fn end(mut self, each: &mut dyn FnMut(Version)) {
        let done = std::mem::take(&mut self.pending);
        self.choose(done, each);
    }

    fn choose(&self, sorted: Vec<Version>, each: &mut dyn FnMut(Version)) {
        let mut decided: Option<String> = None;
        for v in sorted {
            if v.modified > self.moment || decided.as_deref() == Some(&v.key) {
                continue;
            }
            decided = Some(v.key.clone());
            if !v.marker {
                each(v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(key: &str, id: &str, at: u64, marker: bool) -> Version {
        Version {
            key: key.into(),
            id: id.into(),
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(at),
            latest: false,
            size: 1,
            marker,
        }
    }

    fn at(moment: u64, pages: &[&[Version]]) -> Vec<String> {
        let mut as_of = AsOf::new(SystemTime::UNIX_EPOCH + Duration::from_secs(moment));
        let mut out = Vec::new();
        for page in pages {
            as_of.page(page.to_vec(), &mut |v| out.push(v.id));
        }
        as_of.end(&mut |v| out.push(v.id));
        out
    }

    #[test]
    fn deleted_and_overwritten_objects_come_back() {
        let a1 = v("a", "a1", 10, false);
        let a2 = v("a", "a2", 30, false);
        let b1 = v("b", "b1", 10, false);
        let bx = v("b", "bx", 25, true);
        let c1 = v("c", "c1", 40, false);
        let all = [a2.clone(), a1.clone(), b1.clone(), c1.clone(), bx.clone()];
        assert_eq!(at(5, &[&all]), [""; 0]);
        assert_eq!(at(20, &[&all]), ["a1", "b1"]);
        assert_eq!(at(27, &[&all]), ["a1"]);
        assert_eq!(at(50, &[&all]), ["a2", "c1"]);
        // A key that is spread over pages.
        assert_eq!(at(20, &[&[a2], &[a1, bx], &[b1, c1]]), ["a1", "b1"]);
    }
}
