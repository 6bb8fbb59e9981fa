//! The byte encoding under every derived digest. Each value is a tag byte, then, where its length varies, its length
//! as a little-endian `u64`, then its bytes: no two different values share an encoding.

use serde_json::Value;

/// What takes encoded bytes: a hasher, or a buffer that is hashed at once (many small updates cost more).
pub trait Sink {
    /// Takes the next bytes.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for blake3::Hasher {
    fn put(&mut self, bytes: &[u8]) {
        self.update(bytes);
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Writes `value` into `sink`. Objects are written with their keys sorted, so their order doesn't matter;
/// an integer and a float of the same value differ only if the float has a fraction.
pub fn value(sink: &mut impl Sink, value: &Value) {
    match value {
        Value::Null => tag(sink, b'n'),
        Value::Bool(b) => tag(sink, if *b { b't' } else { b'f' }),
        Value::Number(number) => {
            tag(sink, b'#');
            if let Some(i) = number.as_i64() {
                sink.put(b"i");
                sink.put(&i.to_le_bytes());
            } else if let Some(u) = number.as_u64() {
                sink.put(b"u");
                sink.put(&u.to_le_bytes());
            } else {
                let x = number.as_f64().unwrap_or(f64::NAN);
                // The casts are exact: the bounds are powers of two.
                const TWO_63: f64 = 9_223_372_036_854_775_808.0;
                if x.fract() == 0.0 && (-TWO_63..TWO_63).contains(&x) {
                    sink.put(b"i");
                    sink.put(&(x as i64).to_le_bytes());
                } else if x.fract() == 0.0 && (TWO_63..2.0 * TWO_63).contains(&x) {
                    sink.put(b"u");
                    sink.put(&(x as u64).to_le_bytes());
                } else {
                    sink.put(b"d");
                    sink.put(&x.to_bits().to_le_bytes());
                }
            }
        }
        Value::String(s) => text(sink, s),
        Value::Array(items) => {
            list(sink, items.len());
            items.iter().for_each(|item| self::value(sink, item));
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            map(sink, fields.len());
            for (name, field) in fields {
                text(sink, name);
                self::value(sink, field);
            }
        }
    }
}

/// Writes a string.
pub fn text(sink: &mut impl Sink, s: &str) {
    tag(sink, b's');
    length(sink, s.len());
    sink.put(s.as_bytes());
}

/// Starts a list of `len` values, which the caller writes next.
pub fn list(sink: &mut impl Sink, len: usize) {
    tag(sink, b'[');
    length(sink, len);
}

/// Starts an object of `len` fields, which the caller writes next: names and values in order of name.
pub(crate) fn map(sink: &mut impl Sink, len: usize) {
    tag(sink, b'{');
    length(sink, len);
}

/// Writes a digest as JSON does: its digits as a string.
pub(crate) fn digest<K>(sink: &mut impl Sink, digest: &crate::Digest<K>) {
    text(sink, &blake3::Hash::from_bytes(*digest.as_bytes()).to_hex());
}

fn tag(sink: &mut impl Sink, tag: u8) {
    sink.put(&[tag]);
}

fn length(sink: &mut impl Sink, len: usize) {
    sink.put(&(len as u64).to_le_bytes());
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde_json::json;

    use super::*;
    use crate::{Blob, BlobDigest, Digest};

    fn digest(value: &Value) -> BlobDigest {
        let mut hasher = Digest::<Blob>::hasher();
        super::value(&mut hasher, value);
        Digest::finish(&hasher)
    }

    /// Any value without floats, of which some equal integers.
    pub(crate) fn arbitrary() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-3i64..3).prop_map(Value::from),
            "[a-c\"]{0,3}".prop_map(Value::from),
        ];
        scalar.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                vec(("[a-c]{0,2}", inner), 0..4).prop_map(|fields| fields.into_iter().collect()),
            ]
        })
    }

    /// The same value written with the fields of each object in the opposite order.
    fn backwards(value: &Value) -> String {
        match value {
            Value::Object(fields) => {
                let fields = fields.iter().rev().map(|(name, field)| format!("{}:{}", json!(name), backwards(field)));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
            }
            Value::Array(items) => format!("[{}]", items.iter().map(backwards).collect::<Vec<_>>().join(",")),
            scalar => scalar.to_string(),
        }
    }

    #[test]
    fn numbers_are_equal_if_their_values_are() {
        let same = [
            ("1", "1.0"),
            ("0", "-0.0"),
            ("5e-5", "0.00005"),
            ("1000000000000000000", "1e18"),
            ("9223372036854775808", "9223372036854775808.0"),
            ("-9223372036854775808", "-9223372036854775808.0"),
        ];
        for (a, b) in same {
            let [x, y] = [a, b].map(|text| digest(&serde_json::from_str(text).unwrap()));
            assert_eq!(x, y, "{a} {b}");
        }
        let different = ["1", "1.5", "\"1\"", "true", "[1]", "-1", "1e300", "18446744073709551615", "null", "[]", "{}"];
        for (i, a) in different.iter().enumerate() {
            for b in &different[i + 1..] {
                let [x, y] = [a, b].map(|text| digest(&serde_json::from_str(text).unwrap()));
                assert_ne!(x, y, "{a} {b}");
            }
        }
    }

    #[test]
    fn nesting_counts() {
        assert_ne!(digest(&json!([["a"], "b"])), digest(&json!(["a", ["b"]])));
        assert_ne!(digest(&json!(["ab", "c"])), digest(&json!(["a", "bc"])));
        assert_ne!(digest(&json!({"a": {"b": 1}})), digest(&json!({"a": {}, "b": 1})));
    }

    proptest! {
        #[test]
        fn order_of_fields_does_not_count(value in arbitrary()) {
            let again: Value = serde_json::from_str(&backwards(&value)).unwrap();
            prop_assert_eq!(digest(&value), digest(&again));
        }

        #[test]
        fn different_values_have_different_digests(a in arbitrary(), b in arbitrary()) {
            prop_assert_eq!(a == b, digest(&a) == digest(&b));
        }

        #[test]
        fn a_number_survives_json(x in any::<f64>().prop_filter("finite", |x| x.is_finite())) {
            let text = serde_json::to_string(&x).unwrap();
            let again: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(digest(&Value::from(x)), digest(&again));
        }
    }
}
