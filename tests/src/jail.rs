//! Running a program from another distribution's folder, without a mount that could outlive it: the child gets a mount
//! namespace of its own, binds its data folder into the root there, and the kernel drops it all when the child ends.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Where a jailed program sees its data folder. The root has an empty folder there.
pub const INSIDE: &str = "/lab";

/// Makes a command run in `root`, with `data` bound to [`INSIDE`].
pub fn confine(command: &mut Command, root: &Path, data: &Path) -> Result<()> {
    let target = root.join(INSIDE.trim_start_matches('/'));
    std::fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let (root, data, target) = (c_string(root)?, c_string(data)?, c_string(&target)?);
    // SAFETY: between fork and exec only bare system calls are made, on memory that was prepared before the fork.
    unsafe {
        command.pre_exec(move || {
            let nothing = std::ptr::null();
            check(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            check(libc::mount(nothing, c"/".as_ptr(), nothing, private, nothing.cast()))?;
            check(libc::mount(data.as_ptr(), target.as_ptr(), nothing, libc::MS_BIND, nothing.cast()))?;
            check(libc::chroot(root.as_ptr()))?;
            check(libc::chdir(c"/".as_ptr()))
        });
    }
    Ok(())
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn c_string(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| format!("{} has a NUL in it", path.display()))
}
