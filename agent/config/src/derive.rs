//! Defaults that follow from other keys, so that what is shown and what is used is whole.

use std::time::Duration;

use jiff::civil::{DateTime, Time, date};
use keepwatch_watch::calendar::Calendar;

use crate::fault::Gathered;
use crate::node::{Node, Value};
use crate::read::literal;
use crate::sections::checks::CHECK;
use crate::sections::probes::default_limits;
use crate::sections::service::CATALOG;
use crate::shape::{Shape, Table};

/// The default deadline of a run, or 0.8 of the interval when that is less.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The default interval after a failure, or the interval when that is less.
const RETRY: Duration = Duration::from_secs(10);
/// Without a schedule a backup is stale after this.
const MAX_AGE: Duration = Duration::from_secs(7 * 86_400);
/// Moments of a schedule that are looked at for its longest gap: more than a year of days.
const GAPS: usize = 400;

/// Fills in what follows from other keys.
pub(crate) fn derive(root: &mut Node, faults: &mut Gathered<'_>) {
    let defaults: Vec<(String, Node)> = root
        .entries(&["defaults"])
        .map(|(k, n)| (k.to_owned(), n.clone()))
        .collect();
    let repositories: Vec<String> = root
        .entries(&["repositories"])
        .map(|(k, _)| k.to_owned())
        .collect();
    each(root, "backups", |backup| {
        for (key, node) in &defaults {
            if !stands(backup, key) {
                set(backup, key, node.value.clone(), Some(node.at));
            }
        }
        if let (false, [only]) = (has(backup, "repositories"), &repositories[..]) {
            let name = Node::new(Value::Text(only.clone()), backup.at, false);
            set(backup, "repositories", Value::List(vec![name]), None);
        }
        if !has(backup, "max_age") {
            let gap = longest_gap(&calendars(backup));
            let age = gap
                .map_or(MAX_AGE, |gap| gap * 2)
                .max(Duration::from_secs(60));
            set(backup, "max_age", written(age), None);
        }
    });
    let first: Vec<(String, String)> = root
        .entries(&["backups"])
        .filter_map(|(name, b)| {
            Some((
                name.to_owned(),
                (*b.texts_at(&["repositories"]).first()?).to_owned(),
            ))
        })
        .collect();
    each(root, "drills", |drill| {
        let of = |name: &str| {
            first
                .iter()
                .find(|(backup, _)| backup == name)
                .map(|(_, repository)| repository.clone())
        };
        if let (false, Some(repository)) = (
            has(drill, "repository"),
            drill.text_at(&["backup"]).and_then(of),
        ) {
            set(drill, "repository", Value::Text(repository), None);
        }
    });
    each(root, "repositories", |repository| {
        let s3 = repository
            .table_mut()
            .and_then(|r| r.get_mut("backend")?.table_mut()?.get_mut("s3"));
        if let Some(s3) = s3.filter(|s3| s3.table().is_some_and(|t| !t.contains_key("path_style")))
        {
            let endpoint = s3.get(&["endpoint"]).is_some();
            set(s3, "path_style", Value::Bool(endpoint), None);
        }
    });
    each(root, "checks", |check| {
        if let Some(interval) = check.duration_at(&["interval"]) {
            if !has(check, "timeout") {
                set(
                    check,
                    "timeout",
                    written(TIMEOUT.min(interval.mul_f64(0.8))),
                    None,
                );
            }
            if !has(check, "retry_interval") {
                set(check, "retry_interval", written(RETRY.min(interval)), None);
            }
        }
        let kind = check
            .entries(&["probe"])
            .next()
            .map(|(kind, _)| kind.to_owned());
        if let (false, Some(kind)) = (has(check, "limits"), kind) {
            let node = literal(
                default_limits(&kind),
                shape(&CHECK, "limits"),
                check.at,
                faults,
                "limits",
            );
            set(check, "limits", node.value, None);
        }
    });
    let state = root.text_at(&["state_directory"]).map(str::to_owned);
    let catalog = root.table_mut().and_then(|r| r.get_mut("catalog"));
    if let (Some(catalog), Some(state)) = (catalog, state) {
        if catalog.table().is_some() && !has(catalog, "database") {
            let path =
                crate::node::quoted(&format!("{}/catalog.sqlite", state.trim_end_matches('/')));
            let text = format!("{{ sqlite = {{ path = {path} }} }}");
            let node = literal(
                &text,
                shape(&CATALOG, "database"),
                catalog.at,
                faults,
                "catalog.database",
            );
            set(catalog, "database", node.value, None);
        }
    }
}

fn shape(table: &'static Table, key: &str) -> &'static Shape {
    table
        .keys
        .iter()
        .find(|k| k.name == key)
        .map_or(&Shape::Bool, |k| &k.shape)
}

fn each(root: &mut Node, section: &str, mut act: impl FnMut(&mut Node)) {
    let entries = root
        .table_mut()
        .and_then(|r| r.get_mut(section)?.table_mut());
    for node in entries
        .into_iter()
        .flat_map(|t| t.values_mut())
        .filter(|n| n.table().is_some())
    {
        act(node);
    }
}

/// Whether the key stands in the file, understood or not.
fn stands(node: &Node, key: &str) -> bool {
    node.table()
        .and_then(|t| t.get(key))
        .is_some_and(|n| n.given)
}

fn has(node: &Node, key: &str) -> bool {
    node.table().is_some_and(|t| t.contains_key(key))
}

fn set(node: &mut Node, key: &str, value: Value, at: Option<usize>) {
    let at = at.unwrap_or(node.at);
    if let Some(table) = node.table_mut() {
        table.insert(key.to_owned(), Node::new(value, at, false));
    }
}

fn written(duration: Duration) -> Value {
    let millis = duration.as_millis();
    Value::Text(match millis {
        m if m % 1000 != 0 => format!("{m}ms"),
        m if m % 86_400_000 == 0 => format!("{}d", m / 86_400_000),
        m if m % 3_600_000 == 0 => format!("{}h", m / 3_600_000),
        m if m % 60_000 == 0 => format!("{}m", m / 60_000),
        m => format!("{}s", m / 1000),
    })
}

fn calendars(backup: &Node) -> Vec<Calendar> {
    let one = backup.text_at(&["start_at"]).into_iter();
    one.chain(backup.texts_at(&["start_at"]))
        .filter_map(|t| Calendar::parse(t).ok())
        .collect()
}

/// The longest time between two moments of a schedule: between the last of a day and the next, over a year of active days. None
/// when the schedule has no two moments.
pub fn longest_gap(calendars: &[Calendar]) -> Option<Duration> {
    // A fixed beginning, so that the answer does not depend on the present. It is the day before a leap year with a Thursday.
    let mut at = date(2027, 12, 31).at(0, 0, 0, 0);
    let (floor, ceiling) = (date(2020, 1, 1), date(2040, 1, 1));
    let next = |from: DateTime| calendars.iter().filter_map(|c| c.next(from, ceiling)).min();
    let mut longest = None;
    at = next(at)?;
    for _ in 0..GAPS {
        let evening = at.date().to_datetime(Time::constant(23, 59, 59, 0));
        let last = calendars
            .iter()
            .filter_map(|c| c.latest(evening, floor))
            .max()?;
        let Some(then) = next(evening) else { break };
        let gap = then.duration_since(last);
        longest = longest.max(Duration::try_from(gap).ok());
        if then.date().year() > at.date().year() + 4 {
            break;
        }
        at = then;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_by_table() {
        let gap = |texts: &[&str]| {
            let calendars: Vec<Calendar> =
                texts.iter().map(|t| Calendar::parse(t).unwrap()).collect();
            longest_gap(&calendars).map(|d| d.as_secs())
        };
        let (hour, day) = (3600, 86_400);
        for (texts, expected) in [
            (&["daily"][..], Some(day)),
            (&["hourly"], Some(hour)),
            (&["*:0/15"], Some(900)),
            (&["*:*:*"], Some(1)),
            (&["weekly"], Some(7 * day)),
            (&["Mon..Fri 22:30"], Some(3 * day)),
            (&["Sun 03:00", "Wed 03:00"], Some(4 * day)),
            (&["06:00", "18:00"], Some(12 * hour)),
            (&["06:00", "08:00"], Some(22 * hour)),
            (&["monthly"], Some(31 * day)),
            (&["yearly"], Some(366 * day)),
            (&["2028-05-05"], None),
            (&[], None),
        ] {
            assert_eq!(gap(texts), expected, "{texts:?}");
        }
    }
}
