//! RFC 9267 and RFC 1035 §4: whatever comes in, the server answers well-formed or not at all, and lives on.

use crate::dns::{WAIT, addresses, ask, exchange, question, question_edns, shared};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use std::net::UdpSocket;
use std::time::Duration;
use weir::rng::Rng;

/// Mutated messages per run; `WEIR_SEED` repeats one.
const MUTANTS: usize = 5_000;

fn rcode(message: &[u8]) -> Option<u8> {
    exchange(shared().address, message, WAIT).map(|answer| answer[3] & 15)
}

#[test]
fn rfc9267_2_compression_pointers_in_a_question_are_a_format_error() {
    let header = [0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for name in [&[0xC0, 12][..], &[0xC0, 0], &[0xC0, 14, 0xC0, 12], &[1, b'a', 0xC0, 12], &[0xFF, 0xFF]] {
        assert_eq!(rcode(&[&header[..], name, &[0, 1, 0, 1]].concat()), Some(1), "{name:?}");
    }
}

#[test]
fn rfc9267_3_names_and_labels_that_are_too_long_are_a_format_error() {
    let header = [0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let long = [&[63][..], &[b'a'; 63]].concat().repeat(4);
    assert_eq!(rcode(&[&header[..], &long, &[0, 0, 1, 0, 1]].concat()), Some(1));
    assert_eq!(rcode(&[&header[..], &[64], &[b'a'; 64], &[0, 0, 1, 0, 1]].concat()), Some(1));
    assert_eq!(rcode(&[&header[..], &[30, b'a']].concat()), Some(1), "ends inside a label");
}

#[test]
fn rfc9267_4_counts_that_lie_are_a_format_error() {
    let plain = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    for at in [7, 9, 11] {
        let mut message = plain.clone();
        message[at] = 9;
        assert_eq!(rcode(&message), Some(1), "count at {at}");
    }
    assert_eq!(rcode(&[plain, vec![0; 9]].concat()), Some(1), "octets after the end");
}

#[test]
fn less_than_a_header_is_not_answered() {
    let plain = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    for length in [0, 1, 2, 11] {
        assert_eq!(exchange(shared().address, &plain[..length], Duration::from_millis(100)), None);
    }
}

#[test]
fn a_question_above_the_buffer_is_a_format_error() {
    let mut message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    message.resize(9000, 0);
    assert_eq!(rcode(&message), Some(1));
}

#[test]
fn mutated_messages_get_well_formed_answers_and_the_server_lives() {
    let seed =
        std::env::var("WEIR_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| Rng::from_os().next_u64());
    println!("WEIR_SEED={seed}");
    let mut rng = Rng::from_seed(seed);
    let templates: Vec<Vec<u8>> = [
        question("web.weir.internal.", RecordType::A),
        question_edns("_http._tcp.web.default.weir.internal.", RecordType::SRV, 1232),
        question_edns("1.0.1.10.in-addr.arpa.", RecordType::PTR, 4096),
        question("weir.internal.", RecordType::ANY),
    ]
    .iter()
    .map(|message| message.to_vec().unwrap())
    .collect();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.connect(shared().address).unwrap();
    let (mut answers, mut room) = (0, vec![0; 65_536]);
    for n in 0..MUTANTS {
        let mut message = templates[rng.below(templates.len())].clone();
        for _ in 0..=rng.below(6) {
            match rng.below(4) {
                0 => message.truncate(rng.below(message.len() + 1)),
                1 => message.extend((0..rng.below(40)).map(|_| rng.next_u64() as u8)),
                _ if message.is_empty() => {}
                _ => {
                    let at = rng.below(message.len());
                    message[at] = rng.next_u64() as u8;
                }
            }
        }
        socket.send(&message).unwrap();
        if n % 16 == 15 {
            assert_eq!(addresses(&ask("web.weir.internal.", RecordType::A).answers).len(), 2, "alive, seed {seed}");
        }
        while let Ok(length) = socket.recv(&mut room) {
            answers += 1;
            let decoded = Message::from_vec(&room[..length]);
            assert!(decoded.is_ok(), "seed {seed}: {:02x?}", &room[..length]);
        }
    }
    assert!(answers > MUTANTS / 4, "seed {seed}: {answers} answers");
}
