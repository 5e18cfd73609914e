//! Maintenance windows: times in which checks go on, but nobody is told and nothing is restarted.
//!
//! Three sorts: *static* ones by calendar, duration and zone; *ad hoc* ones that an operator opens, always with an end; and
//! *automatic* ones that a backup or drill of our own opens around itself for the checks it disturbs, with the job's timeout as
//! end, so that a job that is killed cannot leave its window open. Nothing here reads a clock.

use std::time::Duration;

use jiff::tz::TimeZone;
use keepwatch_model::check::CheckName;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::calendar::Calendar;
use crate::clock::At;
use crate::text::clean_to;

/// The longest static window.
pub const LONGEST_STATIC: Duration = Duration::from_secs(7 * 86_400);
/// The longest ad-hoc window.
pub const LONGEST_AD_HOC: Duration = Duration::from_secs(31 * 86_400);
/// Ad-hoc and automatic windows open at once. About 4 KiB each at worst (64 names): 256 KiB.
pub const OPEN_MAX: usize = 64;
/// Checks that an ad-hoc window can name one by one.
pub const NAMED_MAX: usize = 64;

/// Which checks a window covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Covers {
    /// Every check.
    All,
    /// These.
    Checks(Vec<CheckName>),
}

impl Covers {
    /// Whether this check is covered.
    pub fn has(&self, check: &CheckName) -> bool {
        match self {
            Self::All => true,
            Self::Checks(names) => names.contains(check),
        }
    }
}

/// A static window.
#[derive(Clone, Debug)]
pub struct Window {
    /// Its name.
    pub name: CheckName,
    /// What it covers.
    pub covers: Covers,
    /// When it begins.
    pub begins: Calendar,
    /// How long it lasts, at most [`LONGEST_STATIC`].
    pub duration: Duration,
    /// By whose clock.
    pub zone: TimeZone,
}

impl Window {
    /// Whether the window makes sense.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        if self.duration < Duration::from_secs(1) || self.duration > LONGEST_STATIC {
            return Err("a window lasts between 1 second and 7 days".into());
        }
        Ok(())
    }

    /// When the window that is open now began, if it is open. In the hour that a change of the clock repeats it begins once,
    /// in one that is left out it begins after it.
    pub fn open_since(&self, now: At) -> Option<At> {
        let instant = now.timestamp();
        let floor = now.minus(self.duration).timestamp();
        // A day more on both sides: offsets differ.
        let floor = self.zone.to_datetime(floor).date().yesterday().ok()?;
        let mut bound = self.zone.to_datetime(instant);
        loop {
            let begin = self.begins.latest(bound, floor)?;
            let at = At::from(self.zone.to_timestamp(begin).ok()?);
            if at <= now {
                return (now.since(at) < self.duration).then_some(at);
            }
            bound = begin.checked_sub(jiff::SignedDuration::from_secs(1)).ok()?;
        }
    }

    /// When it begins next, within five years.
    pub fn next(&self, now: At) -> Option<At> {
        let from = self.zone.to_datetime(now.timestamp());
        let ceiling = from.date().checked_add(jiff::Span::new().years(5)).ok()?;
        let mut from = from;
        loop {
            let begin = self.begins.next(from, ceiling)?;
            let at = At::from(self.zone.to_timestamp(begin).ok()?);
            if at > now {
                return Some(at);
            }
            from = begin;
        }
    }
}

/// Who opened a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Opener {
    /// A person, by hand.
    Operator,
    /// A backup or drill of our own.
    Job,
}

/// An ad-hoc or automatic window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Its name; one window of a name at a time.
    pub name: CheckName,
    /// Who opened it.
    pub opener: Opener,
    /// What it covers.
    pub covers: Covers,
    /// When it was opened.
    pub opened: At,
    /// When it ends by itself.
    pub ends: At,
    /// Why, for people.
    pub note: String,
}

/// Why a window was not opened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// It would end before it begins.
    #[error("the window {0} would end in the past; nothing was opened")]
    Past(CheckName),
    /// It would last too long.
    #[error("the window {0} would last longer than 31 days; nothing was opened")]
    TooLong(CheckName),
    /// Too many are open.
    #[error("{OPEN_MAX} windows are open; close one before opening {0}")]
    TooMany(CheckName),
    /// It names too many checks.
    #[error("the window {0} names more than {NAMED_MAX} checks; let it cover all of them")]
    TooManyNames(CheckName),
}

/// All windows of a host.
#[derive(Clone, Debug, Default)]
pub struct Maintenance {
    windows: Vec<Window>,
    open: Vec<Open>,
}

/// A window that is open now, for status and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Active {
    /// Its name.
    pub name: CheckName,
    /// Since when.
    pub since: At,
    /// Until when.
    pub ends: At,
}

impl Maintenance {
    /// With the configured windows, and those that were open when the state was stored.
    pub fn new(windows: Vec<Window>, mut open: Vec<Open>) -> Self {
        open.truncate(OPEN_MAX);
        for o in &mut open {
            if let Covers::Checks(names) = &mut o.covers {
                names.truncate(NAMED_MAX);
            }
            o.note = clean_to(&o.note, 100);
            o.ends = o.ends.min(o.opened.plus(LONGEST_AD_HOC));
        }
        Self { windows, open }
    }

    /// Opens a window, or gives the one of the same name a new cover and end.
    ///
    /// # Errors
    /// An end in the past or too far ahead, too many windows or names; nothing is changed then.
    pub fn open(&mut self, mut window: Open, now: At) -> Result<(), OpenError> {
        if window.ends <= now {
            return Err(OpenError::Past(window.name));
        }
        if window.ends.since(now) > LONGEST_AD_HOC {
            return Err(OpenError::TooLong(window.name));
        }
        if matches!(&window.covers, Covers::Checks(names) if names.len() > NAMED_MAX) {
            return Err(OpenError::TooManyNames(window.name));
        }
        window.note = clean_to(&window.note, 100);
        if let Some(same) = self.open.iter_mut().find(|o| o.name == window.name) {
            window.opened = same.opened;
            *same = window;
        } else if self.open.len() >= OPEN_MAX {
            return Err(OpenError::TooMany(window.name));
        } else {
            self.open.push(window);
        }
        Ok(())
    }

    /// Closes an ad-hoc or automatic window; false when there is none of this name.
    pub fn close(&mut self, name: &CheckName) -> bool {
        let before = self.open.len();
        self.open.retain(|o| o.name != *name);
        self.open.len() < before
    }

    /// Removes the windows that are over.
    pub fn expire(&mut self, now: At) {
        self.open.retain(|o| now < o.ends);
    }

    /// Whether some window covers this check now.
    pub fn covers(&self, check: &CheckName, now: At) -> bool {
        self.open
            .iter()
            .any(|o| now < o.ends && o.covers.has(check))
            || self
                .windows
                .iter()
                .any(|w| w.covers.has(check) && w.open_since(now).is_some())
    }

    /// The windows that are open now.
    pub fn active(&self, now: At) -> Vec<Active> {
        let fixed = self.windows.iter().filter_map(|w| {
            let since = w.open_since(now)?;
            Some(Active {
                name: w.name.clone(),
                since,
                ends: since.plus(w.duration),
            })
        });
        let open = self.open.iter().filter(|o| now < o.ends).map(|o| Active {
            name: o.name.clone(),
            since: o.opened,
            ends: o.ends,
        });
        fixed.chain(open).collect()
    }

    /// Names of the configured windows, for metrics.
    pub fn configured(&self) -> impl Iterator<Item = &Window> {
        self.windows.iter()
    }

    /// What must survive a restart.
    pub fn stored(&self) -> &[Open] {
        &self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> At {
        At::from(text.parse::<jiff::Timestamp>().unwrap())
    }

    fn window(begins: &str, hours: u64, zone: &str) -> Window {
        Window {
            name: "nightly".parse().unwrap(),
            covers: Covers::All,
            begins: Calendar::parse(begins).unwrap(),
            duration: Duration::from_secs(hours * 3600),
            zone: TimeZone::posix(zone).unwrap(),
        }
    }

    /// Central Europe, without needing a zone database.
    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

    #[test]
    fn a_static_window_by_its_own_clock() {
        let w = window("Sun 03:00", 2, BERLIN);
        for (now, open) in [
            ("2026-11-22T01:59:59Z", None),
            ("2026-11-22T02:00:00Z", Some("2026-11-22T02:00:00Z")),
            ("2026-11-22T03:59:59Z", Some("2026-11-22T02:00:00Z")),
            ("2026-11-22T04:00:00Z", None),
            ("2026-11-23T03:00:00Z", None),
            ("2026-07-05T01:00:00Z", Some("2026-07-05T01:00:00Z")),
        ] {
            assert_eq!(w.open_since(at(now)), open.map(at), "{now}");
        }
        // Over midnight, and longer than a day.
        assert!(
            window("Sat 23:00", 3, "UTC0")
                .open_since(at("2026-11-22T01:59:00Z"))
                .is_some()
        );
        assert!(
            window("Fri 20:00", 60, "UTC0")
                .open_since(at("2026-11-23T07:59:00Z"))
                .is_some()
        );
        assert!(
            window("Fri 20:00", 60, "UTC0")
                .open_since(at("2026-11-23T08:00:00Z"))
                .is_none()
        );
        assert_eq!(
            w.next(at("2026-11-22T02:00:00Z")),
            Some(at("2026-11-29T02:00:00Z"))
        );
    }

    #[test]
    fn changes_of_the_clock() {
        // 2026-03-29 02:30 does not exist: the window begins at 03:30 (01:30Z).
        let w = window("02:30", 1, BERLIN);
        assert_eq!(w.open_since(at("2026-03-29T01:15:00Z")), None);
        assert_eq!(
            w.open_since(at("2026-03-29T01:45:00Z")),
            Some(at("2026-03-29T01:30:00Z"))
        );
        // 2026-10-25 02:30 comes twice: it begins at the first (00:30Z), once.
        assert_eq!(
            w.open_since(at("2026-10-25T00:45:00Z")),
            Some(at("2026-10-25T00:30:00Z"))
        );
        assert_eq!(w.open_since(at("2026-10-25T01:45:00Z")), None);
    }

    fn ad_hoc(name: &str, covers: Covers, ends: At) -> Open {
        Open {
            name: name.parse().unwrap(),
            opener: Opener::Operator,
            covers,
            opened: At::from_secs(0),
            ends,
            note: "upgrade\n".into(),
        }
    }

    #[test]
    fn an_ad_hoc_window_always_ends() {
        let mut m = Maintenance::default();
        let (web, db) = ("web".parse().unwrap(), "db".parse().unwrap());
        let covers = Covers::Checks(vec![CheckName::clone(&web)]);
        let end = At::from_secs(3600);
        m.open(ad_hoc("w", covers.clone(), end), At::from_secs(0))
            .unwrap();
        assert!(m.covers(&web, At::from_secs(3599)) && !m.covers(&db, At::from_secs(3599)));
        assert!(!m.covers(&web, end));
        // Prolonged: the beginning stays.
        m.open(
            Open {
                opened: At::from_secs(1800),
                ..ad_hoc("w", covers, At::from_secs(7200))
            },
            At::from_secs(1800),
        )
        .unwrap();
        let active = m.active(end);
        assert_eq!((active.len(), active[0].since), (1, At::from_secs(0)));
        m.expire(At::from_secs(7200));
        assert!(m.stored().is_empty());
        assert!(!m.close(&web));
    }

    #[test]
    fn windows_without_sense_are_refused() {
        let mut m = Maintenance::default();
        let now = At::from_secs(1000);
        let far = now.plus(LONGEST_AD_HOC).plus(Duration::from_secs(1));
        let many = Covers::Checks(vec!["x".parse().unwrap(); NAMED_MAX + 1]);
        assert!(matches!(
            m.open(ad_hoc("a", Covers::All, now), now),
            Err(OpenError::Past(_))
        ));
        assert!(matches!(
            m.open(ad_hoc("a", Covers::All, far), now),
            Err(OpenError::TooLong(_))
        ));
        let end = now.plus(Duration::from_secs(1));
        assert!(matches!(
            m.open(ad_hoc("a", many, end), now),
            Err(OpenError::TooManyNames(_))
        ));
        for i in 0..OPEN_MAX {
            m.open(ad_hoc(&format!("w{i}"), Covers::All, end), now)
                .unwrap();
        }
        assert!(matches!(
            m.open(ad_hoc("a", Covers::All, end), now),
            Err(OpenError::TooMany(_))
        ));
        assert!(window("daily", 0, "UTC0").check().is_err());
        assert!(window("daily", 169, "UTC0").check().is_err());
        // A stored window of a damaged file ends all the same.
        let stored = Maintenance::new(vec![], vec![ad_hoc("x", Covers::All, At(i64::MAX)); 100]);
        assert!(stored.stored().len() <= OPEN_MAX);
        assert!(stored.active(far.plus(LONGEST_AD_HOC)).is_empty());
    }
}
