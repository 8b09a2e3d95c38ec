//! Files of certificates, keys, authorities and lists of revoked ones: read whole, and what is wrong with one said so that
//! somebody can mend it.

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Largest file that is read, in octets: a bundle of all public authorities has a quarter of it.
const MAX_FILE_OCTETS: u64 = 1024 * 1024;

const RENAME: &str = "write the whole file under another name, then rename it into its place";

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadFile {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it, to be read after its path.
    pub problem: String,
    /// What to do about it.
    pub hint: &'static str,
}

impl BadFile {
    /// Says what is wrong with a file, and what to do.
    pub fn new(file: &Path, problem: impl fmt::Display, hint: &'static str) -> Self {
        Self { file: file.to_owned(), problem: problem.to_string(), hint }
    }
}

impl fmt::Display for BadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.problem)
    }
}

/// Reads a regular file of at most 1 MiB.
///
/// # Errors
/// [`BadFile`].
pub fn read(path: &Path) -> Result<Vec<u8>, BadFile> {
    let failed = |error: std::io::Error| {
        let hint = match error.kind() {
            ErrorKind::NotFound => "put the file there, or correct the path",
            ErrorKind::PermissionDenied => "let the user that Weir runs as read the file and enter its folders",
            _ => "put a readable file there",
        };
        BadFile::new(path, error, hint)
    };
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(BadFile::new(path, "is no regular file", "name a file"));
    }
    let mut octets = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE_OCTETS + 1).read_to_end(&mut octets)).map_err(failed)?;
    if octets.len() as u64 > MAX_FILE_OCTETS {
        return Err(BadFile::new(path, "is larger than 1 MiB", "name a file of certificates in PEM"));
    }
    Ok(octets)
}

/// Takes the certificates out of a file's text, one at least.
///
/// # Errors
/// [`BadFile`].
pub fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let hint = "write certificates in PEM, the holder's own first";
    some(CertificateDer::pem_slice_iter(text).collect(), |error| damage(path, &error, "no certificate in it", hint))
}

/// Takes the first private key out of a file's text.
///
/// # Errors
/// [`BadFile`].
pub fn private_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, BadFile> {
    let hint = "write it in PEM, PKCS #8, PKCS #1 or SEC 1, without a passphrase";
    PrivateKeyDer::from_pem_slice(text).map_err(|error| damage(path, &error, "no private key in it", hint))
}

/// Takes the lists of revoked certificates out of a file's text, one at least.
///
/// # Errors
/// [`BadFile`].
pub fn revocation_lists(path: &Path, text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, BadFile> {
    let what = "no list of revoked certificates in it";
    let found = CertificateRevocationListDer::pem_slice_iter(text).collect();
    some(found, |error| damage(path, &error, what, "write lists in PEM: openssl crl -inform der -outform pem"))
}

/// Takes authorities; each must be one that certificates can be checked against.
///
/// # Errors
/// [`BadFile`], with the place of the certificate in the file.
pub fn authorities(
    path: &Path,
    list: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Result<RootCertStore, BadFile> {
    let mut roots = RootCertStore::empty();
    for (i, authority) in list.into_iter().enumerate() {
        let hint = "remove that certificate, or write it again";
        let bad = |error| BadFile::new(path, format!("its certificate {} cannot be used: {error}", i + 1), hint);
        roots.add(authority).map_err(bad)?;
    }
    Ok(roots)
}

fn some<T>(found: Result<Vec<T>, pem::Error>, bad: impl Fn(pem::Error) -> BadFile) -> Result<Vec<T>, BadFile> {
    match found {
        Ok(found) if found.is_empty() => Err(bad(pem::Error::NoItemsFound)),
        found => found.map_err(bad),
    }
}

fn damage(path: &Path, error: &pem::Error, missing: &str, hint: &'static str) -> BadFile {
    match error {
        pem::Error::NoItemsFound => BadFile::new(path, missing, hint),
        pem::Error::MissingSectionEnd { .. } => BadFile::new(path, "is cut off: a BEGIN without its END", RENAME),
        pem::Error::IllegalSectionStart { .. } => BadFile::new(path, "is cut off: a BEGIN that is not whole", RENAME),
        error => BadFile::new(path, format!("is damaged: {error}"), RENAME),
    }
}

#[cfg(test)]
mod tests {
    use super::{authorities, certificates, private_key, read, revocation_lists};
    use std::path::Path;

    #[test]
    fn what_is_wrong_with_a_file_is_told_apart() {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let path = Path::new("/a.pem");
        let of = |text: &str| certificates(path, text.as_bytes()).map(|list| list.len()).map_err(|bad| bad.to_string());
        assert_eq!(of(&format!("{certificate}{key}{certificate}")), Ok(2));
        assert_eq!(of(""), Err("/a.pem: no certificate in it".to_owned()));
        assert_eq!(of(&key), Err("/a.pem: no certificate in it".to_owned()));
        let half = &certificate[..certificate.len() / 2];
        // Also behind one that is whole.
        for text in [half.to_owned(), format!("{certificate}{half}")] {
            assert_eq!(of(&text), Err("/a.pem: is cut off: a BEGIN without its END".to_owned()));
        }
        assert_eq!(of(&certificate[..20]), Err("/a.pem: is cut off: a BEGIN that is not whole".to_owned()));
        let said = of(&certificate.replacen("MII", "M~I", 1)).unwrap_err();
        assert!(said.starts_with("/a.pem: is damaged: "), "{said}");
        assert!(private_key(path, key.as_bytes()).is_ok());
        assert_eq!(private_key(path, certificate.as_bytes()).unwrap_err().problem, "no private key in it");
        assert_eq!(
            private_key(path, &key.as_bytes()[..60]).unwrap_err().problem,
            "is cut off: a BEGIN without its END"
        );
        let lists = revocation_lists(path, certificate.as_bytes()).unwrap_err();
        assert_eq!(lists.problem, "no list of revoked certificates in it");
        let bad = authorities(path, [vec![1, 2, 3].into()]).unwrap_err();
        assert!(bad.problem.starts_with("its certificate 1 cannot be used: "), "{bad}");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_what_to_do() {
        let missing = read(Path::new("/nonexistent/a.pem")).unwrap_err();
        assert!(missing.to_string().starts_with("/nonexistent/a.pem: No such file"), "{missing}");
        assert_eq!(missing.hint, "put the file there, or correct the path");
        assert_eq!(read(Path::new("/")).unwrap_err().problem, "is no regular file");
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().problem, "is no regular file");
    }
}
