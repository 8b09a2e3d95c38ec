//! The thread that writes, and the handle to it.
//!
//! Two kinds of writes. A *commit* is a wish that somebody waits for: refused when it cannot be written. A *note* is what
//! has happened already, such as that a process runs: it cannot be refused, so what could not be written is kept and
//! tried again until it can. The price: notes that a full disk held back are lost when Weir dies before there is room.

use crate::clock;
use crate::control::store::file::{
    ACCOUNTS, ADDRESSES, AUTHORITY, CERTIFICATES, DRAINS, FAILURES, File, HEADS, ORDERS, READY, REGISTRATIONS,
    REPLICAS, REVISIONS, ROOT, Row, revision_key,
};
use crate::control::store::records::{
    AccountRecord, AddressRecord, CertificateRecord, Contents, FailureRecord, Head, OrderRecord, RegistrationRecord,
    ReplicaRecord, Revision, RootRecord,
};
use crate::control::store::stats::{Stats, StoreStatus};
use crate::control::store::{OpenError, StoreError};
use crate::model::{InstanceId, ServiceName};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Writes that may wait; whoever brings more waits for room.
const MAILBOX: usize = 256;
/// Pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// One change; those of one commit are stored together or not at all.
#[expect(clippy::large_enum_variant, reason = "a handful at a time, each moved once")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Writes a revision.
    PutRevision(ServiceName, Revision),
    /// Forgets a revision.
    DropRevision(ServiceName, u64),
    /// Writes where a service stands.
    PutHead(ServiceName, Head),
    /// Forgets where a service stands: it is gone.
    DropHead(ServiceName),
    /// Writes a registration over the API.
    PutRegistration(InstanceId, RegistrationRecord),
    /// Forgets a registration.
    DropRegistration(InstanceId),
    /// Marks an instance as drained by hand.
    PutDrain(InstanceId),
    /// Undoes the mark.
    DropDrain(InstanceId),
    /// Writes a replica: the intent to start it, or what runs.
    PutReplica(InstanceId, ReplicaRecord),
    /// Forgets a replica of which nothing runs any more.
    DropReplica(InstanceId),
    /// Marks an instance as one that serves.
    PutReady(InstanceId),
    /// Undoes that mark.
    DropReady(InstanceId),
    /// Writes an account by the URL of its directory.
    PutAccount(String, AccountRecord),
    /// Writes the certificate of a name.
    PutCertificate(String, CertificateRecord),
    /// Forgets the certificate of a name.
    DropCertificate(String),
    /// Writes the order that has begun for a name.
    PutOrder(String, OrderRecord),
    /// Forgets the order of a name.
    DropOrder(String),
    /// Writes why a name has no newer certificate.
    PutFailure(String, FailureRecord),
    /// Forgets that.
    DropFailure(String),
    /// Writes the root of the internal authority.
    PutRoot(RootRecord),
    /// Writes a service's own address.
    PutAddress(ServiceName, AddressRecord),
    /// Forgets a service's own address.
    DropAddress(ServiceName),
}

/// The handle of the open store; clones share it. The file is closed when [`Store::close`] is called or the last clone
/// is gone.
#[derive(Debug, Clone)]
pub struct Store {
    mailbox: mpsc::Sender<Message>,
    id: Arc<str>,
    stats: Arc<Stats>,
}

/// Whether a write may be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Commit,
    Note,
}

#[derive(Debug)]
enum Message {
    Write(Kind, Vec<Row>, oneshot::Sender<Result<(), StoreError>>),
    Close(oneshot::Sender<()>),
}

impl Store {
    /// Opens or makes the store and reads everything in it. Blocks.
    ///
    /// # Errors
    /// [`OpenError`] when it is in use, newer, damaged or not accessible.
    pub fn open(path: &Path) -> Result<(Self, Contents), OpenError> {
        let io = |source: io::Error| OpenError::Io { path: path.to_owned(), source };
        let (file, id, contents) = File::open(path)?;
        let stats = Arc::new(Stats::new(path.to_owned()).map_err(|error| io(io::Error::other(error)))?);
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(io)?;
        let serving: BTreeSet<String> = contents.ready.iter().map(ToString::to_string).collect();
        stats.set_serving(serving.len());
        let writer = Writer { file, stats: stats.clone(), kept: BTreeMap::new(), serving };
        let body = move || runtime.block_on(writer.run(messages));
        thread::Builder::new().name("store".to_owned()).spawn(body).map_err(io)?;
        Ok((Self { mailbox, id: id.into(), stats }, contents))
    }

    /// Returns the store's random id, made with the file: 16 hexadecimal digits. Workloads are marked with it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns how it does.
    pub fn status(&self) -> StoreStatus {
        self.stats.status()
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Writes changes together; they are on the disk when it returns. A dropped call may still be carried out.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of the changes is stored then.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.write(Kind::Commit, changes).await
    }

    /// Writes down what has happened. What cannot be written now is kept and written as soon as it can be.
    ///
    /// # Errors
    /// [`StoreError`] when it is kept, for now only in memory; [`StoreError::Closed`] when it is not.
    pub async fn note(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.write(Kind::Note, changes).await
    }

    async fn write(&self, kind: Kind, changes: Vec<Change>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let rows = changes.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Write(kind, rows, reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Closes the file, so that another process can open it; later commits are refused.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        // An error means that it is closed already.
        if self.mailbox.send(Message::Close(reply)).await.is_ok() {
            let _ = answer.await;
        }
    }
}

/// One write that somebody waits for.
#[derive(Debug)]
struct Waiting {
    kind: Kind,
    rows: Vec<Row>,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

/// What the thread owns.
#[derive(Debug)]
struct Writer {
    file: File,
    stats: Arc<Stats>,
    /// Notes that could not be written: the last of each table and key. Bounded by what runs and is registered.
    kept: BTreeMap<(&'static str, String), Row>,
    /// Keys of the instances that are written down as serving.
    serving: BTreeSet<String>,
}

impl Writer {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        if let Err(error) = self.file.copy() {
            tracing::warn!(%error, "failed to copy the store beside itself");
        }
        loop {
            // While something is wrong, it is tried again also when nobody asks, so that it is known when it is over.
            let is_behind = self.stats.status().problem.is_some();
            tokio::select! {
                message = messages.recv() => match message {
                    None => return,
                    Some(first) => if let Some(closed) = self.turn(first, &mut messages) {
                        messages.close();
                        drop(self);
                        // Whoever asked may have left.
                        let _ = closed.send(());
                        return;
                    },
                },
                () = tokio::time::sleep(RETRY), if is_behind => drop(self.attempt(&[])),
            }
        }
    }

    /// Writes what waits in one transaction; when that fails, each alone, so that one cannot spoil another.
    fn turn(&mut self, first: Message, messages: &mut mpsc::Receiver<Message>) -> Option<oneshot::Sender<()>> {
        let (mut waiting, mut closing, mut next) = (Vec::new(), None, Some(first));
        while let Some(message) = next.take() {
            match message {
                Message::Write(kind, rows, reply) => {
                    waiting.push(Waiting { kind, rows, reply });
                    next = (waiting.len() < MAILBOX).then(|| messages.try_recv().ok()).flatten();
                }
                Message::Close(reply) => closing = Some(reply),
            }
        }
        let all: Vec<Row> = waiting.iter().flat_map(|write| write.rows.iter().cloned()).collect();
        let together = self.attempt(&all);
        let is_alone = waiting.len() == 1;
        for Waiting { kind, rows, reply } in waiting {
            let outcome = match &together {
                Err(_) if !is_alone => self.attempt(&rows),
                outcome => outcome.clone(),
            };
            if outcome.is_err() && kind == Kind::Note {
                self.kept.extend(rows.into_iter().map(|row| ((row.table, row.key.clone()), row)));
                self.stats.set_unsaved(self.kept.len());
            }
            // Whoever asked may have left; it is stored all the same.
            let _ = reply.send(outcome);
        }
        closing
    }

    /// Writes what was kept, then `rows`, in one transaction.
    fn attempt(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        let started = clock::now();
        let outcome = self.file.write(&self.kept.values().chain(rows).collect::<Vec<_>>());
        let is_news = self.stats.note(&outcome, clock::now().saturating_duration_since(started));
        match &outcome {
            Ok(()) => {
                for row in self.kept.values().chain(rows).filter(|row| row.table == READY) {
                    match row.value {
                        Some(_) => self.serving.insert(row.key.clone()),
                        None => self.serving.remove(&row.key),
                    };
                }
                self.stats.set_serving(self.serving.len());
                self.kept.clear();
                self.stats.set_unsaved(0);
                if is_news {
                    tracing::info!("the store can be written again");
                }
            }
            Err(error) if is_news => tracing::error!(%error, "failed to write the store"),
            Err(_) => {}
        }
        outcome
    }
}

fn row(change: &Change) -> Result<Row, StoreError> {
    Ok(match change {
        Change::PutRevision(service, revision) => {
            Row { table: REVISIONS, key: revision_key(service, revision.number), value: Some(json(revision)?) }
        }
        Change::DropRevision(service, number) => {
            Row { table: REVISIONS, key: revision_key(service, *number), value: None }
        }
        Change::PutHead(service, head) => Row { table: HEADS, key: service.to_string(), value: Some(json(head)?) },
        Change::DropHead(service) => Row { table: HEADS, key: service.to_string(), value: None },
        Change::PutRegistration(id, registration) => {
            Row { table: REGISTRATIONS, key: id.to_string(), value: Some(json(registration)?) }
        }
        Change::DropRegistration(id) => Row { table: REGISTRATIONS, key: id.to_string(), value: None },
        Change::PutDrain(id) => Row { table: DRAINS, key: id.to_string(), value: Some(json(&())?) },
        Change::DropDrain(id) => Row { table: DRAINS, key: id.to_string(), value: None },
        Change::PutReplica(id, replica) => Row { table: REPLICAS, key: id.to_string(), value: Some(json(replica)?) },
        Change::DropReplica(id) => Row { table: REPLICAS, key: id.to_string(), value: None },
        Change::PutReady(id) => Row { table: READY, key: id.to_string(), value: Some(json(&())?) },
        Change::DropReady(id) => Row { table: READY, key: id.to_string(), value: None },
        Change::PutAccount(url, account) => Row { table: ACCOUNTS, key: url.clone(), value: Some(json(account)?) },
        Change::PutCertificate(name, certificate) => {
            Row { table: CERTIFICATES, key: name.clone(), value: Some(json(certificate)?) }
        }
        Change::DropCertificate(name) => Row { table: CERTIFICATES, key: name.clone(), value: None },
        Change::PutOrder(name, order) => Row { table: ORDERS, key: name.clone(), value: Some(json(order)?) },
        Change::DropOrder(name) => Row { table: ORDERS, key: name.clone(), value: None },
        Change::PutFailure(name, failure) => Row { table: FAILURES, key: name.clone(), value: Some(json(failure)?) },
        Change::DropFailure(name) => Row { table: FAILURES, key: name.clone(), value: None },
        Change::PutAddress(service, address) => {
            Row { table: ADDRESSES, key: service.to_string(), value: Some(json(address)?) }
        }
        Change::DropAddress(service) => Row { table: ADDRESSES, key: service.to_string(), value: None },
        Change::PutRoot(root) => Row { table: AUTHORITY, key: ROOT.to_owned(), value: Some(json(root)?) },
    })
}

fn json(record: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|error| StoreError::Failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::{Change, Store};
    use crate::control::store::{
        ChangeSource, Contents, Head, OpenError, Outcome, ReplicaRecord, Revision, StoreError,
    };
    use crate::model::{InstanceId, ServiceName};
    use crate::spec;
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weir-store-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn revision(number: u64) -> Revision {
        let definition = spec::Service { name: Some("web".to_owned()), ..spec::Service::default() };
        Revision {
            number,
            source: ChangeSource::Deploy,
            created_ms: 5,
            definition,
            note: None,
            outcome: Outcome::Progressing,
            cause: None,
            undoes: None,
        }
    }

    fn replica() -> ReplicaRecord {
        ReplicaRecord {
            service: "web".to_owned(),
            revision: 1,
            fingerprint: u64::MAX,
            slot: 0,
            workload: None,
            address: None,
            ports: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_it_is_opened_again() {
        let folder = Folder::new("again");
        let path = folder.0.join("weir.redb");
        let (store, contents) = Store::open(&path).unwrap();
        assert_eq!(contents, Contents::default());
        let (web, id) = (ServiceName::parse("web").unwrap(), InstanceId::parse("web-abcdef").unwrap());
        let head = Head { wanted: 11, last: 11, pin: Some(3), ..Head::default() };
        let mut changes: Vec<Change> = (1..=11).map(|n| Change::PutRevision(web.clone(), revision(n))).collect();
        changes.extend([
            Change::PutHead(web.clone(), head.clone()),
            Change::PutReplica(id.clone(), replica()),
            Change::PutDrain(id.clone()),
        ]);
        store.commit(changes).await.unwrap();
        store.commit(vec![Change::DropRevision(web.clone(), 1), Change::DropDrain(id.clone())]).await.unwrap();
        let first_id = store.id().to_owned();
        store.close().await;
        assert_eq!(store.commit(vec![Change::DropHead(web.clone())]).await, Err(StoreError::Closed));

        let (store, contents) = Store::open(&path).unwrap();
        assert_eq!(store.id(), first_id);
        assert_eq!(contents.revisions[&web].keys().copied().collect::<Vec<_>>(), (2..=11).collect::<Vec<_>>());
        assert_eq!(contents.heads[&web], head);
        assert_eq!(contents.replicas[&id], replica());
        assert!(contents.drains.is_empty());
        store.close().await;
    }

    #[tokio::test]
    async fn a_note_is_written_like_a_commit_and_counted() {
        let folder = Folder::new("note");
        let path = folder.0.join("weir.redb");
        let (store, _) = Store::open(&path).unwrap();
        let (one, two) = (InstanceId::parse("web-one").unwrap(), InstanceId::parse("web-two").unwrap());
        store.note(vec![Change::PutReady(one.clone()), Change::PutReady(two.clone())]).await.unwrap();
        store.note(vec![Change::DropReady(two)]).await.unwrap();
        let status = store.status();
        assert_eq!((status.serving, status.unsaved, status.commits, status.failures), (1, 0, 2, 0));
        assert!(status.file_bytes > 0 && status.problem.is_none());
        store.close().await;
        assert_eq!(store.note(vec![Change::DropReady(one.clone())]).await, Err(StoreError::Closed));
        let (store, contents) = Store::open(&path).unwrap();
        assert_eq!((contents.ready, store.status().serving), ([one].into(), 1));
        store.close().await;
    }

    #[tokio::test]
    async fn an_open_store_is_refused_to_a_second() {
        let folder = Folder::new("locked");
        let path = folder.0.join("weir.redb");
        let (store, _) = Store::open(&path).unwrap();
        assert!(matches!(Store::open(&path), Err(OpenError::Locked { .. })));
        store.close().await;
        Store::open(&path).unwrap().0.close().await;
    }

    #[tokio::test]
    async fn garbage_is_refused_and_left_alone() {
        let folder = Folder::new("garbage");
        let path = folder.0.join("weir.redb");
        std::fs::write(&path, b"this is no store at all, but somebody's notes".repeat(200)).unwrap();
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert!(std::fs::read(&path).unwrap().starts_with(b"this is no store"));
    }
}
