//! Retention against a second, independently written statement of its rules, and the invariants that must hold for any history.
//!
//! The model asks for every snapshot and rule "would it be kept?", by counting over the whole list, where the real code walks
//! once with counters; and it has a calendar of its own. `PROPTEST_CASES=20000` for the long run.

use std::collections::BTreeSet;

use keepwatch_model::duration::CalendarSpan;
use keepwatch_model::retention::{Candidate, Count, Decision, Period, Policy, Reason};
use keepwatch_model::time::Moment;
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Snap {
    time: Moment,
    tags: Vec<String>,
    complete: bool,
}

impl Candidate for Snap {
    fn time(&self) -> Moment {
        self.time
    }
    fn tags(&self) -> &[String] {
        &self.tags
    }
    fn complete(&self) -> bool {
        self.complete
    }
}

// ---- the model ----

const DAY: i128 = 86_400;

/// Day number of a proleptic Gregorian date, 1970-01-01 = 0; months and days may be out of range.
fn day_number(year: i128, month: i128, day: i128) -> i128 {
    let (year, month) = (
        year + (month - 1).div_euclid(12),
        (month - 1).rem_euclid(12) + 1,
    );
    let leaps = |y: i128| y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334]
        [usize::try_from(month - 1).unwrap()];
    let leap_day = i128::from(leap && month > 2);
    365 * (year - 1970) + leaps(year - 1) - leaps(1969) + before + leap_day + day - 1
}

/// Year, month, day by search.
fn date(number: i128) -> (i128, i128, i128) {
    let mut year = 1970 + number.div_euclid(366) - 1;
    while day_number(year + 1, 1, 1) <= number {
        year += 1;
    }
    while day_number(year, 1, 1) > number {
        year -= 1;
    }
    let month = (1..=12)
        .rev()
        .find(|m| day_number(year, *m, 1) <= number)
        .unwrap();
    (year, month, number - day_number(year, month, 1) + 1)
}

/// Seconds of the host's clock since 1970, as if it were UTC.
fn wall(time: Moment) -> i128 {
    i128::from(time.unix_seconds()) + i128::from(time.offset_seconds())
}

/// The period as a text, so that no arithmetic of the code is repeated.
fn label(period: Period, time: Moment, position: usize) -> String {
    let number = wall(time).div_euclid(DAY);
    let (year, month, day) = date(number);
    match period {
        Period::Last => format!("#{position}"),
        Period::Hourly => format!("{year}-{month}-{day} {}", wall(time).rem_euclid(DAY) / 3600),
        Period::Daily => format!("{year}-{month}-{day}"),
        // A week is named by its Thursday: 1970-01-01 was one.
        Period::Weekly => format!("thursday {}", (number + 3).div_euclid(7)),
        Period::Monthly => format!("{year}-{month}"),
        Period::Yearly => format!("{year}"),
    }
}

/// In nanoseconds.
fn edge(newest: Moment, span: CalendarSpan) -> i128 {
    let clock = wall(newest).rem_euclid(DAY);
    let (year, month, day) = date(wall(newest).div_euclid(DAY));
    let first = day_number(
        year - i128::from(span.years),
        month - i128::from(span.months),
        1,
    );
    let number = first + day - 1 - i128::from(span.days);
    let seconds =
        number * DAY + clock - i128::from(newest.offset_seconds()) - i128::from(span.hours) * 3600;
    seconds * 1_000_000_000 + i128::from(newest.subsec_nanos())
}

/// Which places of `list` are kept.
fn model(policy: &Policy, list: &[Snap], now: Moment) -> BTreeSet<usize> {
    let nanos = |time: Moment| {
        i128::from(time.unix_seconds()) * 1_000_000_000 + i128::from(time.subsec_nanos())
    };
    let is_future = |i: &usize| nanos(list[*i].time) - nanos(now) > DAY * 1_000_000_000;
    let mut kept: BTreeSet<usize> = (0..list.len()).filter(is_future).collect();
    let mut group: Vec<usize> = (0..list.len()).filter(|i| !is_future(i)).collect();
    group.sort_by_key(|i| (-nanos(list[*i].time), *i));

    if policy.is_empty() {
        return (0..list.len()).collect();
    }

    let time = |position: usize| list[group[position]].time;
    let newest = (0..group.len())
        .map(time)
        .filter(|t| nanos(*t) < nanos(now))
        .max();
    let younger = |position: usize, span: CalendarSpan| {
        newest.is_none_or(|newest| nanos(time(position)) > edge(newest, span))
    };
    // The first of its period among its group.
    let starts = |period: Period, position: usize| {
        position == 0
            || label(period, time(position), position)
                != label(period, time(position - 1), position - 1)
    };
    let oldest = |position: usize| position + 1 == group.len();

    let counted = [
        (Period::Last, policy.last),
        (Period::Hourly, policy.hourly),
        (Period::Daily, policy.daily),
        (Period::Weekly, policy.weekly),
        (Period::Monthly, policy.monthly),
        (Period::Yearly, policy.yearly),
    ];
    let spans = [
        (Period::Hourly, policy.within_hourly),
        (Period::Daily, policy.within_daily),
        (Period::Weekly, policy.within_weekly),
        (Period::Monthly, policy.within_monthly),
        (Period::Yearly, policy.within_yearly),
    ];
    for position in 0..group.len() {
        let snap = &list[group[position]];
        let by_count = counted.iter().any(|(period, count)| {
            let before = (0..position).filter(|p| starts(*period, *p)).count();
            let left = match count {
                Count::Unlimited => true,
                Count::Limit(n) => before < usize::try_from(*n).unwrap(),
            };
            left && (starts(*period, position) || oldest(position))
        });
        let by_span = spans.iter().any(|(period, span)| {
            !span.is_zero()
                && younger(position, *span)
                && (starts(*period, position) || oldest(position))
        });
        let within = !policy.within.is_zero() && younger(position, policy.within);
        let tagged = policy
            .tags
            .iter()
            .any(|tags| tags.iter().all(|tag| snap.tags.contains(tag)));
        if by_count || by_span || within || tagged {
            kept.insert(group[position]);
        }
    }
    kept.extend(group.iter().find(|i| list[**i].complete));
    kept
}

// ---- what is tried ----

/// Instants around which calendars do something: ends of years, ISO weeks and months, leap days.
const EDGES: [&str; 12] = [
    "2019-12-30T00:00:00Z",
    "2020-01-01T00:00:00Z",
    "2020-02-29T12:00:00Z",
    "2020-12-28T00:00:00Z",
    "2021-01-01T00:00:00Z",
    "2021-01-04T00:00:00Z",
    "2023-03-31T23:59:59Z",
    "2023-12-31T23:59:59Z",
    "2024-03-31T01:00:00Z",
    "2024-07-15T12:34:56Z",
    "2000-02-29T00:00:00Z",
    "1969-12-31T23:59:59Z",
];
const OFFSETS: [i32; 9] = [0, 0, 0, 3600, 7200, 20_700, -12_600, 50_400, -43_200];

fn any_time() -> impl Strategy<Value = Moment> {
    let near = (
        0..EDGES.len(),
        0..6u32,
        -100i64..100,
        prop_oneof![8 => Just(0u32), 1 => 0..1_000_000_000u32],
    );
    (near, prop::sample::select(OFFSETS.to_vec())).prop_map(
        |((edge, scale, steps, nanos), offset)| {
            let base: Moment = EDGES[edge].parse().unwrap();
            let step = [1, 600, 3600, 7200, 86_400, 20 * 86_400][scale as usize];
            Moment::from_parts(base.unix_seconds() + steps * step, nanos, offset).unwrap()
        },
    )
}

fn any_snap() -> impl Strategy<Value = Snap> {
    let tags = prop::collection::vec(
        prop::sample::select(vec!["a".to_owned(), "b".into(), "keep".into()]),
        0..3,
    );
    (any_time(), tags, prop::bool::weighted(0.8)).prop_map(|(time, tags, complete)| Snap {
        time,
        tags,
        complete,
    })
}

fn history() -> impl Strategy<Value = Vec<Snap>> {
    prop::collection::vec(any_snap(), 0..40)
}

fn plain_history() -> impl Strategy<Value = Vec<Snap>> {
    let snap = any_snap().prop_map(|snap| Snap {
        complete: true,
        ..snap
    });
    prop::collection::vec(snap, 0..40)
}

fn any_count() -> impl Strategy<Value = Count> {
    prop_oneof![
        5 => Just(Count::Limit(0)),
        4 => (1..8u32).prop_map(Count::Limit),
        1 => Just(Count::Unlimited),
        1 => any::<u32>().prop_map(Count::Limit),
    ]
}

fn any_span() -> impl Strategy<Value = CalendarSpan> {
    let small = (0..4u32, 0..14u32, 0..40u32, 0..50u32).prop_map(|(years, months, days, hours)| {
        CalendarSpan {
            years,
            months,
            days,
            hours,
        }
    });
    let one = (0..4usize, 1..15u32).prop_map(|(which, n)| {
        let n = |i| if i == which { n } else { 0 };
        CalendarSpan {
            years: n(0),
            months: n(1),
            days: n(2),
            hours: n(3),
        }
    });
    let any = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
        |(years, months, days, hours)| CalendarSpan {
            years,
            months,
            days,
            hours,
        },
    );
    prop_oneof![14 => Just(CalendarSpan::default()), 3 => small, 4 => one, 1 => any]
}

fn any_tags() -> impl Strategy<Value = Vec<Vec<String>>> {
    let tag = prop::sample::select(vec![
        "a".to_owned(),
        "b".into(),
        "keep".into(),
        "absent".into(),
    ]);
    prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(prop::collection::vec(tag, 0..3), 0..3)]
}

prop_compose! {
    fn any_policy()(
        counts in prop::array::uniform6(any_count()),
        spans in prop::array::uniform6(any_span()),
        tags in any_tags(),
    ) -> Policy {
        let [last, hourly, daily, weekly, monthly, yearly] = counts;
        let [within, within_hourly, within_daily, within_weekly, within_monthly, within_yearly] = spans;
        Policy {
            last, hourly, daily, weekly, monthly, yearly,
            within, within_hourly, within_daily, within_weekly, within_monthly, within_yearly, tags,
        }
    }
}

/// Mostly later than all, sometimes among them.
fn any_now() -> impl Strategy<Value = Moment> {
    prop_oneof![3 => Just("2031-01-01T00:00:00Z".parse().unwrap()), 1 => any_time()]
}

fn later() -> Moment {
    "2031-01-01T00:00:00Z".parse().unwrap()
}

fn kept(decisions: &[Decision]) -> BTreeSet<usize> {
    decisions
        .iter()
        .filter(|d| d.keep)
        .map(|d| d.index)
        .collect()
}

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases.max(1000),
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_decisions_are_those_of_the_model(policy in any_policy(), list in history(), now in any_now()) {
        let decisions = policy.apply(&list, now);
        prop_assert_eq!(kept(&decisions), model(&policy, &list, now));
        // One decision for each, newest first, with reasons exactly when kept.
        let indices: BTreeSet<usize> = decisions.iter().map(|d| d.index).collect();
        prop_assert_eq!(indices.len(), list.len());
        prop_assert!(decisions.windows(2).all(|w| list[w[0].index].time >= list[w[1].index].time));
        prop_assert!(decisions.iter().all(|d| d.keep != d.reasons.is_empty()));
    }

    #[test]
    fn the_newest_complete_always_stays(policy in any_policy(), list in history(), now in any_now()) {
        let decisions = policy.apply(&list, now);
        let newest = decisions.iter().find(|d| list[d.index].complete && !d.reasons.contains(&Reason::Future));
        prop_assert!(newest.is_none_or(|d| d.keep));
    }

    #[test]
    fn a_second_application_drops_nothing_more(policy in any_policy(), list in history(), now in any_now()) {
        let first = kept(&policy.apply(&list, now));
        let rest: Vec<Snap> = first.iter().map(|i| list[*i].clone()).collect();
        prop_assert_eq!(kept(&policy.apply(&rest, now)).len(), rest.len());
    }

    #[test]
    fn future_dates_change_nothing_for_the_others(
        policy in any_policy(),
        list in plain_history(),
        future in 1..i64::from(u32::MAX),
    ) {
        let now = later();
        let before = kept(&policy.apply(&list, now));
        let mut more = list.clone();
        let time = Moment::from_parts(now.unix_seconds() + 86_400 + future, 0, 0).unwrap();
        more.push(Snap { time, tags: vec![], complete: true });
        let mut after = kept(&policy.apply(&more, now));
        prop_assert!(after.remove(&list.len()));
        prop_assert_eq!(after, before);
    }

    #[test]
    fn partial_ones_are_judged_like_others_and_add_at_most_one(policy in any_policy(), list in history(), now in any_now()) {
        let plain: Vec<Snap> = list.iter().map(|s| Snap { complete: true, ..s.clone() }).collect();
        let rules_only = |d: &Decision| d.reasons.iter().any(|r| *r != Reason::NewestComplete);
        let by_rules = |list: &[Snap]| -> BTreeSet<usize> {
            policy.apply(list, now).iter().filter(|d| rules_only(d)).map(|d| d.index).collect()
        };
        prop_assert_eq!(by_rules(&list), by_rules(&plain));
        let added = policy.apply(&list, now).iter().filter(|d| d.keep && !rules_only(d)).count();
        prop_assert!(added <= 1);
    }

    #[test]
    fn our_additions_are_silent_without_future_dates_and_partial_ones(policy in any_policy(), list in plain_history()) {
        let ours = [Reason::NewestComplete, Reason::Future];
        let counts_or_spans = !Policy { tags: vec![], ..policy.clone() }.is_empty();
        let decisions = policy.apply(&list, later());
        let added = decisions.iter().any(|d| d.reasons.iter().any(|r| ours.contains(r)));
        prop_assert!(!(added && counts_or_spans));
    }

    #[test]
    fn counts_bound_what_is_kept(counts in prop::array::uniform6(0..5u32), list in plain_history()) {
        let [last, hourly, daily, weekly, monthly, yearly] = counts.map(Count::Limit);
        let policy = Policy { last, hourly, daily, weekly, monthly, yearly, ..Policy::default() };
        let sum: u32 = counts.iter().sum();
        if sum > 0 {
            prop_assert!(kept(&policy.apply(&list, later())).len() <= usize::try_from(sum).unwrap());
        }
    }

    #[test]
    fn now_does_not_matter_once_all_is_past(policy in any_policy(), list in history(), years in 0..7000i64) {
        let later = later();
        let much_later = Moment::from_parts(later.unix_seconds() + years * 31_556_952, 0, 3600).unwrap();
        prop_assert_eq!(policy.apply(&list, later), policy.apply(&list, much_later));
    }

    #[test]
    fn a_clock_before_all_keeps_all(policy in any_policy(), list in history()) {
        let now: Moment = "1900-01-01T00:00:00Z".parse().unwrap();
        prop_assert_eq!(kept(&policy.apply(&list, now)).len(), list.len());
    }

    #[test]
    fn policies_and_decisions_survive_json(policy in any_policy(), list in history(), now in any_now()) {
        let text = serde_json::to_string(&policy).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Policy>(&text).unwrap(), &policy);
        let decisions = policy.apply(&list, now);
        let text = serde_json::to_string(&decisions).unwrap();
        prop_assert_eq!(serde_json::from_str::<Vec<Decision>>(&text).unwrap(), decisions);
    }
}
