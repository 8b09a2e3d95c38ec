//! Floods: from one network and from many, by UDP and by connections that ask half a question, while a neighbour is served.

use crate::server::{Fixture, WAIT, connect, instance, question, question_edns, read_frame, send_frame, spec};
use crate::tools::{dig, run};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;
use weir::dns::{Limited, RateLimitOptions};

/// A server that limits loopback too, as if it were the Internet.
fn limited(answers_per_second: u32, slip: u32) -> Fixture {
    let mut fixture = Fixture::start(|options| {
        options.rate_limit =
            RateLimitOptions { answers_per_second, slip, exempt: Vec::new(), ..RateLimitOptions::default() };
    });
    let ready = |n: usize| instance("web", &format!("web-{n}"), &format!("10.1.0.{n}"), &[8080]);
    fixture.publish(vec![(spec("web", &["http"]), (1..=2).map(ready).collect())]);
    fixture
}

fn client(source: Ipv4Addr, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((source, 0)).unwrap();
    socket.connect(server).unwrap();
    socket
}

/// Sends a question so often, in bursts that fit a buffer, and returns what came back.
fn flood(socket: &UdpSocket, message: &[u8], count: usize) -> Vec<Vec<u8>> {
    let (mut answers, mut room) = (Vec::new(), vec![0; 4096]);
    let mut take = |asked: usize, wait: Duration| {
        socket.set_read_timeout(Some(wait)).unwrap();
        while answers.len() < asked
            && let Ok(length) = socket.recv(&mut room)
        {
            answers.push(room[..length].to_vec());
        }
    };
    for n in 0..count {
        socket.send(message).unwrap();
        // In pace with a server that a busy machine leaves without a turn: what it cannot read the kernel loses.
        if n % 50 == 49 {
            take(n + 1, Duration::from_millis(50));
        }
    }
    take(count, Duration::from_millis(600));
    answers
}

#[test]
fn a_flood_from_one_network_gets_little_and_its_neighbour_everything() {
    let fixture = limited(100, 2);
    let attacker = client(Ipv4Addr::new(127, 1, 1, 1), fixture.address);
    let message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    let begun = weir::clock::now();
    let answers = flood(&attacker, &message, 3000);
    let seconds = begun.elapsed().as_secs_f64();
    let (whole, empty): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer[2] & 2 == 0);
    // A second's worth at once, then the pace.
    assert!(whole.len() as f64 <= 101.0 + 100.0 * (seconds + 0.1), "{} in {seconds} s", whole.len());
    assert!(whole.len() >= 101, "{}", whole.len());
    let limits = fixture.server.counters().limits();
    let (truncated, dropped) = (limits.of(Limited::Truncated), limits.of(Limited::Dropped));
    assert_eq!(truncated as usize, empty.len());
    // The kernel may have lost some of the questions.
    let all = truncated + dropped + whole.len() as u64;
    assert!(truncated.abs_diff(dropped) <= 1 && (2000..=3000).contains(&all), "{truncated} {dropped} {}", whole.len());
    for answer in empty {
        // No answer record, no larger than the question.
        let decoded = Message::from_vec(answer).unwrap();
        assert!(decoded.metadata.truncation && decoded.answers.is_empty() && answer.len() <= message.len());
    }
    // A neighbour in another network is served meanwhile, and the attacker's own by TCP.
    let neighbour = client(Ipv4Addr::new(127, 2, 2, 2), fixture.address);
    assert_eq!(flood(&neighbour, &message, 50).len(), 50);
    let said = dig(fixture.address, "-b 127.1.1.9 +nocookie +time=2 +tries=5 +short web.weir.internal A");
    assert_eq!(said.lines(), ["10.1.0.1", "10.1.0.2"], "{}", said.text);
}

#[test]
fn rfc7873_3_who_shows_a_cookie_is_not_limited() {
    let fixture = limited(5, 0);
    let socket = client(Ipv4Addr::new(127, 1, 1, 1), fixture.address);
    let with_cookie = |cookie: &[u8]| {
        let mut message = question_edns("web.weir.internal.", RecordType::A, 1232).to_vec().unwrap();
        let length = message.len();
        message[length - 1] = 4 + cookie.len() as u8;
        message.extend([0, 10, 0, cookie.len() as u8]);
        message.extend_from_slice(cookie);
        message
    };
    let first = flood(&socket, &with_cookie(&[7; 8]), 1).remove(0);
    let cookie = first[first.len() - 24..].to_vec();
    assert_eq!((&cookie[..8], cookie[8]), (&[7; 8][..], 1));
    assert_eq!(flood(&socket, &with_cookie(&cookie), 300).len(), 300);
    // The same from another address is worth nothing.
    let other = client(Ipv4Addr::new(127, 3, 1, 1), fixture.address);
    assert!(flood(&other, &with_cookie(&cookie), 300).len() < 20);
}

#[test]
fn rfc7873_5_2_3_who_speaks_cookies_is_brought_one_instead_of_sent_to_tcp() {
    let fixture = limited(5, 1);
    let socket = client(Ipv4Addr::new(127, 1, 1, 1), fixture.address);
    let with_cookie = |cookie: &[u8]| {
        let mut message = question_edns("web.weir.internal.", RecordType::A, 1232).to_vec().unwrap();
        let length = message.len();
        message[length - 1] = 4 + cookie.len() as u8;
        message.extend([0, 10, 0, cookie.len() as u8]);
        message.extend_from_slice(cookie);
        message
    };
    let asked = with_cookie(&[7; 8]);
    let answers = flood(&socket, &asked, 100);
    let bad: Vec<&Vec<u8>> = answers.iter().filter(|answer| answer[3] & 15 == 7).collect();
    assert!(bad.len() >= 80, "{} of {}", bad.len(), answers.len());
    for answer in &bad {
        let decoded = Message::from_vec(answer).unwrap();
        assert_eq!(u16::from(decoded.metadata.response_code), 23, "BADCOOKIE");
        assert!(!decoded.metadata.truncation && decoded.answers.is_empty());
        assert_eq!(answer.len(), asked.len() + 16, "larger by the server's part of the cookie");
    }
    // With that it is served.
    let cookie = &bad[0][bad[0].len() - 24..];
    assert_eq!(flood(&socket, &with_cookie(cookie), 100).iter().filter(|answer| answer[7] == 2).count(), 100);
    // And programs of others come back with it by themselves, over UDP.
    let said = dig(fixture.address, "-b 127.1.1.9 +cookie +ignore web.weir.internal A");
    said.has(&["status: NOERROR", "10.1.0.1"]).lacks(&["retrying in TCP"]);
}

#[test]
fn a_flood_from_many_networks_takes_no_more_memory_and_leaves_a_neighbour_served() {
    let fixture = limited(20, 1);
    let message = question_edns("web.weir.internal.", RecordType::A, 1232).to_vec().unwrap();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap()
    };
    let rounds = |from: u8, to: u8| {
        for n in from..to {
            for m in 0..20 {
                let socket = client(Ipv4Addr::new(127, 10 + n, m, 1), fixture.address);
                for _ in 0..20 {
                    socket.send(&message).unwrap();
                }
                // In pace with the server, so that the kernel loses nothing: one of them is answered.
                socket.set_read_timeout(Some(WAIT)).unwrap();
                socket.recv(&mut [0; 4096]).unwrap();
            }
        }
    };
    rounds(0, 2);
    let before = resident();
    rounds(2, 60);
    let neighbour = client(Ipv4Addr::new(127, 200, 2, 2), fixture.address);
    assert_eq!(flood(&neighbour, &message, 10).len(), 10);
    let grown = resident() - before;
    println!("{grown} KiB after 24,000 questions of 1,200 networks");
    assert!(grown < 16 * 1024, "{grown} KiB");
}

#[test]
fn malformed_and_unusual_questions_count_against_the_limit_too() {
    let fixture = limited(10, 0);
    let mut two = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    two[5] = 2;
    let any = question("web.weir.internal.", RecordType::ANY).to_vec().unwrap();
    for (n, message) in [two, any].iter().enumerate() {
        let socket = client(Ipv4Addr::new(127, 5, n as u8, 1), fixture.address);
        let count = flood(&socket, message, 200).len();
        assert!((11..=20).contains(&count), "{count}");
    }
}

#[test]
fn without_a_limit_and_in_exempt_networks_everything_is_answered() {
    let mut fixture = Fixture::start(|_| {});
    fixture.publish(vec![(spec("web", &["http"]), vec![instance("web", "web-1", "10.1.0.1", &[8080])])]);
    let message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    assert_eq!(flood(&client(Ipv4Addr::LOCALHOST, fixture.address), &message, 1000).len(), 1000);
    let off = limited(0, 2);
    assert_eq!(flood(&client(Ipv4Addr::LOCALHOST, off.address), &message, 1000).len(), 1000);
}

#[test]
fn rfc7766_10_half_questions_and_drips_by_tcp_hold_places_only_so_long_and_a_neighbour_is_served() {
    let mut fixture = Fixture::start(|options| {
        options.tcp_idle = Duration::from_millis(500);
        options.tcp_connections = 300;
        options.tcp_connections_per_client = 100;
    });
    fixture.publish(vec![(spec("web", &["http"]), vec![instance("web", "web-1", "10.1.0.1", &[8080])])]);
    let good = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    let mut half: Vec<TcpStream> = (0..100).map(|_| connect(fixture.address)).collect();
    for (n, stream) in half.iter_mut().enumerate() {
        let octets = [&[0, good.len() as u8][..], &good].concat();
        stream.write_all(&octets[..n % octets.len()]).unwrap();
    }
    // The places of this client are taken; another's are not, and UDP does not care.
    let mut further = connect(fixture.address);
    let _ = further.write_all(&[0]);
    assert!(matches!(further.read(&mut [0; 1]), Ok(0) | Err(_)), "closed at once");
    let said = run(
        "dig",
        &[
            "-r",
            "@127.0.0.1",
            "-p",
            &fixture.address.port().to_string(),
            "-b",
            "127.9.9.9",
            "+tcp",
            "+short",
            "web.weir.internal",
        ],
    );
    assert_eq!(said.lines(), ["10.1.0.1"], "{}", said.text);
    // One octet each now and then does not buy time.
    let begun = weir::clock::now();
    for stream in half.iter_mut().take(5) {
        while stream.write_all(&[0]).is_ok() && begun.elapsed() < Duration::from_secs(20) {
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            if matches!(stream.read(&mut [0; 1]), Ok(0)) {
                break;
            }
        }
    }
    for stream in &mut half {
        stream.set_read_timeout(Some(WAIT)).unwrap();
        assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    // And the places are free again.
    let mut stream = connect(fixture.address);
    send_frame(&mut stream, &good);
    assert_eq!(read_frame(&mut stream)[7], 1);
}

#[test]
fn a_client_that_takes_no_answers_is_let_go_and_holds_little() {
    let mut fixture = Fixture::start(|options| options.tcp_idle = Duration::from_millis(500));
    let ready = |n: usize| instance("big", &format!("big-{n}"), &format!("10.2.{}.{}", n / 250, n % 250), &[80]);
    fixture.publish(vec![(spec("big", &["http"]), (0..1000).map(ready).collect())]);
    let asked = question("_http._tcp.big.weir.internal.", RecordType::SRV).to_vec().unwrap();
    let wire = crate::server::frame(&asked).repeat(2000);
    let mut stream = connect(fixture.address);
    stream.set_write_timeout(Some(WAIT)).unwrap();
    // 2,000 answers of 60 KiB; the server stops reading, and gives up after the idle time.
    let begun = weir::clock::now();
    let written = stream.write_all(&wire);
    let mut rest = vec![0; 1 << 16];
    // Takes nothing for longer than that: until the server has given up, which a write sees as a reset.
    while begun.elapsed() < Duration::from_secs(8) && stream.write_all(&wire).is_ok() {}
    let mut total = 0;
    while let Ok(length @ 1..) = stream.read(&mut rest) {
        total += length;
    }
    println!("{written:?}, {total} octets, {:?}", begun.elapsed());
    assert!(total < 60_000 * 2000 && begun.elapsed() < Duration::from_secs(10));
}
