//! RFC 7873: DNS cookies that are asked for on their own.

use crate::dns::{WAIT, connect, exchange, read_frame, send_frame, shared};

/// A header without a question and an OPT record with one cookie.
fn cookie_alone(cookie: &[u8]) -> Vec<u8> {
    let mut message = vec![7, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4 + cookie.len() as u8]);
    message.extend([0, 10, 0, cookie.len() as u8]);
    message.extend_from_slice(cookie);
    message
}

/// Code and cookie of an answer, which must be a header and an OPT record.
fn told(answer: &[u8]) -> (u16, Vec<u8>) {
    assert_eq!((&answer[..2], answer[2] & 0x80, &answer[4..12]), (&[7, 9][..], 0x80, &[0, 0, 0, 0, 0, 0, 0, 1][..]));
    assert_eq!((answer.len(), &answer[12..15], &answer[21..27]), (51, &[0, 0, 41][..], &[0, 28, 0, 10, 0, 24][..]));
    (u16::from(answer[17]) << 4 | u16::from(answer[3] & 15), answer[27..].to_vec())
}

#[test]
fn rfc7873_5_4_a_message_without_a_question_gets_a_cookie_and_hears_whether_its_own_is_good() {
    let server = shared().address;
    let ask = |cookie: &[u8]| told(&exchange(server, &cookie_alone(cookie), WAIT).unwrap());
    let (code, cookie) = ask(&[5; 8]);
    assert_eq!((code, &cookie[..8]), (0, &[5; 8][..]));
    let (code, again) = ask(&cookie);
    assert_eq!((code, &again[..8]), (0, &[5; 8][..]));
    let mut wrong = cookie.clone();
    wrong[23] ^= 1;
    let (code, fresh) = ask(&wrong);
    assert_eq!(code, 23, "BADCOOKIE");
    assert_eq!(ask(&fresh).0, 0, "which brings one that is good");
    let mut stream = connect(server);
    send_frame(&mut stream, &cookie_alone(&cookie));
    assert_eq!(told(&read_frame(&mut stream)).0, 0);
}

#[test]
fn rfc7873_5_4_without_a_cookie_or_with_records_it_is_a_format_error() {
    let code = |message: &[u8]| exchange(shared().address, message, WAIT).unwrap()[3] & 15;
    let whole = cookie_alone(&[5; 8]);
    let mut bare = whole[..23].to_vec();
    bare[22] = 0;
    assert_eq!(code(&bare), 1, "an OPT record without options");
    assert_eq!(code(&cookie_alone(&[5; 9])), 1, "a cookie of nine octets");
    let mut counted = whole;
    counted[7] = 1;
    assert_eq!(code(&counted), 1, "an answer is counted");
}
