//! `graftd.toml` out of any text.

#![no_main]

use std::path::Path;

use graft_agent::config::{Config, ConfigError, Listen};
use graft_agent::display::Spec;
use graft_bundle::PublicKey;
use graft_link::messages::is_name;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: graft_fuzz::begin(seeds), |text: &str| {
    let config = match Config::parse(text, Path::new("/etc/graft/graftd.toml")) {
        Ok(config) => config,
        Err(error) => {
            let (ConfigError::Parse { line, .. } | ConfigError::Value { line, .. }) = &error else {
                panic!("no file was read: {error}");
            };
            assert!((1..=text.split('\n').count()).contains(line), "line {line} of {text:?}: {error}");
            return;
        }
    };
    assert!(is_name(&config.name) && config.unsure_below.is_none_or(|p| (0.0..=1.0).contains(&p)));
    assert!(config.max_bundle_bytes > 0 && config.max_store_bytes > 0);
    for listen in &config.listen {
        // Said as it is written, it is the same.
        assert_eq!(listen.to_string().parse::<Listen>().as_ref(), Ok(listen));
    }
    let _ = config.display.parse::<Spec>();
    for key in config.trusted_keys.iter().chain(&config.trusted_hosts) {
        if let Ok(key) = key.parse::<PublicKey>() {
            assert_eq!(key.to_string().parse::<PublicKey>().ok(), Some(key));
        }
    }
});

fn seeds() -> Vec<Vec<u8>> {
    let key = graft_bundle::SecretKey::from_seed(&[1; 32]).public();
    let whole = format!(
        "name = \"greenhouse 3\"\nroot = \"/var/lib/graft\"\nlisten = [\"/dev/ttyS0?baud=57600\", \"tcp://[::]:7878\", \
         \"pty:port\", \"unix:socket\"]\ntrusted_keys = [\"{key}\"]\ntrusted_hosts = [\"{key}\"]\nallow_unsigned = true\n\
         display = \"png:screen.png?size=128x64\"\ncommit = \"auto\"\nconfirm_after = 5\nunsure_below = 0.25\n\
         max_bundle_mb = 3\nmax_store_mb = 4\npictures = \"keep\"\n"
    );
    ["name = \"x\"\nroot = \"r\"\n", &whole, "name = 'x'\nroot = 'r'\ncommit = \"manual\"\nlisten = []\n"]
        .map(|text| text.as_bytes().to_vec())
        .into()
}
