//! The file: opened under a lock, its format checked, read whole, written by transactions.
//!
//! Invariants: a transaction is on the disk when `write` returns, or nothing of it is; a file that cannot be read whole is
//! refused, and none is ever made in the place of one that exists. After an input or output error redb refuses further
//! work on an open file, so it is opened again before the next write; the lock is held all the while.

use crate::control::store::records::{
    AccountRecord, AddressRecord, CertificateRecord, Contents, FailureRecord, Head, OrderRecord, RegistrationRecord,
    ReplicaRecord, Revision, RootRecord,
};
use crate::control::store::{OpenError, StoreError};
use crate::model::{InstanceId, ServiceName};
use crate::rng::Rng;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Steps from one format to the next: the first brings a file of format 1 to 2. A step that is released stays as it is.
type Migration = fn(&WriteTransaction) -> Result<(), redb::Error>;
const MIGRATIONS: &[Migration] = &[];
/// Memory that redb may keep pages in: the whole store is read once and then only written.
const CACHE_BYTES: usize = 1024 * 1024;

/// Mode of the file: its owner alone, because private keys are in it.
const PRIVATE: u32 = 0o600;

type Rows = TableDefinition<'static, &'static str, &'static [u8]>;

const META: &str = "meta";
pub(super) const REVISIONS: &str = "revisions";
pub(super) const HEADS: &str = "heads";
pub(super) const REGISTRATIONS: &str = "registrations";
pub(super) const DRAINS: &str = "drains";
pub(super) const REPLICAS: &str = "replicas";
pub(super) const READY: &str = "ready";
pub(super) const ACCOUNTS: &str = "accounts";
pub(super) const CERTIFICATES: &str = "certificates";
pub(super) const ORDERS: &str = "orders";
pub(super) const FAILURES: &str = "failures";
pub(super) const AUTHORITY: &str = "authority";
/// The one key of `AUTHORITY`.
pub(super) const ROOT: &str = "root";
pub(super) const ADDRESSES: &str = "addresses";
const ALL: [&str; 13] = [
    META,
    REVISIONS,
    HEADS,
    REGISTRATIONS,
    DRAINS,
    REPLICAS,
    READY,
    ACCOUNTS,
    CERTIFICATES,
    ORDERS,
    FAILURES,
    AUTHORITY,
    ADDRESSES,
];

/// One row to write; without a value it is removed.
#[derive(Debug, Clone)]
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
    /// Held until this is dropped, also while the database is closed.
    _lock: fs::File,
}

/// Returns the key of a revision: sorts by service, then number.
pub(super) fn revision_key(service: &ServiceName, number: u64) -> String {
    format!("{service}@{number:020}")
}

/// Returns the format that a Weir with these steps writes; a file with a higher one is refused.
fn format_of(migrations: &[Migration]) -> u32 {
    u32::try_from(migrations.len()).unwrap_or(u32::MAX).saturating_add(1)
}

impl File {
    /// Opens or makes the file; returns it, its random id and what it holds.
    pub(super) fn open(path: &Path) -> Result<(Self, String, Contents), OpenError> {
        Self::open_with(path, MIGRATIONS)
    }

    fn open_with(path: &Path, migrations: &[Migration]) -> Result<(Self, String, Contents), OpenError> {
        let failed = |source| OpenError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock = lock(path)?;
        if !path.try_exists().map_err(failed)? {
            create(path, format_of(migrations))?;
        }
        let found = fs::metadata(path).map_err(failed)?;
        if found.len() == 0 {
            return Err(damaged(path, "it is empty".to_owned()));
        }
        // It holds private keys; one of an earlier version is not closed to others yet.
        if found.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(path, fs::Permissions::from_mode(PRIVATE)).map_err(failed)?;
        }
        // Built to refuse what is damaged; should it panic all the same, that is said too.
        let read = catch_unwind(AssertUnwindSafe(|| read(path, migrations)));
        let (database, id, contents) = read.map_err(|_| damaged(path, "it cannot be made sense of".to_owned()))??;
        Ok((Self { path: path.to_owned(), database: Some(database), _lock: lock }, id, contents))
    }

    /// Writes rows in one transaction, on the disk when it returns.
    pub(super) fn write(&mut self, rows: &[&Row]) -> Result<(), StoreError> {
        // What failed may have broken off anywhere.
        let result = catch_unwind(AssertUnwindSafe(|| self.try_write(rows)));
        let error = match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => refusal(error),
            Err(_) => StoreError::Failed("the file cannot be made sense of".to_owned()),
        };
        // Closing writes too, and may fail likewise.
        let database = self.database.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
        Err(error)
    }

    fn try_write(&mut self, rows: &[&Row]) -> Result<(), redb::Error> {
        if self.database.is_none() {
            self.database = Some(builder().open(&self.path)?);
        }
        match &self.database {
            Some(database) => write(database, rows),
            None => Err(redb::Error::DatabaseClosed),
        }
    }

    /// Copies the file beside itself, as something to go back to: `weir.redb.last`. Nothing may be being written.
    pub(super) fn copy(&self) -> io::Result<()> {
        let (part, copy) = (beside(&self.path, "part"), beside(&self.path, "last"));
        let copied = fs::copy(&self.path, &part).and_then(|_| fs::rename(&part, &copy));
        if copied.is_err() {
            // Half a copy is worse than none.
            let _ = fs::remove_file(&part);
        }
        copied
    }
}

/// Returns `weir.redb.<extension>` for `weir.redb`.
fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

pub(super) fn damaged(path: &Path, what: String) -> OpenError {
    let copy = Some(beside(path, "last")).filter(|copy| copy.exists());
    OpenError::Damaged { path: path.to_owned(), what, copy }
}

/// Takes the lock of a file that nobody has open, so that nobody opens it; `None` where no Weir ever locked it.
///
/// # Errors
/// [`OpenError::Locked`], [`OpenError::Io`].
pub(super) fn lock_existing(path: &Path) -> Result<Option<fs::File>, OpenError> {
    let name = beside(path, "lock");
    let failed = |source| OpenError::Io { path: name.clone(), source };
    let file = match fs::File::open(&name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&name).ok().and_then(|text| text.trim().parse().ok());
            Err(OpenError::Locked { path: path.to_owned(), holder })
        }
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Reads a copy in memory, every page of it; returns format, id and contents.
///
/// # Errors
/// [`OpenError::Newer`], [`OpenError::Damaged`].
pub(super) fn examine(path: &Path, copy: impl StorageBackend) -> Result<(u32, String, Contents), OpenError> {
    let mut builder = builder();
    let database = builder.set_check_integrity_on_open(true).create_with_backend(copy);
    let database = database.map_err(|error| opening(path, error.into()))?;
    let (found, id) = meta(&database).map_err(|what| damaged(path, what))?;
    let known = format_of(MIGRATIONS);
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    prepare(&database, found, MIGRATIONS).map_err(|error| opening(path, error))?;
    Ok((found, id, contents(&database).map_err(|what| damaged(path, what))?))
}

/// Takes the lock beside the file and writes who holds it.
fn lock(path: &Path) -> Result<fs::File, OpenError> {
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    let name = beside(path, "lock");
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&name).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs::read_to_string(&name).ok().and_then(|text| text.trim().parse().ok());
            return Err(OpenError::Locked { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    // It only helps people: a full disk is no reason not to start.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Makes a new file whole before it gets its name, so that one which is incomplete is always a damaged one.
fn create(path: &Path, format: u32) -> Result<(), OpenError> {
    let failed = |source| OpenError::Io { path: path.to_owned(), source };
    let part = beside(path, "part");
    if part.exists() {
        fs::remove_file(&part).map_err(failed)?;
    }
    OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&part).map_err(failed)?;
    let make = || -> Result<(), redb::Error> {
        let database = builder().create(&part)?;
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(Rows::new(META))?;
            meta.insert("format", format.to_string().as_bytes())?;
            meta.insert("id", format!("{:016x}", Rng::from_os().next_u64()).as_bytes())?;
        }
        transaction.commit()?;
        Ok(())
    };
    make().map_err(|error| opening(path, error))?;
    fs::rename(&part, path).map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn read(path: &Path, migrations: &[Migration]) -> Result<(Database, String, Contents), OpenError> {
    let checked = builder().set_check_integrity_on_open(true).open(path).map_err(redb::Error::from);
    let database = match checked {
        // The check wants to write down that it was made.
        Err(redb::Error::Io(error)) if is_full(&error) => builder().open(path).map_err(redb::Error::from),
        other => other,
    };
    let database = database.map_err(|error| match error {
        redb::Error::DatabaseAlreadyOpen => OpenError::Locked { path: path.to_owned(), holder: None },
        other => opening(path, other),
    })?;
    let (found, id) = meta(&database).map_err(|what| damaged(path, what))?;
    let known = format_of(migrations);
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    prepare(&database, found, migrations).map_err(|error| opening(path, error))?;
    let contents = contents(&database).map_err(|what| damaged(path, what))?;
    Ok((database, id, contents))
}

/// Brings an older file to this format and makes the tables that it lacks; writes nothing when there is nothing to do.
fn prepare(database: &Database, found: u32, migrations: &[Migration]) -> Result<(), redb::Error> {
    let known = format_of(migrations);
    let transaction = database.begin_write()?;
    let present: Vec<String> =
        transaction.list_tables()?.map(|table| redb::TableHandle::name(&table).to_owned()).collect();
    let missing: Vec<&str> = ALL.into_iter().filter(|table| !present.iter().any(|name| name == table)).collect();
    if found == known && missing.is_empty() {
        return Ok(transaction.abort()?);
    }
    for table in missing {
        transaction.open_table(Rows::new(table))?;
    }
    for step in migrations.iter().skip(found.saturating_sub(1) as usize) {
        step(&transaction)?;
    }
    transaction.open_table(Rows::new(META))?.insert("format", known.to_string().as_bytes())?;
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
    let number = format.parse().ok().filter(|number| *number > 0);
    Ok((number.ok_or(format!("its format is {format:?}"))?, read("id")?))
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
    for (key, ()) in rows::<()>(database, READY)? {
        contents.ready.insert(instance(&key)?);
    }
    contents.accounts = rows::<AccountRecord>(database, ACCOUNTS)?.into_iter().collect();
    contents.certificates = rows::<CertificateRecord>(database, CERTIFICATES)?.into_iter().collect();
    contents.orders = rows::<OrderRecord>(database, ORDERS)?.into_iter().collect();
    contents.failures = rows::<FailureRecord>(database, FAILURES)?.into_iter().collect();
    contents.root = rows::<RootRecord>(database, AUTHORITY)?.into_iter().find(|(key, _)| key == ROOT).map(|row| row.1);
    for (key, address) in rows::<AddressRecord>(database, ADDRESSES)? {
        contents.addresses.insert(service(&key)?, address);
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

fn write(database: &Database, rows: &[&Row]) -> Result<(), redb::Error> {
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

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn opening(path: &Path, error: redb::Error) -> OpenError {
    let is_damage =
        |kind| matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput);
    match error {
        redb::Error::Io(source) if !is_damage(source.kind()) => OpenError::Io { path: path.to_owned(), source },
        other => damaged(path, other.to_string()),
    }
}

fn refusal(error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(source) if is_full(&source) => StoreError::Full,
        redb::Error::Io(source) => StoreError::Failed(source.to_string()),
        other => StoreError::Failed(other.to_string()),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
