//! Prometheus' names for instruments and attributes, by OpenTelemetry's rules of compatibility:
//! <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>.

use std::borrow::Cow;

/// The words for UCUM's units of time.
const TIMES: &[(&str, &str)] = &[
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
];

/// The words for the other units.
const UNITS: &[(&str, &str)] = &[
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("B", "bytes"),
    ("KB", "kilobytes"),
    ("MB", "megabytes"),
    ("GB", "gigabytes"),
    ("TB", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("1", "ratio"),
    ("%", "percent"),
];

/// The words after `per`.
const PER: &[(&str, &str)] = &[
    ("s", "second"),
    ("m", "minute"),
    ("h", "hour"),
    ("d", "day"),
    ("w", "week"),
    ("mo", "month"),
    ("y", "year"),
];

fn find(words: &[(&str, &'static str)], unit: &str) -> Option<&'static str> {
    words.iter().find(|(ucum, _)| *ucum == unit).map(|(_, word)| *word)
}

/// Returns the word of a unit that is no rate. Annotations such as `{run}` have none.
pub(super) fn unit(unit: &str) -> Option<&'static str> {
    find(TIMES, unit).or_else(|| find(UNITS, unit))
}

/// Returns the words of a rate: `m/s` is `meters_per_second`. A count or a time per time has the second word only.
fn rate(unit: &str) -> Option<String> {
    let (of, per) = unit.split_once('/')?;
    let per = find(PER, per)?;
    Some(match find(UNITS, of).filter(|_| of != "1") {
        Some(of) => format!("{of}_per_{per}"),
        None => format!("per_{per}"),
    })
}

/// Returns the name of the family of an instrument, without the suffix of counters.
pub(super) fn family(name: &str, of: &str) -> String {
    let mut family = String::with_capacity(name.len() + 16);
    if name.starts_with(|first: char| first.is_ascii_digit()) {
        family.push('_');
    }
    let allowed = |letter: char| if letter.is_ascii_alphanumeric() || letter == ':' { letter } else { '_' };
    family.extend(name.chars().map(allowed));
    if let Some(word) = unit(of).map(Cow::from).or_else(|| rate(of).map(Cow::from)) {
        family.push('_');
        family.push_str(&word);
    }
    family
}

/// Returns the name of the label of an attribute.
pub(super) fn label(key: &str) -> String {
    let prefix = match key.chars().next() {
        None => "_",
        Some(first) if first.is_ascii_digit() => "_",
        Some(_) => "",
    };
    let letters = key.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' });
    prefix.chars().chain(letters).collect()
}
