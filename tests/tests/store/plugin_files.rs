//! Plugin files are also checked for changes if the system can't report these.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmill::plugin::{Catalog, Compiler, Configuration, Demand, Limits};
use wasmill_tests::{built, module};

/// Inotify instances and descriptors, all that there are.
struct Exhausted(Vec<i32>);

impl Exhausted {
    fn new() -> Self {
        // SAFETY: it takes no pointers.
        let instances = std::iter::from_fn(|| Some(unsafe { libc::inotify_init1(libc::IN_CLOEXEC) }));
        Self(instances.take_while(|instance| *instance >= 0).collect())
    }
}

impl Drop for Exhausted {
    fn drop(&mut self) {
        for instance in self.0.drain(..) {
            // SAFETY: it is this value's own, and closed once.
            unsafe { libc::close(instance) };
        }
    }
}

#[test]
fn a_changed_file_is_loaded_where_the_system_tells_of_none() {
    let folder = tempfile::tempdir().expect("make a folder");
    let file = folder.path().join("cart.wasm");
    let old = fs::read(built::plugin("cart")).expect("read a plugin");
    fs::write(&file, &old).expect("write a plugin");
    let compiler = Compiler::new(None, Demand::default()).expect("an engine");
    let plugins = [("cart", file.clone(), Limits::default(), Configuration::default())];
    let catalog = Arc::new(Catalog::open(compiler, plugins, None).unwrap_or_else(|errors| panic!("{errors:?}")));

    let exhausted = Exhausted::new();
    let watch = catalog.watch().expect("the host starts all the same");
    drop(exhausted);

    let slot = catalog.slots().next().expect("it has one");
    let before = slot.current().digest.clone();
    let new = file.with_extension("new");
    fs::write(&new, module::rebuilt(old)).and_then(|()| fs::rename(&new, &file)).expect("replace the plugin");
    let deadline = Instant::now() + Duration::from_secs(60);
    while slot.current().digest == before {
        assert!(Instant::now() < deadline, "the new file is not loaded: {:?}", slot.error());
        std::thread::park_timeout(Duration::from_millis(10));
    }
    drop(watch);
}
