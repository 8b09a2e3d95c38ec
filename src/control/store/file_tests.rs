use super::{File, META, Migration, Row, Rows, damaged};
use crate::control::store::OpenError;
use crate::rng::Rng;
use redb::{Builder, WriteTransaction};
use std::fs;
use std::path::{Path, PathBuf};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("weir-file-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn store(&self) -> PathBuf {
        self.0.join("weir.redb")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a store with some drains in it.
fn filled(path: &Path) {
    let (mut file, ..) = File::open(path).unwrap();
    for number in 0..50 {
        let row = Row { table: super::DRAINS, key: format!("web-{number}"), value: Some(b"null".to_vec()) };
        file.write(&[&row]).unwrap();
    }
}

fn set_format(path: &Path, format: &str) {
    let database = Builder::new().open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(Rows::new(META)).unwrap().insert("format", format.as_bytes()).unwrap();
    transaction.commit().unwrap();
}

#[test]
fn a_file_from_a_newer_weir_is_refused_by_name() {
    let folder = Folder::new("newer");
    filled(&folder.store());
    set_format(&folder.store(), "7");
    let error = File::open(&folder.store()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 7, known: 1, .. }), "{error}");
    let text = error.to_string();
    for part in ["weir.redb", "format 7", "newer Weir", "store.path"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    for broken in ["0", "", "-1", "one"] {
        set_format(&folder.store(), broken);
        assert!(matches!(File::open(&folder.store()).unwrap_err(), OpenError::Damaged { .. }), "{broken:?}");
    }
}

#[test]
fn an_older_file_is_brought_to_this_format_step_by_step() {
    fn add(transaction: &WriteTransaction, key: &str) -> Result<(), redb::Error> {
        transaction.open_table(Rows::new(super::DRAINS))?.insert(key, b"null".as_slice())?;
        Ok(())
    }
    const STEPS: [Migration; 2] = [|t| add(t, "from-one"), |t| add(t, "from-two")];
    let folder = Folder::new("older");
    let drains = |steps: &[Migration]| File::open_with(&folder.store(), steps).unwrap().2.drains.len();
    assert_eq!(drains(&[]), 0);
    assert_eq!(drains(&STEPS[..1]), 1);
    assert_eq!(drains(&STEPS[..1]), 1, "a step is taken once");
    assert_eq!(drains(&STEPS), 2);
    assert!(matches!(File::open(&folder.store()).unwrap_err(), OpenError::Newer { found: 3, known: 1, .. }));
}

#[test]
fn truncated_at_any_place_it_opens_with_everything_or_says_so() {
    let folder = Folder::new("truncated");
    filled(&folder.store());
    let whole = fs::read(folder.store()).unwrap();
    let mut refused = 0;
    for cut in 0..500 {
        let length = whole.len() * cut / 500;
        fs::write(folder.store(), &whole[..length]).unwrap();
        match File::open(&folder.store()) {
            Ok((_, _, contents)) => assert_eq!(contents.drains.len(), 50, "cut at {length}"),
            Err(OpenError::Damaged { .. }) => refused += 1,
            Err(error) => panic!("cut at {length}: {error}"),
        }
    }
    println!("{refused} of 500 truncated files refused, {} complete", 500 - refused);
    assert!(refused > 100, "{refused}");
}

#[test]
fn with_any_octets_changed_it_opens_with_everything_or_says_so() {
    let seed = Rng::from_os().next_u64();
    println!("seed {seed}");
    let mut rng = Rng::from_seed(seed);
    let folder = Folder::new("changed");
    filled(&folder.store());
    let whole = fs::read(folder.store()).unwrap();
    let mut refused = 0;
    for _ in 0..300 {
        let mut bytes = whole.clone();
        let start = rng.below(bytes.len());
        let length = 1 + rng.below(4096);
        for byte in bytes.iter_mut().skip(start).take(length) {
            *byte = rng.next_u64() as u8;
        }
        fs::write(folder.store(), &bytes).unwrap();
        match File::open(&folder.store()) {
            Ok((_, _, contents)) => assert_eq!(contents.drains.len(), 50, "{length} octets from {start}"),
            Err(OpenError::Damaged { .. } | OpenError::Newer { .. }) => refused += 1,
            Err(error) => panic!("{length} octets from {start}: {error}"),
        }
    }
    println!("{refused} of 300 changed files refused");
}

#[test]
fn a_damaged_file_names_the_copy_of_the_last_start() {
    let folder = Folder::new("copy");
    filled(&folder.store());
    assert!(!damaged(&folder.store(), String::new()).to_string().contains(".last"));
    let (file, ..) = File::open(&folder.store()).unwrap();
    file.copy().unwrap();
    drop(file);
    fs::write(folder.store(), b"").unwrap();
    let text = File::open(&folder.store()).unwrap_err().to_string();
    assert!(text.contains("it is empty") && text.contains("weir.redb.last"), "{text}");
    fs::rename(folder.0.join("weir.redb.last"), folder.store()).unwrap();
    assert_eq!(File::open(&folder.store()).unwrap().2.drains.len(), 50);
}

#[test]
fn a_start_that_broke_off_while_the_file_was_made_is_no_damage() {
    let folder = Folder::new("part");
    fs::write(folder.0.join("weir.redb.part"), b"half").unwrap();
    assert!(File::open(&folder.store()).unwrap().2.drains.is_empty());
}

#[test]
fn only_its_owner_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = Folder::new("mode");
    filled(&folder.store());
    assert_eq!(mode(&folder.store()), 0o600);
    // As an earlier version made it.
    fs::set_permissions(folder.store(), fs::Permissions::from_mode(0o644)).unwrap();
    let (file, ..) = File::open(&folder.store()).unwrap();
    file.copy().unwrap();
    assert_eq!((mode(&folder.store()), mode(&folder.0.join("weir.redb.last"))), (0o600, 0o600));
}
