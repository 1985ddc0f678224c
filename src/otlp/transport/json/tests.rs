use proptest::prelude::*;
use serde_json::Value;

use super::Json;

/// A value of serde_json, as far as [`Json`] has it.
fn expected(value: Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Number(number) => number.as_i64().map_or(Json::Other, Json::Integer),
        Value::String(text) => Json::Text(text),
        Value::Object(fields) => {
            Json::Object(fields.into_iter().map(|(name, value)| (name, expected(value))).collect())
        }
        Value::Bool(_) | Value::Array(_) => Json::Other,
    }
}

fn is_same(ours: &Json, theirs: &Json) -> bool {
    match (ours, theirs) {
        (Json::Null, Json::Null) | (Json::Other, Json::Other) => true,
        (Json::Integer(ours), Json::Integer(theirs)) => ours == theirs,
        (Json::Text(ours), Json::Text(theirs)) => ours == theirs,
        (Json::Object(ours_all), Json::Object(theirs)) => {
            ours_all.iter().all(|(name, _)| theirs.iter().any(|(other, _)| name == other))
                && theirs.iter().all(|(name, value)| is_same(ours.field(&[name]), value))
        }
        _ => false,
    }
}

fn reads_as_serde_json_does(text: &str) {
    match (Json::read(text.as_bytes()), serde_json::from_str(text)) {
        (Some(ours), Ok(theirs)) => assert!(is_same(&ours, &expected(theirs)), "{text}"),
        (None, Err(_)) => {}
        (ours, theirs) => panic!("{text}: {} and {theirs:?}", ours.is_some()),
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Parts of JSON in any order: few of these texts are JSON.
fn scraps() -> impl Strategy<Value = String> {
    let scrap = prop::sample::select(vec![
        "{", "}", "[", "]", ",", ":", " ", "\n", "\"a\"", "\"", "\\", "\\u0041", "\\ud83d", "\\ude00", "\\n",
        "\\x", "null", "true", "false", "0", "1", "23", "-1", ".5", "e3", "E-1", "+", "\u{e9}", "\u{1}",
        "nul",
    ]);
    prop::collection::vec(scrap, 0..7).prop_map(|scraps| scraps.concat())
}

proptest! {
    #[test]
    fn a_value_is_read_as_by_serde_json(value in values()) {
        reads_as_serde_json_does(&value.to_string());
        reads_as_serde_json_does(&format!("{value:#}\n"));
    }

    #[test]
    fn what_is_no_json_is_refused_as_by_serde_json(text in scraps()) {
        reads_as_serde_json_does(&text);
        reads_as_serde_json_does(&format!("[{text}]"));
        reads_as_serde_json_does(&format!("\"{text}\""));
        reads_as_serde_json_does(&format!("{{\"a\":{text}}}"));
    }
}

#[test]
fn rare_forms_are_read_as_by_serde_json() {
    for text in [
        "",
        "  ",
        "1 2",
        "01",
        "-",
        "1.",
        "1.5",
        "1e2",
        "1e+2",
        "1e308",
        "1e309",
        "-1e323",
        "1e-400",
        "2.5e308",
        &"9".repeat(309),
        &"9".repeat(310),
        "-5",
        "9223372036854775808",
        "-9223372036854775808",
        r#""\u00e9""#,
        r#""\ud83d\ude00""#,
        r#""\ud83d""#,
        r#""\ude00""#,
        r#""\ud83d\u0041""#,
        r#""\u+041""#,
        r#""\u00e""#,
        r#""\"#,
        "\"\u{1f}\"",
        "\"\u{7f}\"",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1,}",
        "[1,]",
        "{a:1}",
        "\u{feff}{}",
        "tru",
        "nulll",
        "{\"a\" : [ ] , \"b\" : { } }",
        r#""\b\f\n\r\t\/\\\"""#,
    ] {
        reads_as_serde_json_does(text);
    }
    assert!(Json::read(b"\"\xff\"").is_none(), "not UTF-8");
}

#[test]
fn values_within_each_other_are_bounded() {
    let nested = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    assert!(Json::read(&nested(super::MAX_DEPTH)).is_some());
    assert!(Json::read(&nested(super::MAX_DEPTH + 1)).is_none());
    assert!(Json::read(&vec![b'['; 4 << 20]).is_none());
    assert!(Json::read(&b"{\"a\":".repeat(1 << 20)).is_none());
}
