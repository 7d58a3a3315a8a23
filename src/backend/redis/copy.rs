//! A copy of a record, as it is kept in Redis.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | the version of this layout: 1 |
//! | 1 | 1 if a record follows; for a fence 0, or 2 if it has a time |
//! | 7 | the version of the record; of a fence, the least one that may take its place |
//! | 7 | the time as of which the record was read, in microseconds of the clock of Redis; of a fence, after which it must be read |
//! | 4 | the length of the record |
//! | … | the record, as a document |
//! | 1, … | the name of the pepper of the seal, with its length before it; empty without a seal |
//! | 32 | the seal |
//!
//! Numbers are little endian. The scripts read the first 16 bytes. A fence ends there.
//!
//! A process with another layout keeps its copies apart. A new field of a record needs a new layout:
//! an older process would drop the field from the copy, and with it a restriction of the key.

use sha2::{Digest, Sha256};

use crate::key::RecordParts;
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::record::KeyRecord;
use crate::key::verifier::{PepperRing, Verifier};

/// The version of the layout.
pub(super) const LAYOUT: u8 = 1;

const HEAD: usize = 20;

/// The longest copy that is kept. Most records take less than 1 KB.
const LONGEST: usize = 64 << 10;

/// What a seal is about, so that it is never the verifier of a key.
const DOMAIN: &[u8] = b"tower-api-key: copy of a record\0";

/// A copy of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) record: KeyRecord,
    /// When the record was read, in microseconds of the clock of Redis.
    pub(super) as_of: u64,
}

/// Why there is no record in what is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoCopy {
    /// It is a fence, or was written by another version of this library.
    Unknown,
    /// The seal is missing or wrong.
    Seal,
}

impl Copy {
    /// Writes the copy. `None` if it is too long to be kept.
    pub(super) fn write(&self, seal: Option<&PepperRing>) -> Option<Vec<u8>> {
        let document = serde_json::to_vec(&self.record.expose_parts()).ok()?;
        if document.len() > LONGEST {
            return None;
        }
        let mut written = Vec::with_capacity(HEAD + document.len() + 64);
        written.extend([LAYOUT, 1]);
        for number in [self.record.version(), self.as_of] {
            if number >> 53 != 0 {
                return None; // a script would round it
            }
            written.extend(&number.to_le_bytes()[..7]);
        }
        written.extend(u32::try_from(document.len()).ok()?.to_le_bytes());
        written.extend(document);
        let Some(ring) = seal else {
            written.push(0);
            return Some(written);
        };
        let verifier = ring.verifier(&digest(self.record.id(), &written));
        let pepper = verifier.pepper()?.as_str();
        written.push(u8::try_from(pepper.len()).ok()?);
        written.extend(pepper.as_bytes());
        written.extend(verifier.as_bytes());
        Some(written)
    }

    /// Reads the copy of the record with this id.
    pub(super) fn read(
        id: KeyId,
        written: &[u8],
        seal: Option<&PepperRing>,
    ) -> Result<Self, NoCopy> {
        let (head, rest) = written.split_at_checked(HEAD).ok_or(NoCopy::Unknown)?;
        if head[..2] != [LAYOUT, 1] {
            return Err(NoCopy::Unknown);
        }
        let length = head[16..].iter().rev();
        let length = length.fold(0, |length: usize, byte| length << 8 | usize::from(*byte));
        let (document, rest) = rest.split_at_checked(length).ok_or(NoCopy::Unknown)?;
        if let Some(ring) = seal {
            let sealed = &written[..HEAD + length];
            check_seal(ring, &digest(id, sealed), rest).ok_or(NoCopy::Seal)?;
        }
        let parts: RecordParts = serde_json::from_slice(document).map_err(|_| NoCopy::Unknown)?;
        let record = KeyRecord::try_from(parts).map_err(|_| NoCopy::Unknown)?;
        let number = |bytes: &[u8]| {
            let bytes = bytes.iter().rev();
            bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        if record.id() != id || record.version() != number(&head[2..9]) {
            return Err(NoCopy::Unknown);
        }
        Ok(Self {
            record,
            as_of: number(&head[9..16]),
        })
    }
}

/// Returns the digest that is sealed: of the key, and of all that is said of it.
fn digest(id: KeyId, sealed: &[u8]) -> KeyDigest {
    let digest = Sha256::new()
        .chain_update(DOMAIN)
        .chain_update(id.as_bytes());
    KeyDigest::from_bytes(digest.chain_update(sealed).finalize().into())
}

/// Checks a seal under any pepper of the ring.
fn check_seal(ring: &PepperRing, digest: &KeyDigest, seal: &[u8]) -> Option<()> {
    let (length, rest) = seal.split_first()?;
    let (pepper, hmac) = rest.split_at_checked(usize::from(*length))?;
    let pepper = str::from_utf8(pepper).ok()?;
    if !ring.ids().any(|id| id.as_str() == pepper) {
        return None;
    }
    let verifier = Verifier::peppered(hmac.try_into().ok()?, pepper.into());
    ring.verify(&verifier, digest).ok()?.then_some(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::key::containment::{Revocation, Suspension, Throttling};
    use crate::key::environment::Environment;
    use crate::key::network::AllowedNetworks;
    use crate::key::quota::Quota;
    use crate::key::record::Rotation;
    use crate::key::web_origin::AllowedOrigins;

    const NOW: u64 = 1_796_000_000_000_000;

    fn copy() -> Copy {
        let record = KeyRecord::imported(KeyDigest::of("a key"), "acme")
            .with_name("nightly export")
            .with_version(7)
            .with_revoked(Revocation::new(UNIX_EPOCH + Duration::from_micros(NOW)));
        Copy { record, as_of: NOW }
    }

    fn ring() -> PepperRing {
        PepperRing::new("2026", &[7; 32]).unwrap()
    }

    #[test]
    fn a_copy_is_read_back_for_its_own_key_only() {
        let copy = copy();
        let id = copy.record.id();
        for seal in [None, Some(&ring())] {
            let written = copy.write(seal).unwrap();
            assert_eq!(Copy::read(id, &written, seal).as_ref(), Ok(&copy));
            assert!(Copy::read(KeyDigest::of("another").id(), &written, seal).is_err());
            for length in 0..written.len() {
                let cut = Copy::read(id, &written[..length], seal);
                assert!(cut.is_err() || seal.is_none() && length + 1 == written.len());
            }
        }
    }

    #[test]
    fn a_sealed_copy_is_refused_if_any_byte_is_changed() {
        let copy = copy();
        let ring = ring();
        let written = copy.write(Some(&ring)).unwrap();
        for at in 0..written.len() {
            for bit in 0..8 {
                let mut changed = written.clone();
                changed[at] ^= 1 << bit;
                assert!(
                    Copy::read(copy.record.id(), &changed, Some(&ring)).is_err(),
                    "{at}"
                );
            }
        }
        // A copy without a seal, or under an unknown pepper.
        let unsealed = copy.write(None).unwrap();
        let refused = Err(NoCopy::Seal);
        assert_eq!(
            Copy::read(copy.record.id(), &unsealed, Some(&ring)),
            refused
        );
        let other = PepperRing::new("2027", &[8; 32]).unwrap();
        assert_eq!(
            Copy::read(copy.record.id(), &written, Some(&other)),
            refused
        );
        // A retired pepper still counts.
        let rotated = other.add_retired("2026", &[7; 32]).unwrap();
        assert!(Copy::read(copy.record.id(), &written, Some(&rotated)).is_ok());
    }

    /// If this list changes, raise the number of the layout, and only then the list.
    #[test]
    fn each_layout_has_its_fields() {
        let (at, id) = (UNIX_EPOCH, KeyDigest::of("another key").id());
        let record = KeyRecord::imported(KeyDigest::of("a key"), "acme")
            .with_organization("Acme Inc.")
            .with_name("nightly export")
            .with_prefix("sk_live")
            .with_environment(Environment::LIVE)
            .with_plan("pro")
            .with_networks(AllowedNetworks::from_iter([]))
            .with_origins(AllowedOrigins::from_iter([]))
            .with_limit("account_per_minute", Quota::per_minute(1))
            .with_metadata([("team".to_owned(), "a".to_owned())].into())
            .with_budget(id)
            .with_lineage(id)
            .with_created_at(at)
            .with_not_before(at)
            .with_expires_at(at)
            .with_suspended(Suspension::new(at))
            .with_throttled(Throttling::new(Quota::per_second(1), at))
            .with_revoked(Revocation::new(at))
            .with_rotated_from(id)
            .with_rotated_to(Rotation::new(id, at));
        let document = serde_json::to_value(record.expose_parts()).unwrap();
        let fields: Vec<&str> = document
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let of_layout_1 = [
            "account",
            "budget",
            "created_at",
            "environment",
            "expires_at",
            "id",
            "limits",
            "lineage",
            "metadata",
            "name",
            "networks",
            "not_before",
            "organization",
            "origins",
            "plan",
            "prefix",
            "revoked",
            "rotated_from",
            "rotated_to",
            "scopes",
            "suspended",
            "throttled",
            "verifier",
            "version",
        ];
        assert_eq!((LAYOUT, &fields[..]), (1, &of_layout_1[..]));
    }

    #[test]
    fn what_a_script_would_round_is_not_kept() {
        let record = copy().record.with_version(1 << 53);
        assert_eq!(Copy { record, as_of: NOW }.write(None), None);
    }
}
