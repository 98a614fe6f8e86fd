//! The disk of a tortured host, which is full for some time.
//!
//! For root the data folder is a file system in memory whose size is cut to what is used, so writes fail with the error
//! of a full disk. Other users can't mount one. For them the process may not write files beyond a mebibyte, so writes
//! fail in the same places with another error.

use crate::host::TestHost;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Size of the file system, enough for everything that a run writes. Only what is written takes memory.
const SIZE: &str = "4g";
/// Bytes that stay free when the disk is full, because the size can't be set below what is used at that moment.
const LEFT_BYTES: u64 = 256 << 10;
/// Number of tries to set a size while the host keeps writing.
const TRIES: usize = 100;
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The place of a host's data folder.
pub(super) enum Disk {
    /// It has a file system of its own, which is unmounted when the value is dropped.
    Mounted(PathBuf),
    /// It is on the machine's file system.
    Shared,
}

impl Disk {
    /// Makes and prepares the data folder. This must happen before the host starts.
    pub(super) fn new(data: &Path) -> Self {
        std::fs::create_dir_all(data).expect("make the data folder");
        match mount(&["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"], data) {
            true => Self::Mounted(data.to_path_buf()),
            false => Self::Shared,
        }
    }

    /// Describes how a full disk is simulated.
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
            // It is unmounted lazily, because a process of a failed run may still have files open.
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
