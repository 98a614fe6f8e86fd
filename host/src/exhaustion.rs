//! The limits that a process may reach when it opens a file: open files and memory. The errors of libraries often do
//! not name them. Nothing here knows which files are opened.

use std::fs::File;
use std::io;

/// Returns the remedy for an error of the system that says that a limit is reached, or `None` for any other error.
pub fn remedy(error: &io::Error) -> Option<String> {
    match error.raw_os_error()? {
        libc::EMFILE => Some(format!(
            "this process has all of the {} files open that it may have: raise the limit (`ulimit -Hn`, or `LimitNOFILE=` of a \
             systemd unit), or lower api.connections_max, and restart",
            files_max().map_or("number".to_owned(), |max| max.to_string())
        )),
        libc::ENFILE => Some(
            "the system has as many files open as it may have: raise the sysctl fs.file-max, or end other programs"
                .to_owned(),
        ),
        libc::ENOMEM => Some(NO_MEMORY.to_owned()),
        _ => None,
    }
}

/// The remedy if the system has no memory for a process.
pub const NO_MEMORY: &str = "the system has no memory left for this process: end other programs, or raise its limit \
                             (`ulimit -v`, or that of its container)";

/// Returns the remedy if a library could not open a file and does not show the system's error. This tests if any file
/// can be opened now. If one can, the file itself is the cause and the result is `None`.
pub fn remedy_now() -> Option<String> {
    File::open("/").err().as_ref().and_then(remedy)
}

/// Formats an error of the system, with the remedy if a limit is reached.
pub fn told(error: &io::Error) -> String {
    remedy(error).map_or_else(|| error.to_string(), |remedy| format!("{error}; {remedy}"))
}

/// Returns how many files this process may have open.
fn files_max() -> Option<u64> {
    limit_of_files().map(|limit| limit.rlim_cur)
}

/// Raises that number as far as the system allows, and returns it. The result is `None` if it can't be read or set.
pub fn raise_files_max() -> Option<u64> {
    let limit = limit_of_files()?;
    let highest = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    set_limit_of_files(highest).then_some(highest.rlim_cur)
}

fn limit_of_files() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes this value, and nothing else of ours.
    let is_known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 };
    is_known.then_some(limit)
}

fn set_limit_of_files(limit: libc::rlimit) -> bool {
    // SAFETY: the call reads this value, and nothing else of ours.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0 }
}

/// Runs a part of a test in its own process, which can't open any file meanwhile. `test` is the full name of the test
/// that calls this.
#[cfg(test)]
pub(crate) fn without_files(test: &str, part: impl FnOnce()) {
    const INSIDE: &str = "WASMILL_TEST_WITHOUT_FILES";
    if std::env::var_os(INSIDE).is_none() {
        let mut again = std::process::Command::new(std::env::current_exe().expect("the test program"));
        let ended = again.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").output().expect("run the test again");
        let said = String::from_utf8_lossy(&ended.stdout);
        let failed = String::from_utf8_lossy(&ended.stderr);
        return assert!(ended.status.success() && said.contains("1 passed"), "{said}\n{failed}");
    }
    let before = limit_of_files().expect("a limit");
    assert!(set_limit_of_files(libc::rlimit { rlim_cur: 3, ..before }));
    part();
    assert!(set_limit_of_files(before));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_run_out_is_named() {
        assert_eq!(remedy_now(), None);
        assert_eq!(remedy(&io::Error::from_raw_os_error(libc::EACCES)), None);
        assert!(told(&io::Error::from_raw_os_error(libc::ENOMEM)).contains("no memory left"));
        without_files("exhaustion::tests::what_has_run_out_is_named", || {
            let remedy = remedy_now().expect("no file can be opened");
            assert!(remedy.contains("all of the 3 files open") && remedy.contains("ulimit -Hn"), "{remedy}");
        });
    }
}
