//! Why a bundle is not one, or not to be trusted.

use crate::Digest;

/// Why a bundle was refused. Nothing of a refused bundle is used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The file cannot be read or written.
    #[error("cannot read or write the bundle {path}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file does not begin as a bundle.
    #[error("expected a bundle that begins with GRAFTBND, found other bytes; is this a .graft file?")]
    Magic,
    /// The format is of another version.
    #[error("expected bundle format {expected}, found {found}; use the version of graft that goes with it")]
    Version {
        /// The version this crate reads.
        expected: u32,
        /// The file's.
        found: u32,
    },
    /// The file ends too early.
    #[error("expected {expected} bytes, found {found}: the bundle is cut off; copy it again")]
    Truncated {
        /// Bytes needed.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// The file goes on after its end.
    #[error("expected the bundle to end after {expected} bytes, found {found}; copy it again")]
    Trailing {
        /// Bytes of the bundle.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// A size is over its limit.
    #[error("expected {what} of at most {limit}, found {found}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// What was found.
        found: u64,
    },
    /// The manifest cannot be read or contradicts itself.
    #[error("the manifest is not valid: {0}; pack the bundle again")]
    Manifest(String),
    /// Bytes do not match their digest.
    #[error(
        "expected {what} with digest {expected}, found {found}: the file is damaged or was altered; copy or pack it again"
    )]
    Digest {
        /// What was checked.
        what: String,
        /// As the manifest or the head says.
        expected: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// A chunk's bytes are no zstd frame of the stated length.
    #[error("chunk {index} does not unpack to its {expected} bytes: the file is damaged; copy or pack it again")]
    Chunk {
        /// Its place in the manifest.
        index: usize,
        /// Its length.
        expected: u32,
    },
    /// The signature does not match.
    #[error("the signature by key {key} does not match: the bundle was altered after signing")]
    Signature {
        /// Fingerprint of the key.
        key: String,
    },
    /// The key is no ed25519 key, or the kind of signature is unknown.
    #[error("expected an unsigned bundle or an ed25519 signature, found {0}")]
    SignatureKind(String),
    /// The key is not trusted.
    #[error(
        "signed by key {found}, which is not among the {trusted} trusted keys; add it to trusted_keys or sign with a trusted one"
    )]
    Untrusted {
        /// Fingerprint of the key.
        found: String,
        /// How many keys are trusted.
        trusted: usize,
    },
    /// There is no signature and the policy wants one.
    #[error(
        "expected a signed bundle, found an unsigned one; pack it with --key, or allow unsigned bundles on a bench"
    )]
    Unsigned,
    /// A name that the bundle does not hold.
    #[error("expected file {0} in the bundle, found none of that name")]
    NoFile(String),
}
