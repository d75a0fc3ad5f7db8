//! What may link what: the device carries no training code, the light crates no engine.

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
    let cases: [(&str, &[&str]); 8] = [
        ("graft-bundle", &light),
        ("graft-zoo", &light),
        ("graft-link", &light),
        ("graft-kernels", &light),
        ("graft-runtime", &["candle-core", "serialport", "hf-hub", "graft-train", "graft-onnx"]),
        ("graft-agent", &["candle-core", "hf-hub", "graft-train", "graft-onnx", "graft-deploy", "graft-leaves"]),
        ("graft-onnx", &["candle-core", "graft-runtime", "serialport"]),
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
