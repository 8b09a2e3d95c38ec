//! Looking at a store that no Weir has open: whether the next start can use it, and what it holds.
//!
//! The file is read into memory and examined there: nothing of it is changed, also where the next start would mend what a
//! crash left. Everything is walked: every page by its checksum, every record by its meaning, every reference.

use crate::control::store::OpenError;
use crate::control::store::file::{self, damaged};
use crate::control::store::records::Contents;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// What a store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// Its size in octets.
    pub bytes: u64,
    /// Its format.
    pub format: u32,
    /// Its random id.
    pub id: String,
    /// How many there are of each kind of record.
    pub counts: Vec<(&'static str, usize)>,
    /// What a start would leave out, one sentence each: definitions that this program refuses, references that lead nowhere.
    pub problems: Vec<String>,
}

/// Examines a store. Blocks.
///
/// # Errors
/// [`OpenError`] when it is in use, newer, damaged or not accessible.
pub fn check(path: &Path) -> Result<Report, OpenError> {
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    let found = fs::metadata(path).map_err(failed)?;
    // Whoever writes holds it; what is read meanwhile would be half of one commit.
    let _lock = file::lock_existing(path)?;
    let whole = fs::read(path).map_err(failed)?;
    if whole.is_empty() {
        return Err(damaged(path, "it is empty".to_owned()));
    }
    let examined = catch_unwind(AssertUnwindSafe(|| examine(path, &whole)));
    let (format, id, contents) = examined.map_err(|_| damaged(path, "it cannot be made sense of".to_owned()))??;
    Ok(Report {
        path: path.to_owned(),
        bytes: found.len(),
        format,
        id,
        counts: counts(&contents),
        problems: problems(&contents),
    })
}

fn examine(path: &Path, whole: &[u8]) -> Result<(u32, String, Contents), OpenError> {
    let memory = InMemoryBackend::new();
    let filled = memory.set_len(whole.len() as u64).and_then(|()| memory.write(0, whole));
    filled.map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    file::examine(path, memory)
}

fn counts(contents: &Contents) -> Vec<(&'static str, usize)> {
    vec![
        ("services", contents.heads.len()),
        ("revisions", contents.revisions.values().map(std::collections::BTreeMap::len).sum()),
        ("replicas", contents.replicas.len()),
        ("registrations", contents.registrations.len()),
        ("drains", contents.drains.len()),
        ("certificates", contents.certificates.len()),
    ]
}

fn problems(contents: &Contents) -> Vec<String> {
    let mut found = Vec::new();
    for (name, head) in &contents.heads {
        match contents.revisions.get(name).and_then(|revisions| revisions.get(&head.wanted)) {
            None => found.push(format!("service {name}: its wanted revision {} is missing", head.wanted)),
            Some(revision) => {
                if let Err(refused) = revision.definition.to_model() {
                    let why = refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    found.push(format!("service {name}: this program refuses revision {}: {why}", head.wanted));
                }
            }
        }
    }
    let lost = contents.revisions.keys().filter(|name| !contents.heads.contains_key(name));
    found.extend(lost.map(|name| format!("service {name}: it has revisions and none is wanted")));
    found
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::control::store::{Change, ChangeSource, Head, OpenError, Outcome, Revision, Store};
    use crate::model::ServiceName;
    use crate::spec;
    use std::path::PathBuf;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("weir-check-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[tokio::test]
    async fn tells_what_a_store_holds_and_what_leads_nowhere_and_changes_nothing() {
        let folder = folder("holds");
        let path = folder.join("weir.redb");
        assert!(matches!(check(&path), Err(OpenError::Io { .. })) && !path.exists(), "none is made");
        let (store, _) = Store::open(&path).unwrap();
        assert!(matches!(check(&path), Err(OpenError::Locked { holder: Some(_), .. })));
        let name = ServiceName::parse("web").unwrap();
        let revision = Revision {
            number: 1,
            source: ChangeSource::Deploy,
            created_ms: 5,
            definition: spec::Service { name: Some("web".to_owned()), ..spec::Service::default() },
            note: None,
            outcome: Outcome::Progressing,
            cause: None,
            undoes: None,
        };
        let head = |wanted| Change::PutHead(name.clone(), Head { wanted, last: wanted, ..Head::default() });
        store.commit(vec![Change::PutRevision(name.clone(), revision), head(1)]).await.unwrap();
        store.close().await;
        let before = std::fs::read(&path).unwrap();
        let report = check(&path).unwrap();
        assert_eq!((report.bytes, report.format, report.problems.len()), (before.len() as u64, 1, 0));
        assert_eq!(report.counts[..2], [("services", 1), ("revisions", 1)]);
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let (store, _) = Store::open(&path).unwrap();
        store.commit(vec![head(7)]).await.unwrap();
        store.close().await;
        assert_eq!(check(&path).unwrap().problems, ["service web: its wanted revision 7 is missing"]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn every_damage_is_told_or_does_not_matter() {
        let folder = folder("damage");
        let path = folder.join("weir.redb");
        let (store, _) = Store::open(&path).unwrap();
        let names = (0..20).map(|n| ServiceName::parse(&format!("service-{n}")).unwrap());
        store.commit(names.map(|name| Change::PutHead(name, Head::default())).collect()).await.unwrap();
        store.close().await;
        let whole = std::fs::read(&path).unwrap();
        let good = check(&path).unwrap();
        let (mut told, seed) = (0, 0x5eed);
        println!("seed {seed}");
        let mut rng = crate::rng::Rng::from_seed(seed);
        for _ in 0..60 {
            let mut bytes = whole.clone();
            let at = usize::try_from(rng.next_u64()).unwrap() % bytes.len();
            bytes[at] ^= 0x55;
            std::fs::write(&path, &bytes).unwrap();
            match check(&path) {
                Ok(report) => assert_eq!(report, good, "octet {at} matters and is not told"),
                Err(OpenError::Damaged { .. } | OpenError::Newer { .. }) => told += 1,
                Err(other) => panic!("octet {at}: {other}"),
            }
        }
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(matches!(check(&path), Err(OpenError::Damaged { .. })));
        println!("{told} of 60 changed octets are told; the others are in no page that is used");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
