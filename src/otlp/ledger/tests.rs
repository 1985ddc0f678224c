use super::*;

fn failure(cause: Cause) -> Failure {
    Failure::new(&"".into(), cause)
}

#[test]
fn a_cause_is_reported_once_until_it_works_again() {
    let mut trend = Trend::new("spans");
    assert_eq!(trend.works(10), None, "it has always worked");
    let reported = |change: Option<Change>| match change {
        Some(Change::Fails { failure, .. }) => Some(failure.cause),
        _ => None,
    };
    assert_eq!(reported(trend.fails(&failure(Cause::Refused), 3)), Some(Cause::Refused));
    assert_eq!(trend.fails(&failure(Cause::Refused), 3), None);
    assert_eq!(reported(trend.fails(&failure(Cause::Status(503)), 3)), Some(Cause::Status(503)), "a change");
    assert_eq!(trend.fails(&failure(Cause::Refused), 3), None, "it was reported in this outage");
    assert_eq!(trend.works(10), Some(Change::WorksAgain { items: "spans", lost: 7 }));
    assert_eq!(trend.works(10), None);
}

#[test]
fn a_receiver_that_fails_in_turn_has_a_line_now_and_then() {
    let mut trend = Trend::new("spans");
    assert!(trend.fails(&failure(Cause::Status(503)), 3).is_some());
    assert!(trend.works(10).is_some());
    for _ in 0..3 {
        assert_eq!(trend.fails(&failure(Cause::Status(503)), 3), None, "a moment later");
        assert_eq!(trend.works(10), None);
    }
    assert!(trend.fails(&failure(Cause::Refused), 3).is_some(), "another cause is news");
    assert!(trend.works(10).is_some());
    let long_ago = Instant::now().checked_sub(QUIET + Duration::from_secs(1));
    if let Some(long_ago) = long_ago {
        trend.last = Some((long_ago, Cause::Refused));
        assert!(trend.fails(&failure(Cause::Refused), 3).is_some(), "after a while it is news again");
    }
}

#[test]
fn causes_without_end_have_a_bounded_number_of_lines() {
    let mut trend = Trend::new("spans");
    let lines = (0..100).filter(|n| trend.fails(&failure(Cause::Status(*n)), 3).is_some()).count();
    assert_eq!(lines, 8);
}
