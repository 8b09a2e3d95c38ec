//! DNS: the question parser, and the whole responder over UDP and TCP, whose answers an independent parser must read.

use crate::fuzz;
use crate::support::table::ready;
use hickory_proto::op::Message;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use weir::dns::{Options, bind, serve};
use weir::dnswire::{Answer, OWNER_IS_QUESTION, Parsed, Query, Section, least_ttl, rcode};
use weir::lifecycle::drain;
use weir::net::Binder;
use weir::table::names::Names;
use weir::table::{Change, Changes, Snapshot, build, channel};

/// Longest wait for the answer to a question that must have one.
const WAIT: Duration = Duration::from_secs(5);
const WEB: &[u8] = b"\x03web\x04weir\x08internal\x00";

fn message(counts: [u8; 4], kind: u8, tail: &[u8]) -> Vec<u8> {
    let [questions, answers, authorities, additional] = counts;
    let head = [0x12, 0x34, 1, 0, 0, questions, 0, answers, 0, authorities, 0, additional];
    [&head[..], WEB, &[0, kind, 0, 1], tail].concat()
}

fn corpus() -> Vec<Vec<u8>> {
    let opt = [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];
    let cookie = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8];
    vec![
        message([1, 0, 0, 0], 1, &[]),
        message([1, 0, 0, 1], 28, &opt),
        message([1, 0, 0, 1], 33, &cookie),
        message([1, 0, 0, 1], 1, &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 3, 0, 0]),
        [&[0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], &cookie[..]].concat(),
        message([1, 0, 0, 0], 255, &[]),
        message([1, 0, 0, 2], 1, &[opt, opt].concat()),
        message([1, 0, 1, 0], 252, &[0xC0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 0]),
        [&message([1, 0, 0, 0], 16, &[])[..24], &[0xC0, 12, 0, 16, 0, 3]].concat(),
    ]
}

#[test]
fn dns_questions() {
    let corpus = corpus();
    let corpus: Vec<&[u8]> = corpus.iter().map(Vec::as_slice).collect();
    fuzz("DNS question", &corpus, |input, rng| {
        let _ = least_ttl(input);
        let mut out = vec![0; 64 + rng.below(1300)];
        if let Parsed::Fast(mut query) = Query::parse(input) {
            // What is read as common, others read as the same.
            let decoded = match Message::from_vec(input) {
                Ok(decoded) => decoded,
                // It looks into options, of which we read the cookie alone (RFC 6891 §6.1.2).
                Err(_) if query.edns.is_some() => return,
                Err(error) => panic!("others do not read it: {error}"),
            };
            assert_eq!(decoded.queries.len(), 1);
            assert_eq!(decoded.queries[0].query_type, query.rtype.into());
            assert_eq!(decoded.edns.is_some(), query.edns.is_some());
            if query.cookie.is_some() {
                query.reply_cookie = Some([9; 24]);
            }
            let room = out.len();
            let Some(mut answer) = Answer::begin(&query, &mut out, room) else { return };
            let record = [0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 1];
            let mut added = 0;
            while added < 50 && answer.add(Section::Answer, OWNER_IS_QUESTION, &[&record]).is_some() {
                added += 1;
            }
            let length = answer.finish(rcode::NOERROR, true);
            assert!(length <= room);
            let answer = Message::from_vec(&out[..length]).expect("our own answer");
            assert_eq!((answer.answers.len(), &answer.queries), (added, &decoded.queries));
            assert_eq!(least_ttl(&out[..length]), (added > 0).then_some(5));
        }
    });
}

fn receive(socket: &UdpSocket, room: &mut [u8]) -> usize {
    loop {
        match socket.recv(room) {
            // Stopped and continued.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => return received.expect("an answer"),
        }
    }
}

#[test]
fn dns_responder() {
    let listen = vec![([127, 0, 0, 1], 0).into()];
    let options = Options { listen, nsid: Some("fuzz".into()), ..Options::default() };
    let (mut publisher, table) = channel(Snapshot::empty(Names::new(&options.zone)));
    let (_trigger, signal) = drain();
    let server = serve(bind(&options, &Binder::Local, false).unwrap(), &options, &table, &signal).unwrap();
    let written = weir::spec::Service { name: Some("web".to_owned()), ..Default::default() };
    let spec = written.to_model().unwrap();
    let instance = ready("web", "web-1", "10.0.0.1", &[80]);
    let set = Change::Set { spec: Arc::new(spec), instances: vec![instance] };
    publisher.publish(build(&publisher.current(), Changes { services: vec![set], ..Changes::default() }));
    let address = server.addresses()[0];
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.connect(address).unwrap();
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    };
    let (mut stream, mut room) = (connect(), vec![0; 65_536]);
    let corpus = corpus();
    let corpus: Vec<&[u8]> = corpus.iter().map(Vec::as_slice).collect();
    fuzz("DNS responder", &corpus, |input, rng| {
        // A good question behind it says when everything was seen.
        let id = (rng.next_u64() as u16) | 0x8000;
        let mut good = message([1, 0, 0, 0], 1, &[]);
        good[..2].copy_from_slice(&id.to_be_bytes());
        socket.send(input).unwrap();
        socket.send(&good).unwrap();
        loop {
            let length = receive(&socket, &mut room);
            let answer = Message::from_vec(&room[..length]).expect("a well-formed answer");
            assert!(length <= if answer.edns.is_some() { 1232 } else { 512 });
            if answer.metadata.id == id && answer.answers.len() == 1 {
                break;
            }
        }
        if rng.below(4) > 0 || input.len() > 4096 {
            return;
        }
        let frame = |message: &[u8]| [&(message.len() as u16).to_be_bytes()[..], message].concat();
        stream.write_all(&[frame(input), frame(&good)].concat()).unwrap();
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("an answer by TCP");
            let place = &mut room[..usize::from(u16::from_be_bytes(length))];
            stream.read_exact(place).expect("all of it");
            let answer = Message::from_vec(place).expect("a well-formed answer");
            if answer.metadata.id == id && answer.answers.len() == 1 {
                break;
            }
        }
    });
}
