//! Keys: who may put a bundle on a device.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ed25519_dalek::{Signer, SigningKey};

use crate::Digest;
use crate::digest::{hex, unhex};

/// The key that signs. Its file is for its owner alone; its text never appears in a message.
pub struct SecretKey(SigningKey);

/// The key that a device trusts; its text is `graft-ed25519:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub(crate) [u8; 32]);

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot read or write the key {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key is there already.
    #[error("expected no file at {}, found one; a key is never overwritten: devices that trust it would be lost. Choose another name", .0.display())]
    Exists(PathBuf),
    /// The text is no secret key.
    #[error("expected a secret key ({SECRET_PREFIX} and 64 hexadecimal digits) in {}, found other text; make one with `graft key new`", .0.display())]
    Secret(PathBuf),
    /// The text is no public key.
    #[error("expected a public key ({PUBLIC_PREFIX} and 64 hexadecimal digits), found {0:?}")]
    Public(String),
    /// Others may read the file.
    #[error("expected {} to be readable by its owner alone, found mode {mode:o}; run chmod 600 on it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The system gives no random numbers.
    #[error("cannot get random numbers from the system: {0}")]
    Random(String),
}

const PUBLIC_PREFIX: &str = "graft-ed25519:";
const SECRET_PREFIX: &str = "graft-ed25519-secret:";

impl SecretKey {
    /// Makes a new key from the system's random numbers.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| KeyError::Random(e.to_string()))?;
        Ok(Self::from_seed(&seed))
    }

    /// Makes the key of a seed: for tests and demonstrations, where the same key is to come out again.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Returns the key that goes to the devices.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.0.sign(bytes).to_bytes()
    }

    /// Writes the key to `path`, for its owner alone, and the public key beside it as `path.pub`.
    ///
    /// # Errors
    ///
    /// [`KeyError::Exists`] if either file is there, [`KeyError::Io`].
    pub fn save(&self, path: &Path) -> Result<PathBuf, KeyError> {
        let mut public = path.as_os_str().to_owned();
        public.push(".pub");
        let public = PathBuf::from(public);
        for file in [path, &public] {
            if file.symlink_metadata().is_ok() {
                return Err(KeyError::Exists(file.to_owned()));
            }
        }
        write_new(path, &format!("{SECRET_PREFIX}{}\n", hex(self.0.as_bytes())), 0o600)?;
        write_new(&public, &format!("{}\n", self.public()), 0o644)?;
        Ok(public)
    }

    /// Reads a key.
    ///
    /// # Errors
    ///
    /// [`KeyError::Secret`], [`KeyError::Mode`] or [`KeyError::Io`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io = |source| KeyError::Io { path: path.to_owned(), source };
        let meta = fs::metadata(path).map_err(io)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = meta.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeyError::Mode { path: path.to_owned(), mode });
            }
        }
        if meta.len() > 1024 {
            return Err(KeyError::Secret(path.to_owned()));
        }
        let bytes = fs::read(path).map_err(io)?;
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let seed = text.trim_end().strip_prefix(SECRET_PREFIX).and_then(unhex::<32>);
        seed.map(|s| Self::from_seed(&s)).ok_or_else(|| KeyError::Secret(path.to_owned()))
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), KeyError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => KeyError::Exists(path.to_owned()),
        _ => KeyError::Io { path: path.to_owned(), source },
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path).map_err(io)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io)
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public().fingerprint())
    }
}

impl PublicKey {
    /// Returns a short name: the first 8 bytes of the key's digest in hex.
    pub fn fingerprint(&self) -> String {
        hex(&Digest::of(&self.0).0[..8])
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", hex(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = text.trim().strip_prefix(PUBLIC_PREFIX).and_then(unhex::<32>);
        bytes.map(Self).ok_or_else(|| KeyError::Public(text.chars().take(100).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 1.
    #[test]
    fn key_and_signature_equal_the_rfc() {
        let seed = unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let key = SecretKey::from_seed(&seed);
        let public = "graft-ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(key.public().to_string(), public);
        assert_eq!(public.parse::<PublicKey>().unwrap(), key.public());
        assert!(hex(&key.sign(b"")).starts_with("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"));
    }

    #[test]
    fn a_key_is_saved_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("field.key");
        let key = SecretKey::generate().unwrap();
        let public = key.save(&path).unwrap();
        assert_eq!(SecretKey::load(&path).unwrap().public(), key.public());
        assert_eq!(fs::read_to_string(public).unwrap().parse::<PublicKey>().unwrap(), key.public());
        assert!(matches!(key.save(&path), Err(KeyError::Exists(_))));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            assert!(matches!(SecretKey::load(&path), Err(KeyError::Mode { mode: 0o644, .. })));
        }
        assert!(!format!("{key:?}").contains(&hex(key.0.as_bytes())));
    }

    #[test]
    fn other_text_is_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let key = SecretKey::generate().unwrap();
        for (i, text) in ["", "x", &key.public().to_string(), "graft-ed25519-secret:00"].iter().enumerate() {
            let path = dir.path().join(i.to_string());
            write_new(&path, text, 0o600).unwrap();
            assert!(matches!(SecretKey::load(&path), Err(KeyError::Secret(_))), "{text}");
        }
        assert!("graft-ed25519:00".parse::<PublicKey>().is_err());
    }
}
