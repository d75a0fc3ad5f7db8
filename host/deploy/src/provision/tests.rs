//! Provisioning small images that are made here, read back by the same crate and, where it is installed, by mtools.

use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::process::Command;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use graft_bundle::SecretKey;

#[cfg(target_os = "linux")]
use super::disk::System;
use super::*;

const LINE: &str = "console=serial0,115200 console=tty1 root=PARTUUID=4e639091-02 rootfstype=ext4 fsck.repair=yes rootwait quiet init=/usr/lib/raspberrypi-sys-mods/firstboot";
const SETTINGS: &str = "# For more options and information see\n# http://rptl.io/configtxt\ndtparam=audio=on\n\n[cm4]\notg_mode=1\n\n[all]\n";
const START: u64 = 2048 * 512;

fn settings() -> Provision {
    Provision {
        agent: agent(183, 20_000),
        name: "greenhouse \"3\"".into(),
        listen: "/dev/serial0?baud=115200".into(),
        keys: vec![SecretKey::from_seed(&[1; 32]).public(), SecretKey::from_seed(&[2; 32]).public()],
        bundle: Some(vec![7; 3000]),
        mounted_at: None,
    }
}

/// A file that says it is a program for an ELF machine.
fn agent(machine: u16, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes
}

/// An image with one partition of so many bytes, and the files that matter of Raspberry Pi OS on it.
fn image(kind: FatType, len: usize) -> Vec<u8> {
    let mut part = Cursor::new(vec![0; len]);
    format_volume(&mut part, FormatVolumeOptions::new().fat_type(kind).bytes_per_cluster(512)).unwrap();
    part.rewind().unwrap();
    {
        let fs = FileSystem::new(&mut part, FsOptions::new()).unwrap();
        let put = |name: &str, text: &str| fs.root_dir().create_file(name).unwrap().write_all(text.as_bytes()).unwrap();
        put("cmdline.txt", &format!("{LINE}\n"));
        put("config.txt", SETTINGS);
        put("issue.txt", "Raspberry Pi reference 2025-05-13\nGenerated using pi-gen\n");
        put("kernel8.img", "kernel");
    }
    let mut whole = vec![0; START as usize];
    let kind = if kind == FatType::Fat32 { 0x0c } else { 0x0e };
    whole[450] = kind;
    whole[454..458].copy_from_slice(&2048u32.to_le_bytes());
    whole[458..462].copy_from_slice(&u32::try_from(len / 512).unwrap().to_le_bytes());
    whole[466] = 0x83;
    whole[510..512].copy_from_slice(&[0x55, 0xaa]);
    whole.extend(part.into_inner());
    whole
}

fn file_in(image: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut part = Cursor::new(image[START as usize..].to_vec());
    let fs = FileSystem::new(&mut part, FsOptions::new()).unwrap();
    let mut bytes = Vec::new();
    fs.root_dir().open_file(name).ok()?.read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

fn text_in(image: &[u8], name: &str) -> String {
    String::from_utf8(file_in(image, name).unwrap_or_else(|| panic!("no {name}"))).unwrap()
}

/// A folder with an image in it.
fn on_disk(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("raspios.img");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn run(path: &Path, mode: Mode) -> Result<ProvisionReport, ProvisionError> {
    provision(&settings(), Target::Image(path, Consent::Missing), mode)
}

#[test]
fn provisioned_image_has_everything_and_a_second_run_changes_nothing() {
    for (kind, len) in [(FatType::Fat16, 4 << 20), (FatType::Fat32, 36 << 20)] {
        let before = image(kind, len);
        let (_dir, path) = on_disk(&before);
        let told = run(&path, Mode::DryRun).unwrap();
        assert!(fs::read(&path).unwrap() == before, "a dry run wrote");
        assert_eq!(run(&path, Mode::Write).unwrap(), told);
        let after = fs::read(&path).unwrap();
        assert!(after[..START as usize] == before[..START as usize], "written outside of the partition");

        let s = settings();
        assert!(file_in(&after, "graft/graftd").unwrap() == s.agent);
        assert!(file_in(&after, "graft/bundle.graft") == s.bundle);
        assert_eq!(text_in(&after, "graft/install-device.sh"), INSTALL);
        let toml = text_in(&after, "graft/graftd.toml");
        assert!(
            s.keys.iter().all(|k| toml.contains(&k.to_string())) && toml.contains("greenhouse \\\"3\\\""),
            "{toml}"
        );
        let hook = "systemd.run=/boot/firmware/graft/first-boot.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target";
        assert_eq!(text_in(&after, "cmdline.txt"), format!("{LINE} {hook}\n"));
        assert!(text_in(&after, "config.txt").starts_with(SETTINGS));
        assert!(text_in(&after, "config.txt").ends_with("\nenable_uart=1\n"));
        assert_eq!(text_in(&after, "kernel8.img"), "kernel");

        let again = run(&path, Mode::Write).unwrap();
        assert!(again.files.iter().all(|f| f.state == LaidState::Unchanged), "{again:?}");
        assert!(fs::read(&path).unwrap() == after, "the second run wrote");
        outside_tools_agree(&path, &after, &s);
    }
}

/// Reads the image with mtools and checks it with dosfstools, where they are installed.
fn outside_tools_agree(path: &Path, image: &[u8], s: &Provision) {
    let part = format!("{}@@{START}", path.display());
    match Command::new("mcopy").args(["-i", &part, "::graft/graftd", "-"]).output() {
        Ok(out) => assert!(out.status.success() && out.stdout == s.agent, "{}", String::from_utf8_lossy(&out.stderr)),
        Err(_) => eprintln!("skipped: reading with mcopy, for mtools is not installed"),
    }
    if let Ok(out) = Command::new("mtype").args(["-i", &part, "::cmdline.txt"]).output() {
        assert!(String::from_utf8_lossy(&out.stdout).contains("graft/first-boot.sh"), "{out:?}");
    }
    let alone = path.with_extension("part");
    fs::write(&alone, &image[START as usize..]).unwrap();
    match Command::new("fsck.vfat").arg("-n").arg(&alone).output() {
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout)),
        Err(_) => eprintln!("skipped: checking with fsck.vfat, for dosfstools are not installed"),
    }
}

/// The volumes that users have are not made by the crate that writes them.
#[test]
fn volume_made_by_mkfs_is_provisioned() {
    let mut whole = image(FatType::Fat32, 36 << 20);
    let dir = tempfile::tempdir().unwrap();
    let (part, cmdline) = (dir.path().join("part"), dir.path().join("cmdline.txt"));
    fs::write(&part, vec![0; 36 << 20]).unwrap();
    fs::write(&cmdline, format!("{LINE}\n")).unwrap();
    let made = Command::new("mkfs.vfat").args(["-F", "32", "-s", "1", "-n", "bootfs"]).arg(&part).output();
    let copied = Command::new("mcopy").arg("-i").arg(&part).arg(&cmdline).arg("::").output();
    if made.is_err() || copied.is_err() {
        eprintln!("skipped: mkfs.vfat or mcopy is not installed");
        return;
    }
    whole.truncate(START as usize);
    whole.extend(fs::read(&part).unwrap());
    let path = dir.path().join("raspios.img");
    fs::write(&path, whole).unwrap();
    run(&path, Mode::Write).unwrap();
    outside_tools_agree(&path, &fs::read(&path).unwrap(), &settings());
}

#[test]
fn changed_settings_rewrite_what_differs_alone() {
    let (_dir, path) = on_disk(&image(FatType::Fat16, 4 << 20));
    run(&path, Mode::Write).unwrap();
    let mut other = settings();
    other.agent = agent(40, 30_000);
    other.agent[4] = 1;
    let report = provision(&other, Target::Image(&path, Consent::Missing), Mode::Write).unwrap();
    let written: Vec<&str> =
        report.files.iter().filter(|f| f.state == LaidState::Written).map(|f| f.path.as_str()).collect();
    assert_eq!(written, ["graft/graftd", "graft/SHA256SUMS"]);
    assert_eq!(report.machine, "armv7");
    let after = fs::read(&path).unwrap();
    assert!(file_in(&after, "graft/graftd").unwrap() == other.agent);
    outside_tools_agree(&path, &after, &other);
}

#[test]
fn full_partition_is_refused_and_left_as_it_was() {
    let mut s = settings();
    s.agent = agent(183, 5 << 20);
    let before = image(FatType::Fat16, 4 << 20);
    let (_dir, path) = on_disk(&before);
    for mode in [Mode::DryRun, Mode::Write] {
        let error = provision(&s, Target::Image(&path, Consent::Missing), mode).unwrap_err();
        assert!(matches!(error, ProvisionError::NoRoom { needed, free, .. } if needed > free), "{error}");
        assert!(fs::read(&path).unwrap() == before);
    }
}

/// The folder's files are first; then every cut leaves a board that starts as before, or into the first-boot script.
#[test]
fn cut_at_any_sector_leaves_the_old_command_line_or_the_new_one() {
    // Short ones fit in one cluster, long ones need a new one, and one just at the border.
    for padding in [0, 200, 512 - LINE.len() - 1, 512 - LINE.len() - 2] {
        let mut disk = image(FatType::Fat16, 4 << 20);
        let line = format!("{LINE}{}\n", "x".repeat(padding));
        {
            let mut part = Cursor::new(disk.split_off(START as usize));
            {
                let fs = FileSystem::new(&mut part, FsOptions::new()).unwrap();
                fs.root_dir().create_file("cmdline.txt").unwrap().write_all(line.as_bytes()).unwrap();
            }
            disk.extend(part.into_inner());
        }
        let (_dir, path) = on_disk(&disk);
        let whole = settings();
        let toml = configuration(&whole).unwrap();
        let mut entries = files(&whole, &toml);
        entries.push(grown(CONFIG, boot_files::with_uart(SETTINGS)));
        entries.push(grown(CMDLINE, boot_files::with_hook(&line, "/boot/firmware/graft/first-boot.sh")));
        let (grown, laid): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|e| e.is_grown);
        let stages = [laid, vec![grown[0]], vec![grown[1]]];
        let boot = Image::open(&path, File::open(&path).unwrap()).unwrap();
        let plan = boot.plan(&stages).unwrap();
        let new = String::from_utf8(grown[1].bytes.clone()).unwrap();
        let (mut old_ones, mut new_ones) = (0, 0);
        for (stage, changes) in plan.iter().enumerate() {
            for (at, bytes) in changes {
                let at = usize::try_from(*at).unwrap();
                disk[at..at + 512].copy_from_slice(bytes.as_slice());
                // Reading back after each of the agent's sectors would take minutes; the texts are not touched there.
                if stage == 0 && !(at - START as usize).is_multiple_of(4096) {
                    continue;
                }
                let found = text_in(&disk, "cmdline.txt");
                if found.trim_end() == line.trim_end() {
                    old_ones += 1;
                } else {
                    assert_eq!(found, new);
                    assert_eq!(stage, 2);
                    assert!(file_in(&disk, "graft/graftd").unwrap() == whole.agent);
                    new_ones += 1;
                }
                assert!(text_in(&disk, "config.txt").starts_with(SETTINGS));
            }
        }
        assert!(old_ones > 5 && new_ones > 0, "{old_ones} {new_ones}");
    }
}

#[test]
fn what_is_no_image_is_refused_by_name_and_left_as_it_was() {
    let good = image(FatType::Fat16, 4 << 20);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "0 bytes"),
        (vec![0; 4096], "no partition table"),
        (b"\xfd7zXZ\0".iter().copied().chain([0; 4096]).collect(), "xz -d"),
        (b"PK\x03\x04".iter().copied().chain([0; 4096]).collect(), "unzip"),
        (good[..good.len() - 1].to_vec(), "cut off"),
        (good[..4096].to_vec(), "cut off"),
        (with(&|b| b[450] = 0xee), "GPT"),
        (with(&|b| b[450] = 0x83), "0x83"),
        (with(&|b| b[446..510].fill(0)), "empty partition table"),
        (good[START as usize..].to_vec(), "without a partition table"),
        (with(&|b| b[START as usize..START as usize + 512].fill(0)), "no FAT16 or FAT32"),
        (with(&|b| b[START as usize + 13] = 64), "FAT12"),
    ];
    for (bytes, word) in cases {
        let (_dir, path) = on_disk(&bytes);
        let error = run(&path, Mode::Write).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("raspios.img") && error.contains("expected"), "{word}: {error}");
        assert!(fs::read(&path).unwrap() == bytes, "{word}");
    }
    let dir = tempfile::tempdir().unwrap();
    let error = run(dir.path(), Mode::Write).unwrap_err().to_string();
    assert!(error.contains("--boot"), "{error}");
}

#[test]
fn partition_without_a_command_line_is_no_raspberry_pi_os() {
    let mut bytes = image(FatType::Fat16, 4 << 20);
    let mut part = Cursor::new(bytes.split_off(START as usize));
    FileSystem::new(&mut part, FsOptions::new()).unwrap().root_dir().remove("cmdline.txt").unwrap();
    bytes.extend(part.into_inner());
    let (_dir, path) = on_disk(&bytes);
    let error = run(&path, Mode::Write).unwrap_err().to_string();
    assert!(error.contains("cmdline.txt") && error.contains("Raspberry Pi OS"), "{error}");
}

/// Whatever a card holds, it is an error or it works, and it ends.
#[test]
fn damaged_file_systems_are_errors() {
    let good = image(FatType::Fat16, 4 << 20);
    let start = START as usize;
    let root = start + 512 * (1 + 2 * 32);
    let places = (start..start + 62).chain(start + 512..start + 540).chain(root..root + 0xa0);
    let (dir, path) = on_disk(&good);
    for at in places {
        for value in [0x01, 0xff] {
            let mut file = OpenOptions::new().write(true).open(&path).unwrap();
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&[value]).unwrap();
            // A dry run does all but the writing.
            let _ = run(&path, Mode::DryRun);
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            file.write_all(&good[at..=at]).unwrap();
        }
    }
    assert!(run(&path, Mode::DryRun).is_ok());
    drop(dir);
}

#[test]
fn agents_and_settings_that_would_not_run_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cmdline.txt"), LINE).unwrap();
    type Change = fn(&mut Provision);
    let cases: [(Change, &str); 7] = [
        (|s| s.agent = agent(62, 100), "x86-64"),
        (|s| s.agent = agent(8, 100), "machine 8"),
        (|s| s.agent = b"#!/bin/sh\n# nothing that a board runs".to_vec(), "other bytes"),
        (|s| s.agent.truncate(3), "3 bytes"),
        (|s| s.name = "a\nb".into(), "name"),
        (|s| s.listen = "COM3".into(), "tcp://HOST:PORT"),
        (|s| s.listen = "/dev/x\"]".into(), "baud=N"),
    ];
    for (change, word) in cases {
        let mut s = settings();
        change(&mut s);
        let error = provision(&s, Target::Folder(dir.path()), Mode::Write).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("expected"), "{error}");
    }
    assert!(!dir.path().join("graft").exists());
}

#[test]
fn folder_that_cannot_be_written_keeps_its_command_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cmdline.txt"), LINE).unwrap();
    fs::create_dir_all(dir.path().join("graft/SHA256SUMS.new")).unwrap();
    let error = provision(&settings(), Target::Folder(dir.path()), Mode::Write).unwrap_err().to_string();
    assert!(error.contains("SHA256SUMS"), "{error}");
    assert_eq!(fs::read_to_string(dir.path().join("cmdline.txt")).unwrap(), LINE);
    assert!(!dir.path().join("graft/graftd").exists() && !dir.path().join("graft/graftd.new").exists());
    let error = provision(&settings(), Target::Folder(&dir.path().join("none")), Mode::Write).unwrap_err().to_string();
    assert!(error.contains("mount it first"), "{error}");
}

/// Runs the first-boot script of a provisioned folder, with a root of its own.
#[cfg(unix)]
fn first_boot(boot: &Path, root: &Path) -> String {
    let script = boot.join("graft/first-boot.sh");
    assert!(Command::new("sh").arg("-n").arg(&script).status().unwrap().success());
    assert!(Command::new("sh").arg(&script).env("DESTDIR", root).status().unwrap().success());
    fs::read_to_string(boot.join("graft/first-boot.log")).unwrap()
}

#[cfg(unix)]
#[test]
fn first_boot_installs_and_takes_itself_out() {
    let dir = tempfile::tempdir().unwrap();
    let (boot, root) = (dir.path().join("boot"), dir.path().join("root"));
    fs::create_dir_all(&boot).unwrap();
    fs::write(boot.join("cmdline.txt"), format!("{LINE}\n")).unwrap();
    let report = provision(&settings(), Target::Folder(&boot), Mode::Write).unwrap();
    assert!(report.files.iter().all(|f| f.state == LaidState::Written));
    let again = provision(&settings(), Target::Folder(&boot), Mode::Write).unwrap();
    assert!(again.files.iter().all(|f| f.state == LaidState::Unchanged));

    let log = first_boot(&boot, &root);
    assert!(log.ends_with("first-boot.sh: installed\n"), "{log}");
    assert!(fs::read(root.join("usr/local/bin/graftd")).unwrap() == settings().agent);
    let toml = fs::read_to_string(root.join("etc/graft/graftd.toml")).unwrap();
    assert_eq!(toml, configuration(&settings()).unwrap());
    assert!(root.join("etc/systemd/system/graftd.service").is_file());
    // The line for hosts must not be a login console as well.
    let line = LINE.strip_prefix("console=serial0,115200 ").unwrap();
    assert_eq!(fs::read_to_string(boot.join("cmdline.txt")).unwrap(), format!("{line}\n"));
    // A cut at the end has it run once more.
    let log = first_boot(&boot, &root);
    assert!(log.ends_with("first-boot.sh: installed\n"), "{log}");
}

#[cfg(unix)]
#[test]
fn first_boot_installs_nothing_of_a_damaged_folder_and_the_board_boots_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let (boot, root) = (dir.path().join("boot"), dir.path().join("root"));
    fs::create_dir_all(&boot).unwrap();
    let theirs = format!(
        "{LINE} systemd.run=/boot/firstrun.sh systemd.run_success_action=reboot systemd.unit=kernel-command-line.target\n"
    );
    fs::write(boot.join("cmdline.txt"), &theirs).unwrap();
    provision(&settings(), Target::Folder(&boot), Mode::Write).unwrap();
    let mut agent = settings().agent;
    agent[100] ^= 1;
    fs::write(boot.join("graft/graftd"), agent).unwrap();
    let log = first_boot(&boot, &root);
    assert!(log.ends_with("first-boot.sh: failed\n") && log.contains("graftd"), "{log}");
    assert!(!root.exists());
    assert_eq!(fs::read_to_string(boot.join("cmdline.txt")).unwrap(), theirs);
}

#[cfg(target_os = "linux")]
#[test]
fn disks_are_written_only_if_removable_whole_idle_and_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let sys = dir.path();
    let disk = |place: &str, number: &str, removable: &str| {
        let folder = sys.join("devices").join(place);
        let part = folder.join(format!("{}1", folder.file_name().unwrap().to_string_lossy()));
        fs::create_dir_all(part.join("holders")).unwrap();
        fs::create_dir_all(sys.join("dev/block")).unwrap();
        let (major, minor) = number.split_once(':').unwrap();
        let next = format!("{major}:{}", minor.parse::<u32>().unwrap() + 1);
        for (folder, number) in [(&folder, number), (&part, next.as_str())] {
            fs::write(folder.join("dev"), number).unwrap();
            std::os::unix::fs::symlink(folder, sys.join("dev/block").join(number)).unwrap();
        }
        fs::write(folder.join("removable"), removable).unwrap();
        fs::write(folder.join("size"), "62333952\n").unwrap();
        fs::write(part.join("partition"), "1").unwrap();
        part
    };
    disk("pci/ata1/block/sda", "8:0", "0\n");
    disk("pci/usb1/1-1/block/sdb", "8:16", "0\n");
    disk("pci/ata2/block/sdc", "8:32", "1\n");
    let held = disk("pci/usb1/1-2/block/sdd", "8:48", "1\n");
    fs::create_dir(held.join("holders/dm-0")).unwrap();
    let card = disk("mmc0/block/mmcblk0", "179:0", "0\n");
    fs::create_dir(card.parent().unwrap().join("device")).unwrap();
    fs::write(card.parent().unwrap().join("device/type"), "SD\n").unwrap();

    let check = |number, mounts: &str, swaps: &str, consent| {
        let system = System { sys: sys.to_owned(), mounts: mounts.to_owned(), swaps: swaps.to_owned() };
        system.check(Path::new("/dev/sdx"), number, consent).map_err(|e| e.to_string())
    };
    let idle = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
    let by_number = "40 22 8:17 / /media/pi rw,nosuid shared:2 - vfat /dev/disk/by-id/x rw\n";
    let by_name = "40 22 0:51 / /mnt/b rw - btrfs /dev/sdc1 rw\n";
    let swap = "Filename Type Size Used Priority\n/dev/sdc1 partition 1 0 -2\n";
    for number in [(8, 16), (8, 32), (179, 0)] {
        assert_eq!(check(number, idle, "", Consent::Given), Ok(()));
        let error = check(number, idle, "", Consent::Missing).unwrap_err();
        assert!(error.contains("--yes") && error.contains("31914 MB"), "{error}");
    }
    let cases = [
        ((8, 0), idle, "", "built in"),
        ((8, 17), idle, "", "/dev/sdb"),
        ((8, 16), by_number, "", "umount /media/pi"),
        ((8, 32), by_name, "", "/mnt/b"),
        ((8, 32), idle, swap, "swapoff"),
        ((8, 48), idle, "", "dm-0"),
        ((9, 9), idle, "", "9:9"),
    ];
    for (number, mounts, swaps, word) in cases {
        let error = check(number, mounts, swaps, Consent::Given).unwrap_err();
        assert!(error.contains(word) && error.contains("refused"), "{word}: {error}");
    }
}
