//! Tests of `course.rs`.

use super::{Binary, Course, Exit, READY_LIMIT, SAME, STAND_DOWN_LIMIT, Step};
use crate::clock;
use crate::net::Order;
use std::time::Duration;

/// What is done, without what is said.
fn done(steps: Vec<Step>) -> Vec<Step> {
    steps.into_iter().filter(|step| !matches!(step, Step::Say(_))).collect()
}

fn serving() -> (Course, std::time::Instant) {
    let now = clock::now();
    let (mut course, steps) = Course::begin();
    assert_eq!(steps, [Step::Start(Binary::Current)]);
    course.started(10);
    assert!(course.ready(10, now).is_empty());
    (course, now)
}

#[tokio::test]
async fn a_first_start_that_fails_ends_the_keeper_with_its_status() {
    let (mut course, _) = Course::begin();
    course.started(10);
    assert_eq!(done(course.exited(10, Exit::Status(2), clock::now())), [Step::End(2)]);
}

#[tokio::test]
async fn a_crash_is_followed_by_a_start_at_once_and_a_loop_of_them_is_slowed_down() {
    let (mut course, now) = serving();
    for second in [2, 4] {
        let now = now + Duration::from_secs(second);
        assert_eq!(done(course.exited(10, Exit::Signal(9), now)), [Step::Start(Binary::Current)]);
        course.started(10);
        course.ready(10, now);
    }
    let now = now + Duration::from_secs(4);
    assert_eq!(done(course.exited(10, Exit::Signal(9), now)), []);
    assert_eq!(course.next_tick(), Some(now + Duration::from_millis(100)));
    assert_eq!(course.tick(now + Duration::from_millis(100)), [Step::Start(Binary::Current)]);
}

#[tokio::test]
async fn the_end_is_that_of_the_last_process_with_the_status_of_the_one_that_served() {
    let (mut course, now) = serving();
    assert_eq!(course.end(Order::Terminate, now), [Step::Tell(10, Order::Terminate)]);
    assert_eq!(done(course.exited(10, Exit::Status(1), now)), [Step::End(1)]);
    let (mut course, now) = serving();
    let tell = [Step::Tell(10, Order::Terminate)];
    let ends = [Duration::ZERO, Duration::from_millis(1), SAME].map(|after| course.end(Order::Terminate, now + after));
    assert_eq!(ends, [tell.to_vec(), Vec::new(), tell.to_vec()], "two at once are one");
    assert_eq!(course.end(Order::Quit, now + SAME), [Step::Tell(10, Order::Quit)]);
    let (mut course, now) = serving();
    course.ends(10);
    assert_eq!(done(course.exited(10, Exit::Status(0), now)), [Step::End(0)]);
}

#[tokio::test]
async fn an_upgrade_lets_the_old_process_leave_when_the_new_one_serves() {
    let (mut course, now) = serving();
    assert_eq!(course.ask_upgrade(10, now), Ok(vec![Step::Tell(10, Order::StandDown)]));
    assert!(course.ask_upgrade(10, now).is_err(), "one at a time");
    assert_eq!(course.stood_down(10, now), [Step::Start(Binary::New)]);
    course.started(11);
    assert_eq!(done(course.ready(11, now)), [Step::Tell(10, Order::Leave), Step::Keep]);
    assert!(!course.upgrade().is_running && course.upgrade().failure.is_none());
    assert_eq!(done(course.exited(10, Exit::Status(0), now)), [], "its end is nobody's");
    assert_eq!(course.serving(), Some(11));
}

#[tokio::test]
async fn a_new_binary_that_fails_or_takes_too_long_is_followed_by_the_old_one() {
    for hangs in [false, true] {
        let (mut course, now) = serving();
        course.ask_upgrade(10, now).unwrap();
        course.stood_down(10, now);
        course.started(11);
        if hangs {
            assert_eq!(course.tick(now + READY_LIMIT), [Step::Kill(11)]);
        }
        assert_eq!(done(course.exited(11, Exit::Signal(9), now)), [Step::Start(Binary::Current)]);
        course.started(12);
        assert_eq!(done(course.ready(12, now)), [Step::Tell(10, Order::Leave)]);
        assert!(!course.upgrade().is_running);
        let why = course.upgrade().failure.clone().unwrap();
        assert!(why.contains(if hangs { "did not serve within" } else { "before it served" }), "{why}");
    }
}

#[tokio::test]
async fn an_old_process_that_keeps_the_store_is_started_again_and_one_that_dies_is_not_waited_for() {
    let (mut course, now) = serving();
    course.ask_upgrade(10, now).unwrap();
    assert_eq!(done(course.tick(now + STAND_DOWN_LIMIT)), [Step::Kill(10)]);
    let later = now + STAND_DOWN_LIMIT;
    assert_eq!(done(course.exited(10, Exit::Signal(9), later)), [Step::Start(Binary::Current)]);
    let (mut course, now) = serving();
    course.ask_upgrade(10, now).unwrap();
    assert_eq!(done(course.exited(10, Exit::Signal(9), now)), [Step::Start(Binary::New)]);
    course.started(11);
    assert_eq!(done(course.ready(11, now)), [Step::Keep]);
}

#[tokio::test]
async fn an_end_during_an_upgrade_is_the_end_of_all() {
    // While the old process gives the store up: no other is started, and it has its time.
    let (mut course, now) = serving();
    course.ask_upgrade(10, now).unwrap();
    assert_eq!(course.end(Order::Terminate, now), [Step::Tell(10, Order::Terminate)]);
    assert_eq!(course.stood_down(10, now), []);
    assert_eq!((course.next_tick(), course.upgrade().is_running), (None, false));
    assert_eq!(done(course.exited(10, Exit::Status(0), now)), [Step::End(0)]);
    // While the new one starts: it is told, by a signal to the keeper or to the old one, and takes nobody's place.
    for by_signal in [true, false] {
        let (mut course, now) = serving();
        course.ask_upgrade(10, now).unwrap();
        course.stood_down(10, now);
        course.started(11);
        let told = if by_signal { course.end(Order::Terminate, now) } else { course.ends(10).unwrap() };
        assert!(told.contains(&Step::Tell(11, Order::Terminate)), "{told:?}");
        assert_eq!(course.ready(11, now), []);
        assert_eq!(course.next_tick(), None);
        assert_eq!(done(course.exited(10, Exit::Status(0), now)), []);
        assert_eq!(done(course.exited(11, Exit::Status(0), now)), [Step::End(0)]);
    }
}

#[tokio::test]
async fn the_end_of_who_serves_no_more_or_not_yet_is_its_own() {
    let (mut course, now) = serving();
    course.ask_upgrade(10, now).unwrap();
    course.stood_down(10, now);
    course.started(11);
    assert_eq!(course.ends(11), None, "not yet");
    course.ready(11, now);
    assert_eq!(course.ends(10), None, "no more");
    assert_eq!(done(course.exited(10, Exit::Status(0), now)), []);
    assert_eq!(course.serving(), Some(11));
}
