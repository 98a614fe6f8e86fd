//! Replacements of the C library's system calls that change files. Each makes the call, and records it if it concerns
//! the recorded folder. SQLite and Rust's library call them by name, so the linker takes this program's own.

use super::{Change, recording};
use libc::{c_char, c_int, c_long, c_uint, c_void, off_t, size_t, ssize_t};
use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::slice;

/// Descriptors that are the program's own output: nothing may wait to write there.
const STANDARD: c_int = 2;

/// The file's number with the system, if it is open.
fn number(file: c_int) -> Option<u64> {
    let mut about = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: there is room for what is written, and it is read only once it was.
    unsafe { (libc::fstat(file, about.as_mut_ptr()) == 0).then(|| about.assume_init().st_ino) }
}

/// Makes a call that changes an open file, and notes what it changed if that went well.
fn changing(file: c_int, call: impl FnOnce() -> c_long, change: impl FnOnce(c_long) -> Change) -> c_long {
    if file <= STANDARD {
        return call();
    }
    let mut recording = recording();
    let done = call();
    if done >= 0
        && let Some(recording) = &mut *recording
        && let Some(number) = number(file)
    {
        recording.changed(number, change(done));
    }
    done
}

/// A path that the caller gave.
///
/// # Safety
/// It must be a string that ends with a NUL and lives as long as the path is used.
unsafe fn path<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: as above.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

/// # Safety
/// As `write`.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn write(file: c_int, bytes: *const c_void, length: size_t) -> ssize_t {
    // SAFETY: the caller's bytes are as many as it says, and it takes no pointers otherwise.
    let call = || unsafe { libc::syscall(libc::SYS_write, file, bytes, length) };
    let change = |done: c_long| unsafe {
        // SAFETY: so many were read by the system itself.
        let written = slice::from_raw_parts(bytes.cast::<u8>(), done as usize).to_vec();
        let end = libc::lseek(file, 0, libc::SEEK_CUR);
        Change::Write(end as usize - written.len(), written)
    };
    changing(file, call, change) as ssize_t
}

/// # Safety
/// As `pwrite64`.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn pwrite64(file: c_int, bytes: *const c_void, length: size_t, at: off_t) -> ssize_t {
    // SAFETY: as for `write`.
    let call = || unsafe { libc::syscall(libc::SYS_pwrite64, file, bytes, length, at) };
    // SAFETY: so many were read by the system itself.
    let written = |done: c_long| unsafe { slice::from_raw_parts(bytes.cast::<u8>(), done as usize) }.to_vec();
    changing(file, call, |done| Change::Write(at as usize, written(done))) as ssize_t
}

/// # Safety
/// As `pwrite`.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn pwrite(file: c_int, bytes: *const c_void, length: size_t, at: off_t) -> ssize_t {
    // SAFETY: it is the same call.
    unsafe { pwrite64(file, bytes, length, at) }
}

/// Sets the length of a file.
#[unsafe(no_mangle)]
pub(super) extern "C" fn ftruncate64(file: c_int, length: off_t) -> c_int {
    // SAFETY: it takes no pointers.
    let call = || unsafe { libc::syscall(libc::SYS_ftruncate, file, length) };
    changing(file, call, |_| Change::Truncate(length as usize)) as c_int
}

/// Sets the length of a file.
#[unsafe(no_mangle)]
pub(super) extern "C" fn ftruncate(file: c_int, length: off_t) -> c_int {
    ftruncate64(file, length)
}

/// Syncs a file or a folder.
#[unsafe(no_mangle)]
pub(super) extern "C" fn fsync(file: c_int) -> c_int {
    // SAFETY: it takes no pointers.
    changing(file, || unsafe { libc::syscall(libc::SYS_fsync, file) }, |_| Change::Sync) as c_int
}

/// Syncs what a file holds.
#[unsafe(no_mangle)]
pub(super) extern "C" fn fdatasync(file: c_int) -> c_int {
    // SAFETY: it takes no pointers.
    changing(file, || unsafe { libc::syscall(libc::SYS_fdatasync, file) }, |_| Change::Sync) as c_int
}

/// # Safety
/// As `open64`. Without `O_CREAT` the caller gives no mode, and what is in its place is not looked at by the system.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn open64(name: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let mut recording = recording();
    // SAFETY: the caller's path is a string.
    let path = unsafe { path(name) };
    let is_new = flags & libc::O_CREAT != 0 && !path.exists();
    // SAFETY: it gets what the caller gave.
    let file = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, name, flags, mode) } as c_int;
    if file >= 0
        && let Some(recording) = &mut *recording
        && let Some(number) = number(file)
    {
        if is_new {
            recording.created(path, number);
        } else if flags & libc::O_TRUNC != 0 {
            recording.changed(number, Change::Truncate(0));
        }
    }
    file
}

/// # Safety
/// As `open`.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn open(name: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: it is the same call.
    unsafe { open64(name, flags, mode) }
}

/// # Safety
/// As `unlink`.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn unlink(name: *const c_char) -> c_int {
    let mut recording = recording();
    // SAFETY: the caller's path is a string, and the system gets what the caller gave.
    let (path, done) = unsafe { (path(name), libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, name, 0) as c_int) };
    if done == 0
        && let Some(recording) = &mut *recording
    {
        recording.deleted(path);
    }
    done
}

/// # Safety
/// As `rename`.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let mut recording = recording();
    // SAFETY: the caller's paths are strings, and the system gets what the caller gave.
    let done =
        unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0 as c_uint) as c_int };
    if done == 0
        && let Some(recording) = &mut *recording
    {
        // SAFETY: as above.
        unsafe { recording.renamed(path(from), path(to)) };
    }
    done
}
