//! A small file system for the ledger, so that it can be full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Enough for the ledger of an hour.
const SIZE: &str = "1G";

/// A file system of one gigabyte. It goes with the mount namespace of this process.
pub(crate) struct Disk {
    folder: PathBuf,
    /// `ext4`, or `tmpfs` where no file can be mounted.
    pub(crate) kind: &'static str,
}

impl Disk {
    /// `None` where this process may not mount.
    pub(crate) fn mount(dir: &Path) -> Option<Self> {
        let (image, folder) = (dir.join("disk.img"), dir.join("disk"));
        fs::create_dir_all(&folder).ok()?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (image, place) = (text(&image), text(&folder));
        let real = run("truncate", &["-s", SIZE, &image])
            && run("mkfs.ext4", &["-q", "-F", &image])
            && run("mount", &["-o", "loop", &image, &place]);
        let kind = match real {
            true => "ext4",
            false
                if run(
                    "mount",
                    &["-t", "tmpfs", "-o", &format!("size={SIZE}"), "none", &place],
                ) =>
            {
                "tmpfs"
            }
            false => return None,
        };
        Some(Self { folder, kind })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Not a byte is left. Whatever is freed meanwhile is taken, too, if this is called again.
    pub(crate) fn fill(&self) {
        for (n, size) in [1 << 26, 1 << 20, 1 << 12].into_iter().enumerate() {
            for k in 0.. {
                let ballast = self.folder.join(format!("ballast-{n}-{k}"));
                if ballast.exists() {
                    continue;
                }
                let size = size.to_string();
                if !run("fallocate", &["-l", &size, &ballast.to_string_lossy()]) {
                    drop(fs::remove_file(&ballast));
                    break;
                }
            }
        }
    }

    pub(crate) fn free(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("ballast") {
                drop(fs::remove_file(entry.path()));
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l", &self.folder.to_string_lossy()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}
