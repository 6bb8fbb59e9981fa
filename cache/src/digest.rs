//! Typed BLAKE3 digests: a key can't be passed where a blob is wanted.

use std::{fmt, hash::Hash, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a digest is of. Each type has its own BLAKE3 context, so equal bytes of different types never collide.
pub trait DigestKind: 'static {
    /// The `derive_key` context; `None` for plain BLAKE3 of a file's bytes (what `b3sum` prints).
    const CONTEXT: Option<&'static str>;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $vis:vis $name:ident = $context:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {}
        impl DigestKind for $name { const CONTEXT: Option<&'static str> = $context; }
    )*};
}

kinds! {
    /// The bytes of one file.
    pub Blob = None;
    /// A named set of files: one output of a stage, or an input folder.
    pub Tree = Some("palinode 2026 tree v1");
    /// Everything that determines the result of a stage instance.
    pub Key = Some("palinode 2026 key v1");
    /// A request to a remote service.
    pub(crate) Request = Some("palinode 2026 request v1");
    /// The bytes of a record, for its checksum.
    pub(crate) RecordBytes = Some("palinode 2026 record v1");
    /// An address of a pipeline, for the name of its pointer.
    pub(crate) Pointer = Some("palinode 2026 pointer v1");
}

/// A 32-byte BLAKE3 digest of a `K`.
pub struct Digest<K>([u8; 32], PhantomData<fn() -> K>);

/// Digest of a file's bytes.
pub type BlobDigest = Digest<Blob>;
/// Digest of a set of files.
pub type TreeDigest = Digest<Tree>;
/// Identity of a stage instance's result.
pub type StageKey = Digest<Key>;

impl<K: DigestKind> Digest<K> {
    /// A hasher for this type of digest.
    pub fn hasher() -> blake3::Hasher {
        match K::CONTEXT {
            Some(context) => blake3::Hasher::new_derive_key(context),
            None => blake3::Hasher::new(),
        }
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Self::hasher().update(bytes))
    }

    /// The digest of what `hasher` (made by [`Digest::hasher`]) was fed.
    pub fn finish(hasher: &blake3::Hasher) -> Self {
        Self::from_bytes(*hasher.finalize().as_bytes())
    }
}

impl<K> Digest<K> {
    /// From raw bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes, PhantomData)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }
}

/// A digest that could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("`{0}` is not a digest: 64 lower-case hexadecimal digits expected")]
pub struct DigestError(String);

impl<K> FromStr for Digest<K> {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        match blake3::Hash::from_hex(text) {
            Ok(hash) if lower => Ok(Self::from_bytes(*hash.as_bytes())),
            _ => Err(DigestError(text.chars().take(80).collect())),
        }
    }
}

impl<K> fmt::Display for Digest<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}
impl<K> fmt::Debug for Digest<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}
impl<K> Serialize for Digest<K> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.hex())
    }
}
impl<'de, K> Deserialize<'de> for Digest<K> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}
impl<K> Clone for Digest<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Digest<K> {}
impl<K> PartialEq for Digest<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K> Eq for Digest<K> {}
impl<K> PartialOrd for Digest<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Digest<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<K> Hash for Digest<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_blob_has_the_digest_that_b3sum_prints() {
        let hex = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(BlobDigest::of(b"").hex(), hex);
        assert_eq!(BlobDigest::of(b"").short(), "af1349b9f5f9");
        assert_eq!(serde_json::to_string(&BlobDigest::of(b"")).unwrap(), format!("\"{hex}\""));
    }

    #[test]
    fn equal_bytes_of_different_types_have_different_digests() {
        assert_ne!(BlobDigest::of(b"x").as_bytes(), TreeDigest::of(b"x").as_bytes());
        assert_ne!(StageKey::of(b"x").as_bytes(), TreeDigest::of(b"x").as_bytes());
    }

    #[test]
    fn only_64_lower_case_digits_are_a_digest() {
        for text in ["", "af13", &"A".repeat(64), &"g".repeat(64), &"a".repeat(65), &"é".repeat(32)] {
            let error = text.parse::<BlobDigest>().unwrap_err().to_string();
            assert!(error.contains("64 lower-case hexadecimal digits expected"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn hex_reads_back(bytes: [u8; 32]) {
            let digest = BlobDigest::from_bytes(bytes);
            prop_assert_eq!(digest.hex().parse::<BlobDigest>().unwrap(), digest);
            let json = serde_json::to_string(&digest).unwrap();
            prop_assert_eq!(serde_json::from_str::<BlobDigest>(&json).unwrap(), digest);
        }
    }
}
