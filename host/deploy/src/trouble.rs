//! Why a port cannot be opened, and the command that mends it.

use std::io;

use serde::Serialize;

/// Why a port cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The kind.
    pub kind: Kind,
    /// In words.
    pub what: String,
    /// The command that mends it, or what to do.
    pub remedy: String,
}

/// The kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The user may not open it.
    Permission,
    /// Another program has it.
    Busy,
    /// It is not there, or has no hardware behind it.
    Gone,
    /// Something else.
    Other,
}

/// Finds out why `path` did not open with `error`.
pub(crate) fn trouble(path: &str, error: &io::Error) -> Trouble {
    let file = path.split_once('?').map_or(path, |(file, _)| file);
    let is_there = std::fs::metadata(file).is_ok();
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|w| text.contains(w));
    // The library tells a busy port by the same kind as a missing one.
    match error.kind() {
        io::ErrorKind::PermissionDenied => permission(file),
        _ if !is_there => Trouble {
            kind: Kind::Gone,
            what: "there is no such port".into(),
            remedy: "plug the adapter in again, and see `graft ports`".into(),
        },
        io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock => busy(file),
        _ if says(&["usy", "exclusive lock"]) => busy(file),
        _ if says(&["nput/output", "I/O error", "such device", "Inappropriate", "Not a typewriter"]) => Trouble {
            kind: Kind::Gone,
            what: "there is no hardware behind it".into(),
            remedy: "choose another port; after an adapter was pulled out, plug it in again".into(),
        },
        _ => Trouble { kind: Kind::Other, what: text, remedy: format!("see what `stty -F {file}` says") },
    }
}

fn busy(file: &str) -> Trouble {
    let what = match holder(file) {
        Some((name, pid)) => format!("{name} (process {pid}) has it open"),
        None => "another program has it open".into(),
    };
    let remedy = if what.starts_with("ModemManager") {
        "sudo systemctl stop ModemManager".into()
    } else {
        format!("end the program that `sudo fuser -v {file}` names")
    };
    Trouble { kind: Kind::Busy, what, remedy }
}

/// Returns name and number of a process that has a file open, as far as this user may see.
#[cfg(target_os = "linux")]
fn holder(file: &str) -> Option<(String, u32)> {
    let file = std::fs::canonicalize(file).ok()?;
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut open = std::fs::read_dir(process.path().join("fd")).ok()?.flatten();
        open.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == file)).then_some(())?;
        let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
        Some((name.trim().to_owned(), pid))
    })
}

#[cfg(not(target_os = "linux"))]
fn holder(_file: &str) -> Option<(String, u32)> {
    None
}

#[cfg(unix)]
fn permission(file: &str) -> Trouble {
    use std::os::unix::fs::MetadataExt;
    let (gid, mode) = std::fs::metadata(file).map_or((0, 0), |m| (m.gid(), m.mode()));
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    let (what, remedy) = by_group(file, gid, mode, &groups, &user);
    Trouble { kind: Kind::Permission, what, remedy }
}

#[cfg(not(unix))]
fn permission(_file: &str) -> Trouble {
    let remedy = "run as a user who may open it".into();
    Trouble { kind: Kind::Permission, what: "this user may not open it".into(), remedy }
}

/// What a file's group, its mode and the text of /etc/group say of a user who may not open it.
#[cfg(unix)]
fn by_group(file: &str, gid: u32, mode: u32, groups: &str, user: &str) -> (String, String) {
    let entry = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id = fields.nth(1)?;
        (id.parse() == Ok(gid)).then(|| (name, fields.next().unwrap_or_default()))
    });
    let may_all = mode & 0o060 == 0o060;
    match entry.filter(|(name, _)| may_all && *name != "root") {
        Some((group, members)) if !user.is_empty() && members.split(',').any(|m| m == user) => (
            format!("this session does not know yet that {user} is in group {group}"),
            format!("newgrp {group}, or log out and in again"),
        ),
        Some((group, _)) => (
            format!("only group {group} may open it"),
            format!(
                "sudo usermod -aG {group} {}, then log out and in again",
                if user.is_empty() { "$USER" } else { user }
            ),
        ),
        None => (
            "its group may not open it".into(),
            format!("sudo chgrp dialout {file} && sudo chmod g+rw {file}, or a udev rule that does that"),
        ),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use serialport::{SerialPort, TTYPort};

    #[test]
    fn a_port_that_another_has_open_is_busy_and_its_holder_is_named() {
        let (_master, far) = TTYPort::pair().unwrap();
        let name = far.name().unwrap();
        let opened = serialport::new(&name, 115_200).open_native();
        let again = serialport::new(&name, 115_200).open_native().map(drop);
        let error = io::Error::from(again.err().or(opened.err()).expect("one of the two is refused"));
        let found = trouble(&name, &error);
        assert_eq!(found.kind, Kind::Busy, "{found:?} {error:?}");
        assert!(found.what.contains(&std::process::id().to_string()), "{found:?}");
    }

    #[test]
    fn a_port_that_is_not_there_is_gone() {
        let error = io::Error::from(serialport::new("/dev/graft-none", 115_200).open_native().unwrap_err());
        assert_eq!(trouble("/dev/graft-none?baud=9600", &error).kind, Kind::Gone);
    }

    #[test]
    fn the_command_that_mends_permission_follows_from_group_and_user() {
        let groups = "root:x:0:\ndialout:x:20:anna,ben\n";
        let of = |gid, mode, user| by_group("/dev/ttyUSB0", gid, mode, groups, user).1;
        assert_eq!(of(20, 0o660, "carla"), "sudo usermod -aG dialout carla, then log out and in again");
        assert!(of(20, 0o660, "ben").starts_with("newgrp dialout"));
        assert!(of(0, 0o600, "carla").contains("chgrp dialout /dev/ttyUSB0"));
        assert!(of(99, 0o660, "carla").contains("chmod g+rw"));
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        assert_eq!(trouble("/dev/null", &error).kind, Kind::Permission);
    }
}
