use super::*;

fn target(endpoint: &str) -> Result<(String, bool), String> {
    let (target, auth) = Target::read(endpoint)?;
    assert_eq!(&*target.shown, redacted(endpoint));
    let auth = auth.map(|auth| auth.to_str().unwrap_or_default().to_owned());
    Ok((format!("{} {}", target.uri, auth.unwrap_or_default()).trim().to_owned(), target.is_loopback()))
}

#[test]
fn an_address_is_read_with_its_user_and_its_port() {
    let cases = [
        ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces", false),
        ("http://localhost", "http://localhost/", true),
        ("HTTP://LocalHost:1", "http://LocalHost:1/", true),
        ("http://127.0.0.1:4318/x?y=z", "http://127.0.0.1:4318/x?y=z", true),
        ("https://[::1]:4317", "https://[::1]:4317/", true),
        ("https://10.0.0.1", "https://10.0.0.1/", false),
        ("http://localhost.example", "http://localhost.example/", false),
        // user:p@ss
        ("http://user:p%40ss@c:1/", "http://c:1/ Basic dXNlcjpwQHNz", false),
        // key:
        ("http://key@c", "http://c/ Basic a2V5Og==", false),
    ];
    for (endpoint, read, loopback) in cases {
        assert_eq!(target(endpoint), Ok((read.to_owned(), loopback)), "{endpoint}");
    }
    for bad in [
        "",
        "c:4318",
        "ftp://c",
        "http://",
        "http:///v1",
        "http://c:99999",
        "http://c:0",
        "http://c:port",
        "http://c:",
        "http://a b",
        "http://user:sec/ret@c",
        "unix:///socket",
        "http://[::1",
        "http://caf\u{e9}",
    ] {
        assert!(target(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_percent_that_is_no_escape_stays() {
    for (text, decoded) in
        [("a%20b", "a b"), ("100%", "100%"), ("%zz%4", "%zz%4"), ("%41%42", "AB"), ("", "")]
    {
        assert_eq!(percent_decoded(text), decoded.as_bytes(), "{text}");
    }
}

/// The texts of RFC 4648, section 10, and all digits.
#[test]
fn a_header_has_the_base64_of_the_user() {
    for (text, encoded) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(text.as_bytes()), encoded, "{text}");
    }
    let all = base64(&[
        0, 16, 131, 16, 81, 135, 32, 146, 139, 48, 211, 143, 65, 20, 147, 81, 85, 151, 97, 150, 155, 113,
        215, 159, 130, 24, 163, 146, 89, 167, 162, 154, 171, 178, 219, 175, 195, 28, 179, 211, 93, 183, 227,
        158, 187, 243, 223, 191,
    ]);
    assert_eq!(all, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
}

#[cfg(all(feature = "otlp-grpc", feature = "tls"))]
#[test]
fn tls_over_grpc_takes_an_address_of_ipv6() {
    use crate::otlp::{
        runtime::ExportRuntime,
        settings::{OtlpSettings, Protocol},
        transport::Transports,
    };
    let runtime = ExportRuntime::start().expect("a thread");
    let mut warnings = Vec::new();
    let settings = crate::otlp::env::read(&|_| None, &Default::default()).expect("the defaults").traces.otlp;
    let endpoint = "https://[::1]:4317".to_owned();
    let settings = OtlpSettings { protocol: Protocol::Grpc, endpoint, ..settings };
    let opened = Transports::new(&runtime, &mut warnings).open(
        crate::otlp::ledger::Signal::Traces,
        &settings,
        std::time::Duration::from_secs(1),
    );
    assert!(opened.is_ok(), "{:?}", opened.err());
}
