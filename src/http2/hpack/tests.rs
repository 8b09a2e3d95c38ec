//! RFC 7541's own examples, every code, every bound of integers, and the tables against what they must be.

use crate::http2::hpack::{Decoder, Encoder, Malformed, huffman, integer};
use proptest::prelude::*;

type Pairs = Vec<(String, String)>;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Pairs, Malformed> {
    let mut found = Vec::new();
    decoder.decode(block, |name, value| {
        found.push((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned()));
    })?;
    Ok(found)
}

fn pairs(list: &[(&str, &str)]) -> Pairs {
    list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

#[test]
fn integers_of_appendix_c_1() {
    for (octets, bits, value) in [(&[10u8][..], 5, 10), (&[31, 154, 10], 5, 1337), (&[42], 8, 42)] {
        assert_eq!(integer::read(octets, bits), Ok((value, octets.len())));
        let mut out = Vec::new();
        integer::write(&mut out, 0, bits, value);
        assert_eq!(out, octets);
    }
}

#[test]
fn integers_at_every_bound_of_every_prefix() {
    for bits in 1..=8u32 {
        let mask = (1u64 << bits) - 1;
        let edges = (0..=32).flat_map(|shift| {
            let edge = 1u64 << shift;
            [edge.saturating_sub(1), edge, edge + 1, edge + mask, (edge + mask).saturating_sub(1)]
        });
        for value in edges.filter(|&value| value <= u64::from(u32::MAX)) {
            let value = value as usize;
            let high = if bits < 8 { 1u8 << 7 } else { 0 };
            let mut out = Vec::new();
            integer::write(&mut out, high, bits, value);
            assert_eq!(integer::read(&out, bits), Ok((value, out.len())), "{bits} {value}");
            for cut in 0..out.len() {
                assert_eq!(integer::read(&out[..cut], bits), Err(Malformed), "{bits} {value} {cut}");
            }
            out.push(255);
            assert_eq!(integer::read(&out, bits), Ok((value, out.len() - 1)), "{bits} {value}");
        }
        let full = mask as u8;
        // One above 32 bits; and as many octets as nobody needs, though the value is small.
        let above = (u64::from(u32::MAX) + 1 - mask).to_le_bytes();
        let mut rest = u64::from_le_bytes(above);
        let mut octets = vec![full];
        while rest >= 128 {
            octets.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        octets.push(rest as u8);
        assert_eq!(integer::read(&octets, bits), Err(Malformed));
        assert_eq!(integer::read(&[full, 128, 128, 128, 128, 128, 0], bits), Err(Malformed));
        assert_eq!(integer::read(&[full, 128, 128, 128, 128, 0], bits), Ok((mask as usize, 6)));
        assert_eq!(integer::read(&[full, 255, 255, 255, 255, 255, 255, 255, 255, 255, 127], bits), Err(Malformed));
    }
}

#[test]
fn every_octet_has_its_code_and_nothing_else_does() {
    for octet in 0..=255u8 {
        for text in [vec![octet], vec![octet; 2], vec![b'a', octet, b'z'], vec![octet; 9]] {
            let mut coded = Vec::new();
            huffman::encode(&text, &mut coded);
            assert_eq!(coded.len(), huffman::encoded_len(&text));
            let mut out = Vec::new();
            assert_eq!(huffman::decode(&coded, &mut out), Ok(()));
            assert_eq!(out, text);
            // A whole octet of padding is no padding (RFC 7541 §5.2).
            coded.push(255);
            assert_eq!(huffman::decode(&coded, &mut Vec::new()), Err(Malformed), "{octet}");
        }
    }
    // Some codes of Appendix B, by hand.
    for (octet, code, length) in [
        (b'0', 0x0u32, 5),
        (b'a', 3, 5),
        (b' ', 0x14, 6),
        (b'&', 0xf8, 8),
        (0, 0x1ff8, 13),
        (255, 0x3ff_ffee, 26),
        (b'\n', 0x3fff_fffc, 30),
        (249, 0xfff_fffe, 28),
    ] {
        let padded = u64::from(code) << (64 - length) | u64::MAX >> length;
        let octets = &padded.to_be_bytes()[..(length as usize).div_ceil(8)];
        let mut coded = Vec::new();
        huffman::encode(&[octet], &mut coded);
        assert_eq!(coded, octets, "{octet}");
    }
    // The end of the string is no part of it, padding is of ones, and a code that is cut is no padding.
    for wrong in [&[0xff, 0xff, 0xff, 0xff][..], &[0xff], &[0b0001_1000], &[0b0001_1110], &[0xff, 0xff, 0xff, 0xfc]] {
        assert_eq!(huffman::decode(wrong, &mut Vec::new()), Err(Malformed), "{wrong:?}");
    }
    assert_eq!(huffman::decode(&[], &mut Vec::new()), Ok(()));
}

#[test]
fn fields_of_appendix_c_2() {
    for (block, name, value, size) in [
        ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "custom-key", "custom-header", 55),
        ("040c 2f73 616d 706c 652f 7061 7468", ":path", "/sample/path", 0),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password", "secret", 0),
        ("82", ":method", "GET", 0),
    ] {
        let mut decoder = Decoder::new(4096);
        assert_eq!(decode(&mut decoder, &hex(block)), Ok(pairs(&[(name, value)])));
        assert_eq!(decoder.table().size(), size);
    }
}

/// Requests of Appendix C.3, plain, and C.4, in Huffman's code.
#[test]
fn requests_of_appendix_c_3_and_c_4() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let common = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
    let second = [&common[..], &[("cache-control", "no-cache")]].concat();
    let third = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new(4096);
        let expected: [(&[(&str, &str)], usize); 3] = [(&common, 57), (&second, 110), (&third, 164)];
        for (block, (fields, size)) in blocks.iter().zip(expected) {
            assert_eq!(decode(&mut decoder, &hex(block)), Ok(pairs(fields)));
            assert_eq!(decoder.table().size(), size);
        }
    }
}

/// Answers of Appendix C.5, plain, and C.6, in Huffman's code: the table is of 256 octets, so that entries are evicted.
#[test]
fn answers_of_appendix_c_5_and_c_6() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b
         2076 6572 7369 6f6e 3d31",
    ];
    let coded = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    let (date, later) = ("Mon, 21 Oct 2013 20:13:21 GMT", "Mon, 21 Oct 2013 20:13:22 GMT");
    let rest = |status, date| {
        [(":status", status), ("cache-control", "private"), ("date", date), ("location", "https://www.example.com")]
    };
    let third = [
        &[(":status", "200"), ("cache-control", "private"), ("date", later)][..],
        &[("location", "https://www.example.com"), ("content-encoding", "gzip")],
        &[("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")],
    ]
    .concat();
    for blocks in [plain, coded] {
        let mut decoder = Decoder::new(256);
        let expected = [(rest("302", date).to_vec(), 222), (rest("307", date).to_vec(), 222), (third.clone(), 215)];
        for (block, (fields, size)) in blocks.iter().zip(expected) {
            assert_eq!(decode(&mut decoder, &hex(block)), Ok(pairs(&fields)));
            assert_eq!(decoder.table().size(), size);
        }
    }
}

#[test]
fn what_is_no_block_is_refused() {
    for (what, block) in [
        ("index 0", "80"),
        ("an index behind the table", "be"),
        ("an index far behind it", "ff80808008"),
        ("a name's index behind the table", "7e0161"),
        ("a string that is cut", "400a6375"),
        ("a string without a length", "40"),
        ("a value that is missing", "400161"),
        ("a size above the limit", "3fe21f"),
        ("a size behind a field", "8220"),
        ("a size that is cut", "3f"),
        ("padding of an octet", "00 81ff 81ff"),
        ("a length of 2^31", "007fffffffff07"),
    ] {
        assert_eq!(decode(&mut Decoder::new(4096), &hex(block)), Err(Malformed), "{what}");
    }
    // The size may be said, twice, at the beginning, up to the limit.
    assert_eq!(decode(&mut Decoder::new(4096), &hex("20 3fe11f 82")), Ok(pairs(&[(":method", "GET")])));
    assert_eq!(decode(&mut Decoder::new(4096), &[]), Ok(Vec::new()));
}

#[test]
fn entries_that_are_named_by_what_evicts_them_are_copied_first() {
    // A table for one entry: its name is used by the entry that takes its place (RFC 7541 §4.4).
    let mut decoder = Decoder::new(64);
    let block = hex("40 04 6e616d65 01 61  7e 01 62  be");
    assert_eq!(decode(&mut decoder, &block), Ok(pairs(&[("name", "a"), ("name", "b"), ("name", "b")])));
    // One that is too large empties the table.
    let large = [&hex("7e 7f 00")[..], &[b'x'; 127]].concat();
    assert_eq!(decode(&mut decoder, &large).unwrap().len(), 1);
    assert_eq!(decoder.table().size(), 0);
    assert_eq!(decode(&mut decoder, &hex("be")), Err(Malformed));
}

#[test]
fn the_table_holds_little_more_than_it_may() {
    let mut decoder = Decoder::new(4096);
    for i in 0..10_000 {
        let name = format!("x-{i}");
        let block = [&[0x40, name.len() as u8][..], name.as_bytes(), &[100], &[b'v'; 100]].concat();
        decode(&mut decoder, &block).unwrap();
        assert!(decoder.table().size() <= 4096 && decoder.table().octets_held() <= 3 * 4096);
    }
}

fn encode(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(200, &mut out);
    for (name, value) in fields {
        encoder.field(name.as_bytes(), value.as_bytes(), &mut out);
    }
    out
}

#[test]
fn what_repeats_is_indexed_and_what_is_secret_never() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(4096));
    let fields = [("content-type", "text/html; charset=utf-8"), ("set-cookie", "id=1"), ("x-frame-options", "DENY")];
    let lengths: Vec<usize> = (0..4)
        .map(|_| {
            let block = encode(&mut encoder, &fields);
            assert_eq!(decode(&mut decoder, &block).unwrap()[1..], pairs(&fields));
            // Never indexed: 0001 and the index of its name (RFC 7541 §6.2.3).
            assert!(block.windows(2).any(|pair| pair == [0x1f, 40]), "{block:x?}");
            block.len()
        })
        .collect();
    assert!(lengths[0] >= lengths[1] && lengths[2] == lengths[3] && lengths[3] < 12, "{lengths:?}");
    assert_eq!(decoder.table().size(), encoder.table().size());
    // What differs each time pushes nothing out.
    for i in 0..1000 {
        let tag = format!("\"{i}\"");
        let block = encode(&mut encoder, &[("etag", &tag), fields[0]]);
        assert_eq!(decode(&mut decoder, &block).unwrap()[1..], pairs(&[("etag", &tag), fields[0]]));
    }
    assert_eq!(encode(&mut encoder, &fields).len(), lengths[3]);
}

#[test]
fn a_smaller_table_is_said_before_the_next_field() {
    let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(4096));
    let fields = [("x-a", "1"), ("x-b", "2")];
    for _ in 0..3 {
        decode(&mut decoder, &encode(&mut encoder, &fields)).unwrap();
    }
    assert_eq!(decoder.table().size(), 72);
    // Down and up again: both are said, and the table is empty for both.
    encoder.set_limit(0);
    encoder.set_limit(100_000);
    let block = encode(&mut encoder, &fields);
    assert_eq!(block[..5], [0x20, 0x3f, 0xe1, 0x1f, 0x88]);
    assert_eq!(decode(&mut decoder, &block).unwrap()[1..], pairs(&fields));
    assert_eq!(decoder.table().size(), encoder.table().size());
    encoder.set_limit(50);
    let block = encode(&mut encoder, &fields);
    assert_eq!(block[..3], [0x3f, 19, 0x88]);
    decode(&mut decoder, &block).unwrap();
    assert!(encoder.table().size() <= 50);
    // As it is: nothing to say.
    encoder.set_limit(50);
    assert_eq!(encode(&mut encoder, &[])[0], 0x88);
}

#[test]
fn every_status_has_three_digits() {
    for status in 100..1000 {
        let mut block = Vec::new();
        Encoder::default().begin(status, &mut block);
        assert_eq!(decode(&mut Decoder::new(4096), &block), Ok(pairs(&[(":status", &status.to_string())])));
    }
}

proptest! {
    #[test]
    fn whatever_is_encoded_is_decoded(
        blocks in prop::collection::vec(
            prop::collection::vec(("[a-z-]{1,40}", prop::collection::vec(any::<u8>(), 0..80)), 0..12), 1..12),
        limits in prop::collection::vec(0u32..5000, 12),
    ) {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new(4096));
        for (fields, limit) in blocks.iter().zip(limits) {
            if limit % 3 == 0 {
                encoder.set_limit(limit);
            }
            // Twice, so that some of it is in the table.
            for _ in 0..2 {
                let mut block = Vec::new();
                encoder.begin(404, &mut block);
                for (name, value) in fields {
                    encoder.field(name.as_bytes(), value, &mut block);
                }
                let mut found = Vec::new();
                decoder.decode(&block, |name, value| found.push((name.to_vec(), value.to_vec()))).unwrap();
                let mut expected = vec![(b":status".to_vec(), b"404".to_vec())];
                expected.extend(fields.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone())));
                prop_assert_eq!(found, expected);
                prop_assert_eq!(decoder.table().size(), encoder.table().size());
            }
        }
    }

    #[test]
    fn any_octets_are_decoded_or_refused(octets in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::new(4096);
        let mut fields = 0;
        let _ = decoder.decode(&octets, |_, _| fields += 1);
        prop_assert!(fields <= octets.len() && decoder.table().size() <= 4096);
    }
}
