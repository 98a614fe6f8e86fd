//! The limit of open files: raised as far as the system allows, and a warning where that is too little.

use crate::manifest::Api;

/// Open files beside the connections of the API, about: the store, read models, plugins, brokers.
const OTHERS: u64 = 256;

/// Raises the soft limit to the hard one. Warns if the connections that the manifest allows do not fit.
pub(super) fn allow(api: &Api) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read or write this value, and nothing else of ours.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if let Some(warning) = raised.then(|| too_few(limit.rlim_cur, api.connections_max as u64)).flatten() {
        tracing::warn!("{warning}");
    }
}

fn too_few(files_max: u64, connections_max: u64) -> Option<String> {
    let needed = connections_max + OTHERS;
    (files_max < needed).then(|| {
        format!(
            "the system allows {files_max} open files, and `api.connections_max` = {connections_max} may need {needed}: raise \
             the limit (ulimit -Hn), or lower the key to {} or less",
            files_max.saturating_sub(OTHERS).max(1)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_do_not_fit_are_told() {
        assert_eq!(too_few(1_024, 768), None);
        let warning = too_few(1_024, 769).unwrap();
        assert!(warning.contains("1024 open files") && warning.contains("to 768 or less"), "{warning}");
        assert!(too_few(64, 1).unwrap().contains("to 1 or less"));
    }
}
