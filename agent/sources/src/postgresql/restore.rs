//! Restoring.
//!
//! A database is restored under a name of its own, `keepwatch_restore_…`, and takes its place by being renamed: until then the old one is
//! as it was, and what a restore that fails has made is dropped. Roles and table spaces come first; those that are there stay as they are.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::{Asker, Server, conninfo, script};
use crate::about::{About, Item};
use crate::fault::{Fault, Reason};
use crate::restore::{Report, Stored};
use crate::scratch::{Scratch, create, give};
use crate::setting::Setting;
use crate::text::{identifier, literal};

/// The longest script of roles and table spaces, in bytes; it is held in memory.
const GLOBALS: u64 = 64 << 20;

/// What is restored, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which databases, and under which names; all under their own when it is empty.
    pub databases: BTreeMap<String, String>,
    /// Roles and table spaces.
    pub globals: bool,
    /// Whether databases that hold something are replaced.
    pub replace: bool,
    /// Leave out table spaces, which are directories of the host: for a rehearsal beside the original.
    pub no_tablespaces: bool,
    /// Tables restored at once; more than one needs scratch space for a whole dump.
    pub jobs: usize,
}

#[derive(Deserialize)]
struct Found {
    number: u32,
    version: String,
    superuser: bool,
    createdb: bool,
    databases: Vec<String>,
}

const FOUND: &str = "SELECT json_build_object(\
'number', current_setting('server_version_num')::int, 'version', current_setting('server_version'), \
'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), \
'createdb', (SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user), \
'databases', (SELECT json_agg(datname) FROM pg_database))";

/// Anything that somebody made.
const HOLDS: &str = "SELECT to_json(EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')) \
OR EXISTS (SELECT FROM pg_largeobject_metadata))";

/// Restores. All that could stand in the way is looked at before anything is touched.
///
/// # Errors
/// What stands in the way, or what failed; what is said of the databases is as it was before, then.
pub fn restore(
    stored: &dyn Stored,
    about: &About,
    server: &Server,
    options: &Options,
    setting: &Setting,
) -> Result<Report, Fault> {
    let asker = Asker::new(server, setting)?;
    let chosen = about.chosen("database", &options.databases)?;
    let globals: Vec<&Item> = about.all("globals").filter(|_| options.globals).collect();
    let found: Found = asker.json(&server.maintenance, FOUND)?;
    let (program, said) = asker.version("pg_restore")?;
    let major = |v: &Option<String>| {
        v.as_deref().and_then(|v| {
            v.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse::<u32>()
                .ok()
        })
    };
    if let Some(dumper) = major(&about.program_version).filter(|d| *d > program) {
        return Err(Fault::new(
            Reason::Version,
            format!(
                "pg_restore {said} cannot read what pg_dump {dumper} wrote; nothing was touched"
            ),
        ));
    }
    if let Some(from) = major(&about.server_version).filter(|v| *v > found.number / 10_000) {
        return Err(Fault::new(
            Reason::Version,
            format!(
                "the dump is of PostgreSQL {from}, and the server is {}, which is older; nothing was touched",
                found.version
            ),
        ));
    }
    if !found.superuser && (!globals.is_empty() || !found.createdb) {
        let what = if globals.is_empty() {
            "may not make databases"
        } else {
            "is no superuser, so roles cannot be restored (leave them out with --no-globals)"
        };
        return Err(Fault::new(
            Reason::Denied,
            format!("the user {} {what}; nothing was touched", server.user),
        ));
    }
    for (item, name) in &chosen {
        stored.there(item)?;
        if !found.databases.contains(name) {
            continue;
        }
        if !options.replace && asker.json::<bool>(name, HOLDS)? {
            return Err(Fault::new(
                Reason::InTheWay,
                format!(
                    "the database '{name}' exists and is not empty; restore under another name with --database {0}=NAME, or replace it with --replace; nothing was touched",
                    item.of.as_deref().unwrap_or(name)
                ),
            ));
        }
    }
    let mut report = Report::default();
    for item in globals {
        self::globals(stored, item, &asker, server, options, setting, &mut report)?;
    }
    for (item, name) in chosen {
        database(
            stored,
            item,
            &name,
            &asker,
            server,
            options,
            setting,
            &found,
            &mut report,
        )?;
    }
    Ok(report)
}

fn globals(
    stored: &dyn Stored,
    item: &Item,
    asker: &Asker,
    server: &Server,
    options: &Options,
    setting: &Setting,
    report: &mut Report,
) -> Result<(), Fault> {
    let text = stored.small(&item.name, GLOBALS)?;
    let text = String::from_utf8(text).map_err(|_| {
        Fault::new(
            Reason::NotWhole,
            "the dump of roles is not UTF-8; nothing was touched",
        )
    })?;
    let sql = script::plain(&text).map_err(|line| {
        Fault::new(Reason::NotWhole, format!("the dump of roles holds a command for psql in line {line}, and is not run; nothing was touched"))
    })?;
    let sql: String = match options.no_tablespaces {
        false => sql,
        true => sql
            .split_inclusive('\n')
            .filter(|l| {
                !["CREATE", "ALTER", "COMMENT ON"].iter().any(|w| {
                    l.strip_prefix(w)
                        .is_some_and(|l| l.starts_with(" TABLESPACE "))
                })
            })
            .collect(),
    };
    let mut psql = asker
        .program("psql")?
        .args([
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--set=ON_ERROR_STOP=0",
            "--file=-",
        ])
        .arg(format!("--dbname={}", conninfo(&server.maintenance)))
        .write(setting)?;
    psql.write_all(sql.as_bytes())
        .map_err(|e| asker.explain(Fault::from_io(e)))?;
    psql.end().map_err(|e| asker.explain(e))?;
    for line in psql.complaints().lines() {
        if line.contains("ERROR:") && !line.contains("already exists") {
            let shown = line.split("ERROR:").nth(1).unwrap_or(line).trim();
            report.notes.push(format!(
                "roles and table spaces: {}",
                crate::text::said(shown.as_bytes(), &[])
            ));
        }
    }
    report.restored.push("roles and table spaces".into());
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn database(
    stored: &dyn Stored,
    item: &Item,
    name: &str,
    asker: &Asker,
    server: &Server,
    options: &Options,
    setting: &Setting,
    found: &Found,
    report: &mut Report,
) -> Result<(), Fault> {
    let random = crate::chance::digits::<6>()?;
    let scratch = format!("keepwatch_restore_{}", *random);
    let text = |key: &str| item.details.get(key).and_then(Value::as_str);
    let mut make = format!(
        "CREATE DATABASE {} TEMPLATE template0",
        identifier(&scratch)
    );
    for (word, key) in [
        ("ENCODING", "encoding"),
        ("LC_COLLATE", "collate"),
        ("LC_CTYPE", "ctype"),
    ] {
        if let Some(value) = text(key) {
            make += &format!(" {word} {}", literal(value));
        }
    }
    // A database cannot be dropped by one who is in it.
    let maintenance = match name == server.maintenance {
        true => "template1",
        false => server.maintenance.as_str(),
    };
    asker
        .execute(maintenance, &make)
        .map_err(|e| e.during(format!("make a database for '{name}'")))?;
    let restored = fill(stored, item, &scratch, asker, options, setting)
        .and_then(|()| asker.execute(&scratch, "ANALYZE"))
        .and_then(|()| {
            if found.databases.iter().any(|d| d == name) {
                asker.execute(
                    maintenance,
                    &format!("DROP DATABASE {} WITH (FORCE)", identifier(name)),
                )?;
            }
            asker.execute(
                maintenance,
                &format!(
                    "ALTER DATABASE {} RENAME TO {}",
                    identifier(&scratch),
                    identifier(name)
                ),
            )
        });
    if let Err(e) = restored {
        let mut own = setting.clone();
        // Also when we are asked to stop.
        own.stop = Default::default();
        if let Err(left) = asker.sql(
            maintenance,
            &format!(
                "DROP DATABASE IF EXISTS {} WITH (FORCE)",
                identifier(&scratch)
            ),
            &own,
        ) {
            return Err(Fault::new(
                e.reason,
                format!(
                    "{e}; the half restored database {scratch} could not be dropped either: {left}"
                ),
            )
            .during(format!("restore the database '{name}'")));
        }
        return Err(Fault::new(
            e.reason,
            format!("{e}; what was restored of it is dropped again"),
        )
        .during(format!("restore the database '{name}'")));
    }
    for sql in around(item, name) {
        if let Err(e) = asker.execute(maintenance, &sql) {
            report.notes.push(format!(
                "the database '{name}' is restored, but not all around it: {e}"
            ));
        }
    }
    report.restored.push(format!("database {name}"));
    report.bytes += item.bytes;
    Ok(())
}

/// Streams the dump in, or lays it down to restore several tables at once.
fn fill(
    stored: &dyn Stored,
    item: &Item,
    database: &str,
    asker: &Asker,
    options: &Options,
    setting: &Setting,
) -> Result<(), Fault> {
    let program = asker
        .program("pg_restore")?
        .args(["--exit-on-error"])
        .args(options.no_tablespaces.then_some("--no-tablespaces"))
        .arg(format!("--dbname={}", conninfo(database)));
    if options.jobs > 1 && has_room(setting, item.bytes) {
        let scratch = Scratch::new(&setting.scratch)?;
        let path: PathBuf = scratch.path().join("dump");
        let mut file = create(&path).map_err(|e| Fault::file("write", &path, &e))?;
        stored.write(&item.name, &mut file)?;
        give(&path, asker.user())?;
        scratch.give(asker.user())?;
        // One transaction for each table; whatever is half done is dropped with the database.
        return program
            .arg(format!("--jobs={}", options.jobs))
            .arg(path)
            .run(setting)
            .map_err(|e| asker.explain(e));
    }
    let mut running = program.write(setting)?;
    stored
        .write(&item.name, &mut running)
        .map_err(|e| asker.explain(e))?;
    running.end().map_err(|e| asker.explain(e))
}

fn has_room(setting: &Setting, bytes: u64) -> bool {
    rustix::fs::statvfs(&setting.scratch)
        .is_ok_and(|s| s.f_bavail.saturating_mul(s.f_frsize) > bytes.saturating_add(64 << 20))
}

/// What a database has beside its content.
fn around(item: &Item, name: &str) -> Vec<String> {
    let database = identifier(name);
    let d = &item.details;
    let mut out = Vec::new();
    if let Some(owner) = d["owner"].as_str() {
        out.push(format!(
            "ALTER DATABASE {database} OWNER TO {}",
            identifier(owner)
        ));
    }
    if let Some(n) = d["connections"].as_i64().filter(|n| *n >= 0) {
        out.push(format!("ALTER DATABASE {database} CONNECTION LIMIT {n}"));
    }
    if let Some(comment) = d["comment"].as_str() {
        out.push(format!(
            "COMMENT ON DATABASE {database} IS {}",
            literal(comment)
        ));
    }
    for setting in d["settings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if let Some((key, value)) = setting.split_once('=') {
            // Lists are stored quoted already.
            let is_list = matches!(
                key,
                "search_path"
                    | "session_preload_libraries"
                    | "local_preload_libraries"
                    | "temp_tablespaces"
                    | "DateStyle"
            );
            let value = if is_list && is_words(value) {
                value.to_owned()
            } else {
                literal(value)
            };
            out.push(format!(
                "ALTER DATABASE {database} SET {} TO {value}",
                identifier(key)
            ));
        }
    }
    let grants = d["grants"].as_array();
    if grants.is_some() {
        out.push(format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC"));
    }
    for grant in grants.into_iter().flatten() {
        let right = grant["right"].as_str().unwrap_or_default();
        if !["CONNECT", "CREATE", "TEMPORARY"].contains(&right) {
            continue;
        }
        let to = grant["to"].as_str().map_or("PUBLIC".to_owned(), identifier);
        let option = if grant["option"].as_bool() == Some(true) {
            " WITH GRANT OPTION"
        } else {
            ""
        };
        out.push(format!(
            "GRANT {right} ON DATABASE {database} TO {to}{option}"
        ));
    }
    out
}

/// A list of names, plain or in double quotes: nothing that ends a statement.
fn is_words(text: &str) -> bool {
    text.split(',').map(str::trim).all(|w| {
        let inner = w
            .strip_prefix('"')
            .and_then(|w| w.strip_suffix('"'))
            .unwrap_or(w);
        inner
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | ' '))
            && (inner.len() != w.len() || !w.contains(' '))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_around_a_database_is_quoted() {
        let item = Item {
            name: "app.dump".into(),
            what: "database".into(),
            of: Some("app".into()),
            bytes: 1,
            details: serde_json::json!({
                "owner": "o\"x", "connections": -1, "comment": "it's",
                "settings": ["search_path=\"$user\", public", "work_mem=4MB", "x=a'; DROP DATABASE y; --", "search_path=a; DROP"],
                "grants": [{"to": null, "right": "CONNECT", "option": false}, {"to": "r", "right": "CREATE", "option": true}, {"to": "r", "right": "EVIL; DROP", "option": false}]
            }),
        };
        assert_eq!(
            around(&item, "new"),
            [
                "ALTER DATABASE \"new\" OWNER TO \"o\"\"x\"",
                "COMMENT ON DATABASE \"new\" IS 'it''s'",
                "ALTER DATABASE \"new\" SET \"search_path\" TO \"$user\", public",
                "ALTER DATABASE \"new\" SET \"work_mem\" TO '4MB'",
                "ALTER DATABASE \"new\" SET \"x\" TO 'a''; DROP DATABASE y; --'",
                "ALTER DATABASE \"new\" SET \"search_path\" TO 'a; DROP'",
                "REVOKE ALL ON DATABASE \"new\" FROM PUBLIC",
                "GRANT CONNECT ON DATABASE \"new\" TO PUBLIC",
                "GRANT CREATE ON DATABASE \"new\" TO \"r\" WITH GRANT OPTION",
            ]
        );
    }
}
