//! A reader of OpenMetrics 1.0 that refuses what the specification does not allow.
#![allow(dead_code, clippy::allow_attributes, reason = "each test reads a part of what is parsed")]

use std::collections::{BTreeMap, BTreeSet};

/// A metric family: its metadata, and its samples in their order.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) unit: Option<String>,
    pub(crate) help: Option<String>,
    pub(crate) samples: Vec<Sample>,
}

/// A line with a value.
#[derive(Debug)]
pub(crate) struct Sample {
    /// What follows the name of the family.
    pub(crate) suffix: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
    pub(crate) exemplar: Option<Exemplar>,
}

/// What follows a value after `#`.
#[derive(Debug)]
pub(crate) struct Exemplar {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
    /// Unix time in seconds.
    pub(crate) at: Option<f64>,
}

/// The families by name, or the line that is not allowed and why.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let body = text.strip_suffix("# EOF\n").ok_or("it does not end with # EOF")?;
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = None::<String>;
    for line in body.split_terminator('\n') {
        let refuse = |why: &str| format!("{why}: {line:?}");
        let Some(metadata) = line.strip_prefix("# ") else {
            let name = current.as_ref().ok_or_else(|| refuse("a sample before any family"))?;
            let family = families.get_mut(name).expect("it was put there");
            let sample = sample(line, name, family).map_err(|why| refuse(&why))?;
            family.samples.push(sample);
            continue;
        };
        let mut words = metadata.splitn(3, ' ');
        let mut word = || words.next().ok_or_else(|| refuse("no metadata"));
        let (keyword, name, value) = (word()?, word()?, word()?);
        if !is_name(name, true) {
            return Err(refuse("no name"));
        }
        if current.as_deref() != Some(name) {
            if families.insert(name.to_owned(), Family::default()).is_some() {
                return Err(refuse("a family that comes twice"));
            }
            current = Some(name.to_owned());
        }
        let family = families.get_mut(name).expect("it was put there");
        if !family.samples.is_empty() {
            return Err(refuse("metadata after samples"));
        }
        let twice = match keyword {
            "TYPE" => !std::mem::replace(&mut family.kind, value.to_owned()).is_empty(),
            "UNIT" if name.ends_with(&format!("_{value}")) => family.unit.replace(value.to_owned()).is_some(),
            "HELP" => family.help.replace(unescaped(value)?).is_some(),
            _ => return Err(refuse("no such metadata, or a unit that does not end the name")),
        };
        if twice {
            return Err(refuse("metadata that comes twice"));
        }
    }
    for (name, family) in &families {
        check(family).map_err(|why| format!("{why}: {name} {family:?}"))?;
    }
    Ok(families)
}

fn sample(line: &str, name: &str, family: &Family) -> Result<Sample, String> {
    let rest = line.strip_prefix(name).ok_or("a sample of another family")?;
    let end = rest.find(['{', ' ']).ok_or("no value")?;
    let (suffix, rest) = rest.split_at(end);
    let allowed: &[&str] = match family.kind.as_str() {
        "counter" => &["_total", "_created"],
        "histogram" => &["_bucket", "_count", "_sum", "_created"],
        "info" => &["_info"],
        "gauge" | "unknown" => &[""],
        _ => return Err("a family without a known type".to_owned()),
    };
    if !allowed.contains(&suffix) {
        return Err(format!("the suffix {suffix:?} of a {}", family.kind));
    }
    let (labels, rest) = labels(rest)?;
    let rest = rest.strip_prefix(' ').ok_or("no value")?;
    let (value, exemplar) = match rest.split_once(" # ") {
        None => (rest, None),
        Some(_) if !["_bucket", "_total"].contains(&suffix) => return Err("an exemplar here".to_owned()),
        Some((value, exemplar)) => (value, Some(exemplar)),
    };
    let exemplar = exemplar
        .map(|exemplar| {
            let (labels, rest) = labels_in(exemplar)?;
            let length: usize =
                labels.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum();
            if length > 128 {
                return Err("an exemplar of more than 128 characters".to_owned());
            }
            let rest = rest.strip_prefix(' ').ok_or("no value of the exemplar")?;
            let (value, at) = rest.split_once(' ').map_or((rest, None), |(value, at)| (value, Some(at)));
            let at = at.map(number).transpose()?;
            Ok(Exemplar { labels, value: number(value)?, at })
        })
        .transpose()?;
    Ok(Sample { suffix: suffix.to_owned(), labels, value: number(value)?, exemplar })
}

fn labels(text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    if text.starts_with('{') { labels_in(text) } else { Ok((BTreeMap::new(), text)) }
}

/// `{name="value",..}`, and what follows.
fn labels_in(text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut rest = text.strip_prefix('{').ok_or("no labels")?;
    let mut labels = BTreeMap::new();
    while !rest.starts_with('}') {
        let (name, after) = rest.split_once("=\"").ok_or("no label")?;
        let mut escaped = false;
        let end = after.find(|char| {
            let is_end = char == '"' && !escaped;
            escaped = char == '\\' && !escaped;
            is_end
        });
        let (value, after) = after.split_at(end.ok_or("a value without an end")?);
        if !is_name(name, false) || labels.insert(name.to_owned(), unescaped(value)?).is_some() {
            return Err(format!("the label {name:?}"));
        }
        rest = &after[1..];
        match rest.strip_prefix(',') {
            Some(more) if more.starts_with(|char: char| char != '}') => rest = more,
            None if rest.starts_with('}') => {}
            _ => return Err("labels without an end".to_owned()),
        }
    }
    Ok((labels, &rest[1..]))
}

fn is_name(name: &str, colons: bool) -> bool {
    let is_char = |char: char| char.is_ascii_alphanumeric() || char == '_' || colons && char == ':';
    name.chars().all(is_char) && name.starts_with(|char: char| !char.is_ascii_digit())
}

fn unescaped(text: &str) -> Result<String, String> {
    let (mut plain, mut chars) = (String::new(), text.chars());
    while let Some(char) = chars.next() {
        plain.push(match char {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some(char @ ('\\' | '"')) => char,
                other => return Err(format!("the escape {other:?}")),
            },
            '"' | '\n' => return Err(format!("{char:?} unescaped")),
            char => char,
        });
    }
    Ok(plain)
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ if text.starts_with(|char: char| char.is_ascii_digit() || char == '-') => {
            text.parse().map_err(|_| format!("the number {text:?}"))
        }
        _ => Err(format!("the number {text:?}")),
    }
}

/// What a family's samples are to each other.
fn check(family: &Family) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for sample in &family.samples {
        if !seen.insert((&sample.suffix, &sample.labels)) {
            return Err(format!("a series that comes twice: {sample:?}"));
        }
        let counts = ["_total", "_bucket", "_count"].contains(&&*sample.suffix);
        if counts && (sample.value.is_nan() || sample.value < 0.0) {
            return Err(format!("no count: {sample:?}"));
        }
    }
    if family.kind != "histogram" {
        return Ok(());
    }
    // The samples of one series stand together: buckets upwards, then the rest.
    let mut rest = family.samples.as_slice();
    while let Some(first) = rest.first() {
        let mut own = first.labels.clone();
        own.remove("le").ok_or("a histogram that does not begin with a bucket")?;
        let same = |sample: &&Sample| {
            let mut labels = sample.labels.clone();
            labels.remove("le");
            labels == own
        };
        let (series, others) = rest.split_at(rest.iter().take_while(same).count());
        rest = others;
        let mut below = (f64::NEG_INFINITY, 0.0);
        for bucket in series.iter().filter(|sample| sample.suffix == "_bucket") {
            let bound = number(bucket.labels.get("le").ok_or("a bucket without a bound")?)?;
            let (outside, empty) = (below.0, below.1 == bucket.value);
            if bound <= below.0 || bucket.value < below.1 {
                return Err(format!("buckets that do not grow: {bucket:?}"));
            }
            let fits = |exemplar: &Exemplar| outside < exemplar.value && exemplar.value <= bound && !empty;
            if !bucket.exemplar.as_ref().is_none_or(fits) {
                return Err(format!("an exemplar of another bucket: {bucket:?}"));
            }
            below = (bound, bucket.value);
        }
        let of = |suffix| series.iter().find(|sample| sample.suffix == suffix);
        let count = of("_count").ok_or("no count")?.value;
        of("_sum").ok_or("no sum")?;
        if below != (f64::INFINITY, count) {
            return Err(format!("{below:?} is not the count {count}"));
        }
    }
    Ok(())
}
