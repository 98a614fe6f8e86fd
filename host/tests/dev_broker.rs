//! The development broker as its own process, which is started, found again by another host, and ended.

use std::collections::BTreeMap;
use std::path::Path;
use wasmill::kafka::dev_broker::{DevBroker, ensure};

fn ensure_in(data: &Path, topics: &[(&str, i32)]) -> DevBroker {
    let topics: BTreeMap<String, i32> = topics.iter().map(|(name, count)| (name.to_string(), *count)).collect();
    ensure(Path::new(env!("CARGO_BIN_EXE_wasmill")), data, &topics).unwrap()
}

#[test]
fn a_broker_outlives_its_host_is_adopted_and_ends_when_told() {
    let data = tempfile::tempdir().unwrap();
    let first = ensure_in(data.path(), &[("baskets", 6)]);
    assert_ne!(first.pid, std::process::id());
    let (pid, incarnation) = (first.pid, first.incarnation.clone());
    // When a host is killed, the process and its file are left.
    drop(first);

    let adopted = ensure_in(data.path(), &[("baskets", 6), ("notifications", 1)]);
    assert_eq!((adopted.pid, &adopted.incarnation), (pid, &incarnation));
    let brokers = adopted.brokers.clone();
    adopted.stop();
    assert!(std::net::TcpStream::connect(brokers).is_err(), "it still listens");
    assert!(!data.path().join("dev-broker.json").exists());

    let next = ensure_in(data.path(), &[("baskets", 6)]);
    assert_ne!(next.incarnation, incarnation, "another life is another world");
    next.stop();
}
