//! Logs of commands: lines on standard error for people; natively to systemd's journal, with fields, where that is what standard error leads
//! to, as in units of timers.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Where events are logged that people look for in the journal, at any level of detail.
pub const TOLD: &str = "keepwatch::told";

/// Begins to log what a command does.
pub fn begin(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = crate::quiet_filter(level);
    if let Some(journal) = journal() {
        let filter = match format!("{TOLD}=info").parse() {
            Ok(told) => filter.add_directive(told),
            Err(_) => filter,
        };
        let _ = tracing_subscriber::registry()
            .with(filter)
            .with(journal)
            .try_init();
        return;
    }
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .without_time()
        .with_target(verbose > 1)
        .try_init();
}

/// The journal, when standard error leads there.
pub fn journal() -> Option<tracing_journald::Layer> {
    if !is_journal("2") {
        return None;
    }
    let layer = tracing_journald::layer().ok()?;
    Some(
        layer
            .with_field_prefix(None)
            .with_syslog_identifier("keepwatch".to_owned()),
    )
}

/// Whether this descriptor of ours is the stream to the journal that systemd made (`$JOURNAL_STREAM`: `device:inode`, systemd.exec(5)).
pub fn is_journal(descriptor: &str) -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    leads_to(descriptor, &stream)
}

fn leads_to(descriptor: &str, stream: &str) -> bool {
    let about = std::fs::metadata(Path::new("/proc/self/fd").join(descriptor));
    about.is_ok_and(|m| format!("{}:{}", m.dev(), m.ino()) == stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_stream_is_not_the_journal() {
        assert!(!leads_to("2", "1:2"));
        assert!(!leads_to("2", "nonsense"));
        let about = std::fs::metadata("/proc/self/fd/2").expect("standard error");
        let own = format!("{}:{}", about.dev(), about.ino());
        assert!(leads_to("2", &own));
    }
}
