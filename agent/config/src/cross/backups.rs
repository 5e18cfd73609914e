//! Repositories, backups, copies and drills together.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::{Found, changed, sources, twice};
use crate::node::{Node, Value, join};
use crate::sections::repositories::OBJECT_LOCK;

pub(super) fn look(root: &Node, found: &mut Found<'_, '_>) {
    repositories(root, found);
    let defaults = root.get(&["defaults"]);
    if let Some(retention) = defaults.and_then(|d| d.get(&["retention"])) {
        keeps_something(retention, "defaults.retention", found);
    }
    for (name, backup) in root.entries(&["backups"]) {
        one_backup(root, name, backup, found);
    }
    copies(root, found);
    drills(root, found);
}

fn repositories(root: &Node, found: &mut Found<'_, '_>) {
    let mut places: BTreeMap<String, &str> = BTreeMap::new();
    for (name, repository) in root.entries(&["repositories"]) {
        let path = join("repositories", name);
        let local = repository.get(&["backend", "local"]);
        let s3 = repository.get(&["backend", "s3"]);
        let place = match (
            local.and_then(|l| l.text_at(&["path"])),
            s3.and_then(|s| s.text_at(&["bucket"])),
        ) {
            (Some(dir), _) => Some(format!("the directory {}", trimmed(dir))),
            (_, Some(bucket)) => {
                let of = |key: &str| {
                    s3.and_then(|s| s.text_at(&[key]))
                        .unwrap_or("")
                        .trim_matches('/')
                };
                Some(format!(
                    "the bucket {bucket}, prefix '{}', at {}",
                    of("prefix"),
                    if of("endpoint").is_empty() {
                        "AWS"
                    } else {
                        of("endpoint")
                    }
                ))
            }
            _ => None,
        };
        if let Some(place) = place {
            match places.get(&place) {
                Some(other) => found.fault(
                    repository,
                    &path,
                    "backend",
                    format!("the repository {other} lies in {place}, too"),
                ),
                None => {
                    places.insert(place, name);
                }
            }
        }
        if let Some(s3) = s3 {
            bucket(s3, &format!("{path}.backend.s3"), found);
        }
        twice(repository, &path, "recipients", found);
        for key in ["upload_rate", "download_rate"] {
            let rate = repository
                .text_at(&["limits", key])
                .and_then(|t| keepwatch_model::size::parse_size(t).ok());
            if rate.is_some_and(|r| r < 1024) {
                found.fault(
                    repository,
                    &path,
                    &format!("limits.{key}"),
                    "less than 1 KiB a second would never end",
                );
            }
        }
        let prunes = repository.get(&["prune", "enable"]).and_then(Node::bool) != Some(false);
        let grace = repository
            .duration_at(&["prune", "grace_delete"])
            .filter(|_| prunes)
            .unwrap_or(Duration::MAX);
        for (backup, job) in root.entries(&["backups"]) {
            let here = job.texts_at(&["repositories"]).contains(&name);
            if here && job.duration_at(&["timeout"]).is_some_and(|t| t > grace) {
                let what = format!(
                    "it must be longer than the longest backup, and the backup {backup} may take {}",
                    job.text_at(&["timeout"]).unwrap_or("")
                );
                found.fault(repository, &path, "prune.grace_delete", what);
            }
        }
    }
}

fn bucket(s3: &Node, path: &str, found: &mut Found<'_, '_>) {
    let has = |key: &str| s3.get(&[key]).is_some();
    for (one, other) in [
        ("access_key_id_file", "secret_access_key_file"),
        ("secret_access_key_file", "access_key_id_file"),
        ("session_token_file", "access_key_id_file"),
    ] {
        if has(one) && !has(other) {
            found.fault(s3, path, one, format!("it needs {other}, too"));
        }
    }
    if has("credentials_file") && has("access_key_id_file") {
        found.fault(
            s3,
            path,
            "credentials_file",
            "give either it or access_key_id_file and secret_access_key_file",
        );
    }
    if has("profile") && !has("credentials_file") {
        found.fault(s3, path, "profile", "it needs a credentials_file");
    }
    if !has("credentials_file") && !has("access_key_id_file") {
        found.warn(s3, path, "", "no credentials are named: those of the machine itself are used (instance role, environment of the unit)");
    }
    if s3
        .text_at(&["endpoint"])
        .is_some_and(|e| e.starts_with("http://") && !is_loopback(e))
    {
        found.warn(s3, path, "endpoint", "without TLS, whoever is between can see which objects are written, and delete what answers promise");
    }
    if s3
        .duration_at(&["object_lock", "retain"])
        .is_some_and(|d| d.as_secs() % 86_400 != 0)
    {
        found.fault(s3, path, "object_lock.retain", "S3 counts in whole days");
    }
    let lock = s3.get(&["object_lock"]);
    let retain = lock.is_some_and(|l| changed(l, &OBJECT_LOCK, "retain"));
    if retain && s3.text_at(&["object_lock", "mode"]) == Some("off") {
        found.fault(
            s3,
            path,
            "object_lock.retain",
            "nothing is locked while mode is 'off': choose 'governance' or 'compliance'",
        );
    }
}

fn is_loopback(url: &str) -> bool {
    let rest = url.split("://").nth(1).unwrap_or("");
    let host = rest.split(['/', '?']).next().unwrap_or("");
    ["127.", "localhost", "[::1]"]
        .iter()
        .any(|l| host.starts_with(l))
}

fn trimmed(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

fn one_backup(root: &Node, name: &str, backup: &Node, found: &mut Found<'_, '_>) {
    let path = join("backups", name);
    if backup
        .table()
        .is_some_and(|t| !t.contains_key("repositories"))
    {
        let count = root.entries(&["repositories"]).count();
        let what = match count {
            0 => "it is missing, and there is no repository: declare one in [repositories]"
                .to_owned(),
            n => format!("it is missing, and there are {n} repositories to choose from"),
        };
        found.fault(backup, &path, "repositories", what);
    }
    twice(backup, &path, "repositories", found);
    twice(backup, &path, "tags", found);
    if let Some(retention) = backup.get(&["retention"]).filter(|r| r.given) {
        keeps_something(retention, &join(&path, "retention"), found);
    }
    let tag = backup
        .texts_at(&["tags"])
        .into_iter()
        .find(|t| t.contains(','));
    if let Some(tag) = tag {
        found.fault(
            backup,
            &path,
            "tags",
            format!("the tag {} holds a comma", crate::text::shown(tag)),
        );
    }
    sources::look(backup, &path, found);
    inside(root, backup, &path, found);
}

/// A local repository inside of what is backed up would back up itself.
fn inside(root: &Node, backup: &Node, path: &str, found: &mut Found<'_, '_>) {
    let parts = sources::parts(backup, path);
    let Some(files) = parts.iter().find(|p| p.kind == "paths") else {
        return;
    };
    let (node, path) = (files.node, &files.path);
    let patterns = node.texts_at(&["exclude"]);
    let one_file_system = node.get(&["one_file_system"]).and_then(Node::bool) == Some(true);
    let includes = node.texts_at(&["include"]);
    for (name, repository) in root.entries(&["repositories"]) {
        let Some(local) = repository.get(&["backend", "local"]) else {
            continue;
        };
        let place = local.text_at(&["path"]).unwrap_or("");
        if one_file_system && local.get(&["require_mount"]).is_some() {
            continue;
        }
        let include = includes.iter().find(|i| Path::new(place).starts_with(i));
        if let Some(include) = include.filter(|_| !patterns.iter().any(|p| may_exclude(p, place))) {
            let what = format!(
                "{include} holds the repository {name} ({place}), which would back up itself: exclude it"
            );
            found.fault(node, path, "include", what);
        }
    }
}

/// Whether a pattern may leave a path out. In doubt it does: what a pattern means in full is the engine's to say.
fn may_exclude(pattern: &str, place: &str) -> bool {
    let wild = |c: char| matches!(c, '*' | '?' | '[' | '{');
    if !pattern.contains('/') {
        return place.split('/').any(|part| star(pattern, part));
    }
    match pattern.find(wild) {
        // Up to the first wildcard it must be the path, or lead to it.
        Some(at) => format!("{place}/").starts_with(&pattern[..at]) || !pattern.starts_with('/'),
        None if pattern.starts_with('/') => Path::new(place).starts_with(trimmed(pattern)),
        None => place.contains(trimmed(pattern)),
    }
}

/// Whether a name matches a pattern with `*`; other wildcards count as any character.
fn star(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let fits = |part: &str, at: &str| {
        part.chars()
            .zip(at.chars())
            .all(|(p, c)| p == c || p == '?')
            && part.len() <= at.len()
    };
    if !fits(first, name) {
        return false;
    }
    if !pattern.contains('*') {
        return first.len() == name.len();
    }
    // What is left of the pattern, as far as its end goes.
    pattern
        .rsplit('*')
        .next()
        .is_some_and(|last| name.len() >= first.len() + last.len() && name.ends_with(last))
}

fn keeps_something(retention: &Node, path: &str, found: &mut Found<'_, '_>) {
    let Some(table) = retention.table() else {
        return;
    };
    if table.values().any(Node::is_bad) {
        return;
    }
    let keeps = |node: &Node| match &node.value {
        Value::Int(n) => *n > 0,
        Value::Text(text) if text == "unlimited" => true,
        Value::Text(span) => span
            .parse::<keepwatch_model::duration::CalendarSpan>()
            .is_ok_and(|s| !s.is_zero()),
        Value::List(tags) => !tags.is_empty(),
        _ => false,
    };
    if !table.values().any(keeps) {
        found.fault(
            retention,
            path,
            "",
            "no rule keeps anything: give at least one, such as daily = 7",
        );
    }
}

fn copies(root: &Node, found: &mut Found<'_, '_>) {
    let mut pairs: BTreeMap<(&str, &str, Vec<&str>), &str> = BTreeMap::new();
    for (name, copy) in root.entries(&["copies"]) {
        let path = join("copies", name);
        let (Some(from), Some(to)) = (copy.text_at(&["from"]), copy.text_at(&["to"])) else {
            continue;
        };
        if from == to {
            found.fault(
                copy,
                &path,
                "to",
                "it is the repository that is copied from",
            );
        }
        let mut backups = copy.texts_at(&["backups"]);
        backups.sort_unstable();
        match pairs.get(&(from, to, backups.clone())) {
            Some(other) => found.fault(copy, &path, "", format!("the copy {other} does the same")),
            None => {
                pairs.insert((from, to, backups), name);
            }
        }
        twice(copy, &path, "backups", found);
        for backup in copy.texts_at(&["backups"]) {
            let writes = root.texts_at(&["backups", backup, "repositories"]);
            if !writes.is_empty() && !writes.contains(&from) {
                found.fault(
                    copy,
                    &path,
                    "backups",
                    format!("the backup {backup} does not write to the repository {from}"),
                );
            }
        }
    }
}

fn drills(root: &Node, found: &mut Found<'_, '_>) {
    let mut targets: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, drill) in root.entries(&["drills"]) {
        let path = join("drills", name);
        let text = |keys: &[&str]| drill.text_at(keys);
        if let (Some(repository), Some(backup)) = (text(&["repository"]), text(&["backup"])) {
            let writes = root.texts_at(&["backups", backup, "repositories"]);
            if !writes.is_empty() && !writes.contains(&repository) {
                found.fault(
                    drill,
                    &path,
                    "repository",
                    format!("the backup {backup} does not write to it"),
                );
            }
            let known = root.get(&["repositories", repository]);
            if known.is_some_and(|r| r.table().is_some_and(|t| !t.contains_key("identity_file"))) {
                let what = format!(
                    "a drill reads what was written: the repository {repository} needs an identity_file"
                );
                found.fault(drill, &path, "", what);
            }
            let source = root
                .entries(&["backups", backup, "source"])
                .next()
                .map(|(kind, _)| kind);
            let target = drill.entries(&["target"]).next().map(|(kind, _)| kind);
            if let (Some(source), Some(target)) = (source, target) {
                let kinds: Vec<&str> = root
                    .get(&["backups", backup])
                    .map(|b| sources::parts(b, "").iter().map(|p| p.kind).collect())
                    .unwrap_or_default();
                let whole = kinds.contains(&"postgresql_cluster");
                let fit = match target {
                    // A base backup is started by a server of its own.
                    "postgresql" if whole => true,
                    "postgresql" | "mysql" | "sqlite" | "redis" | "qdrant" => {
                        kinds.contains(&target)
                    }
                    _ => true,
                };
                if !fit {
                    let source = match source {
                        "several" => kinds.join(" and "),
                        one => one.to_owned(),
                    };
                    found.fault(drill, &path, "target", format!("the backup {backup} is of {source}, which cannot be restored to {target}"));
                }
                let private = drill
                    .get(&["target", "postgresql", "private"])
                    .and_then(Node::bool);
                if whole && private == Some(false) {
                    found.fault(
                        drill,
                        &path,
                        "target.postgresql.private",
                        format!("the backup {backup} is of a whole cluster, which only a server of its own can start"),
                    );
                }
                if target != "directory" && drill.get(&["expect", "command"]).is_some() {
                    found.fault(
                        drill,
                        &path,
                        "expect.command",
                        "it needs the target 'directory', in which it runs",
                    );
                }
            }
        }
        if let Some(directory) = text(&["target", "directory", "path"]).map(trimmed) {
            match targets.get(directory) {
                Some(other) => found.fault(
                    drill,
                    &path,
                    "target.directory.path",
                    format!("the drill {other} restores to {directory}, too"),
                ),
                None => {
                    targets.insert(directory, name);
                }
            }
        }
        if let Some(directory) = text(&["target", "directory", "path"]) {
            for (repository, node) in root.entries(&["repositories"]) {
                let place = node.text_at(&["backend", "local", "path"]);
                if place.is_some_and(|p| {
                    Path::new(directory).starts_with(p) || Path::new(p).starts_with(directory)
                }) {
                    found.fault(
                        drill,
                        &path,
                        "target.directory.path",
                        format!("the repository {repository} lies there"),
                    );
                }
            }
            let source = text(&["backup"])
                .and_then(|b| root.get(&["backups", b]))
                .map(|b| sources::parts(b, ""))
                .unwrap_or_default()
                .iter()
                .flat_map(|p| p.node.texts_at(&["include"]))
                .collect::<Vec<_>>();
            if source
                .iter()
                .any(|include| trimmed(include) == trimmed(directory))
            {
                found.fault(
                    drill,
                    &path,
                    "target.directory.path",
                    "it is what is backed up: a drill never restores over the original",
                );
            }
        }
        let prefix = text(&["target", "postgresql", "scratch_prefix"]);
        let is_safe = |p: &str| {
            let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            p.len() >= 4 && p.bytes().all(is_plain)
        };
        if prefix.is_some_and(|p| !is_safe(p)) {
            found.fault(
                drill,
                &path,
                "target.postgresql.scratch_prefix",
                "it needs at least four of a-z, 0-9 and _: whatever begins with it is dropped",
            );
        }
        let sql = !drill
            .get(&["expect", "sql"])
            .map_or(&[][..], Node::list)
            .is_empty();
        let database = drill
            .get(&["target", "postgresql"])
            .or(drill.get(&["target", "sqlite"]))
            .or(drill.get(&["target", "mysql"]))
            .is_some();
        if sql && !database && drill.get(&["target"]).is_some() {
            found.fault(
                drill,
                &path,
                "expect.sql",
                "it needs a target that is a database: postgresql, mysql or sqlite",
            );
        }
        if let (Some(limit), Some(timeout)) = (
            drill.duration_at(&["expect", "max_duration"]),
            drill.duration_at(&["timeout"]),
        ) {
            if limit > timeout {
                found.fault(
                    drill,
                    &path,
                    "expect.max_duration",
                    "it is longer than the timeout of the drill",
                );
            }
        }
        twice(drill, &path, "quiet_checks", found);
    }
}
