//! How serde reads what the description calls a duration, a size or a calendar: with the parsers that checked it.

use std::time::Duration;

use keepwatch_model::duration::parse_duration;
use keepwatch_model::size::parse_size;
use keepwatch_watch::calendar::Calendar;
use serde::de::{Deserialize, Deserializer, Error};

/// A duration.
pub(crate) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(d)?).map_err(D::Error::custom)
}

/// A duration or nothing.
pub(crate) fn maybe_duration<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Duration>, D::Error> {
    Option::<String>::deserialize(d)?
        .map(|t| parse_duration(&t).map_err(D::Error::custom))
        .transpose()
}

/// A size in bytes or nothing.
pub(crate) fn maybe_size<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
    Option::<String>::deserialize(d)?
        .map(|t| parse_size(&t).map_err(D::Error::custom))
        .transpose()
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// One calendar expression or several.
pub(crate) fn calendars<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Calendar>, D::Error> {
    let texts = match Texts::deserialize(d)? {
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    };
    texts
        .iter()
        .map(|t| Calendar::parse(t).map_err(D::Error::custom))
        .collect()
}

/// The same, where it may be absent.
pub(crate) fn maybe_calendars<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Vec<Calendar>>, D::Error> {
    calendars(d).map(Some)
}

/// One calendar expression.
pub(crate) fn calendar<'de, D: Deserializer<'de>>(d: D) -> Result<Calendar, D::Error> {
    Calendar::parse(&String::deserialize(d)?).map_err(D::Error::custom)
}
