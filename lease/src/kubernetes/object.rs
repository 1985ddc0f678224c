//! A `Lease` object of the API server. Its fields that this store does not know are unchanged.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::RequestError;
use crate::store::Ask;

/// The label by which the watch finds the objects.
pub(super) const LABEL: &str = "otel-tasks/lease";
/// The annotation with the name of the lease.
const NAME: &str = "otel-tasks/name";
/// The annotations with the last claimed due time, and with its term.
const LAST_RUN: &str = "otel-tasks/last-run";
const LAST_RUN_TERM: &str = "otel-tasks/last-run-term";

/// One version of an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object(Value);

impl Object {
    /// Returns the object of a response.
    pub(super) fn of(value: Value) -> Result<Self, RequestError> {
        let object = Self(value);
        match (object.name(), object.version()) {
            (Some(_), (Some(_), Some(_))) => Ok(object),
            _ => Err(RequestError::Protocol("an object without a name, uid or resourceVersion".to_owned())),
        }
    }

    /// An object that does not exist yet, granted to a candidate.
    pub(super) fn new(name: &str, ask: &Ask, term: u64) -> Result<Self, RequestError> {
        Self(json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": name, "annotations": { NAME: &*ask.lease } },
            "spec": {},
        }))
        .granted(ask, term)
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.0["metadata"]["name"].as_str()
    }

    /// Distinguishes versions, also of objects of the same name.
    pub(super) fn version(&self) -> (Option<&str>, Option<&str>) {
        let metadata = &self.0["metadata"];
        (metadata["uid"].as_str(), metadata["resourceVersion"].as_str())
    }

    /// Returns the holder; `None` if the lease was released.
    pub(super) fn holder(&self) -> Option<&str> {
        self.0["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty())
    }

    pub(super) fn term(&self) -> u64 {
        self.0["spec"]["leaseTransitions"].as_u64().unwrap_or_default()
    }

    pub(super) fn is_granted(&self, holder: &str, term: u64) -> bool {
        self.holder() == Some(holder) && self.term() == term
    }

    /// The time that the grant lasts without a change; `None` if the holder named none.
    pub(super) fn duration(&self) -> Option<Duration> {
        self.0["spec"]["leaseDurationSeconds"].as_u64().map(Duration::from_secs)
    }

    /// Returns the last claimed due time and its term.
    pub(super) fn last_run(&self) -> Result<Option<(SystemTime, u64)>, RequestError> {
        let annotations = &self.0["metadata"]["annotations"];
        let Some(due) = annotations[LAST_RUN].as_str() else { return Ok(None) };
        let term = annotations[LAST_RUN_TERM].as_str().and_then(|term| term.parse().ok());
        let due = due.parse::<Timestamp>().and_then(SystemTime::try_from);
        match (due, term) {
            (Ok(due), Some(term)) => Ok(Some((due, term))),
            // It was edited. Nothing is claimed until someone mends it: a due time might run twice.
            _ => Err(RequestError::Protocol(format!("{LAST_RUN} is no time, or {LAST_RUN_TERM} no number"))),
        }
    }

    /// The next version, granted to a candidate.
    pub(super) fn granted(mut self, ask: &Ask, term: u64) -> Result<Self, RequestError> {
        let term = i32::try_from(term)
            .map_err(|_| RequestError::Protocol("leaseTransitions is at its largest number".to_owned()))?;
        let spec = self.part("spec");
        spec.insert("leaseTransitions".to_owned(), term.into());
        spec.insert("holderIdentity".to_owned(), (&*ask.holder).into());
        spec.insert("acquireTime".to_owned(), micro_time(Timestamp::now()).into());
        self.part("metadata").entry("labels").or_insert_with(|| json!({}))[LABEL] = "true".into();
        Ok(self.renewed(ask.ttl))
    }

    /// The next version, renewed.
    pub(super) fn renewed(self, ttl: Duration) -> Self {
        self.renewed_at(ttl, Timestamp::now())
    }

    fn renewed_at(mut self, ttl: Duration, now: Timestamp) -> Self {
        let spec = self.part("spec");
        let mut time = micro_time(now);
        // Without a change the server makes no version, and the candidates would see none: a wall clock may stand still.
        if spec.get("renewTime").and_then(Value::as_str) == Some(&time) {
            time = micro_time(now + Duration::from_micros(1));
        }
        spec.insert("renewTime".to_owned(), time.into());
        spec.insert("leaseDurationSeconds".to_owned(), whole_seconds(ttl).into());
        self
    }

    /// The next version, released.
    pub(super) fn released(mut self) -> Self {
        let spec = self.part("spec");
        spec.insert("holderIdentity".to_owned(), "".into());
        spec.insert("leaseDurationSeconds".to_owned(), 1.into());
        self
    }

    /// The next version, with a due time claimed under the present term.
    pub(super) fn claimed(mut self, due: SystemTime) -> Result<Self, RequestError> {
        let due = Timestamp::try_from(due)
            .map_err(|error| RequestError::Protocol(format!("a due time that cannot be written: {error}")))?;
        let term = self.term();
        let annotations = self.part("metadata").entry("annotations").or_insert_with(|| json!({}));
        annotations[LAST_RUN] = format!("{due:.9}").into();
        annotations[LAST_RUN_TERM] = term.to_string().into();
        Ok(self)
    }

    /// The body of a request. The server keeps its account of who wrote what.
    pub(super) fn into_body(mut self) -> Vec<u8> {
        self.part("metadata").remove("managedFields");
        self.0.to_string().into_bytes()
    }

    fn part(&mut self, name: &str) -> &mut Map<String, Value> {
        let part = &mut self.0[name];
        if !part.is_object() {
            *part = json!({});
        }
        part.as_object_mut().expect("an object, as of now")
    }
}

fn micro_time(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// Whole seconds, rounded up: never shorter than the holder counts on.
fn whole_seconds(ttl: Duration) -> i32 {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    i32::try_from(seconds.max(1)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(ttl: Duration) -> Ask {
        Ask { lease: "a lease".into(), holder: "me".into(), ttl }
    }

    #[test]
    fn the_duration_is_in_whole_seconds_and_never_shorter_than_the_ttl() {
        for (ttl, seconds) in [(300, 1), (1_000, 1), (1_001, 2), (15_000, 15)] {
            assert_eq!(whole_seconds(Duration::from_millis(ttl)), seconds, "{ttl} ms");
        }
        assert_eq!(whole_seconds(Duration::MAX), i32::MAX);
    }

    #[test]
    fn renewals_are_changes_also_while_the_wall_clock_does_not_move() {
        let now = Timestamp::now();
        let mut last = Object::new("a.20lease", &ask(Duration::from_secs(15)), 1).expect("a term");
        for _ in 0..4 {
            let next = last.clone().renewed_at(Duration::from_secs(15), now);
            assert_ne!(next, last);
            last = next;
        }
    }

    #[test]
    fn unknown_fields_stay() {
        let found = Object(json!({
            "metadata": { "name": "a", "uid": "u", "resourceVersion": "7", "labels": { "team": "shop" } },
            "spec": { "strategy": "other", "leaseTransitions": 4 },
        }));
        let Object(written) = found.granted(&ask(Duration::from_secs(2)), 5).expect("a term");
        assert_eq!(written["metadata"]["labels"], json!({ "team": "shop", LABEL: "true" }));
        assert_eq!(written["spec"]["strategy"], "other");
        assert_eq!(written["spec"]["leaseTransitions"], 5);
        assert_eq!(written["spec"]["leaseDurationSeconds"], 2);
    }

    #[test]
    fn a_claimed_due_time_is_kept_to_the_nanosecond() {
        let due = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_790_000_000_123_456_789);
        let object = Object::new("a", &ask(Duration::from_secs(15)), 3).expect("a term");
        assert_eq!(object.last_run().expect("none"), None);
        assert_eq!(object.claimed(due).expect("a time").last_run().expect("written"), Some((due, 3)));
    }

    #[test]
    fn the_largest_term_is_an_error_and_does_not_begin_again() {
        let object = Object::new("a", &ask(Duration::from_secs(15)), 1).expect("a term");
        assert!(object.granted(&ask(Duration::from_secs(15)), 1 << 31).is_err());
    }
}
