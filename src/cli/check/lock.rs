//! Whether a worker uses a ledger's file, by the kernel's list of locks.

use std::fs;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::ledger::sqlite::lock_file;

/// Whether a worker holds the lock. Read from the kernel's list: trying the lock would keep
/// a worker away that starts at this moment.
pub(super) fn in_use(path: &Path) -> bool {
    let (Some(file), Ok(locks)) = (
        kernels_name(&lock_file(path)),
        fs::read_to_string("/proc/locks"),
    ) else {
        return false;
    };
    is_locked(&locks, &file)
}

fn is_locked(locks: &str, file: &str) -> bool {
    let is_it = |line: &str| {
        let mut words = line.split_whitespace();
        words.any(|word| word == "FLOCK") && words.any(|word| word == file)
    };
    locks.lines().any(is_it)
}

/// What the kernel's list calls a file: its device, and its inode, which is one of another file on
/// another device. The device is its mount's, from which the file's own differs on btrfs.
fn kernels_name(path: &Path) -> Option<String> {
    let about = statx(
        CWD,
        path,
        AtFlags::empty(),
        StatxFlags::INO | StatxFlags::MNT_ID,
    )
    .ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let (major, minor) =
        device(&mounts, about.stx_mnt_id).unwrap_or((about.stx_dev_major, about.stx_dev_minor));
    Some(format!("{major:02x}:{minor:02x}:{}", about.stx_ino))
}

/// Major and minor number of a mount's device; none from a kernel that does not number the mounts.
fn device(mounts: &str, id: u64) -> Option<(u32, u32)> {
    let id = id.to_string();
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let mut mount = mounts.find_map(|mut words| (words.next()? == id).then_some(words))?;
    let (major, minor) = mount.nth(1)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_held_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rescind.db");
        assert!(!in_use(&path));
        let file = fs::File::create(dir.path().join("rescind.db.lock")).unwrap();
        assert!(!in_use(&path));
        file.try_lock().unwrap();
        assert!(in_use(&path));
    }

    #[test]
    fn a_lock_on_another_device_is_another_files() {
        let locks = "1: POSIX  ADVISORY  READ 7 fe:00:11 128 128\n\
                     2: FLOCK  ADVISORY  WRITE 7 00:1b:12 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 8 00:1b:12 0 EOF\n";
        assert!(is_locked(locks, "00:1b:12"));
        for other in ["fe:00:12", "00:1b:1", "fe:00:11"] {
            assert!(!is_locked(locks, other), "{other}");
        }
    }

    #[test]
    fn the_device_of_a_file_is_its_mounts() {
        let mounts = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                      30 25 0:27 / /dev/shm rw,relatime - tmpfs tmpfs rw\n";
        assert_eq!(device(mounts, 30), Some((0, 27)));
        assert_eq!(device(mounts, 27), Some((254, 0)));
        assert_eq!(device(mounts, 0), None);
    }
}
