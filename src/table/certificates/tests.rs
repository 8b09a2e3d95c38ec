//! Which certificate a client gets.

use super::{Certificate, CertificateError, Certificates};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm};
use rustls::SignatureScheme as Scheme;
use std::sync::Arc;

const ALL: [Scheme; 3] = [Scheme::ECDSA_NISTP256_SHA256, Scheme::RSA_PSS_SHA256, Scheme::RSA_PKCS1_SHA256];

fn pem(names: &[&str], algorithm: &'static SignatureAlgorithm) -> (String, String) {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn certificate(names: &[&str], algorithm: &'static SignatureAlgorithm) -> Arc<Certificate> {
    let (chain, key) = pem(names, algorithm);
    Arc::new(Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap())
}

fn elliptic(names: &[&str]) -> Arc<Certificate> {
    certificate(names, &PKCS_ECDSA_P256_SHA256)
}

fn found(set: &Certificates, name: Option<&str>) -> String {
    set.find(name, &ALL).map_or_else(String::new, |found| found.names().join(" "))
}

#[test]
fn exact_wins_over_wildcard_and_the_first_is_for_everybody_else() {
    let set = Certificates::default();
    assert_eq!(found(&set, Some("a.test")), "");
    set.put("1", elliptic(&["first.test", "127.0.0.1"]));
    set.put("2", elliptic(&["*.a.test"]));
    set.put("3", elliptic(&["b.a.test"]));
    for (name, expected) in [
        (Some("first.test"), "first.test 127.0.0.1"),
        (Some("c.a.test"), "*.a.test"),
        (Some("C.A.TEST"), "*.a.test"),
        (Some("b.a.test"), "b.a.test"),
        (Some("d.c.a.test"), "first.test 127.0.0.1"),
        (Some("a.test"), "first.test 127.0.0.1"),
        (None, "first.test 127.0.0.1"),
    ] {
        assert_eq!(found(&set, name), expected, "{name:?}");
    }
}

#[test]
fn the_client_s_schemes_choose_between_an_elliptic_and_an_rsa_key() {
    let set = Certificates::default();
    set.put("rsa", certificate(&["a.test"], &PKCS_RSA_SHA256));
    set.put("ec", elliptic(&["a.test"]));
    for name in [Some("a.test"), None] {
        assert!(set.find(name, &ALL).unwrap().is_elliptic(), "both would do: the cheaper one");
        assert!(!set.find(name, &[Scheme::RSA_PSS_SHA256]).unwrap().is_elliptic());
        assert!(set.find(name, &[Scheme::ED25519]).is_none());
    }
}

#[test]
fn a_source_is_replaced_in_its_place_and_removed() {
    let set = Certificates::default();
    set.put("1", elliptic(&["old.test"]));
    set.put("2", elliptic(&["other.test"]));
    set.put("1", elliptic(&["new.test"]));
    assert_eq!((found(&set, None), found(&set, Some("old.test"))), ("new.test".into(), "new.test".into()));
    set.remove("1");
    assert_eq!(found(&set, Some("new.test")), "other.test");
    set.replace("file ", &[("file 3".into(), elliptic(&["file.test"])), ("file 4".into(), elliptic(&["more.test"]))]);
    assert_eq!((found(&set, None), found(&set, Some("other.test"))), ("file.test".into(), "other.test".into()));
    set.replace("file ", &[]);
    set.remove("2");
    assert!(set.is_empty());
}

#[test]
fn requests_for_another_host_need_a_certificate_that_is_for_both() {
    let set = Certificates::default();
    set.put("1", elliptic(&["a.test", "*.a.test"]));
    set.put("2", elliptic(&["b.test"]));
    for (name, host, may) in [
        ("a.test", "a.test", true),
        ("a.test", "x.a.test", true),
        ("a.test", "y.x.a.test", false),
        ("a.test", "b.test", false),
        ("b.test", "a.test", false),
        ("unknown.test", "unknown.test", true),
        ("unknown.test", "a.test", true),
        ("unknown.test", "b.test", false),
    ] {
        assert_eq!(set.covers(name, host), may, "{name} {host}");
    }
}

#[test]
fn what_is_wrong_with_a_pair_is_named() {
    let (chain, key) = pem(&["a.test"], &PKCS_ECDSA_P256_SHA256);
    let (_, other) = pem(&["a.test"], &PKCS_ECDSA_P256_SHA256);
    let error = |chain: &str, key: &str| Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
    assert_eq!(error(&chain, &other), CertificateError::Mismatch);
    assert_eq!(error("", &key), CertificateError::NoCertificate);
    assert_eq!(error(&chain, ""), CertificateError::NoKey);
    assert_eq!(error(&chain, &chain), CertificateError::NoKey);
    // Half a file, at every length: refused, without a panic.
    for cut in 0..chain.len() - 1 {
        assert!(matches!(
            error(&chain[..cut], &key),
            CertificateError::NoCertificate | CertificateError::BadCertificate(_)
        ));
    }
    for cut in 0..key.len() - 2 {
        assert!(matches!(error(&chain, &key[..cut]), CertificateError::NoKey | CertificateError::BadKey(_)), "{cut}");
    }
}

#[test]
fn challenges_are_answered_while_they_are_there() {
    let challenges = super::Challenges::default();
    assert!(challenges.is_empty() && challenges.put_token("t", "t.thumb"));
    assert_eq!(challenges.token("t").as_deref(), Some("t.thumb"));
    let set = Certificates::new(challenges.clone());
    assert!(challenges.put_certificate("A.test", elliptic(&["a.test"]).key().clone()));
    assert!(set.challenges().certificate("a.test").is_some());
    challenges.remove_certificate("a.TEST");
    challenges.remove_token("t");
    assert!(challenges.is_empty());
}
