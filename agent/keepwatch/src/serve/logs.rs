//! Logs of the daemon: to systemd's journal with fields of their own, as JSON lines, or as text for a person at a terminal.
//!
//! | `logging.format` | under journald | standard error is a terminal | else |
//! |---|---|---|---|
//! | `journald` | journal, native protocol | text | JSON lines |
//! | `json` | JSON lines | JSON lines | JSON lines |
//! | `text` | text | text | text |
//!
//! Fields of ours begin with `keepwatch_` (check, unit, job, run_id, attempt, reason, duration_ms), so that they are
//! `KEEPWATCH_CHECK=…` in the journal and meet no field of systemd; `message_id` is the journal's `MESSAGE_ID`. In JSON the
//! beginning is left out. What is logged never holds a secret: secrets have types that cannot be printed.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;

use keepwatch_config::sections::service::{Level, LogFormat};
use keepwatch_expose::counters::Counters;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layered, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// What outputs stand on.
type Base = Layered<reload::Layer<EnvFilter, Registry>, Registry>;

/// Changes what is logged, while the daemon runs.
#[derive(Clone)]
pub struct Logs(reload::Handle<EnvFilter, Registry>);

impl Logs {
    /// From now on, this and what matters more.
    pub fn set_level(&self, level: Level) {
        let _ = self.0.reload(filter(level));
    }
}

fn filter(level: Level) -> EnvFilter {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    crate::quiet_filter(level)
}

/// Begins to log.
pub fn begin(format: LogFormat, level: Level, counters: Arc<Counters>) -> Logs {
    let (filter, handle) = reload::Layer::new(filter(level));
    let out: Box<dyn Layer<Base> + Send + Sync> = match format {
        LogFormat::Text => text(),
        LogFormat::Json => Box::new(JsonLines),
        LogFormat::Journald => match crate::logs::journal() {
            Some(journal) => Box::new(journal),
            None if std::io::stderr().is_terminal() => text(),
            None => Box::new(JsonLines),
        },
    };
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(out)
        .with(Counting(counters))
        .try_init();
    Logs(handle)
}

fn text() -> Box<dyn Layer<Base> + Send + Sync> {
    Box::new(
        tracing_subscriber::fmt::layer::<Base>()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false),
    )
}

/// One JSON object for each record.
struct JsonLines;

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = json(event);
        // One write, so that lines of several threads do not mix.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

fn json(event: &Event<'_>) -> String {
    let mut fields = Fields(Map::new());
    fields
        .0
        .insert("time".into(), crate::clock::now().to_string().into());
    let level = event.metadata().level().as_str().to_ascii_lowercase();
    fields.0.insert("level".into(), level.into());
    fields
        .0
        .insert("target".into(), event.metadata().target().into());
    event.record(&mut fields);
    let mut line = Value::Object(fields.0).to_string();
    line.push('\n');
    line
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        let name = name.strip_prefix("keepwatch_").unwrap_or(name);
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

/// Counts what is logged, for metrics.
struct Counting(Arc<Counters>);

impl<S: Subscriber> Layer<S> for Counting {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.logged(event.metadata().level());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Kept(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .push(json(event));
        }
    }

    #[test]
    fn a_record_is_one_line_whatever_stands_in_it() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Kept(kept.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(
                keepwatch_check = %"a\nb\u{1b}[2J",
                keepwatch_duration_ms = 7_u64,
                "it is \"down\"\n{}",
                "x"
            );
        });
        let lines = kept.lock().unwrap_or_else(|e| e.into_inner());
        let line = lines.first().expect("a line");
        assert_eq!(line.matches('\n').count(), 1);
        assert!(!line.contains('\u{1b}'));
        let value: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(value["check"], "a\nb\u{1b}[2J");
        assert_eq!(value["duration_ms"], 7);
        assert_eq!(value["level"], "warn");
        assert_eq!(value["message"], "it is \"down\"\nx");
    }
}
