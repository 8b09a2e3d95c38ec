//! RFC 5001: the server's identity.

use crate::dns::{Fixture, WAIT, exchange, instance, question, spec};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};

/// A question with the option NSID, which holds so many octets, and maybe a cookie.
fn asks(name: &str, octets: usize, cookie: bool) -> Vec<u8> {
    let mut message = question(name, RecordType::A).to_vec().unwrap();
    message[11] = 1;
    let mut options = vec![0, 3, 0, octets as u8];
    options.extend(std::iter::repeat_n(1, octets));
    if cookie {
        options.extend([0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, options.len() as u8]);
    message.extend(options);
    message
}

fn identity(answer: &[u8]) -> Option<Vec<u8>> {
    let answer = Message::from_vec(answer).unwrap();
    match answer.edns.as_ref().unwrap().option(EdnsCode::NSID) {
        Some(EdnsOption::NSID(payload)) => Some(payload.as_ref().to_vec()),
        Some(EdnsOption::Unknown(_, octets)) => Some(octets.clone()),
        _ => None,
    }
}

fn named(name: Option<&str>) -> Fixture {
    let name = name.map(Into::into);
    let mut fixture = Fixture::start(|options| options.nsid = name);
    fixture.publish(vec![
        (spec("web", &["http"]), vec![instance("web", "web-1", "10.1.0.1", &[8080])]),
        (
            spec("big", &["http"]),
            (0..72).map(|n| instance("big", &format!("big-{n}"), &format!("10.2.0.{n}"), &[80])).collect(),
        ),
    ]);
    fixture
}

#[test]
fn rfc5001_2_the_identity_is_told_to_who_asks_beside_whatever_answer() {
    let fixture = named(Some("dns-1"));
    let ask = |message: &[u8]| exchange(fixture.address, message, WAIT).unwrap();
    for (name, octets, cookie) in [
        ("web.weir.internal.", 0, false),
        ("web.weir.internal.", 0, true),
        ("none.weir.internal.", 0, false),
        ("elsewhere.example.", 3, true),
    ] {
        let answer = ask(&asks(name, octets, cookie));
        assert_eq!(identity(&answer).as_deref(), Some(&b"dns-1"[..]), "{name}");
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.edns.unwrap().option(EdnsCode::Cookie).is_some(), cookie, "{name}");
    }
    let unasked = crate::dns::question_edns("web.weir.internal.", RecordType::A, 1232).to_vec().unwrap();
    assert_eq!(identity(&ask(&unasked)), None, "only who asks is told");
}

#[test]
fn rfc5001_without_an_identity_or_room_for_it_nothing_is_told() {
    let unnamed = named(None);
    let answer = exchange(unnamed.address, &asks("web.weir.internal.", 0, false), WAIT).unwrap();
    assert_eq!((identity(&answer), Message::from_vec(&answer).unwrap().answers.len()), (None, 1));
    // 72 addresses take 1,152 of 1,232 octets.
    let long = "x".repeat(200);
    let fixture = named(Some(&long));
    let answer = exchange(fixture.address, &asks("big.weir.internal.", 0, false), WAIT).unwrap();
    assert!(answer.len() <= 1232 && identity(&answer).is_none());
    let answer = exchange(fixture.address, &asks("web.weir.internal.", 0, false), WAIT).unwrap();
    assert_eq!(identity(&answer).unwrap().len(), 200);
}
