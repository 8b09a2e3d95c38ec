//! RFC 7541 as a peer sees it: what a block may be, in raw frames.

use crate::frames::{END_HEADERS, END_STREAM, Fate, HEADERS, Peer, SETTINGS, frame, get};
use crate::support::backend::{Backend, answering};
use crate::support::proxy::Proxy;

const WHOLE: u8 = END_HEADERS | END_STREAM;
const COMPRESSION_ERROR: u32 = 9;

async fn assert_refused(proxy: &Proxy, what: &str, block: &[u8]) {
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frame(HEADERS, WHOLE, 1, block)).await;
    assert_eq!(peer.end().await, Some(COMPRESSION_ERROR), "{what}");
}

async fn serving() -> (Backend, Proxy) {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    (backend, proxy)
}

fn with(more: &[u8]) -> Vec<u8> {
    [&get(&[])[..], more].concat()
}

#[tokio::test]
async fn section_2_3_3_indexes_are_within_the_tables() {
    let (backend, proxy) = serving().await;
    assert_refused(&proxy, "the first behind the static table", &with(&[0xbe])).await;
    assert_refused(&proxy, "one far behind it", &with(&[0xff, 0xff, 0xff, 0x03])).await;
    assert_refused(&proxy, "a name's index behind the table", &with(&[0x7e, 1, b'x'])).await;
    assert!(!backend.received_text().contains("GET"));
}

#[tokio::test]
async fn section_4_2_the_size_is_said_first_and_within_the_limit() {
    let (_backend, proxy) = serving().await;
    assert_refused(&proxy, "behind a field", &with(&[0x20])).await;
    // Smaller, and back to what it was, at the beginning: the entry is gone.
    let mut peer = Peer::connect(proxy.address).await;
    let block = [&[0x20, 0x3f, 0xe1, 0x1f][..], &with(&[0x40, 1, b'x', 1, b'y'])].concat();
    peer.send(&frame(HEADERS, WHOLE, 1, &block)).await;
    assert!(matches!(peer.fate(1).await, Fate::Answered(_)));
    peer.send(&frame(HEADERS, WHOLE, 3, &[&[0x20][..], &with(&[0xbe])].concat())).await;
    assert_eq!(peer.end().await, Some(COMPRESSION_ERROR));
}

#[tokio::test]
async fn section_5_1_integers_are_bounded() {
    let (_backend, proxy) = serving().await;
    assert_refused(&proxy, "33 bits", &with(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])).await;
    assert_refused(&proxy, "without an end", &with(&[&[0xff][..], &[0x80; 100]].concat())).await;
    assert_refused(&proxy, "cut", &with(&[0xff])).await;
}

#[tokio::test]
async fn section_5_2_padding_is_short_and_of_ones() {
    let (_backend, proxy) = serving().await;
    // `a` in its code is 00011: padded in order, with an octet more, with zeros; and the end of the string inside it.
    let field = |value: &[u8]| with(&[&[0, 1, b'x', 0x80 | value.len() as u8][..], value].concat());
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &field(&[0b0001_1111]))).await;
    assert!(matches!(peer.fate(1).await, Fate::Answered(_)));
    for (what, value) in [
        ("an octet more", &[0b0001_1111, 0xff][..]),
        ("zeros", &[0b0001_1000]),
        ("the end of the string", &[0b0001_1111, 0xff, 0xff, 0xff, 0xff]),
    ] {
        assert_refused(&proxy, what, &field(value)).await;
    }
    assert_refused(&proxy, "a string that is longer than the block", &with(&[0, 1, b'x', 100, b'y'])).await;
}

#[tokio::test]
async fn section_6_1_there_is_no_index_0() {
    let (_backend, proxy) = serving().await;
    assert_refused(&proxy, "index 0", &with(&[0x80])).await;
}

#[tokio::test]
async fn section_6_3_a_size_above_the_limit() {
    let (_backend, proxy) = serving().await;
    // 4097; and 4096, which is it.
    assert_refused(&proxy, "4097", &[&[0x3f, 0xe2, 0x1f][..], &get(&[])].concat()).await;
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &[&[0x3f, 0xe1, 0x1f][..], &get(&[])].concat())).await;
    assert!(matches!(peer.fate(1).await, Fate::Answered(_)));
}

#[tokio::test]
async fn section_4_2_the_peer_s_limit_is_kept() {
    let (_backend, proxy) = serving().await;
    // HEADER_TABLE_SIZE 0: the first block says so, and nothing is ever indexed.
    let mut peer = Peer::with_settings(proxy.address, &[(1, 0)]).await;
    for stream in [1, 3, 5, 7] {
        peer.send(&frame(HEADERS, WHOLE, stream, &get(&[]))).await;
        let Fate::Answered(block) = peer.fate(stream).await else { panic!("no answer") };
        let begins: &[u8] = if stream == 1 { &[0x20, 0x88] } else { &[0x88] };
        assert!(block.starts_with(begins), "{block:x?}");
    }
    // Without it what repeats is an octet in the end.
    let mut peer = Peer::connect(proxy.address).await;
    let mut lengths = Vec::new();
    for stream in (1..20).step_by(2) {
        peer.send(&frame(HEADERS, WHOLE, stream, &get(&[]))).await;
        let Fate::Answered(block) = peer.fate(stream).await else { panic!("no answer") };
        lengths.push(block.len());
    }
    assert!(lengths.last() <= lengths.first(), "{lengths:?}");
    peer.send(&frame(SETTINGS, 0, 0, &[])).await;
}
