//! Exclude and include patterns.
//!
//! Shell globs: `*` and `?` stay within a component, `**` spans several, `[a-z]`, `{a,b}`. A pattern with a leading slash is matched against the whole path,
//! any other at every depth: `*.tmp`, `node_modules`, `cache/thumbs`. A leading `!` takes back what an earlier pattern matched. The last pattern that
//! matches decides. What is beneath an excluded directory is not looked at, as in restic and git.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// A pattern that is not one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the pattern '{pattern}' is not valid: {why}")]
pub struct PatternError {
    pattern: String,
    why: String,
}

/// A list of patterns.
pub struct Patterns {
    set: GlobSet,
    negated: Vec<bool>,
}

impl Patterns {
    /// Reads them; empty lines and lines beginning with `#` are passed over.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, PatternError> {
        let mut builder = GlobSetBuilder::new();
        let mut negated = Vec::new();
        for p in patterns {
            let p = p.as_ref();
            if p.is_empty() || p.starts_with('#') {
                continue;
            }
            let (not, body) = p.strip_prefix('!').map_or((false, p), |b| (true, b));
            let body = body.trim_end_matches('/');
            let text = match body.strip_prefix('/') {
                Some(anchored) => anchored.to_owned(),
                None => format!("**/{body}"),
            };
            let glob = GlobBuilder::new(&text)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|e| PatternError {
                    pattern: p.to_owned(),
                    why: e.kind().to_string(),
                })?;
            builder.add(glob);
            negated.push(not);
        }
        let set = builder.build().map_err(|e| PatternError {
            pattern: String::new(),
            why: e.to_string(),
        })?;
        Ok(Patterns { set, negated })
    }

    /// True without patterns.
    pub fn is_empty(&self) -> bool {
        self.negated.is_empty()
    }

    /// True when the last pattern that matches `path` (no leading slash) is not negated.
    pub fn matches(&self, path: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        if self.is_empty() {
            return false;
        }
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(path));
        self.set
            .matches(path)
            .last()
            .is_some_and(|&i| !self.negated[i])
    }

    /// True when `path` or a directory above it matches.
    pub fn matches_or_above(&self, path: &[u8]) -> bool {
        if self.is_empty() {
            return false;
        }
        (0..path.len())
            .filter(|&i| path[i] == b'/')
            .any(|i| self.matches(&path[..i]))
            || self.matches(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let cases: &[(&[&str], &str, bool)] = &[
            (&["*.tmp"], "a/b/x.tmp", true),
            (&["*.tmp"], "x.tmp", true),
            (&["*.tmp"], "x.tmp2", false),
            (&["/home/*/cache"], "home/me/cache", true),
            (&["/home/*/cache"], "srv/home/me/cache", false),
            (&["/home/*/cache"], "home/a/b/cache", false),
            (&["node_modules"], "p/node_modules", true),
            (&["node_modules/"], "p/node_modules", true),
            (&["a/b"], "x/a/b", true),
            (&["**/x/**"], "a/x/b", true),
            (&["*.log", "!keep.log"], "a/keep.log", false),
            (&["*.log", "!keep.log"], "a/other.log", true),
            (&["# comment", ""], "comment", false),
            (&["{a,b}.txt"], "b.txt", true),
        ];
        for (patterns, path, wanted) in cases {
            assert_eq!(
                Patterns::new(patterns).unwrap().matches(path.as_bytes()),
                *wanted,
                "{patterns:?} {path}"
            );
        }
        assert!(
            Patterns::new(&["dir"])
                .unwrap()
                .matches_or_above(b"a/dir/b/c")
        );
        assert!(Patterns::new(&["[z"]).is_err());
    }
}
