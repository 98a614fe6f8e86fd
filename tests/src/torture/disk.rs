//! The disk of a tortured host, which has no room for some time.
//!
//! As root the data folder is a file system in memory whose size is cut to what is used: writes fail with the error of
//! a full disk. Other users can't mount one. Then the process may not write files beyond a mebibyte, which fails writes
//! in the same places with another error.

use crate::host::TestHost;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for everything that a run writes. Memory is used for what is written alone.
const SIZE: &str = "4g";
/// What is left free when the disk is full: the size can't be set below what is used at that moment.
const LEFT_BYTES: u64 = 256 << 10;
/// Tries to set a size while the host goes on writing.
const TRIES: usize = 100;
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a host's data folder is.
pub(super) enum Disk {
    /// A file system of its own, unmounted when the value goes.
    Mounted(PathBuf),
    /// The machine's.
    Shared,
}

impl Disk {
    /// Prepares the data folder, which is made. Call it before the host starts.
    pub(super) fn new(data: &Path) -> Self {
        std::fs::create_dir_all(data).expect("make the data folder");
        match mount(&["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"], data) {
            true => Self::Mounted(data.to_path_buf()),
            false => Self::Shared,
        }
    }

    /// Says what stands for a full disk.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Mounted(_) => "a full file system",
            Self::Shared => "a limit on the size of files, since only root can mount a small file system",
        }
    }

    /// Leaves no room.
    pub(super) fn fill(&self, host: &TestHost) {
        match self {
            Self::Shared => host.file_size_max(Some(FILE_BYTES_MAX)),
            Self::Mounted(data) => {
                let shrink = || mount(&["-o", &format!("remount,size={}", used(data) + LEFT_BYTES)], data);
                assert!((0..TRIES).any(|_| shrink()), "{} can't be made smaller", data.display());
            }
        }
    }

    /// Gives room again.
    pub(super) fn free(&self, host: &TestHost) {
        match self {
            Self::Shared => host.file_size_max(None),
            Self::Mounted(data) => {
                assert!(mount(&["-o", &format!("remount,size={SIZE}")], data), "{} can't grow", data.display());
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Self::Mounted(data) = self {
            // Lazily: a process of a run that failed may still have files open.
            _ = Command::new("umount").arg("--lazy").arg(data).status();
        }
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    let output = Command::new("mount").args(args).arg(at).output();
    output.is_ok_and(|output| output.status.success())
}

fn used(data: &Path) -> u64 {
    let output = Command::new("df").args(["-B1", "--output=used"]).arg(data).output().expect("run df");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or_else(|| panic!("df said {text}"))
}
