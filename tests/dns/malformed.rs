//! Malformed packets from a seeded generator, mutants of good questions, and how much larger than a question an answer is.

use crate::server::{
    Fixture, WAIT, connect, exchange, frame, instance, question, question_edns, read_frame, send_frame, spec,
};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;
use weir::rng::Rng;

/// Packets of the generator, and mutants; `WEIR_SEED` repeats a run.
const PACKETS: usize = 10_000;
const MUTANTS: usize = 20_000;
/// Packets between two looks at what came back: fewer than the smallest buffer of a socket holds.
const AT_ONCE: usize = 32;

fn seeded(what: &str) -> (Rng, u64) {
    let seed =
        std::env::var("WEIR_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| Rng::from_os().next_u64());
    println!("{what}: WEIR_SEED={seed}");
    (Rng::from_seed(seed), seed)
}

fn server() -> Fixture {
    let mut fixture = Fixture::start(|_| {});
    let ready = |n: usize| instance("web", &format!("web-{n}"), &format!("10.1.0.{n}"), &[8080]);
    fixture.publish(vec![(spec("web", &["http"]), (1..=20).map(ready).collect())]);
    fixture
}

fn templates() -> Vec<Vec<u8>> {
    let mut cookie = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    cookie[11] = 1;
    cookie.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    let mut all: Vec<Vec<u8>> = [
        question("web.weir.internal.", RecordType::A),
        question_edns("_http._tcp.web.default.weir.internal.", RecordType::SRV, 1232),
        question_edns("1.0.1.10.in-addr.arpa.", RecordType::PTR, 4096),
        question("weir.internal.", RecordType::ANY),
        question("weir.internal.", RecordType::AXFR),
    ]
    .iter()
    .map(|message| message.to_vec().unwrap())
    .collect();
    all.push(cookie);
    all
}

/// A packet that is wrong in one of the ways that RFC 9267 and the lists of others know; some happen to be right.
fn generated(rng: &mut Rng) -> Vec<u8> {
    let octet = |rng: &mut Rng| rng.next_u64() as u8;
    let noise = |rng: &mut Rng, most: usize| (0..rng.below(most)).map(|_| octet(rng)).collect::<Vec<u8>>();
    let mut header = vec![octet(rng), octet(rng), 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let tail = [0, 1, 0, 1];
    let name = b"\x03web\x04weir\x08internal\x00";
    match rng.below(14) {
        0 => noise(rng, 600),
        1 => [header, noise(rng, 40)].concat(),
        // Pointers: to itself, forward, into the header, past the end, in a chain.
        2 => {
            let to = [12u16, 14, 0, 2, 0x3FFF, 30][rng.below(6)];
            [&header[..], &(0xC000 | to).to_be_bytes(), &tail].concat()
        }
        3 => [&header[..], &[1, b'a', 0xC0, 12], &tail].concat(),
        // Labels and names that are too long or do not end.
        4 => [&header[..], &[[64, 128, 191, 255][rng.below(4)]], &[b'a'; 64], &[0], &tail].concat(),
        5 => [header, [&[63][..], &[b'a'; 63]].concat().repeat(4 + rng.below(20)), vec![0], tail.to_vec()].concat(),
        6 => [&header[..], &name[..rng.below(name.len())]].concat(),
        // Counts that lie.
        7 => {
            header[4 + rng.below(8)] = octet(rng);
            [&header[..], name, &tail].concat()
        }
        // Flags, opcodes, answers.
        8 => {
            (header[2], header[3]) = (octet(rng), octet(rng));
            [&header[..], name, &tail].concat()
        }
        // Types and classes.
        9 => [&header[..], name, &[octet(rng), octet(rng), octet(rng), octet(rng)]].concat(),
        // OPT: versions, lengths, several, out of place, options that lie.
        10 => {
            header[11] = 1 + (rng.below(3)) as u8;
            let opt = [0, 0, 41, octet(rng), octet(rng), octet(rng), octet(rng) & 3, octet(rng), 0, 0, octet(rng) & 31];
            [&header[..], name, &tail, &opt.repeat(usize::from(header[11])), &noise(rng, 40)].concat()
        }
        11 => {
            header[11] = 1;
            let option = [0, [3, 8, 10, 11, 12][rng.below(5)], 0, octet(rng) & 63];
            let body = noise(rng, 64);
            let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, (4 + body.len()) as u8];
            [&header[..], name, &tail, &opt, &option, &body].concat()
        }
        // Signed by nobody, and records where none belong.
        12 => {
            header[[7, 9, 11][rng.below(3)]] = 1;
            let kind = [[0, 250], [0, 249], [0, 24], [0, 6], [0, 1]][rng.below(5)];
            [&header[..], name, &tail, &[0], &kind, &[0, 255, 0, 0, 0, 0, 0, octet(rng)], &noise(rng, 60)].concat()
        }
        _ => [&header[..], name, &tail, &noise(rng, 5000)].concat(),
    }
}

/// Sends packets and checks every answer; returns how many came.
fn flood(
    server: SocketAddr,
    count: usize,
    rng: &mut Rng,
    seed: u64,
    mut packet: impl FnMut(&mut Rng) -> Vec<u8>,
) -> usize {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    let (mut answers, mut room) = (0, vec![0; 65_536]);
    let last = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    let mut sent = 0;
    while sent < count {
        for _ in 0..AT_ONCE {
            socket.send(&packet(rng)).unwrap();
        }
        sent += AT_ONCE;
        // The last one is good and on a socket of its own: the threads are alive.
        let alive =
            exchange(server, &last, WAIT).unwrap_or_else(|| panic!("seed {seed}: no answer to a good question"));
        assert_eq!((alive[3] & 15, alive[7]), (0, 20), "seed {seed}");
        // What comes later is seen in the next turn.
        socket.set_nonblocking(true).unwrap();
        while let Ok(length) = socket.recv(&mut room) {
            answers += 1;
            check(&room[..length], seed);
        }
        socket.set_nonblocking(false).unwrap();
    }
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    while let Ok(length) = socket.recv(&mut room) {
        answers += 1;
        check(&room[..length], seed);
    }
    answers
}

/// Every answer is an answer, decodes, and is no larger than a datagram may be.
fn check(answer: &[u8], seed: u64) {
    assert!(answer.len() >= 12 && answer[2] & 0x80 != 0, "seed {seed}: {answer:02x?}");
    let decoded = Message::from_vec(answer).unwrap_or_else(|error| panic!("seed {seed}: {error}: {answer:02x?}"));
    let most = if decoded.edns.is_some() { 1232 } else { 512 };
    assert!(answer.len() <= most, "seed {seed}: {} octets: {decoded:?}", answer.len());
    // Encoded again by somebody else it says the same: nothing is behind its end.
    let again = Message::from_vec(&decoded.to_vec().unwrap()).unwrap();
    assert_eq!(
        (again.answers.len(), again.queries.len()),
        (decoded.answers.len(), decoded.queries.len()),
        "seed {seed}"
    );
}

#[test]
fn rfc9267_ten_thousand_malformed_packets_are_answered_well_or_not_at_all() {
    let fixture = server();
    let (mut rng, seed) = seeded("malformed packets");
    let answers = flood(fixture.address, PACKETS, &mut rng, seed, generated);
    println!("{answers} answers to {PACKETS} packets");
    assert!(answers > PACKETS / 4, "seed {seed}: {answers}");
}

#[test]
fn twenty_thousand_mutants_get_well_formed_answers_of_the_right_size() {
    let fixture = server();
    let (mut rng, seed) = seeded("mutants");
    let templates = templates();
    let mutant = |rng: &mut Rng| {
        let mut message = templates[rng.below(templates.len())].clone();
        for _ in 0..=rng.below(6) {
            match rng.below(5) {
                0 => message.truncate(rng.below(message.len() + 1)),
                1 => message.extend((0..rng.below(40)).map(|_| rng.next_u64() as u8)),
                _ if message.is_empty() => {}
                2 => {
                    let at = rng.below(message.len());
                    message[at] ^= 1 << rng.below(8);
                }
                _ => {
                    let at = rng.below(message.len());
                    message[at] = rng.next_u64() as u8;
                }
            }
        }
        message
    };
    let answers = flood(fixture.address, MUTANTS, &mut rng, seed, mutant);
    println!("{answers} answers to {MUTANTS} mutants");
    assert!(answers > MUTANTS / 4, "seed {seed}: {answers}");
}

#[test]
fn rfc7766_8_malformed_frames_do_not_end_a_connection_for_those_behind_them() {
    let fixture = server();
    let (mut rng, seed) = seeded("malformed frames");
    let good = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    for _ in 0..50 {
        let mut stream = connect(fixture.address);
        let mut wire = Vec::new();
        for _ in 0..20 {
            let packet = generated(&mut rng);
            if packet.len() <= 4096 {
                wire.extend(frame(&packet));
            }
        }
        wire.extend(frame(&[&[0xBE, 0xEF][..], &good[2..]].concat()));
        stream.write_all(&wire).unwrap();
        loop {
            let answer = read_frame(&mut stream);
            Message::from_vec(&answer).unwrap_or_else(|error| panic!("seed {seed}: {error}: {answer:02x?}"));
            if answer[..2] == [0xBE, 0xEF] && answer[7] == 20 {
                break;
            }
        }
    }
    // A frame that says it is longer than any question: told so, and closed.
    let mut stream = connect(fixture.address);
    stream.write_all(&[&[0xFF, 0xFF][..], &good].concat()).unwrap();
    assert_eq!(read_frame(&mut stream)[3] & 15, 1);
    assert_eq!(std::io::Read::read(&mut stream, &mut [0; 1]).unwrap(), 0);
    let mut stream = connect(fixture.address);
    send_frame(&mut stream, &good);
    assert_eq!(read_frame(&mut stream)[7], 20);
}

/// What is asked, the type, the size that the client says it can take, and how many times larger the answer may be.
///
/// The bounds: 512 octets without EDNS (RFC 1035 §4.2.1), 1232 with (RFC 9715 §3.1), whole records only; ANY is one short
/// record (RFC 8482 §4.2); what is refused or not there brings no more than an SOA (RFC 2308 §3).
const AMPLIFIERS: [(&str, RecordType, Option<u16>, f64); 12] = [
    ("web.weir.internal.", RecordType::A, None, 512.0 / 35.0),
    ("web.weir.internal.", RecordType::A, Some(4096), 1232.0 / 46.0),
    ("web.weir.internal.", RecordType::AAAA, None, 3.0),
    ("_http._tcp.web.weir.internal.", RecordType::SRV, None, 512.0 / 46.0),
    ("_http._tcp.web.weir.internal.", RecordType::SRV, Some(4096), 1232.0 / 57.0),
    ("web.weir.internal.", RecordType::ANY, Some(4096), 2.0),
    ("weir.internal.", RecordType::ANY, Some(4096), 2.0),
    ("weir.internal.", RecordType::SOA, Some(4096), 3.0),
    ("nope.weir.internal.", RecordType::A, Some(4096), 3.0),
    ("example.com.", RecordType::A, Some(4096), 1.0),
    ("example.com.", RecordType::ANY, Some(4096), 1.0),
    ("weir.internal.", RecordType::AXFR, Some(4096), 1.0),
];

#[test]
fn rfc5358_4_amplification_is_bounded_for_each_type() {
    let fixture = server();
    for (name, kind, size, most) in AMPLIFIERS {
        let asked = size.map_or_else(|| question(name, kind), |size| question_edns(name, kind, size)).to_vec().unwrap();
        let answer = exchange(fixture.address, &asked, WAIT).unwrap();
        let factor = answer.len() as f64 / asked.len() as f64;
        println!(
            "{name:32} {kind:5} EDNS {:5} {:4} -> {:4} octets: {factor:5.2}",
            size.unwrap_or(0),
            asked.len(),
            answer.len()
        );
        assert!(factor <= most, "{name} {kind}: {factor} above {most}");
    }
    // What is malformed gets a bare header, never more than was sent.
    for malformed in [&[1, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0][..], &[1, 2, 0x78, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xFF]] {
        assert!(exchange(fixture.address, malformed, WAIT).unwrap().len() <= malformed.len());
    }
}
