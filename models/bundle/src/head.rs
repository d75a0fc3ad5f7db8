//! The head of a bundle: manifest, digest of the rest, signature. All a device needs to decide whether it wants it.

use std::io::Read;

use ed25519_dalek::{Signature, VerifyingKey};

use crate::limits::MAX_MANIFEST_LEN;
use crate::{BundleError, Digest, Manifest, PublicKey, SecretKey};

pub(crate) const MAGIC: &[u8; 8] = b"GRAFTBND";
pub(crate) const VERSION: u32 = 1;
/// Magic, version and length of the manifest.
const FRONT: usize = 16;
/// Digest, kind, key and signature after the manifest.
const BACK: usize = 32 + 1 + 32 + 64;
const KIND_NONE: u8 = 0;
const KIND_ED25519: u8 = 1;

/// A head, checked but for trust.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    bytes: Vec<u8>,
    manifest: Manifest,
    payload_digest: Digest,
    key: Option<PublicKey>,
}

/// Which bundles are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustPolicy {
    /// Keys whose bundles are taken.
    pub keys: Vec<PublicKey>,
    /// Whether bundles without a signature are.
    pub unsigned: Unsigned,
}

/// Whether bundles without a signature are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsigned {
    /// They are refused.
    Refuse,
    /// They are taken.
    Allow,
}

/// Why a bundle is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Signed by this key.
    Signed(PublicKey),
    /// Not signed, and the policy does not mind.
    Unsigned,
}

impl Head {
    /// Parses a head that stands alone.
    ///
    /// # Errors
    ///
    /// Any [`BundleError`] but those of chunks and trust. A signature that does not match is refused here already.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        let (head, rest) = Self::split(bytes)?;
        if !rest.is_empty() {
            let expected = head.bytes.len() as u64;
            return Err(BundleError::Trailing { expected, found: expected + rest.len() as u64 });
        }
        Ok(head)
    }

    /// Reads a head from a stream, which is left at the first chunk.
    ///
    /// # Errors
    ///
    /// As [`Head::parse`], and [`BundleError::Io`].
    pub fn read(from: &mut impl Read) -> Result<Self, BundleError> {
        let io = |source| BundleError::Io { path: "the stream".into(), source };
        let mut bytes = Vec::new();
        from.by_ref().take(FRONT as u64).read_to_end(&mut bytes).map_err(io)?;
        let len = Self::manifest_len(&bytes)?;
        from.by_ref().take((len + BACK) as u64).read_to_end(&mut bytes).map_err(io)?;
        Self::parse(&bytes)
    }

    /// Splits a file into its head and the chunks after it.
    pub(crate) fn split(bytes: &[u8]) -> Result<(Self, &[u8]), BundleError> {
        let len = FRONT + Self::manifest_len(bytes)? + BACK;
        let Some((head, rest)) = bytes.split_at_checked(len) else {
            return Err(BundleError::Truncated { expected: len as u64, found: bytes.len() as u64 });
        };
        Ok((Self::whole(head)?, rest))
    }

    fn manifest_len(bytes: &[u8]) -> Result<usize, BundleError> {
        let cut = || BundleError::Truncated { expected: FRONT as u64, found: bytes.len() as u64 };
        let seen = bytes.len().min(MAGIC.len());
        if bytes.get(..seen) != MAGIC.get(..seen) {
            return Err(BundleError::Magic);
        }
        let number = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)) };
        let version = number(8).ok_or_else(cut)?;
        if version != VERSION {
            return Err(BundleError::Version { expected: VERSION, found: version });
        }
        let len = number(12).ok_or_else(cut)?;
        match usize::try_from(len) {
            Ok(len) if len <= MAX_MANIFEST_LEN => Ok(len),
            _ => Err(BundleError::Limit {
                what: "bytes in the manifest",
                limit: MAX_MANIFEST_LEN as u64,
                found: len.into(),
            }),
        }
    }

    fn whole(bytes: &[u8]) -> Result<Self, BundleError> {
        let cut = || BundleError::Truncated { expected: (FRONT + BACK) as u64, found: bytes.len() as u64 };
        let manifest_len = bytes.len().checked_sub(FRONT + BACK).ok_or_else(cut)?;
        let (manifest, back) = bytes[FRONT..].split_at(manifest_len);
        let (digest, back) = back.split_first_chunk().ok_or_else(cut)?;
        let (&[kind], back) = back.split_first_chunk().ok_or_else(cut)?;
        let (key, back) = back.split_first_chunk::<32>().ok_or_else(cut)?;
        let signature = back.first_chunk::<64>().ok_or_else(cut)?;
        let key = match kind {
            KIND_NONE if *key == [0; 32] && *signature == [0; 64] => None,
            KIND_NONE => return Err(BundleError::SignatureKind("kind 0 with a key or signature".into())),
            KIND_ED25519 => {
                let public = VerifyingKey::from_bytes(key)
                    .map_err(|_| BundleError::SignatureKind("a key that is none".into()))?;
                let fingerprint = PublicKey(*key).fingerprint();
                // Strict: one signature only for a key and a text, and no weak keys.
                public
                    .verify_strict(&bytes[..bytes.len() - 64], &Signature::from_bytes(signature))
                    .map_err(|_| BundleError::Signature { key: fingerprint })?;
                Some(PublicKey(*key))
            }
            other => return Err(BundleError::SignatureKind(format!("kind {other}"))),
        };
        Ok(Self { manifest: Manifest::parse(manifest)?, payload_digest: Digest(*digest), key, bytes: bytes.to_vec() })
    }

    /// Puts a head together and signs it where a key is given.
    pub(crate) fn make(
        manifest: Manifest,
        payload_digest: Digest,
        key: Option<&SecretKey>,
    ) -> Result<Self, BundleError> {
        let json = manifest.to_json()?;
        if json.len() > MAX_MANIFEST_LEN {
            let found = json.len() as u64;
            return Err(BundleError::Limit { what: "bytes in the manifest", limit: MAX_MANIFEST_LEN as u64, found });
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(json);
        bytes.extend(payload_digest.0);
        bytes.push(if key.is_some() { KIND_ED25519 } else { KIND_NONE });
        bytes.extend(key.map_or([0; 32], |k| k.public().0));
        let signature = key.map_or([0; 64], |k| k.sign(&bytes));
        bytes.extend(signature);
        Self::parse(&bytes)
    }

    /// Returns the bytes, as they stand in the file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns what the bundle holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the digest that names the bundle: of the whole head, and through it of all chunks.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// Returns the digest of all that follows the head.
    pub fn payload_digest(&self) -> Digest {
        self.payload_digest
    }

    /// Returns the key that signed it.
    pub fn key(&self) -> Option<PublicKey> {
        self.key
    }

    /// Decides whether the bundle is to be trusted.
    ///
    /// # Errors
    ///
    /// [`BundleError::Untrusted`] or [`BundleError::Unsigned`].
    pub fn trust(&self, policy: &TrustPolicy) -> Result<Trust, BundleError> {
        match self.key {
            Some(key) if policy.keys.contains(&key) => Ok(Trust::Signed(key)),
            Some(key) => Err(BundleError::Untrusted { found: key.fingerprint(), trusted: policy.keys.len() }),
            None if policy.unsigned == Unsigned::Allow => Ok(Trust::Unsigned),
            None => Err(BundleError::Unsigned),
        }
    }
}
