//! The thread that writes, and the handle to it.

use crate::control::store::file::{DRAINS, File, HEADS, REGISTRATIONS, REPLICAS, REVISIONS, Row, revision_key};
use crate::control::store::records::{Contents, Head, RegistrationRecord, ReplicaRecord, Revision};
use crate::control::store::{OpenError, StoreError};
use crate::model::{InstanceId, ServiceName};
use serde::Serialize;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use tokio::sync::{mpsc, oneshot};

/// Commits that may wait; whoever brings more waits for room.
const MAILBOX: usize = 256;

/// One change; those of one commit are stored together or not at all.
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
}

/// The handle of the open store; clones share it. The file is closed when [`Store::close`] is called or the last clone
/// is gone.
#[derive(Debug, Clone)]
pub struct Store {
    mailbox: mpsc::Sender<Message>,
    id: Arc<str>,
}

#[derive(Debug)]
enum Message {
    Commit(Vec<Row>, oneshot::Sender<Result<(), StoreError>>),
    Close(oneshot::Sender<()>),
}

impl Store {
    /// Opens or makes the store and reads everything in it. Blocks.
    ///
    /// # Errors
    /// [`OpenError`] when it is in use, newer, damaged or not accessible; the file is left as it was.
    pub fn open(path: &Path) -> Result<(Self, Contents), OpenError> {
        let (file, id, contents) = File::open(path)?;
        let (mailbox, messages) = mpsc::channel(MAILBOX);
        let body = move || run(file, messages);
        let io = |source: io::Error| OpenError::Io { path: path.to_owned(), source };
        thread::Builder::new().name("store".to_owned()).spawn(body).map_err(io)?;
        Ok((Self { mailbox, id: id.into() }, contents))
    }

    /// Returns the store's random id, made with the file: 16 hexadecimal digits. Workloads are marked with it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Writes changes together; they are on the disk when it returns. A dropped call may still be carried out.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of the changes is stored then.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let rows = changes.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Commit(rows, reply)).await.map_err(|_| StoreError::Closed)?;
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

fn run(mut file: File, mut messages: mpsc::Receiver<Message>) {
    while let Some(first) = messages.blocking_recv() {
        let (mut rows, mut replies, mut closing) = (Vec::new(), Vec::new(), None);
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Commit(more, reply) => {
                    rows.push(more);
                    replies.push(reply);
                    next = messages.try_recv().ok();
                }
                Message::Close(reply) => {
                    closing = Some(reply);
                    next = None;
                }
            }
        }
        write(&mut file, rows, replies);
        if let Some(reply) = closing {
            messages.close();
            drop(file);
            let _ = reply.send(());
            return;
        }
    }
}

/// Writes what waits in one transaction; when that fails, each commit alone, so that one cannot spoil another.
fn write(file: &mut File, commits: Vec<Vec<Row>>, replies: Vec<oneshot::Sender<Result<(), StoreError>>>) {
    let mut commits = commits;
    let outcomes: Vec<Result<(), StoreError>> = if commits.len() > 1 {
        let counts: Vec<usize> = commits.iter().map(Vec::len).collect();
        let all: Vec<Row> = commits.drain(..).flatten().collect();
        match file.write(&all) {
            Ok(()) => counts.iter().map(|_| Ok(())).collect(),
            Err(_) => {
                let mut rest = all.as_slice();
                let mut outcomes = Vec::with_capacity(counts.len());
                for count in counts {
                    let (own, others) = rest.split_at(count);
                    outcomes.push(file.write(own));
                    rest = others;
                }
                outcomes
            }
        }
    } else {
        commits.iter().map(|rows| file.write(rows)).collect()
    };
    for (reply, outcome) in replies.into_iter().zip(outcomes) {
        if let Err(error) = &outcome {
            tracing::error!(%error, "failed to write the store");
        }
        // Whoever asked may have left; it is stored all the same.
        let _ = reply.send(outcome);
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
            ready: false,
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
