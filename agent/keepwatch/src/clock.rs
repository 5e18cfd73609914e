//! The clock of this host, with its offset from UTC.

use jiff::Zoned;
use keepwatch_model::time::Moment;

/// Now.
pub fn now() -> Moment {
    let now = Zoned::now();
    Moment::new(now.timestamp(), now.offset())
}

/// Seconds since 1970 as a moment by this host's clock, for tables.
pub fn from_unix(seconds: i64) -> Option<Moment> {
    Moment::from_parts(seconds, 0, now().offset_seconds()).ok()
}
