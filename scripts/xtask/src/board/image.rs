//! What an emulated board starts with: Debian's kernel, and a first file system that is a shell, graftd and little else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cpio::Archive;
use crate::cross::{Toolchain, answer, library};

/// What an emulator is started with.
pub(super) struct Image {
    pub(super) kernel: PathBuf,
    /// The first file system.
    pub(super) initial: PathBuf,
}

/// A kernel and its modules, unpacked.
pub(super) struct Kernel {
    folder: PathBuf,
    version: String,
}

impl Kernel {
    /// Returns the kernel that an earlier run fetched, or fetches it.
    ///
    /// # Errors
    ///
    /// Why this machine cannot fetch it.
    pub(super) fn find(toolchain: &Toolchain) -> Result<Self> {
        let folder = toolchain.folder.join("kernel");
        let ready = folder.join("ready");
        if !ready.exists() {
            eprintln!("fetching Debian's kernel for arm64 into {}", folder.display());
            answer(Command::new("sh").arg("scripts/boards/kernel.sh").arg(&folder))?;
        }
        let version = fs::read_to_string(&ready).with_context(|| format!("reading {}", ready.display()))?;
        Ok(Self { version: version.trim().to_owned(), folder: folder.join("root") })
    }

    /// Returns its version, as Debian names it.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Puts a first file system together in `folder`, with graftd and its configuration.
    pub(super) fn image(&self, graftd: &Path, configuration: &str, folder: &Path) -> Result<Image> {
        let mut archive = Archive::default();
        for path in ["bin", "dev", "data", "etc", "etc/graft", "lib", "proc", "sys"] {
            archive.folder(path)?;
        }
        archive.device("dev/console", CONSOLE)?;
        archive.program("init", INIT.as_bytes())?;
        archive.program("bin/busybox", &read(&self.folder.join("usr/bin/busybox"))?)?;
        archive.program("bin/graftd", &read(graftd)?)?;
        for name in libraries(graftd)? {
            archive.program(&format!("lib/{name}"), &read(&library(&name)?)?)?;
        }
        for module in MODULES {
            if let Some(file) = self.module(module)? {
                archive.file(&format!("lib/{module}.ko"), &read(&file)?)?;
            }
        }
        archive.file("etc/graft/graftd.toml", configuration.as_bytes())?;
        let system = format!("PRETTY_NAME=\"Linux {}, emulated\"\n", self.version);
        archive.file("etc/os-release", system.as_bytes())?;
        let initial = folder.join("initial.cpio");
        fs::write(&initial, archive.finish()?).with_context(|| format!("writing {}", initial.display()))?;
        Ok(Image { kernel: self.folder.join(format!("boot/vmlinuz-{}", self.version)), initial })
    }

    /// Returns the file of a module; none if it is in the kernel itself.
    fn module(&self, name: &str) -> Result<Option<PathBuf>> {
        let folder = self.folder.join("usr/lib/modules").join(&self.version);
        let built_in = folder.join("modules.builtin");
        let list = fs::read_to_string(&built_in).with_context(|| format!("reading {}", built_in.display()))?;
        let file = format!("{name}.ko");
        if list.lines().any(|line| line.rsplit('/').next() == Some(&file)) {
            return Ok(None);
        }
        let found = folder.join("kernel/drivers/block").join(&file);
        ensure!(found.exists(), "expected a kernel with {name}, found none in {}", folder.display());
        Ok(Some(found))
    }
}

/// Character device 5, 1.
const CONSOLE: [u32; 2] = [5, 1];
/// Which the kernel needs besides what is always in it.
const MODULES: [&str; 1] = ["virtio_blk"];

/// The board's first program. Its journal goes to a console of its own: the UART is the link's alone.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
exec </dev/null >/dev/hvc0 2>&1
for module in /lib/*.ko; do insmod $module; done
mount -t ext4 /dev/vda /data || { echo 'board: the disk cannot be mounted'; poweroff -f; }
while :; do
    graftd run --config /etc/graft/graftd.toml
    echo \"board: graftd ended with $?\"
    sleep 1
done
";

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Returns the libraries that a program of the board's needs, with the one that loads them.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let listed = answer(
        Command::new("aarch64-linux-gnu-readelf").args(["--wide", "--dynamic", "--program-headers"]).arg(program),
    )?;
    Ok(named(&listed))
}

/// Returns the libraries that readelf tells of.
fn named(listed: &str) -> Vec<String> {
    let between = |line: &str, from: &str| line.split_once(from)?.1.split_once(']').map(|(name, _)| name.to_owned());
    let loader = listed.lines().filter_map(|line| between(line, "program interpreter: /lib/"));
    let needed = listed.lines().filter_map(|line| between(line, "Shared library: ["));
    let mut names: Vec<String> = loader.chain(needed).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    /// Lines of readelf 2.40.
    #[test]
    fn libraries_are_those_of_readelf_and_the_loader() {
        let listed = "      [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]\n \
             0x0000000000000001 (NEEDED)             Shared library: [libgcc_s.so.1]\n \
             0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n \
             0x0000000000000001 (NEEDED)             Shared library: [ld-linux-aarch64.so.1]\n \
             0x000000000000000c (INIT)               0x7a0f88\n";
        assert_eq!(super::named(listed), ["ld-linux-aarch64.so.1", "libc.so.6", "libgcc_s.so.1"]);
    }
}
