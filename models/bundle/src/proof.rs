//! Proofs that a device or a host has the key it names, for one session. What is signed: `docs/formats/link.md`.

use ed25519_dalek::VerifyingKey;

use crate::{KeyError, PublicKey, SecretKey};

/// Who proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prover {
    /// The device, over the host's nonce and its own challenge.
    Device,
    /// The host, over the device's challenge and the device's key.
    Host,
}

impl Prover {
    /// Begins unlike any bundle, so that neither signature passes for the other, nor for that of a bundle.
    fn statement(self, first: &[u8; 32], second: &[u8; 32]) -> Vec<u8> {
        let front: &[u8; 16] = match self {
            Self::Device => b"graft device v1\0",
            Self::Host => b"graft host   v1\0",
        };
        [&front[..], first, second].concat()
    }
}

/// Returns 32 random bytes of the system.
///
/// # Errors
///
/// [`KeyError::Random`].
pub fn nonce() -> Result<[u8; 32], KeyError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| KeyError::Random(e.to_string()))?;
    Ok(bytes)
}

impl SecretKey {
    /// Proves to have this key.
    pub fn prove(&self, prover: Prover, first: &[u8; 32], second: &[u8; 32]) -> [u8; 64] {
        self.sign(&prover.statement(first, second))
    }
}

impl PublicKey {
    /// Whether a proof is by this key, checked as strictly as a bundle's signature.
    pub fn proves(&self, prover: Prover, first: &[u8; 32], second: &[u8; 32], signature: &[u8]) -> bool {
        let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else { return false };
        let key = VerifyingKey::from_bytes(&self.0);
        key.is_ok_and(|k| k.verify_strict(&prover.statement(first, second), &signature).is_ok())
    }

    /// Takes the bytes of a key as they travel.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the key as they travel.
    pub fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_prover_its_words_and_its_key_alone() {
        let (key, other) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let (a, b) = ([3; 32], [4; 32]);
        let proof = key.prove(Prover::Device, &a, &b);
        assert!(key.public().proves(Prover::Device, &a, &b, &proof));
        assert!(!key.public().proves(Prover::Host, &a, &b, &proof));
        assert!(!key.public().proves(Prover::Device, &b, &a, &proof));
        assert!(!other.public().proves(Prover::Device, &a, &b, &proof));
        assert!(!key.public().proves(Prover::Device, &a, &b, &proof[..63]));
        // A key of small order verifies anything unless the check is strict.
        let mut weak = [0; 32];
        weak[0] = 1;
        assert!(!PublicKey::from_bytes(weak).proves(Prover::Device, &a, &b, &proof));
        assert_ne!(nonce().unwrap(), nonce().unwrap());
    }
}
