//! RFC 7766: DNS over TCP.

use crate::dns::{
    Fixture, WAIT, addresses, ask, ask_tcp, code, connect, exchange, frame, question, read_frame, send_frame, shared,
};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use std::io::{Read, Write};
use std::time::Duration;

#[test]
fn rfc7766_5_tcp_answers_as_udp_does() {
    for (name, kind) in [
        ("web.weir.internal.", RecordType::A),
        ("nope.weir.internal.", RecordType::A),
        ("weir.internal.", RecordType::SOA),
    ] {
        let (udp, tcp) = (ask(name, kind), ask_tcp(name, kind));
        assert_eq!((code(&udp), addresses(&udp.answers)), (code(&tcp), addresses(&tcp.answers)));
    }
}

#[test]
fn rfc7766_6_2_1_1_pipelined_questions_are_all_answered_in_order() {
    let mut stream = connect(shared().address);
    let mut wire = Vec::new();
    for id in 0..500u16 {
        let mut message = question("_http._tcp.web.weir.internal.", RecordType::SRV);
        message.metadata.id = id;
        wire.extend(frame(&message.to_vec().unwrap()));
    }
    stream.write_all(&wire).unwrap();
    for id in 0..500 {
        let answer = Message::from_vec(&read_frame(&mut stream)).unwrap();
        assert_eq!((answer.metadata.id, answer.answers.len()), (id, 3));
    }
}

#[test]
fn rfc7766_8_a_question_may_come_in_parts() {
    let mut stream = connect(shared().address);
    stream.set_nodelay(true).unwrap();
    let wire = frame(&question("web.weir.internal.", RecordType::A).to_vec().unwrap()).repeat(2);
    for part in [&wire[..1], &wire[1..2], &wire[2..17], &wire[17..wire.len() - 3], &wire[wire.len() - 3..]] {
        stream.write_all(part).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(Message::from_vec(&read_frame(&mut stream)).unwrap().answers.len(), 2);
    }
}

#[test]
fn rfc7766_6_2_3_idle_connections_are_closed_and_a_partial_question_does_not_hold_them() {
    let fixture = Fixture::start(|options| options.tcp_idle = Duration::from_millis(200));
    for sent in [&[][..], &[0][..], &[0, 50, 1, 2, 3][..]] {
        let mut stream = connect(fixture.address);
        stream.write_all(sent).unwrap();
        let start = weir::clock::now();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "closed");
        assert!(start.elapsed() >= Duration::from_millis(150), "{:?}", start.elapsed());
    }
}

#[test]
fn rfc7766_6_2_2_connections_are_bounded_and_udp_goes_on() {
    let fixture = Fixture::start(|options| options.tcp_connections = 2);
    let ask_on = |stream: &mut std::net::TcpStream| {
        send_frame(stream, &question("weir.internal.", RecordType::SOA).to_vec().unwrap());
        let mut length = [0; 2];
        stream.read_exact(&mut length).is_ok()
    };
    let mut open: Vec<_> = (0..2).map(|_| connect(fixture.address)).collect();
    assert!(open.iter_mut().all(ask_on));
    let mut third = connect(fixture.address);
    third.write_all(&[0]).ok();
    assert!(matches!(third.read(&mut [0; 2]), Ok(0) | Err(_)), "closed at once");
    let message = question("weir.internal.", RecordType::SOA).to_vec().unwrap();
    assert!(exchange(fixture.address, &message, WAIT).is_some());
    drop(open);
    let deadline = weir::clock::now() + WAIT;
    loop {
        let mut stream = connect(fixture.address);
        let answered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ask_on(&mut stream))).unwrap_or(false);
        if answered {
            break;
        }
        assert!(weir::clock::now() < deadline, "a place comes free");
    }
}

#[test]
fn rfc7766_8_malformed_and_unusual_messages_are_answered_on_the_same_connection() {
    let mut stream = connect(shared().address);
    let good = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    let mut two = good.clone();
    two[5] = 2;
    let mut notify = good.clone();
    notify[2] = 4 << 3;
    send_frame(&mut stream, &[]);
    for (message, expected) in [(&two, 1), (&notify, 4), (&good, 0)] {
        send_frame(&mut stream, message);
        assert_eq!(read_frame(&mut stream)[3] & 15, expected);
    }
}

#[test]
fn rfc1035_4_2_2_a_huge_answer_is_cut_below_64_kib() {
    let answer = ask_tcp("_http._tcp.big.weir.internal.", RecordType::SRV);
    assert_eq!(code(&answer), ResponseCode::NoError);
    assert!(answer.answers.len() > 1000 && answer.answers.len() < 3000, "{}", answer.answers.len());
}
