//! Dumping.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Archive, Asker, KIND, Postgresql, conninfo};
use crate::about::About;
use crate::check::{Checked, EndLine};
use crate::child::Running;
use crate::dump::{Body, Explained, Part, Parts};
use crate::fault::{Fault, Reason};
use crate::setting::Setting;
use crate::text::component;

/// The last line of what `pg_dumpall` prints.
const GLOBALS_END: &str = "-- PostgreSQL database cluster dump complete";

/// What the server says of itself. What a database has beside its content is no part of `pg_dump`'s archive unless it is restored under
/// its own name, so it is kept beside it.
const INVENTORY: &str = "SELECT json_build_object(\
'version', current_setting('server_version'), \
'number', current_setting('server_version_num')::int, \
'standby', pg_is_in_recovery(), \
'databases', (SELECT coalesce(json_agg(json_build_object(\
'name', datname, \
'bytes', CASE WHEN has_database_privilege(oid, 'CONNECT') THEN pg_database_size(oid) END, \
'owner', pg_get_userbyid(datdba), \
'encoding', pg_encoding_to_char(encoding), \
'collate', datcollate, \
'ctype', datctype, \
'connections', datconnlimit, \
'comment', shobj_description(oid, 'pg_database'), \
'settings', (SELECT setconfig FROM pg_db_role_setting s WHERE s.setdatabase = d.oid AND s.setrole = 0), \
'grants', (SELECT json_agg(json_build_object(\
'to', CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END, \
'right', a.privilege_type, 'option', a.is_grantable)) FROM aclexplode(d.datacl) a)\
) ORDER BY datname), '[]') FROM pg_database d WHERE datallowconn AND NOT datistemplate))";

#[derive(Deserialize)]
struct Inventory {
    version: String,
    number: u32,
    standby: bool,
    databases: Vec<Value>,
}

/// Begins a dump. What can be known beforehand is looked at first.
///
/// # Errors
/// A program is missing or too old, the server does not answer, a database is not there.
pub fn dump(source: &Postgresql, setting: &Setting) -> Result<Box<dyn Parts>, Fault> {
    let asker = Asker::new(&source.server, setting)?;
    let (program, program_version) = asker.version("pg_dump")?;
    if source.globals {
        asker.version("pg_dumpall")?;
    }
    // The first database that is named will do where the usual one may not be asked.
    let first = source
        .databases
        .first()
        .unwrap_or(&source.server.maintenance);
    let inventory: Inventory = match asker.json(&source.server.maintenance, INVENTORY) {
        Err(e)
            if matches!(e.reason, Reason::NotThere | Reason::Denied)
                && *first != source.server.maintenance =>
        {
            asker.json(first, INVENTORY)?
        }
        other => other?,
    };
    let server = inventory.number / 10_000;
    if program < server {
        return Err(Fault::new(
            Reason::Version,
            format!(
                "pg_dump {program_version} cannot dump PostgreSQL {}: it must not be older than the server",
                inventory.version
            ),
        ));
    }
    let name = |d: &Value| d["name"].as_str().unwrap_or_default().to_owned();
    let mut chosen = VecDeque::new();
    if source.databases.is_empty() {
        chosen.extend(inventory.databases);
    } else {
        for wanted in &source.databases {
            let found = inventory
                .databases
                .iter()
                .find(|d| name(d) == *wanted)
                .ok_or_else(|| {
                    Fault::new(
                        Reason::NotThere,
                        format!(
                            "PostgreSQL at {}, port {}, has no database '{wanted}'",
                            source.server.host, source.server.port
                        ),
                    )
                })?;
            if !chosen.contains(found) {
                chosen.push_back(found.clone());
            }
        }
    }
    if chosen.is_empty() && !source.globals {
        return Err(Fault::new(
            Reason::NotThere,
            "the server has no databases, and nothing else is asked for",
        ));
    }
    let mut about = About::new(KIND);
    about.server_version = Some(inventory.version);
    about.program_version = Some(program_version);
    if inventory.standby {
        about
            .notes
            .push("the server is a standby: long dumps may be cancelled by what it replays".into());
    }
    Ok(Box::new(Dump {
        source: source.clone(),
        setting: setting.clone(),
        asker,
        globals: source.globals,
        chosen,
        about,
    }))
}

struct Dump {
    source: Postgresql,
    setting: Setting,
    asker: Asker,
    globals: bool,
    chosen: VecDeque<Value>,
    about: About,
}

impl Dump {
    fn explained(&self, running: Running) -> Box<dyn Body> {
        let server = self.source.server.clone();
        Explained::boxed(Box::new(running), move |fault| server.explain(fault))
    }
}

impl Parts for Dump {
    fn next(&mut self) -> Result<Option<Part>, Fault> {
        if std::mem::take(&mut self.globals) {
            let running = self
                .asker
                .program("pg_dumpall")?
                .args(["--globals-only", "--quote-all-identifiers"])
                .arg(format!(
                    "--dbname={}",
                    conninfo(&self.source.server.maintenance)
                ))
                .read(&self.setting)?;
            let what = "the dump of roles and table spaces";
            return Ok(Some(Part {
                name: "globals.sql".into(),
                what: "globals",
                of: None,
                details: Value::Null,
                body: Checked::over(self.explained(running), EndLine::new(GLOBALS_END), what),
            }));
        }
        let Some(database) = self.chosen.pop_front() else {
            return Ok(None);
        };
        let name = database["name"].as_str().unwrap_or_default().to_owned();
        let mut program = self
            .asker
            .program("pg_dump")?
            .args([
                "--format=custom",
                "--compress=0",
                "--lock-wait-timeout=600s",
            ])
            .arg(format!("--dbname={}", conninfo(&name)));
        for pattern in &self.source.exclude_table_data {
            let own = match pattern.split_once(':') {
                None => Some(pattern.as_str()),
                Some((of, pattern)) => (of == name).then_some(pattern),
            };
            if let Some(pattern) = own {
                program = program.arg(format!("--exclude-table-data={pattern}"));
            }
        }
        let running = self.explained(program.read(&self.setting)?);
        let mut details = database;
        if let Some(fields) = details.as_object_mut() {
            fields.remove("name");
            fields.retain(|_, v| !v.is_null());
            if !self.source.exclude_table_data.is_empty() {
                fields.insert(
                    "without_data_of".into(),
                    json!(self.source.exclude_table_data),
                );
            }
        }
        Ok(Some(Part {
            name: format!("{}.dump", component(&name)),
            what: "database",
            body: Checked::over(
                running,
                Archive::default(),
                format!("the dump of the database '{name}'"),
            ),
            of: Some(name),
            details,
        }))
    }

    fn about(&mut self) -> About {
        self.about.clone()
    }
}
