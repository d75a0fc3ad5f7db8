//! What may link what: the device carries no training code, the light crates no engine.

use std::fs;
use std::process::Command;

use graft_tests::root;

/// Returns the names of all crates that a package links.
fn links(package: &str) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments =
        ["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--package", package];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<String> = text.lines().filter_map(|l| l.split(' ').next().map(str::to_owned)).collect();
    assert!(names.iter().any(|n| n == package), "{package} is not in its own tree");
    names
}

#[test]
fn each_crate_links_only_what_the_architecture_allows() {
    let light = ["tract-onnx", "tract-core", "candle-core", "serialport", "hf-hub"];
    let cases: [(&str, &[&str]); 12] = [
        ("graft-bundle", &light),
        ("graft-zoo", &light),
        ("graft-link", &light),
        ("graft-kernels", &light),
        ("graft-camera", &light),
        ("graft-tiles", &light),
        ("graft-runtime", &["candle-core", "serialport", "hf-hub", "graft-train", "graft-onnx"]),
        ("graft-agent", &["candle-core", "hf-hub", "graft-train", "graft-onnx", "graft-deploy", "graft-leaves"]),
        ("graft-onnx", &["candle-core", "graft-runtime", "serialport"]),
        (
            "graft-report",
            &["candle-core", "tract-core", "graft-runtime", "graft-train", "image", "serialport", "hf-hub"],
        ),
        ("graft-label", &["candle-core", "tract-core", "graft-runtime", "graft-train", "serialport", "hf-hub"]),
        ("graft-deploy", &["candle-core", "tract-core", "graft-runtime", "graft-agent", "hf-hub"]),
    ];
    for (package, forbidden) in cases {
        let found = links(package);
        for name in forbidden {
            assert!(!found.iter().any(|n| n == name), "{package} links {name}");
        }
    }
    let host = links("graft-cli");
    assert!(host.iter().any(|n| n == "candle-core"), "this test does not see what it looks for");
}

/// Cargo does not, where two of them share a target folder.
#[test]
fn every_crate_is_built_anew_for_each_checkout() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert_eq!(members.len(), 20, "{members:?}");
    // What stands in for another's crate would have all of tract built anew.
    for member in members.iter().filter(|m| !["device/fft", "device/nnef"].contains(m)) {
        let folder = root().join(member);
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        // What its tests alone are built on does not bring it about.
        let built_on_others = manifest.split("[dev-dependencies]").next().is_some_and(|m| m.contains("\ngraft-"));
        let sources = ["src/lib.rs", "src/main.rs"].map(|f| fs::read_to_string(folder.join(f)).unwrap_or_default());
        let asks = sources.iter().any(|s| s.contains("option_env!(\"GRAFT_CHECKOUT\")"));
        assert_ne!(built_on_others, asks, "{member}: one of the two brings about a new build");
    }
}
