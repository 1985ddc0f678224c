//! The rules for the fields of a cron expression. croner accepts more, and reads some of it in another way, or ignores it. Its
//! errors do not say what to write.
//!
//! A field is a list of parts with `,` between them: `*`, a value, a range `a-b`, either of the two with a step `/n`. In days of the month
//! also `L`, `LW` and `15W`; in days of the week `5L` and `5#2`. `?` is `*` in both. A `+` before the days of the week asks for both
//! fields of days together.

/// A field: its name, and from where to where its values go.
struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    names: &'static [&'static str],
    /// The field of days, if it is one.
    days: Option<Days>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Days {
    OfMonth,
    OfWeek,
}

const FIELDS: [Field; 7] = [
    Field { name: "seconds", first: 0, last: 59, names: &[], days: None },
    Field { name: "minutes", first: 0, last: 59, names: &[], days: None },
    Field { name: "hours", first: 0, last: 23, names: &[], days: None },
    Field { name: "days of the month", first: 1, last: 31, names: &[], days: Some(Days::OfMonth) },
    Field {
        name: "months",
        first: 1,
        last: 12,
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
        days: None,
    },
    Field {
        name: "days of the week",
        first: 0,
        last: 7,
        names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
        days: Some(Days::OfWeek),
    },
    Field { name: "years", first: 1, last: 5000, names: &[], days: None },
];

/// The first part of an expression that cannot mean what it says: its position, in bytes, and the reason.
pub(super) fn wrong_part(expression: &str) -> Option<(usize, String)> {
    let position = |part: &str| part.as_ptr() as usize - expression.as_ptr() as usize;
    let fields: Vec<&str> = expression.split_whitespace().collect();
    let first = *fields.first()?;
    if first.starts_with('@') {
        return nickname(first, fields.len()).map(|reason| (position(first), reason));
    }
    let skipped = match fields.len() {
        5 => 1,
        6 | 7 => 0,
        _ => return None,
    };
    let mut days = [None; 2];
    for (text, field) in fields.into_iter().zip(&FIELDS[skipped..]) {
        let text = match field.days {
            Some(Days::OfWeek) => text.strip_prefix('+').unwrap_or(text),
            _ => text,
        };
        if let Some(wrong) = text.split(',').find_map(|part| Some((position(part), field.wrong(part)?))) {
            return Some(wrong);
        }
        if let Some((part, reason)) = together(text) {
            return Some((position(part), reason));
        }
        match field.days {
            Some(Days::OfMonth) => days[0] = Some(text),
            Some(Days::OfWeek) => days[1] = Some(text),
            None => {}
        }
    }
    let [Some(of_month), Some(of_week)] = days else { return None };
    let is_joined = position(of_week) > 0 && expression.as_bytes()[position(of_week) - 1] == b'+';
    if is_joined { None } else { ambiguous(of_month, of_week).map(|(part, reason)| (position(part), reason)) }
}

/// Returns the problem of a list whose parts are valid.
fn together(text: &str) -> Option<(&str, String)> {
    let mut parts = text.split(',');
    if let Some(star) = parts.clone().find(|part| matches!(*part, "*" | "?")).filter(|star| *star != text) {
        return Some((star, "everything is in it: write the star alone".to_owned()));
    }
    let last = parts.clone().any(|part| part.eq_ignore_ascii_case("L"));
    let of_work = parts.find(|part| part.eq_ignore_ascii_case("LW")).filter(|_| last)?;
    Some((of_work, "L and LW do not go together in one field".to_owned()))
}

/// Returns the problem of two fields of days if one of them is a pattern that begins with a star. For cron and cronie both must match
/// then: they read the first character (`DOM_STAR` in `entry.c`). For croner, Quartz and Kubernetes (robfig/cron) either is enough.
fn ambiguous<'a>(of_month: &'a str, of_week: &'a str) -> Option<(&'a str, String)> {
    let is_star = |text: &str| text == "*" || text == "?";
    if is_star(of_month) || is_star(of_week) {
        return None;
    }
    let begins = |text: &str| text.starts_with(['*', '?']);
    let (part, range) = match (begins(of_month), begins(of_week)) {
        (true, _) => (of_month, "1-31"),
        (_, true) => (of_week, "0-6"),
        _ => return None,
    };
    let named = part.replacen(['*', '?'], range, 1);
    Some((
        part,
        format!(
            "cron takes it and the other field of days together, and others take either: write +{of_week} as the days of the week for \
             both, or {named} for either"
        ),
    ))
}

fn nickname(first: &str, words: usize) -> Option<String> {
    let name = first.to_ascii_lowercase();
    match name.as_str() {
        "@reboot" => Some("a loop that runs once when it begins is `every` with a count of 1".to_owned()),
        "@every" => Some("an interval is no cron expression: use `every`, as in `every 5m`".to_owned()),
        _ if words > 1 => Some(format!("{first} must be the only word")),
        _ => None,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl Field {
    fn range(&self) -> String {
        format!("the {} go from {} to {}", self.name, self.first, self.last)
    }

    /// Returns the distance from the first to the last value. Sunday is 0 and 7.
    fn span(&self) -> u32 {
        if self.last == 7 { 6 } else { self.last - self.first }
    }

    /// A number or a name; `None` for anything else.
    fn value(&self, text: &str) -> Option<Result<u32, String>> {
        if let Some(index) = self.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            return Some(Ok(self.first + u32::try_from(index).ok()?));
        }
        let begins = |name: &&&str| {
            text.len() > 3 && text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(name))
        };
        let is_word = text.bytes().all(|byte| byte.is_ascii_alphabetic());
        if let Some(name) = self.names.iter().find(begins).filter(|_| is_word) {
            return Some(Err(format!("names have three letters: write {name}")));
        }
        if !is_number(text) {
            return None;
        }
        let number = text.parse().unwrap_or(u32::MAX);
        let is_within = (self.first..=self.last).contains(&number);
        Some(if is_within {
            Ok(number)
        } else {
            Err(format!("{text} is too much or too little: {}", self.range()))
        })
    }

    /// Returns the problem of a part of the field.
    fn wrong(&self, part: &str) -> Option<String> {
        if part.is_empty() {
            return Some("there is nothing on one side of a comma".to_owned());
        }
        if let Some(wrong) = self.modified(part) {
            return wrong;
        }
        let (base, step) = match part.split_once('/') {
            Some((base, step)) => (base, Some(step)),
            None => (part, None),
        };
        let value = |text| self.value(text).unwrap_or_else(|| Err(self.no_value(part)));
        let is_star = base == "*" || base == "?" && self.days.is_some();
        let (span, is_single) = match base.split_once('-') {
            _ if is_star => (self.span(), false),
            Some((from, to)) => match (value(from), value(to)) {
                (Err(reason), _) | (_, Err(reason)) => return Some(reason),
                (Ok(first), Ok(last)) if first > last => return Some(self.wraps(from, to)),
                (Ok(first), Ok(last)) => ((last - first).min(self.span()), false),
            },
            None => match value(base) {
                Err(reason) => return Some(reason),
                Ok(_) => (0, true),
            },
        };
        let step = step?;
        if is_single {
            return Some(format!("a step needs a range: write {base}-{}/{step}", self.last));
        }
        if !is_number(step) {
            return Some(format!("{part} has no number as its step"));
        }
        let steps: u32 = step.parse().unwrap_or(u32::MAX);
        (steps == 0 || steps > span)
            .then(|| format!("a step of {step} leads from no value to another: {}", self.range()))
    }

    /// Returns the problem of a part with `L`, `W` or `#`; `None` for any other part.
    fn modified(&self, part: &str) -> Option<Option<String>> {
        let upper = part.to_ascii_uppercase();
        let alone = |text: &str, written: &str| match self.value(text) {
            Some(Ok(_)) => None,
            Some(Err(reason)) => Some(reason),
            None => Some(format!("{part} has to be one day and {written}")),
        };
        match self.days {
            Some(Days::OfMonth) if upper == "L" || upper == "LW" => Some(None),
            Some(Days::OfMonth) if upper.ends_with('W') => {
                Some(alone(&part[..part.len() - 1], "W, such as 15W"))
            }
            Some(Days::OfWeek) if upper == "L" => Some(Some(
                "L alone is no day of the week: write SAT, or 6L for the last one of a month".to_owned(),
            )),
            Some(Days::OfWeek) if upper.ends_with('L') => {
                let day = part[..part.len() - 1].trim_end_matches('#');
                Some(alone(day, "L, such as 5L"))
            }
            Some(Days::OfWeek) => part.split_once('#').map(|(day, nth)| {
                let is_nth = matches!(nth, "1" | "2" | "3" | "4" | "5");
                alone(day, "a number, such as 5#2")
                    .or_else(|| (!is_nth).then(|| format!("{part} has to end with a number from 1 to 5")))
            }),
            _ => None,
        }
    }

    fn no_value(&self, part: &str) -> String {
        match self.names {
            [] => format!("{part} is no value and no range: {}", self.range()),
            [first, ..] => {
                format!("{part} is no value and no range: {}, or have names such as {first}", self.range())
            }
        }
    }

    fn wraps(&self, from: &str, to: &str) -> String {
        let (first, last) = match self.names {
            [] => (self.first.to_string(), self.last.to_string()),
            [first, .., last] if from.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
                ((*first).to_owned(), (*last).to_owned())
            }
            _ => (self.first.to_string(), (self.first + self.span()).to_string()),
        };
        let part = |from: &str, to: &str| if from == to { from.to_owned() } else { format!("{from}-{to}") };
        format!("a range ends after it begins: write {},{}", part(from, &last), part(&first, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_days_that_begins_with_a_star_is_no_star_beside_another() {
        for (text, at, both, either) in [
            ("0 0 */2 * MON", 4, "write +MON", "1-31/2"),
            ("0 0 13 * */2", 9, "write +*/2", "0-6/2"),
            ("0 0 ?/2 * MON", 4, "write +MON", "1-31/2"),
        ] {
            let (position, reason) = wrong_part(text).expect(text);
            assert!(
                position == at && reason.contains(both) && reason.contains(either),
                "{text}: {position} {reason}"
            );
        }
    }

    #[test]
    fn every_field_refuses_a_step_that_leads_nowhere() {
        for (index, field) in FIELDS.iter().enumerate() {
            let with = |part: String| {
                let mut fields = ["*"; 7].map(str::to_owned);
                fields[index] = part;
                wrong_part(&fields.join(" "))
            };
            let span = field.span();
            assert_eq!(with(format!("*/{span}")), None, "{}", field.name);
            let (position, reason) = with(format!("*/{}", span + 1)).expect(field.name);
            assert_eq!(position, index * 2);
            assert!(reason.contains(&field.range()), "{reason}");
            let (first, last) = (field.first, field.first + span);
            assert_eq!(with(format!("{first}-{last}/{span}")), None);
            assert!(with(format!("{first}-{last}/{}", span + 1)).is_some());
            assert!(with("*/0".to_owned()).is_some());
            assert!(with((field.last + 1).to_string()).is_some());
            assert_eq!(with(field.last.to_string()), None);
            assert_eq!(with(format!("{},{}", field.first, field.last)), None);
        }
    }

    #[test]
    fn common_mistakes_are_refused_with_a_correction() {
        for (text, at, write) in [
            ("1/10 * * * * *", 0, "write 1-59/10"),
            ("0 22-2 * * *", 2, "write 22-23,0-2"),
            ("0 0 * * FRI-MON", 8, "write FRI-SAT,SUN-MON"),
            ("0 0 * * 5-1", 8, "write 5-6,0-1"),
            ("0 0 * * SAT-SUN", 8, "write SAT,SUN"),
            ("0 0 * NOV-FEB *", 6, "write NOV-DEC,JAN-FEB"),
            ("0 0 * * MON,Tuesday", 12, "write TUE"),
            ("0 0 * March *", 6, "write MAR"),
            ("@reboot", 0, "count of 1"),
            ("@every 5m", 0, "`every 5m`"),
            ("@daily now", 0, "must be the only word"),
            ("5,,10 * * * *", 2, "nothing on one side"),
            (",5 * * * *", 0, "nothing on one side"),
            ("0 0 * * MON,", 12, "nothing on one side"),
            ("0 0 * * L", 8, "write SAT, or 6L"),
            ("0 0 * * MON,L", 12, "write SAT, or 6L"),
            ("0 0 * * 0-7/7", 8, "leads from no value to another"),
            ("0 0 * * +*/7", 9, "leads from no value to another"),
            ("0 0 * * +Monday", 9, "write MON"),
            ("0 0 * * MON-FRI#2", 8, "one day"),
            ("0 0 * * 1-5L", 8, "one day"),
            ("0 0 * * */2#1", 8, "one day"),
            ("0 0 * * 1#2/3", 8, "from 1 to 5"),
            ("0 0 * * 8#2", 8, "8 is too much"),
            ("0 0 * * FRI#6", 8, "from 1 to 5"),
            ("0 0 * * FRI#+2", 8, "from 1 to 5"),
            ("0 0 1-15W * *", 4, "one day"),
            ("0 0 32W * *", 4, "32 is too much"),
            ("0 0 L-3 * *", 4, "no value and no range"),
            ("0 0 W * *", 4, "one day"),
            ("*/+5 * * * *", 0, "no number as its step"),
            ("+5 * * * *", 0, "no value and no range"),
            ("5- * * * *", 0, "no value and no range"),
            ("0 ? * * *", 2, "no value and no range"),
            ("0 MON * * *", 2, "no value and no range"),
            ("0 0 * MON *", 6, "no value and no range"),
            ("0 0 * * MAR", 8, "no value and no range"),
            ("0 0 * JAN0 *", 6, "no value and no range"),
            ("0 0 * * fr\u{131}", 8, "no value and no range"),
            ("*,5 * * * *", 0, "the star alone"),
            ("0 0 L,LW * *", 6, "L and LW"),
        ] {
            let (position, reason) = wrong_part(text).expect(text);
            assert!(position == at && reason.contains(write), "{text}: {position} {reason}");
        }
        for text in [
            "0 0 * * MON#2",
            "0 0 L * *",
            "0 0 15W * *",
            "0 9 * * 5L",
            "@daily",
            "0 0 1,15-20/5 * 1-5",
            "0 0 ? * MON",
            "0 0 * * fri#l",
            "0 0 lw * *",
            "0 0 L,15W * *",
            "0 0 13 * +FRI",
            "0 0 * * 0-7",
            "0 0 */2 * +MON",
            "0 0 1-31/2 * MON",
            "0 0 */2 * ?",
        ] {
            assert_eq!(wrong_part(text), None, "{text}");
        }
    }
}
