//! Tests of `datagram.rs`: what leaves and comes as one.

use crate::sys::datagram::{BATCH, Batch, receive_merged, report_destination, run_length, send_merged};
use std::cell::Cell;
use std::net::UdpSocket;

#[test]
fn those_of_one_length_pass_as_one_with_one_shorter_at_the_end() {
    let run = |lengths: &[usize]| {
        let texts: Vec<Vec<u8>> = lengths.iter().map(|&length| vec![0; length]).collect();
        run_length(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    assert_eq!((run(&[5, 5, 5]), run(&[5, 5, 3, 3]), run(&[5, 6]), run(&[5, 5, 0])), (3, 3, 1, 2));
    assert_eq!((run(&[0, 0]), run(&[5]), run(&[40_000, 40_000]), run(&[30_000, 30_000, 30_000])), (1, 1, 1, 2));
    assert_eq!((run(&[65_000, 1]), run(&[65_507, 65_507]), run(&[])), (1, 1, 1));
}

#[test]
fn merged_datagrams_arrive_as_they_were_in_their_order_from_the_address_that_was_asked() {
    for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
        let Ok(server) = UdpSocket::bind(address) else { continue };
        let bound = server.local_addr().unwrap();
        if bound.ip().is_unspecified() {
            report_destination(&server, false).unwrap();
        }
        let client = UdpSocket::bind(if bound.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
        let asked = if bound.is_ipv4() { "127.0.0.1" } else { "::1" };
        client.connect((asked, bound.port())).unwrap();
        client.send(b"question").unwrap();
        let mut batch = Batch::new(1 << 16, 1);
        batch.receive(&server).unwrap();
        let peer = *batch.received(0).unwrap().1;
        let texts: Vec<Vec<u8>> =
            [7, 7, 7, 3, 3, 0, 1200, 1200, 900, 65_000, 1].iter().zip(b'a'..).map(|(&n, c)| vec![c; n]).collect();
        let datagrams: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        let merges = Cell::new(true);
        for (from, to, whom) in [(&server, &client, Some(&peer)), (&client, &server, None)] {
            let mut left = &datagrams[..];
            while !left.is_empty() {
                left = &left[send_merged(from, left, whom, &merges).unwrap()..];
            }
            let mut came = Vec::new();
            while came.len() < texts.len() {
                let count = batch.receive_some(to, 4, whom.is_none()).unwrap();
                assert!((1..=4).contains(&count));
                came.extend((0..count).map(|index| batch.received(index).unwrap().0.to_vec()));
            }
            assert!(came == texts, "{address}");
        }
        // The same, handed out together.
        receive_merged(&server).unwrap();
        let mut left = &datagrams[..];
        while !left.is_empty() {
            left = &left[send_merged(&client, left, None, &merges).unwrap()..];
        }
        let (mut came, mut calls) = (Vec::new(), 0);
        while came.len() < texts.len() {
            let count = batch.receive(&server).unwrap();
            calls += count;
            came.extend((0..count).flat_map(|index| batch.pieces(index)).map(<[u8]>::to_vec));
            assert_eq!(batch.received(0).unwrap().1.local(), peer.local());
        }
        assert!(came == texts && calls < texts.len(), "{address}: {calls}");
        assert!(merges.get(), "loopback takes them");
        assert_eq!(send_merged(&client, &[&b"x"[..]; BATCH + 1], None, &merges).unwrap(), BATCH);
    }
}
