//! Which snapshot and which paths a person means.

use clap::Args;
use keepwatch_engine::snapshots::{SelectError, SnapshotFilter, SnapshotRecord, SnapshotSet};
use keepwatch_model::retention::parse_tags;
use keepwatch_model::time::{Moment, parse_when};

use crate::errors::Failure;
use crate::output::tell;

/// Options that narrow down the snapshots.
#[derive(Args, Clone, Default, Debug)]
#[command(next_help_heading = "Which snapshots")]
pub struct FilterArgs {
    /// Only of this host (repeatable: any of them)
    #[arg(long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Only with all of these tags, separated by commas (repeatable: any of the lists)
    #[arg(long = "tag", value_name = "TAG[,TAG]")]
    pub tags: Vec<String>,
    /// Only of this job (repeatable: any of them)
    #[arg(long = "job", value_name = "JOB")]
    pub jobs: Vec<String>,
    /// Only with this source path (repeatable: all of them)
    #[arg(long = "path", value_name = "PATH")]
    pub paths: Vec<String>,
}

impl FilterArgs {
    /// For the engine.
    pub fn filter(&self) -> SnapshotFilter {
        SnapshotFilter {
            hosts: self.hosts.clone(),
            tags: self
                .tags
                .iter()
                .map(|t| {
                    parse_tags(t)
                        .into_iter()
                        .filter(|t| !t.is_empty())
                        .collect()
                })
                .collect(),
            jobs: self.jobs.clone(),
            paths: self
                .paths
                .iter()
                .map(|p| {
                    if p.len() > 1 {
                        p.trim_end_matches('/').to_owned()
                    } else {
                        p.clone()
                    }
                })
                .collect(),
        }
    }
}

/// The snapshot that `text` means: `latest`, the beginning of an id, or a time: the newest that began by then.
pub fn pick<'a>(
    set: &'a SnapshotSet,
    text: &str,
    filter: &SnapshotFilter,
    now: Moment,
) -> Result<&'a SnapshotRecord, Failure> {
    let snapshot = match (set.select(text, filter, now), parse_when(text, now)) {
        (Ok(snapshot), _) => snapshot,
        (Err(SelectError::Unknown(_)), Ok(when)) => set
            .live
            .iter()
            .filter(|s| !s.revoked && filter.matches(s) && s.start <= when)
            .max_by_key(|s| (s.start, s.id))
            .ok_or_else(|| SelectError::None(format!(" from {} or before", when.short())))?,
        (Err(e), _) => return Err(e.into()),
    };
    if snapshot.revoked {
        tell(&format!(
            "keepwatch: warning: the writer key that signed snapshot {} was revoked: whoever stole it may have made this snapshot",
            snapshot.id.short()
        ));
    }
    Ok(snapshot)
}

/// Takes `[SNAPSHOT] [PATH…]` apart: what has a slash, or is `.`, is a path, since no snapshot's name has one.
pub fn snapshot_and_paths(words: &[String]) -> (Option<&str>, &[String]) {
    match words.split_first() {
        Some((first, rest)) if !first.contains('/') && first != "." => (Some(first), rest),
        _ => (None, words),
    }
}

/// A path as it is stored: relative to the root. `./x` is taken from the working directory; what else has no leading slash, from the root.
pub fn stored_path(text: &str) -> Result<Vec<u8>, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::path::Path::new(text);
    let from_here = text == "." || text.starts_with("./") || text.starts_with("../");
    let absolute = if from_here {
        std::env::current_dir()
            .map_err(|e| Failure::failed(format!("cannot tell the working directory: {e}")))?
            .join(path)
    } else {
        path.to_owned()
    };
    let mut parts: Vec<&[u8]> = Vec::new();
    for c in absolute.components() {
        match c {
            std::path::Component::Normal(n) => parts.push(n.as_bytes()),
            std::path::Component::ParentDir if parts.pop().is_none() => {
                return Err(Failure::usage(format!(
                    "the path '{}' leads above the root",
                    crate::output::escape(text)
                )));
            }
            _ => {}
        }
    }
    Ok(parts.join(&b'/'))
}

/// Several of them; empty when one is the root, which means everything.
pub fn stored_paths(texts: &[String]) -> Result<Vec<Vec<u8>>, Failure> {
    let paths: Vec<Vec<u8>> = texts
        .iter()
        .map(|t| stored_path(t))
        .collect::<Result<_, _>>()?;
    Ok(if paths.iter().any(Vec::is_empty) {
        Vec::new()
    } else {
        paths
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_root() {
        for (text, stored) in [
            ("/a/b/", "a/b"),
            ("a/./b", "a/b"),
            ("/a/../b", "b"),
            ("/", ""),
            ("a//b", "a/b"),
        ] {
            assert_eq!(stored_path(text).unwrap(), stored.as_bytes(), "{text}");
        }
        assert!(stored_path("/..").is_err());
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            stored_path("./x").unwrap(),
            here.join("x")
                .to_str()
                .unwrap()
                .trim_start_matches('/')
                .as_bytes()
        );
        assert!(stored_paths(&["/a".into(), "/".into()]).unwrap().is_empty());
    }

    #[test]
    fn a_path_may_stand_where_the_snapshot_is_left_out() {
        let words = |w: &[&str]| w.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let w = words(&["latest", "/a"]);
        assert_eq!(snapshot_and_paths(&w), (Some("latest"), &w[1..]));
        let w = words(&["/a", "/b"]);
        assert_eq!(snapshot_and_paths(&w), (None, &w[..]));
        assert_eq!(snapshot_and_paths(&[]), (None, &[][..]));
    }
}
