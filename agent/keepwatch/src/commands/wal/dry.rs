//! `wal backup --dry-run`: what a base backup would be. The server is asked as `pg_basebackup` would ask it, by a connection for replication; nothing is stored.
//!
//! Its size is asked by a connection of the usual kind, which a role for replication may not have: then it is said that it is not known.

use keepwatch_engine::snapshots::SnapshotRecord;
use keepwatch_model::size::human_bytes;
use keepwatch_sources::child::Program;
use keepwatch_sources::fault::Fault;
use keepwatch_sources::postgresql::{Asker, Server};
use keepwatch_sources::setting::{CONNECT, QUESTION, Setting, Stop};
use serde_json::json;

use super::base::BaseArgs;
use super::find_program;
use super::incremental::Before;
use crate::commands::source_args::failure;
use crate::context::Context;
use crate::errors::{Exit, Failure, Outcome};
use crate::output::{escape, print_after, print_json_after};

/// Bytes of an answer.
const ANSWER: u64 = 4096;
/// Over a connection for replication.
const REPLICATION: &str = "dbname=postgres replication=true";
/// Over a usual one.
const USUAL: &str = "dbname=postgres";

/// What would be made.
pub struct Plan<'a> {
    /// Who asks.
    pub context: &'a Context,
    /// How the server is reached.
    pub args: &'a BaseArgs,
    /// Its password.
    pub asker: Option<&'a Asker>,
    /// On what it would be built, with its snapshot.
    pub before: Option<(&'a Before, Option<&'a SnapshotRecord>)>,
    /// Why it would be a full one, although an incremental one was asked for.
    pub full_because: Option<String>,
}

impl Plan<'_> {
    /// Asks, and tells.
    pub fn tell(mut self) -> Outcome {
        let system = self.ask(REPLICATION, "IDENTIFY_SYSTEM")?;
        let mut fields = system.split('|');
        let (system, timeline, position) = (fields.next(), fields.next(), fields.next());
        let (Some(system), Some(timeline), Some(position)) = (system, timeline, position) else {
            return Err(Failure::failed(
                "the server does not answer as PostgreSQL does to a connection for replication; nothing was stored",
            ));
        };
        let version = self.ask(REPLICATION, "SHOW server_version")?;
        if self.before.is_some() {
            // Older servers do not know it.
            let summarizes = self.ask(REPLICATION, "SHOW summarize_wal");
            if !summarizes.is_ok_and(|s| s == "on") {
                self.before = None;
                self.full_because = Some(
                    "the server makes no incremental ones (summarize_wal, PostgreSQL 17)".into(),
                );
            }
        }
        if let Some((before, _)) = &self.before {
            if before.system.to_string() != system {
                return Err(Failure::failed(format!(
                    "the server is the cluster {system}, and the last base backup of this job is of the cluster {}; nothing was stored",
                    before.system
                )));
            }
        }
        let size = self.ask(
            USUAL,
            "SELECT sum(pg_database_size(oid))::bigint FROM pg_database",
        );
        let (bytes, unknown) = match size.map(|s| s.parse::<u64>()) {
            Ok(Ok(bytes)) => (Some(bytes), None),
            Ok(Err(_)) => (None, Some("the server does not say it".to_owned())),
            Err(f) => (None, Some(f.message)),
        };
        let after = self.before.as_ref().and_then(|(_, s)| *s);
        if self.context.json() {
            print_json_after(&json!({
                "dry_run": true,
                "snapshot": null,
                "server_version": version,
                "system": system,
                "timeline": timeline.parse::<u32>().ok(),
                "position": position,
                "database_bytes": bytes,
                "size_unknown_because": unknown,
                "with_wal": self.args.with_wal,
                "incremental": self.before.is_some(),
                "built_on": after.map(|s| s.id),
                "full_because": self.full_because,
            }))?;
            return Ok(Exit::Done);
        }
        if self.context.globals.quiet {
            return Ok(Exit::Done);
        }
        let kind = match (&self.before, after, &self.full_because) {
            (Some(_), Some(s), _) => format!(
                "an incremental base backup, built on {} of {}",
                s.id.short(),
                s.start.short()
            ),
            (Some(_), None, _) => "an incremental base backup".to_owned(),
            (None, _, Some(why)) => format!("a full base backup: {}", escape(why)),
            (None, _, None) => "a full base backup".to_owned(),
        };
        let size = match (bytes, unknown) {
            (Some(bytes), _) => format!("its databases have {}", human_bytes(bytes)),
            (None, Some(why)) => format!("how large it is, is not known: {}", escape(&why)),
            (None, None) => "how large it is, is not known".to_owned(),
        };
        print_after(&format!(
            "cluster {}, PostgreSQL {}, timeline {}, log at {}; {size}\nit would be {kind}\ndry run: nothing was stored\n",
            escape(system),
            escape(&version),
            escape(timeline),
            escape(position),
        ))?;
        Ok(Exit::Done)
    }

    /// The first line of what the server answers.
    fn ask(&self, how: &str, what: &str) -> Result<String, Failure> {
        let args = self.args;
        let path = find_program("psql", args.pg_bin.as_deref(), None);
        let mut program = Program::new(&path).args([
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--no-password",
            "--set=ON_ERROR_STOP=1",
        ]);
        for (option, value) in [
            ("--host", args.pg_host.clone()),
            ("--port", args.pg_port.map(|p| p.to_string())),
            ("--username", args.pg_user.clone()),
        ] {
            if let Some(value) = value {
                program = program.arg(option).arg(value);
            }
        }
        // As all clients of PostgreSQL, unless something else is said.
        for (name, value) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("PG") || text == "HOME" {
                program = program.env(&text, value);
            }
        }
        program = program
            .env("PGCONNECT_TIMEOUT", CONNECT.as_secs().to_string())
            .env("PGAPPNAME", "keepwatch");
        if let Some(file) = self.asker.and_then(Asker::passfile) {
            program = program.env("PGPASSFILE", file);
        }
        let cancel = self.context.cancel.clone();
        let mut setting = Setting::new(std::env::temp_dir());
        setting.stall = QUESTION;
        setting.stop = Stop::when(move || cancel.is_cancelled());
        let explained = |fault: Fault| {
            let mut server = Server::default();
            server.host = args.pg_host.clone().unwrap_or(server.host);
            server.port = args.pg_port.unwrap_or(server.port);
            server.user = args.pg_user.clone().unwrap_or(server.user);
            server.explain(fault)
        };
        let out = program
            .arg("--dbname")
            .arg(how)
            .arg("--command")
            .arg(what)
            .output(&setting, ANSWER)
            .map_err(|fault| failure(explained(fault)).safe("nothing was stored"))?;
        let out = String::from_utf8_lossy(&out).into_owned();
        Ok(out.lines().next().unwrap_or_default().trim().to_owned())
    }
}

/// The snapshot of what an incremental base backup would be built on.
pub fn snapshot_of<'a>(before: &Before, live: &'a [SnapshotRecord]) -> Option<&'a SnapshotRecord> {
    live.iter().rev().find(|s| {
        let base = s.body.base.as_ref();
        base.is_some_and(|b| b.system == before.system && b.as_foundation() == before.foundation)
    })
}
