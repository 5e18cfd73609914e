//! The server's clock, which can be wrong: the machine's time plus an offset. And the two time formats that the HTTP layer itself needs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The machine's time moved by so many seconds.
pub fn now(offset_seconds: i64) -> SystemTime {
    let now = SystemTime::now();
    let by = Duration::from_secs(offset_seconds.unsigned_abs());
    if offset_seconds < 0 {
        now.checked_sub(by)
    } else {
        now.checked_add(by)
    }
    .unwrap_or(now)
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(d) => d.as_secs() as i64,
        Err(e) => -(e.duration().as_secs() as i64),
    }
}

/// The time of an `x-amz-date` header (`20260131T235959Z`), in seconds since 1970.
pub fn amz_date(text: &str) -> Option<i64> {
    let t = text.as_bytes();
    if t.len() != 16 || t[8] != b'T' || t[15] != b'Z' {
        return None;
    }
    let field = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (field(0, 4)?, field(4, 6)?, field(6, 8)?);
    let (hour, minute, second) = (field(9, 11)?, field(11, 13)?, field(13, 15)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // days from civil, with March as the first month so that the leap day is the last of the year
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// An HTTP date (`Sun, 22 Nov 2026 04:54:00 GMT`).
pub fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let all = seconds(time);
    let (days, rest) = (all.div_euclid(86_400), all.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[days.rem_euclid(7) as usize],
        MONTHS[(month - 1) as usize],
        rest / 3_600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (seconds_, amz, http) in [
            (0, "19700101T000000Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (
                951_782_400,
                "20000229T000000Z",
                "Tue, 29 Feb 2000 00:00:00 GMT",
            ),
            (
                1_795_323_240,
                "20261122T045400Z",
                "Sun, 22 Nov 2026 04:54:00 GMT",
            ),
        ] {
            assert_eq!(amz_date(amz), Some(seconds_));
            let time = UNIX_EPOCH + Duration::from_secs(seconds_ as u64);
            assert_eq!(http_date(time), http);
        }
        for bad in [
            "",
            "2026-11-22T04:54Z",
            "20261322T045400Z",
            "2026112aT045400Z",
        ] {
            assert_eq!(amz_date(bad), None, "{bad}");
        }
    }
}
