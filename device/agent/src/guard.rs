//! Who the device is, and which hosts may do more than read its status. What that guards and what not:
//! `docs/security.md`.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use graft_bundle::proof::{Prover, nonce};
use graft_bundle::{KeyError, PublicKey, SecretKey};
use graft_link::messages::{RefusalCode, Request, Response};

use crate::agent::log;

/// The device's key, and the hosts that it trusts.
#[derive(Debug)]
pub struct Guard {
    key: SecretKey,
    /// None: every host may do everything.
    hosts: Vec<PublicKey>,
}

/// What one host has proved in its session.
#[derive(Debug, Default)]
pub struct Visit {
    challenge: Option<[u8; 32]>,
    is_known: bool,
}

const IDENTITY: &str = "identity.key";

impl Guard {
    /// Takes the key from the device's folder, where one is made at the first start.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`]. A folder that takes no key is none: the device then has another key after each start.
    pub fn open(root: &Path, hosts: Vec<PublicKey>) -> Result<Self, KeyError> {
        let path = root.join(IDENTITY);
        match SecretKey::load(&path) {
            Ok(key) => return Ok(Self { key, hosts }),
            Err(KeyError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(e) => log(&format!("the device gets a new key: {e}")),
        }
        let key = SecretKey::generate()?;
        if let Err(reason) = keep(&key, &path) {
            log(&format!("the device's key lasts until it ends: {reason}"));
        }
        Ok(Self { key, hosts })
    }

    /// Returns the device's key.
    pub fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// Whether this host may read status alone.
    pub fn restricts(&self, visit: &Visit) -> bool {
        !self.hosts.is_empty() && !visit.is_known
    }

    /// Answers what is about keys, and refuses what the host may not; other requests are handed back.
    ///
    /// # Errors
    ///
    /// The request itself.
    pub fn answer(&self, request: Request, visit: &mut Visit) -> Result<Response, Request> {
        match request {
            Request::Prove { nonce } => Ok(self.prove(&nonce, visit)),
            Request::Identify { key, signature } => Ok(self.identify(PublicKey::from_bytes(key), &signature, visit)),
            request if self.restricts(visit) && !is_status(&request) => Ok(refused(format!(
                "expected a host in trusted_hosts for {}, found one without a proof; name its key with --host-key",
                request.name()
            ))),
            request => Err(request),
        }
    }

    fn prove(&self, host_nonce: &[u8; 32], visit: &mut Visit) -> Response {
        match nonce() {
            Ok(challenge) => {
                visit.challenge = Some(challenge);
                let signature = self.key.prove(Prover::Device, host_nonce, &challenge).to_vec();
                Response::Proof { key: self.key().to_bytes(), signature, challenge }
            }
            Err(e) => Response::Refused { code: RefusalCode::Internal, message: e.to_string() },
        }
    }

    /// A challenge is good for one answer.
    fn identify(&self, key: PublicKey, signature: &[u8], visit: &mut Visit) -> Response {
        let Some(challenge) = visit.challenge.take() else {
            let message = "expected Prove before Identify, found none; update graft".into();
            return Response::Refused { code: RefusalCode::State, message };
        };
        if !key.proves(Prover::Host, &challenge, &self.key().to_bytes(), signature) {
            return refused(format!("the proof of {key} does not hold"));
        }
        if !self.hosts.is_empty() && !self.hosts.contains(&key) {
            return refused(format!(
                "expected a key among trusted_hosts, found {key}; add it to the device's graftd.toml"
            ));
        }
        visit.is_known = true;
        Response::Done
    }
}

fn refused(message: String) -> Response {
    Response::Refused { code: RefusalCode::Untrusted, message }
}

fn is_status(request: &Request) -> bool {
    match request {
        Request::Info | Request::Slots | Request::About | Request::Log { .. } => true,
        Request::Clock { set_unix_ms } => set_unix_ms.is_none(),
        _ => false,
    }
}

/// A power cut leaves the whole key or none.
fn keep(key: &SecretKey, path: &Path) -> Result<(), String> {
    let fresh = path.with_extension("new");
    let public = path.with_extension("new.pub");
    for old in [&fresh, &public] {
        let _ = fs::remove_file(old);
    }
    key.save(&fresh).map_err(|e| e.to_string())?;
    fs::rename(&public, path.with_extension("pub")).and_then(|()| fs::rename(&fresh, path)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32])
    }

    fn guard(dir: &Path, hosts: &[u8]) -> Guard {
        Guard::open(dir, hosts.iter().map(|&h| secret(h).public()).collect()).unwrap()
    }

    fn code(answer: Result<Response, Request>) -> Option<RefusalCode> {
        match answer {
            Ok(Response::Refused { code, .. }) => Some(code),
            _ => None,
        }
    }

    /// Goes through the proofs as a host with a key does.
    fn identify(guard: &Guard, visit: &mut Visit, host: &SecretKey) -> Result<Response, Request> {
        let asked = Request::Prove { nonce: [9; 32] };
        let Ok(Response::Proof { key, signature, challenge }) = guard.answer(asked, visit) else { panic!() };
        assert!(PublicKey::from_bytes(key).proves(Prover::Device, &[9; 32], &challenge, &signature));
        let signature = host.prove(Prover::Host, &challenge, &key).to_vec();
        guard.answer(Request::Identify { key: host.public().to_bytes(), signature }, visit)
    }

    #[test]
    fn a_host_that_is_not_trusted_reads_status_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let guard = guard(dir.path(), &[1, 2]);
        let mut visit = Visit::default();
        let mut allowed = |request| guard.answer(request, &mut visit).is_err();
        assert!(allowed(Request::Info) && allowed(Request::Slots) && allowed(Request::Log { count: 9 }));
        assert!(allowed(Request::About) && allowed(Request::Clock { set_unix_ms: None }));
        for request in [
            Request::Begin { head: vec![] },
            Request::Missing,
            Request::Chunk { index: 0, stored: vec![] },
            Request::Finish,
            Request::Commit,
            Request::Rollback,
            Request::Classify { name: "x".into(), image: vec![] },
            Request::Screen,
            Request::Recent { count: 1 },
            Request::Judge { name: "x".into(), image: vec![] },
            Request::Kept { skip: 0, count: 1 },
            Request::Picture { id: 1, offset: 0, count: 1 },
            Request::Forget { pictures: vec![] },
            Request::Predictions { after: 0, count: 1 },
            Request::Spool { offset: 0, total: 1, bytes: vec![0] },
            Request::Measure,
            Request::Rename { name: "x".into() },
            Request::Clock { set_unix_ms: Some(1) },
            Request::Restart { what: graft_link::messages::Restart::Board },
        ] {
            assert!(!allowed(request.clone()), "{request:?}");
        }
        assert_eq!(code(identify(&guard, &mut visit, &secret(3))), Some(RefusalCode::Untrusted));
        assert!(guard.restricts(&visit));
        assert_eq!(identify(&guard, &mut visit, &secret(2)), Ok(Response::Done));
        assert!(guard.answer(Request::Finish, &mut visit).is_err(), "it may now");
    }

    #[test]
    fn a_proof_is_good_once_and_for_this_session_alone() {
        let dir = tempfile::tempdir().unwrap();
        let guard = guard(dir.path(), &[1]);
        let (mut first, mut second) = (Visit::default(), Visit::default());
        let Ok(Response::Proof { key, challenge, .. }) = guard.answer(Request::Prove { nonce: [0; 32] }, &mut first)
        else {
            panic!()
        };
        let signature = secret(1).prove(Prover::Host, &challenge, &key).to_vec();
        let replay = || Request::Identify { key: secret(1).public().to_bytes(), signature: signature.clone() };
        assert_eq!(code(guard.answer(replay(), &mut second)), Some(RefusalCode::State));
        guard.answer(Request::Prove { nonce: [0; 32] }, &mut second).unwrap();
        assert_eq!(code(guard.answer(replay(), &mut second)), Some(RefusalCode::Untrusted));
        assert_eq!(guard.answer(replay(), &mut first), Ok(Response::Done));
        assert_eq!(code(guard.answer(replay(), &mut first)), Some(RefusalCode::State));
    }

    #[test]
    fn without_trusted_hosts_all_may_and_the_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let first = guard(dir.path(), &[]);
        let mut visit = Visit::default();
        assert!(first.answer(Request::Finish, &mut visit).is_err());
        assert_eq!(identify(&first, &mut visit, &secret(5)), Ok(Response::Done));
        assert_eq!(guard(dir.path(), &[]).key(), first.key());
        // Half a key, after a power cut of another program: the device starts, with a new one.
        fs::write(dir.path().join(IDENTITY), "graft-").unwrap();
        assert_ne!(guard(dir.path(), &[]).key(), first.key());
        // A folder that takes nothing: likewise.
        assert!(Guard::open(Path::new("/proc/none"), vec![]).is_ok());
    }
}
