//! Tools that are fetched once, also if several tests and people need them at the same time.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::Path;

/// Calls `fetch` unless `is_there` returns true. One caller at a time does so: each of the others waits, and then finds what
/// was fetched. `lock` is the file that they lock, which is created with its folder.
pub(crate) fn fetched(
    lock: &Path,
    mut is_there: impl FnMut() -> bool,
    fetch: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if is_there() {
        return Ok(());
    }
    if let Some(folder) = lock.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let file = File::create(lock).with_context(|| format!("create {}", lock.display()))?;
    file.lock().with_context(|| format!("lock {}", lock.display()))?;
    if is_there() { Ok(()) } else { fetch() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_of_many_callers_fetches() {
        const CALLERS: usize = 8;
        let folder = tempfile::tempdir().unwrap();
        let (lock, there) = (folder.path().join("tools/lock"), folder.path().join("there"));
        let (all_have_looked, calls) = (Barrier::new(CALLERS), AtomicUsize::new(0));
        let caller = || {
            let mut looks = 0;
            let is_there = || {
                looks += 1;
                if looks == 1 {
                    all_have_looked.wait();
                    return false;
                }
                there.exists()
            };
            fetched(&lock, is_there, || {
                calls.fetch_add(1, Ordering::Relaxed);
                Ok(fs::write(&there, "")?)
            })
        };
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(caller)).collect();
            callers.into_iter().for_each(|caller| caller.join().unwrap().unwrap());
        });
        assert_eq!(calls.into_inner(), 1);
    }
}
