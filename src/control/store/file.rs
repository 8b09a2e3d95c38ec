//! The file: opened under a lock, its format checked, read whole, written by transactions.
//!
//! Invariant: a transaction is on the disk when `write` returns, or nothing of it is. After an input or output error redb
//! refuses further work on an open file, so it is opened again before the next write.

use crate::control::store::records::{Contents, Head, RegistrationRecord, ReplicaRecord, Revision};
use crate::control::store::{OpenError, StoreError};
use crate::model::{InstanceId, ServiceName};
use crate::rng::Rng;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The format that this Weir writes; a file with a higher one is refused.
pub(super) const FORMAT: u32 = 1;
/// Memory that redb may keep pages in: the whole store is read once and then only written.
const CACHE_BYTES: usize = 1024 * 1024;

type Rows = TableDefinition<'static, &'static str, &'static [u8]>;

const META: &str = "meta";
pub(super) const REVISIONS: &str = "revisions";
pub(super) const HEADS: &str = "heads";
pub(super) const REGISTRATIONS: &str = "registrations";
pub(super) const DRAINS: &str = "drains";
pub(super) const REPLICAS: &str = "replicas";
const ALL: [&str; 6] = [META, REVISIONS, HEADS, REGISTRATIONS, DRAINS, REPLICAS];

/// One row to write; without a value it is removed.
#[derive(Debug)]
pub(super) struct Row {
    /// Name of the table.
    pub(super) table: &'static str,
    pub(super) key: String,
    pub(super) value: Option<Vec<u8>>,
}

/// The open file.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// `None` after an error, until it is opened again.
    database: Option<Database>,
}

/// Returns the key of a revision: sorts by service, then number.
pub(super) fn revision_key(service: &ServiceName, number: u64) -> String {
    format!("{service}@{number:020}")
}

impl File {
    /// Opens or makes the file; returns it, its random id and what it holds.
    pub(super) fn open(path: &Path) -> Result<(Self, String, Contents), OpenError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        }
        let database = open(path)?;
        let damaged = |what: String| OpenError::Damaged { path: path.to_owned(), what };
        prepare(&database).map_err(|error| opening(path, error))?;
        let (format, id) = meta(&database).map_err(damaged)?;
        if format > FORMAT {
            return Err(OpenError::Newer { path: path.to_owned(), found: format, known: FORMAT });
        }
        let contents = contents(&database).map_err(damaged)?;
        Ok((Self { path: path.to_owned(), database: Some(database) }, id, contents))
    }

    /// Writes rows in one transaction, on the disk when it returns.
    pub(super) fn write(&mut self, rows: &[Row]) -> Result<(), StoreError> {
        if self.database.is_none() {
            self.database = Some(open(&self.path).map_err(|error| StoreError::Failed(error.to_string()))?);
        }
        let Some(database) = &self.database else { return Err(StoreError::Closed) };
        let result = write(database, rows);
        if let Err(error) = result {
            self.database = None;
            return Err(refusal(error));
        }
        Ok(())
    }
}

fn open(path: &Path) -> Result<Database, OpenError> {
    Builder::new().set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::Locked { path: path.to_owned(), holder: None },
        other => opening(path, other.into()),
    })
}

/// Makes the tables, the format and the id of a new file.
fn prepare(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for table in ALL {
        transaction.open_table(Rows::new(table))?;
    }
    {
        let mut meta = transaction.open_table(Rows::new(META))?;
        if meta.get("format")?.is_none() {
            let mut rng = Rng::from_os();
            meta.insert("format", FORMAT.to_string().as_bytes())?;
            meta.insert("id", format!("{:016x}", rng.next_u64()).as_bytes())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn meta(database: &Database) -> Result<(u32, String), String> {
    let read = |key: &str| -> Result<String, String> {
        let transaction = database.begin_read().map_err(|e| e.to_string())?;
        let table = transaction.open_table(Rows::new(META)).map_err(|e| e.to_string())?;
        let value = table.get(key).map_err(|e| e.to_string())?.ok_or(format!("it has no {key}"))?;
        String::from_utf8(value.value().to_vec()).map_err(|e| e.to_string())
    };
    let format = read("format")?;
    Ok((format.parse().map_err(|_| format!("its format is {format:?}"))?, read("id")?))
}

fn contents(database: &Database) -> Result<Contents, String> {
    let mut contents = Contents::default();
    let service = |key: &str| ServiceName::parse(key).map_err(|error| error.to_string());
    let instance = |key: &str| InstanceId::parse(key).map_err(|error| error.to_string());
    for (key, revision) in rows::<Revision>(database, REVISIONS)? {
        let name = service(key.split('@').next().unwrap_or_default())?;
        contents.revisions.entry(name).or_default().insert(revision.number, revision);
    }
    for (key, head) in rows::<Head>(database, HEADS)? {
        contents.heads.insert(service(&key)?, head);
    }
    for (key, registration) in rows::<RegistrationRecord>(database, REGISTRATIONS)? {
        contents.registrations.insert(instance(&key)?, registration);
    }
    for (key, ()) in rows::<()>(database, DRAINS)? {
        contents.drains.insert(instance(&key)?);
    }
    for (key, replica) in rows::<ReplicaRecord>(database, REPLICAS)? {
        contents.replicas.insert(instance(&key)?, replica);
    }
    Ok(contents)
}

fn rows<T: DeserializeOwned>(database: &Database, table: &'static str) -> Result<Vec<(String, T)>, String> {
    let transaction = database.begin_read().map_err(|error| error.to_string())?;
    let table = transaction.open_table(Rows::new(table)).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for row in table.iter().map_err(|error| error.to_string())? {
        let (key, value) = row.map_err(|error| error.to_string())?;
        let record = serde_json::from_slice(value.value()).map_err(|error| format!("{}: {error}", key.value()))?;
        found.push((key.value().to_owned(), record));
    }
    Ok(found)
}

fn write(database: &Database, rows: &[Row]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    // A file of a Weir that was killed opens without a walk over all of it.
    transaction.set_quick_repair(true);
    for row in rows {
        let mut table = transaction.open_table(Rows::new(row.table))?;
        match &row.value {
            Some(value) => drop(table.insert(row.key.as_str(), value.as_slice())?),
            None => drop(table.remove(row.key.as_str())?),
        }
    }
    transaction.commit()?;
    Ok(())
}

fn opening(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_owned();
    match error {
        redb::Error::Io(source) if source.kind() != io::ErrorKind::InvalidData => OpenError::Io { path, source },
        other => OpenError::Damaged { path, what: other.to_string() },
    }
}

fn refusal(error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(source)
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
        {
            StoreError::Full
        }
        other => StoreError::Failed(other.to_string()),
    }
}
