//! Cron expressions beside what they mean, minute by minute and without croner.

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use otel_tasks::{Schedule, schedule::ScheduleError};
use proptest::prelude::*;

use super::at;

/// A part of a field.
#[derive(Debug, Clone)]
enum Part {
    Star,
    Value(u32),
    Range(u32, u32),
    Step(u32, u32, u32),
    StarStep(u32),
    /// `L`, `LW`, `15W`.
    LastDay,
    LastWorkday,
    Workday(u32),
    /// `5L`, `5#2`.
    LastOf(u32),
    Nth(u32, u32),
}

use Part::{LastDay, LastOf, LastWorkday, Nth, Range, Star, StarStep, Step, Value, Workday};

#[derive(Debug, Clone)]
struct Field {
    parts: Vec<Part>,
    first: u32,
    last: u32,
}

impl Field {
    fn text(&self) -> String {
        let text = |part: &Part| match part {
            Star => "*".to_owned(),
            Value(value) => value.to_string(),
            Range(from, to) => format!("{from}-{to}"),
            Step(from, to, step) => format!("{from}-{to}/{step}"),
            StarStep(step) => format!("*/{step}"),
            LastDay => "L".to_owned(),
            LastWorkday => "LW".to_owned(),
            Workday(day) => format!("{day}W"),
            LastOf(day) => format!("{day}L"),
            Nth(day, nth) => format!("{day}#{nth}"),
        };
        self.parts.iter().map(text).collect::<Vec<_>>().join(",")
    }

    fn is_star(&self) -> bool {
        matches!(self.parts[..], [Star])
    }

    /// Whether a number is one of its values.
    fn has(&self, number: u32) -> bool {
        self.parts.iter().any(|part| match *part {
            Star => true,
            Value(value) => number == value,
            Range(from, to) => (from..=to).contains(&number),
            Step(from, to, step) => (from..=to).contains(&number) && (number - from) % step == 0,
            StarStep(step) => (self.first..=self.last).contains(&number) && (number - self.first) % step == 0,
            _ => false,
        })
    }

    fn has_day(&self, date: Date) -> bool {
        let is_workday = |date: Date| date.weekday().to_monday_one_offset() <= 5;
        let day = date.day() as u32;
        self.has(day)
            || self.parts.iter().any(|part| match *part {
                LastDay => date == date.last_of_month(),
                LastWorkday => {
                    let days = (1..=date.days_in_month()).rev();
                    let mut days = days.map(|day| Date::new(date.year(), date.month(), day).unwrap());
                    days.find(|day| is_workday(*day)) == Some(date)
                }
                // The workday of the month that is nearest; of two the one before.
                Workday(wished) if wished <= date.days_in_month() as u32 => {
                    let days = (1..=date.days_in_month())
                        .map(|day| Date::new(date.year(), date.month(), day).unwrap());
                    let distance = |date: &Date| (date.day() as u32).abs_diff(wished);
                    let nearest = days.filter(|day| is_workday(*day)).min_by_key(distance);
                    nearest == Some(date)
                }
                _ => false,
            })
    }

    fn has_weekday(&self, date: Date) -> bool {
        let weekday = date.weekday().to_sunday_zero_offset() as u32;
        let day = date.day() as u32;
        let is = |number: u32| number % 7 == weekday;
        self.has(weekday)
            || weekday == 0 && self.has(7)
            || self.parts.iter().any(|part| match *part {
                LastOf(number) => is(number) && day + 7 > date.days_in_month() as u32,
                Nth(number, nth) => is(number) && (day - 1) / 7 + 1 == nth,
                _ => false,
            })
    }
}

fn part(first: u32, last: u32, span: u32) -> impl Strategy<Value = Part> {
    let two = (first..last).prop_flat_map(move |from| (Just(from), from + 1..=last));
    prop_oneof![
        3 => (first..=last).prop_map(Value),
        2 => two.clone().prop_map(|(from, to)| Range(from, to)),
        2 => (two, any::<prop::sample::Index>()).prop_map(move |((from, to), step)| {
            Step(from, to, 1 + step.index((to - from).min(span) as usize) as u32)
        }),
        1 => (1..=span).prop_map(StarStep),
    ]
}

fn field(first: u32, last: u32) -> impl Strategy<Value = Field> {
    let span = if last == 7 { 6 } else { last - first };
    let parts = prop_oneof![
        2 => Just(vec![Star]),
        3 => prop::collection::vec(part(first, last, span), 1..4),
    ];
    parts.prop_map(move |parts| Field { parts, first, last })
}

fn days_of_month() -> impl Strategy<Value = Field> {
    let special = prop_oneof![
        Just(vec![LastDay]),
        Just(vec![LastWorkday]),
        (1_u32..=31).prop_map(|day| vec![Workday(day)])
    ];
    prop_oneof![
        3 => field(1, 31),
        1 => (special, prop::collection::vec(part(1, 31, 30), 0..2)).prop_map(|(mut parts, others)| {
            parts.extend(others);
            Field { parts, first: 1, last: 31 }
        }),
    ]
}

fn days_of_week() -> impl Strategy<Value = Field> {
    let special = prop_oneof![
        (0_u32..=7).prop_map(LastOf),
        (0_u32..=7, 1_u32..=5).prop_map(|(day, nth)| Nth(day, nth))
    ];
    prop_oneof![
        3 => field(0, 7),
        1 => (special, prop::collection::vec(part(0, 7, 6), 0..2)).prop_map(|(first, others)| {
            Field { parts: [vec![first], others].concat(), first: 0, last: 7 }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn expression_is_due_when_its_fields_match(
        minutes in field(0, 59),
        hours in field(0, 23),
        of_month in days_of_month(),
        months in field(1, 12),
        of_week in days_of_week(),
        both in any::<bool>(),
        from in 0_u64..10 * 365,
    ) {
        let plus = if both { "+" } else { "" };
        let text = format!(
            "{} {} {} {} {plus}{}",
            minutes.text(), hours.text(), of_month.text(), months.text(), of_week.text()
        );
        let begins_with_star = |field: &Field| matches!(field.parts[0], StarStep(_));
        let schedule = Schedule::cron(&text, "UTC");
        let is_ambiguous = !both
            && !of_month.is_star()
            && !of_week.is_star()
            && (begins_with_star(&of_month) || begins_with_star(&of_week));
        if is_ambiguous {
            let refused = matches!(schedule.check(), Err(ScheduleError::Cron { .. }));
            prop_assert!(refused, "{text}");
            return Ok(());
        }
        let begin = at("2020-01-01T00:00:00Z") + std::time::Duration::from_secs(from * 86_400);
        let first_day = TimeZone::UTC.to_datetime(Timestamp::try_from(begin).unwrap()).date();
        let is_day = |date: Date| {
            let (of_month_says, of_week_says) = (of_month.has_day(date), of_week.has_weekday(date));
            let days = if of_month.is_star() {
                of_week_says
            } else if of_week.is_star() {
                of_month_says
            } else if both {
                of_month_says && of_week_says
            } else {
                of_month_says || of_week_says
            };
            days && months.has(date.month() as u32)
        };
        let times = (0..800).map(|day| first_day.checked_add(day.days()).unwrap()).filter(|date| is_day(*date));
        let minutes_of = |date: Date| {
            let of_day = (0..24 * 60).filter(|minute| hours.has(minute / 60) && minutes.has(minute % 60));
            of_day.map(move |minute| {
                date.at((minute / 60) as i8, (minute % 60) as i8, 0, 0)
            }).collect::<Vec<_>>()
        };
        let expected: Vec<_> = times.flat_map(minutes_of).take(300).collect();
        match schedule.check() {
            Ok(()) => {}
            Err(ScheduleError::NeverFires { .. }) => {
                prop_assert!(expected.is_empty(), "{text}: {:?}", expected[0]);
                return Ok(());
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
        let shown = |time| TimeZone::UTC.to_datetime(Timestamp::try_from(time).unwrap());
        let found: Vec<_> = schedule.upcoming(begin).take(expected.len()).map(shown).collect();
        prop_assert_eq!(found, expected, "{}", text);
    }
}
