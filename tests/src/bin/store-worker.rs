//! A process that works on a store, made to be killed or to meet a full disk. The tests of stores start it.
//!
//! - `store-worker work FILE|URL SEED` works until it is killed.
//! - `store-worker full FILE BYTES` can write files only up to a size, and works until its store is full.
//! - `store-worker nearly-full FILE` has room only for small transactions for a while.
//! - `store-worker restore BACKUP FILE` puts a backup in the place of a store.
//! - `store-worker migrate FROM TO` moves a store from a file to a URL or back.
//! - `store-worker migrate-full FROM TO BYTES` does it with files only up to a size, and says why it fails.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmill::model::{ExpectedVersion, NewEvent};
use wasmill::store::postgres::{Address, PostgresStore};
use wasmill::store::sqlite::{Options, Restore, SqliteStore};
use wasmill::store::{Decision, Error, EventStore, Location, Moved, migrate};
use wasmill_tests::postgres::address;
use wasmill_tests::store_conformance::requests::*;
use wasmill_tests::store_workload;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["work", file, seed] => store_workload::work(open(file), seed.parse().expect("the seed is a number")),
        ["full", file, bytes] => fill(file, bytes.parse().expect("the size is a number")),
        ["nearly-full", file] => fill_nearly(file),
        ["restore", backup, file] => restore(backup, file),
        ["migrate", from, to] => _ = moved(from, to).expect("move the store"),
        ["migrate-full", from, to, bytes] => {
            file_size_max(bytes.parse().expect("the size is a number"));
            println!("{}", moved(from, to).expect_err("there is no room"));
        }
        _ => panic!(
            "store-worker work FILE SEED | full FILE BYTES | nearly-full FILE | restore BACKUP FILE | migrate FROM TO | \
             migrate-full FROM TO BYTES, not {args:?}"
        ),
    }
}

fn moved(from: &str, to: &str) -> Result<Moved, Error> {
    let location = |place: &str| match Address::is_meant(place) {
        true => Location::Postgres(Box::new(address(place))),
        false => Location::Sqlite(place.into()),
    };
    migrate(&location(from), &location(to), &mut |_, _, _| ())
}

fn restore(backup: &str, file: &str) {
    let restore = Restore::prepare(Path::new(backup), Path::new(file)).expect("copy the backup");
    assert!(restore.report.is_sound(), "{:#?}", restore.report);
    restore.finish("now").expect("put it in place");
}

/// Opens a store with limits so small that a kill may hit an index run, one of its slices, or a WAL checkpoint, and
/// that no kind of request waits long behind the others.
fn open(place: &str) -> Arc<dyn EventStore> {
    let options = Options {
        queue_max: 200,
        batch_max: 100,
        index_run: 300,
        index_slice: 20,
        heads_max: 10,
        log_bytes_max: 256 << 10,
        ..Options::default()
    };
    if Address::is_meant(place) {
        return Arc::new(PostgresStore::open(&address(place), options).expect("open the store"));
    }
    Arc::new(SqliteStore::open(Path::new(place), options).expect("open the store"))
}

/// Appends until the disk is full, then makes room. Prints the refusal, then how many events there are at the end.
fn fill(file: &str, bytes: u64) {
    let store = open(file);
    file_size_max(bytes);
    let mut there = all_events(&*store).len();
    let refusal = loop {
        let answers: Vec<_> =
            (0..40).map(|n| ask_append(&*store, command(&order(n), "c"), ExpectedVersion::Any, happened(10))).collect();
        let mut refusals = answers.into_iter().filter_map(|pending| match pending.answer() {
            Ok(_) => {
                there += 10;
                None
            }
            Err(Error::Failed(text)) => Some(text),
            Err(other) => panic!("not a failure of the disk: {other}"),
        });
        if let Some(refusal) = refusals.next() {
            refusals.for_each(drop);
            break refusal;
        }
    };
    println!("{refusal}");
    assert_eq!(all_events(&*store).len(), there, "what was refused is not there, what was answered is");
    file_size_max(libc::RLIM_INFINITY);
    record(&*store, &order("after"), 1);
    assert_eq!(whole_stream(&mut *reader(&*store), &order("after")).len(), 1);
    store.close();
    println!("{}", there + 1);
}

/// Appends with room for small transactions but not for a large one, then with room for all.
fn fill_nearly(file: &str) {
    let store = SqliteStore::open(Path::new(file), Options::default()).expect("open the store");
    let log = std::fs::metadata(format!("{file}-wal")).expect("a store has a log");
    file_size_max(log.len() + (256 << 10));
    let large = Decision::Events(vec![NewEvent { name: "Large".to_owned(), payload: vec![b'7'; 900_000] }]);
    let refused = append(&store, command(&order(1), "c"), ExpectedVersion::Any, large).expect_err("there is no room");
    assert!(matches!(refused, Error::Failed(_)), "{refused}");
    record(&store, &order(2), 1);
    let trouble = store.trouble().expect("what was refused would be refused again");
    assert!(trouble.contains("disk"), "{trouble}");
    file_size_max(libc::RLIM_INFINITY);
    let deadline = Instant::now() + Duration::from_secs(60);
    while store.trouble().is_some() {
        assert!(Instant::now() < deadline, "it does not find out that there is room");
        record(&store, &order(3), 1);
    }
    store.close();
}

/// Makes writes beyond a size fail, which looks like a full disk to the process.
fn file_size_max(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: both calls only read their arguments; the signal that would end the process is ignored.
    let done = unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
