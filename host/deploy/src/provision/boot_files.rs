//! The texts that a Raspberry Pi starts from: `cmdline.txt`, `config.txt`, and `issue.txt`, which tells how old it is.
//!
//! A changed text is never shorter than it was, and begins as it did but for spaces, so that it can be written in place.

use super::ProvisionError;

/// Returns `cmdline.txt` with the command for the first boot in its only line, which else stays as it is.
///
/// # Source
///
/// systemd-run-generator(8); Raspberry Pi Imager hooks its own first-boot script in the same way.
pub(super) fn with_hook(old: &str, script: &str) -> String {
    let end = old.find(['\n', '\r']).unwrap_or(old.len());
    let (line, rest) = old.split_at(end);
    let run = format!("systemd.run={script}");
    // That of another place would not be found, and the board would switch itself off.
    let is_stale = |word: &str| word.starts_with("systemd.run=") && word.ends_with(OURS) && word != run;
    let stale: Vec<&str> = line.split(' ').filter(|w| is_stale(w)).collect();
    let mut line = line.to_owned();
    for word in stale {
        line = line.replace(&format!(" {word}"), "");
    }
    let missing: Vec<&str> =
        [run.as_str(), REBOOT, UNIT].into_iter().filter(|w| !line.split(' ').any(|found| found == *w)).collect();
    if !missing.is_empty() {
        line = format!("{} {}", line.trim_end(), missing.join(" "));
    }
    format!("{line:end$}{rest}")
}

/// Returns `config.txt` with the serial port on; as it was where that is so already.
pub(super) fn with_uart(old: &str) -> String {
    let mut is_for_all = true;
    let mut is_on = false;
    for line in old.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            is_for_all = section.trim_end_matches(']') == "all";
        } else if let Some(value) = line.strip_prefix("enable_uart=") {
            // One that is off for some board is off there, whatever comes before.
            is_on = if is_for_all { value.trim() == "1" } else { is_on && value.trim() == "1" };
        }
    }
    if is_on {
        return old.to_owned();
    }
    let gap = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
    format!("{old}{gap}\n[all]\n# The serial port of graftd.\nenable_uart=1\n")
}

/// Returns where the board mounts its boot partition, as `issue.txt` tells its age.
pub(super) fn mount_of(issue: &str) -> String {
    let date = issue.split_once("reference ").and_then(|(_, rest)| rest.get(..10));
    let is_old = date.is_some_and(|d| d.starts_with("20") && d < FIRMWARE_SINCE);
    if is_old { "/boot" } else { "/boot/firmware" }.to_owned()
}

/// Checks the user's word for it.
pub(super) fn checked_mount(path: &str) -> Result<String, ProvisionError> {
    let path = path.trim_end_matches('/');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.".contains(c);
    if path.starts_with('/') && path.chars().all(is_plain) {
        return Ok(path.to_owned());
    }
    Err(ProvisionError::Unusable {
        what: "--mounted-at".to_owned(),
        expected: "a plain absolute path",
        found: format!("{path:?}"),
        remedy: "such as /boot/firmware, or /boot on older systems".to_owned(),
    })
}

const OURS: &str = "/graft/first-boot.sh";
const REBOOT: &str = "systemd.run_success_action=reboot";
const UNIT: &str = "systemd.unit=kernel-command-line.target";
/// The first release based on Debian 12, which moved the boot partition.
const FIRMWARE_SINCE: &str = "2023-10-10";

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "/boot/firmware/graft/first-boot.sh";

    #[test]
    fn hook_keeps_the_line_and_is_put_in_once() {
        let old = "console=serial0,115200 console=tty1 root=PARTUUID=1-02 rootwait quiet init=/usr/lib/x\n";
        let new = with_hook(old, RUN);
        assert_eq!(new, format!("{} systemd.run={RUN} {REBOOT} {UNIT}\n", old.trim_end()));
        assert_eq!(with_hook(&new, RUN), new);
    }

    #[test]
    fn hook_goes_beside_one_of_somebody_else_and_in_place_of_an_older_one() {
        let theirs = format!("root=/dev/x systemd.run=/boot/firstrun.sh {REBOOT} {UNIT}");
        assert_eq!(with_hook(&theirs, RUN), format!("{theirs} systemd.run={RUN}"));
        let older = with_hook("root=/dev/x rootwait\r\n", RUN);
        let newer = with_hook(&older, "/boot/graft/first-boot.sh");
        assert!(
            !newer.contains(RUN) && newer.contains("=/boot/graft/first-boot.sh") && newer.ends_with("\r\n"),
            "{newer}"
        );
        assert!(newer.len() >= older.len(), "a text that is written in place must not be shorter");
        assert!(newer.lines().count() == 1, "{newer}");
    }

    #[test]
    fn uart_is_turned_on_where_no_line_for_all_boards_does() {
        let cases = [
            ("enable_uart=1\n", true),
            ("[all]\nenable_uart=1", true),
            ("[pi4]\nenable_uart=1\n", false),
            ("[pi4]\nx=1\n[all]\n  enable_uart=1\n", true),
            ("enable_uart=1\nenable_uart=0\n", false),
            ("enable_uart=1\n[pi4]\nenable_uart=0\n", false),
            ("#enable_uart=1\n", false),
            ("", false),
        ];
        for (old, is_on) in cases {
            let new = with_uart(old);
            assert_eq!(new == old, is_on, "{old:?}");
            assert!(new.starts_with(old) && with_uart(&new) == new, "{new:?}");
        }
    }

    #[test]
    fn mount_follows_the_age_of_the_image() {
        assert_eq!(mount_of("Raspberry Pi reference 2023-05-03\nGenerated using pi-gen"), "/boot");
        assert_eq!(mount_of("Raspberry Pi reference 2023-10-10\n"), "/boot/firmware");
        assert_eq!(mount_of("Raspberry Pi reference é"), "/boot/firmware");
        assert_eq!(mount_of(""), "/boot/firmware");
        assert_eq!(checked_mount("/boot/").unwrap(), "/boot");
        assert!(checked_mount("/boot dir").unwrap_err().to_string().contains("--mounted-at"));
    }
}
