//! Which entries of a snapshot are wanted.

use std::collections::HashSet;

use crate::manifest::{self, EntryError};
use crate::patterns::{PatternError, Patterns};

/// What is to be done with an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    /// It is wanted.
    Yes,
    /// Only as a directory above something that is wanted.
    Above,
    /// Neither.
    No,
}

/// Selected paths, then patterns.
pub(crate) struct Selection {
    paths: HashSet<Vec<u8>>,
    above: HashSet<Vec<u8>>,
    include: Patterns,
    exclude: Patterns,
}

/// A stored path as a person may write it: slashes at both ends are dropped. The empty path means everything.
pub(crate) fn normal(path: &[u8]) -> Result<Vec<u8>, EntryError> {
    let from = path.iter().position(|b| *b != b'/').unwrap_or(path.len());
    let to = path
        .iter()
        .rposition(|b| *b != b'/')
        .map_or(from, |i| i + 1);
    let path = path[from..to].to_vec();
    if !path.is_empty() {
        manifest::check_path(&path)?;
    }
    Ok(path)
}

impl Selection {
    pub(crate) fn new(
        select: &[Vec<u8>],
        include: &[String],
        exclude: &[String],
    ) -> Result<Self, PatternError> {
        let mut paths = HashSet::new();
        let mut above = HashSet::new();
        for p in select {
            for (i, _) in p.iter().enumerate().filter(|(_, b)| **b == b'/') {
                above.insert(p[..i].to_vec());
            }
            paths.insert(p.clone());
        }
        Ok(Selection {
            paths,
            above,
            include: Patterns::new(include)?,
            exclude: Patterns::new(exclude)?,
        })
    }

    /// True when everything is wanted.
    pub(crate) fn is_all(&self) -> bool {
        self.selects_all() && self.include.is_empty() && self.exclude.is_empty()
    }

    /// True when no path was named.
    pub(crate) fn selects_all(&self) -> bool {
        self.paths.is_empty() || self.paths.contains(&b""[..])
    }

    pub(crate) fn want(&self, path: &[u8]) -> Want {
        let selected =
            self.selects_all() || ancestors_and_self(path).any(|p| self.paths.contains(p));
        if !selected {
            return if self.above.contains(path) {
                Want::Above
            } else {
                Want::No
            };
        }
        if !self.exclude.is_empty() && self.exclude.matches_or_above(path) {
            return Want::No;
        }
        if !self.include.is_empty() && !self.include.matches_or_above(path) {
            // Something beneath may match.
            return Want::Above;
        }
        Want::Yes
    }

    /// True for what is wanted itself.
    pub(crate) fn is_wanted(&self, path: &[u8]) -> bool {
        self.want(path) == Want::Yes
    }

    /// The selected paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.paths.iter()
    }
}

fn ancestors_and_self(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    (0..=path.len())
        .filter(|&i| i == path.len() || path[i] == b'/')
        .map(|i| &path[..i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let s = |select: &[&str], include: &[&str], exclude: &[&str]| {
            let own = |l: &[&str]| l.iter().map(|s| s.to_string()).collect::<Vec<_>>();
            let paths: Vec<_> = select
                .iter()
                .map(|p| normal(p.as_bytes()).unwrap())
                .collect();
            Selection::new(&paths, &own(include), &own(exclude)).unwrap()
        };
        assert!(s(&[], &[], &[]).is_all());
        assert!(s(&["/"], &[], &[]).is_all());
        let one = s(&["/home/me/"], &[], &["*.tmp", "cache"]);
        for (path, want) in [
            ("home", Want::Above),
            ("home/me", Want::Yes),
            ("home/me2", Want::No),
            ("home/me/a", Want::Yes),
            ("home/me/a.tmp", Want::No),
            ("home/me/cache/x/y", Want::No),
            ("etc", Want::No),
        ] {
            assert_eq!(one.want(path.as_bytes()), want, "{path}");
        }
        let some = s(&[], &["*.txt"], &[]);
        assert_eq!(some.want(b"a"), Want::Above);
        assert_eq!(some.want(b"a/b.txt"), Want::Yes);
        assert!(normal(b"../x").is_err());
    }
}
