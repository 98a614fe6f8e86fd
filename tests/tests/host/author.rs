//! The way of an author outside of the repository: a new crate, its build, and changes that are served while the host runs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use wasmill_tests::author::{Dev, STEP_MAX, refused, run, succeeds};

/// Sends a command to the host of the folder as soon as it serves.
fn send(folder: &Path, args: &[&str]) -> String {
    let until = Instant::now() + STEP_MAX;
    loop {
        let output = run(folder, &[&["send"], args, &["--data", "data"]].concat());
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() || said.contains("rejected") {
            return said;
        }
        assert!(Instant::now() < until, "{said}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn a_new_plugin_builds_is_served_and_follows_its_source() {
    let folder = tempfile::tempdir().expect("make a folder");
    let folder = folder.path();
    assert!(refused(folder, &["run"]).contains("the working folder has no wasmill.toml"));
    for (kind, name) in
        [("aggregate", "counter"), ("subscriber", "summing"), ("saga", "lending"), ("projection", "amounts")]
    {
        succeeds(folder, &["new", kind, name]);
    }
    let again = refused(folder, &["new", "aggregate", "counter"]);
    assert!(again.contains("counter is there already: choose another name"), "{again}");
    let again = refused(folder, &["new", "aggregate", "counter", "--path", "other"]);
    assert!(again.contains("has a [plugins.counter] already") && !folder.join("other").exists(), "{again}");
    let unbuilt = refused(folder, &["check"]);
    assert!(unbuilt.contains("wasmill build counter"), "{unbuilt}");

    succeeds(folder, &["build"]);
    let checked = succeeds(folder, &["check"]);
    for role in ["aggregate counter", "subscriber", "saga lending", "projection amounts"] {
        assert!(checked.contains(role) && !checked.contains("warning"), "{checked}");
    }
    for name in ["counter", "summing", "lending", "amounts"] {
        let tested = succeeds(folder, &["test", name, &format!("{name}/cases/{name}.toml")]);
        assert!(tested.ends_with("held, 0 failed\n"), "{tested}");
    }

    // The native tests of a projection would compile SQLite.
    fs::write(folder.join("wasmill.toml"), "[plugins.counter]\nsource = \"counter\"\n").expect("write the manifest");
    let code = folder.join("counter/src/lib.rs");
    let text = fs::read_to_string(&code).expect("read the code");
    let dev = Dev::start(folder);
    assert_eq!(dev.until("built")["plugin"], "counter");
    assert!(send(folder, &["counter", "a", "Add", r#"{"amount":3}"#]).starts_with("accepted"));
    assert_eq!(dev.until("tests")["passed"], 2);

    // What does not compile is shown, and the old code keeps serving.
    fs::write(&code, text.replace("there are only {}", "there are only {} {}")).expect("write the code");
    let error = dev.until("not built")["error"].to_string();
    assert!(error.contains("2 positional arguments in format string"), "{error}");
    let said = send(folder, &["counter", "a", "Remove", r#"{"amount":4}"#]);
    assert!(said.contains("there are only 3"), "{said}");

    // What compiles is served, and its failing test is shown.
    fs::write(&code, text.replace("there are only {}", "no more than {}")).expect("write the code");
    assert_eq!(dev.until("serving")["plugin"], "counter");
    let said = send(folder, &["counter", "a", "Remove", r#"{"amount":4}"#]);
    assert!(said.contains("no more than 3"), "{said}");
    let failed = dev.until("tests")["error"].to_string();
    assert!(failed.contains("what_was_added_can_be_removed"), "{failed}");
}

#[test]
fn what_a_build_lacks_is_said_in_a_sentence() {
    let folder = tempfile::tempdir().expect("make a folder");
    let folder = folder.path();
    fs::write(folder.join("wasmill.toml"), "[plugins.a]\nfile = \"a.wasm\"\n").expect("write the manifest");
    let said = refused(folder, &["build"]);
    assert!(said.contains("no plugin of wasmill.toml has a source: add `source = "), "{said}");
    fs::write(folder.join("wasmill.toml"), "[plugins.a]\nsource = \"a\"\n").expect("write the manifest");
    let said = refused(folder, &["build"]);
    assert!(said.contains("correct `source` in the manifest"), "{said}");
    let said = refused(folder, &["new", "aggregate", "Counter"]);
    assert!(said.contains("the name of a plugin must be 1 to 64 characters of a-z, 0-9 and `-`"), "{said}");
    let said = refused(folder, &["new", "saga", "lending", "--sdk", "."]);
    assert!(said.contains("--sdk . has no crate wasmill-guest"), "{said}");
}
