//! Every bound, with what it costs.

use std::time::Duration;

/// Alerts that are remembered for one channel, about 2 KiB each: 2 MiB at worst. Beyond it new ones are counted, not told.
pub const ALERTS: usize = 1000;
/// Labels of an alert.
pub const LABELS: usize = 16;
/// Characters of a label's value.
pub const LABEL: usize = 128;
/// Characters of an alert's summary.
pub const SUMMARY: usize = 200;
/// Characters of its description.
pub const DESCRIPTION: usize = 600;
/// Bytes of an answer that are read.
pub const ANSWER: usize = 64 << 10;
/// Bytes that are read from a mail server in one delivery.
pub const SMTP_READ: u64 = 64 << 10;
/// Bytes of a message to a webhook, and of one request to Alertmanager.
pub const JSON: usize = 256 << 10;
/// Bytes of a mail's text.
pub const MAIL: usize = 64 << 10;
/// Alerts in one request to Alertmanager.
pub const BATCH: usize = 64;
/// UTF-16 units of a Telegram message. Telegram counts after its entities are parsed; we count before, which is never less.
pub const TELEGRAM: usize = 4096;
/// Bytes of an ntfy message; a longer one becomes an attachment.
pub const NTFY: usize = 4096;
/// Bytes of a secret or of a URL in a file.
pub const SECRET: usize = 4096;
/// Names that are resolved at once; each is a thread of the blocking pool.
pub const RESOLVING: usize = 4;
/// Addresses of a name that are tried.
pub const ADDRESSES: usize = 4;

/// One attempt to deliver, from the name to the last byte of the answer.
pub const ATTEMPT: Duration = Duration::from_secs(20);
/// The first wait after a failure; doubled with each.
pub const BACKOFF: Duration = Duration::from_secs(5);
/// The longest.
pub const BACKOFF_MAX: Duration = Duration::from_secs(600);
/// The longest that a sink may ask us to wait.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// How much a wait varies, so that hosts do not come back in step.
pub const JITTER: f64 = 0.1;
/// The longest sleep of a task that waits for a moment on the wall clock, which may be set.
pub const NAP: Duration = Duration::from_secs(60);
/// What is counted by the hour is counted over this. A message costs 8 bytes of memory until then.
pub const HOUR: Duration = Duration::from_secs(3600);
/// While messages are held back, at least so long between two that tell critical alerts that nobody knows of yet: 12 in an hour.
pub const HELD: Duration = Duration::from_secs(300);
/// How long a resolved alert is still told to Alertmanager, as Prometheus does.
pub const RESOLVED: Duration = Duration::from_secs(900);
