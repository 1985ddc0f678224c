//! What people write into the fields of a cron expression that croner reads as something else, or refuses without saying what to write.

/// A field: its name, and from where to where its values go.
struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 7] = [
    Field { name: "seconds", first: 0, last: 59, names: &[] },
    Field { name: "minutes", first: 0, last: 59, names: &[] },
    Field { name: "hours", first: 0, last: 23, names: &[] },
    Field { name: "days of the month", first: 1, last: 31, names: &[] },
    Field {
        name: "months",
        first: 1,
        last: 12,
        names: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
    },
    Field {
        name: "days of the week",
        first: 0,
        last: 7,
        names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    },
    Field { name: "years", first: 1, last: 5000, names: &[] },
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
    fields
        .into_iter()
        .zip(&FIELDS[skipped..])
        .find_map(|(text, field)| text.split(',').find_map(|part| Some((position(part), field.wrong(part)?))))
}

fn nickname(first: &str, words: usize) -> Option<String> {
    let name = first.to_ascii_lowercase();
    match name.as_str() {
        "@reboot" => Some("a loop that runs once when it begins is `every` with a count of 1".to_owned()),
        "@every" => Some("an interval is no cron expression: use `every`, as in `every 5m`".to_owned()),
        _ if words > 1 => Some(format!("{first} stands alone")),
        _ => None,
    }
}

impl Field {
    fn range(&self) -> String {
        format!("the {} go from {} to {}", self.name, self.first, self.last)
    }

    /// How far the first and the last value lie apart. Sunday is 0 and 7.
    fn span(&self) -> u32 {
        if self.last == 7 { 6 } else { self.last - self.first }
    }

    /// A number or a name; `None` for anything else, which is croner's to judge.
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
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
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

    /// What is wrong with a value, a range or a step of the field.
    fn wrong(&self, part: &str) -> Option<String> {
        let (base, step) = match part.split_once('/') {
            Some((base, step)) => (base, Some(step)),
            None => (part, None),
        };
        let (span, is_single) = match base.split_once('-') {
            _ if base == "*" || base == "?" => (self.span(), false),
            Some((from, to)) => match (self.value(from)?, self.value(to)?) {
                (Err(reason), _) | (_, Err(reason)) => return Some(reason),
                (Ok(first), Ok(last)) if first > last => return Some(self.wraps(from, to)),
                (Ok(first), Ok(last)) => (last - first, false),
            },
            None => match self.value(base)? {
                Err(reason) => return Some(reason),
                Ok(_) => (0, true),
            },
        };
        let step = step?;
        if is_single {
            return Some(format!("a step needs a range: write {base}-{}/{step}", self.last));
        }
        let steps: u32 = step.parse().ok()?;
        (steps == 0 || steps > span)
            .then(|| format!("a step of {step} leads from no value to another: {}", self.range()))
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
    fn what_people_paste_is_refused_with_what_to_write() {
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
            ("@daily now", 0, "stands alone"),
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
        ] {
            assert_eq!(wrong_part(text), None, "{text}");
        }
    }
}
