//! The settings of a recovery: lines of `postgresql.auto.conf`, which the server reads last of all its files.
//!
//! Settings of an earlier recovery that came with the base backup are taken out: a `recovery_target_time` of last year would end this one before it began.

use crate::lsn::Lsn;

/// Up to where the log is replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the end of what is there.
    Latest,
    /// Only until the copy is consistent.
    Immediate,
    /// To a moment, as the server reads it: RFC 3339.
    Time(String),
    /// To a position.
    Lsn(Lsn),
    /// To a point that `pg_create_restore_point` named.
    Name(String),
}

/// What the server does when it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Opens for writing, on a new timeline.
    Promote,
    /// Waits and answers queries; `SELECT pg_wal_replay_resume()` opens it.
    Pause,
    /// Stops.
    Shutdown,
}

/// A recovery.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The command that brings files of the log, as words; `%f` and `%p` stand in it.
    pub command: Vec<String>,
    /// Up to where.
    pub target: Target,
    /// Leave out what happened exactly at the target.
    pub exclusive: bool,
    /// `latest`, `current`, or a number; the server's own choice without one.
    pub timeline: Option<String>,
    /// At the target.
    pub action: Action,
    /// The restored server does not archive.
    pub no_archive: bool,
}

/// Settings that belong to a recovery.
const OURS: [&str; 11] = [
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
];

/// The text of `postgresql.auto.conf`: what it was, without the settings of another recovery, and with those of this.
pub fn auto_conf(before: &str, recovery: &Recovery) -> Result<String, String> {
    let mut out = String::new();
    for line in before.lines() {
        let key: String = line
            .trim_start()
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect::<String>()
            .to_ascii_lowercase();
        let is_ours =
            OURS.contains(&key.as_str()) || (recovery.no_archive && key == "archive_mode");
        if !is_ours {
            out.push_str(line);
            out.push('\n');
        }
    }
    for (key, value) in settings(recovery) {
        if value.chars().any(char::is_control) {
            return Err(format!("the setting {key} cannot hold control characters"));
        }
        let value = value.replace('\\', "\\\\").replace('\'', "''");
        out.push_str(&format!("{key} = '{value}'\n"));
    }
    Ok(out)
}

fn settings(r: &Recovery) -> Vec<(&'static str, String)> {
    let mut out = vec![("restore_command", command(&r.command))];
    match &r.target {
        Target::Latest => {}
        Target::Immediate => out.push(("recovery_target", "immediate".into())),
        Target::Time(t) => out.push(("recovery_target_time", t.clone())),
        Target::Lsn(l) => out.push(("recovery_target_lsn", l.to_string())),
        Target::Name(n) => out.push(("recovery_target_name", n.clone())),
    }
    if r.exclusive {
        out.push(("recovery_target_inclusive", "off".into()));
    }
    if let Some(t) = &r.timeline {
        out.push(("recovery_target_timeline", t.clone()));
    }
    let action = match r.action {
        Action::Promote => "promote",
        Action::Pause => "pause",
        Action::Shutdown => "shutdown",
    };
    out.push(("recovery_target_action", action.into()));
    if r.no_archive {
        out.push(("archive_mode", "off".into()));
    }
    out
}

/// Words as the server's shell takes them. Only `%f` and `%p` as words of their own are the server's; other percent signs are doubled.
fn command(words: &[String]) -> String {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || b"-_=./:,+@".contains(&b);
    let quoted = words.iter().map(|w| match w.as_str() {
        "%f" | "%p" => format!("\"{w}\""),
        w if !w.is_empty() && w.bytes().all(harmless) => w.to_owned(),
        w => format!("'{}'", w.replace('%', "%%").replace('\'', "'\\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovery() -> Recovery {
        Recovery {
            command: [
                "/bin/keepwatch",
                "wal",
                "fetch",
                "--repo",
                "/a b/it's 100%",
                "%f",
                "%p",
            ]
            .map(str::to_owned)
            .to_vec(),
            target: Target::Time("2026-11-22T10:00:00Z".into()),
            exclusive: false,
            timeline: None,
            action: Action::Promote,
            no_archive: false,
        }
    }

    #[test]
    fn the_command_survives_the_file_the_server_and_the_shell() {
        let text = auto_conf("", &recovery()).unwrap();
        let line = text.lines().next().unwrap();
        assert_eq!(
            line,
            "restore_command = '/bin/keepwatch wal fetch --repo ''/a b/it''\\\\''''s 100%%'' \"%f\" \"%p\"'"
        );
    }

    #[test]
    fn an_earlier_recovery_is_forgotten() {
        let before = "# comment\nwork_mem = '4MB'\nrecovery_target_time = 'x'\n  Recovery_Target_LSN='0/1'\nrestore_command='cp'\nrecovery_min_apply_delay = 5\narchive_mode = 'on'\n";
        let text = auto_conf(before, &recovery()).unwrap();
        assert!(text.starts_with("# comment\nwork_mem = '4MB'\nrecovery_min_apply_delay = 5\narchive_mode = 'on'\nrestore_command"), "{text}");
        assert_eq!(text.matches("recovery_target_time").count(), 1);
        assert!(!text.contains("LSN") && text.ends_with("recovery_target_action = 'promote'\n"));
        let r = Recovery {
            no_archive: true,
            target: Target::Lsn(Lsn(1)),
            timeline: Some("3".into()),
            exclusive: true,
            action: Action::Pause,
            ..recovery()
        };
        let text = auto_conf(before, &r).unwrap();
        for wanted in [
            "recovery_target_lsn = '0/1'",
            "timeline = '3'",
            "inclusive = 'off'",
            "action = 'pause'",
            "archive_mode = 'off'",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        assert_eq!(text.matches("archive_mode").count(), 1);
    }

    #[test]
    fn a_line_end_cannot_add_a_setting() {
        let r = Recovery {
            target: Target::Name("x\nshared_preload_libraries = 'evil'".into()),
            ..recovery()
        };
        assert!(auto_conf("", &r).is_err());
    }
}
