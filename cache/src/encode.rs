//! The byte encoding under every derived digest. Each value is a tag byte, then, where its length varies, its length
//! as a little-endian `u64`, then its bytes: no two different values share an encoding.

use serde_json::Value;

/// Writes `value` into `hasher`. Objects are written with their keys sorted, so their order doesn't matter;
/// an integer and a float of the same value differ only if the float has a fraction.
pub fn value(hasher: &mut blake3::Hasher, value: &Value) {
    match value {
        Value::Null => tag(hasher, b'n'),
        Value::Bool(b) => tag(hasher, if *b { b't' } else { b'f' }),
        Value::Number(number) => {
            tag(hasher, b'#');
            if let Some(i) = number.as_i64() {
                hasher.update(b"i").update(&i.to_le_bytes());
            } else if let Some(u) = number.as_u64() {
                hasher.update(b"u").update(&u.to_le_bytes());
            } else {
                let x = number.as_f64().unwrap_or(f64::NAN);
                // The casts are exact: the bounds are powers of two.
                const TWO_63: f64 = 9_223_372_036_854_775_808.0;
                if x.fract() == 0.0 && (-TWO_63..TWO_63).contains(&x) {
                    hasher.update(b"i").update(&(x as i64).to_le_bytes());
                } else if x.fract() == 0.0 && (TWO_63..2.0 * TWO_63).contains(&x) {
                    hasher.update(b"u").update(&(x as u64).to_le_bytes());
                } else {
                    hasher.update(b"d").update(&x.to_bits().to_le_bytes());
                }
            }
        }
        Value::String(s) => text(hasher, s),
        Value::Array(items) => {
            list(hasher, items.len());
            items.iter().for_each(|item| self::value(hasher, item));
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            tag(hasher, b'{');
            length(hasher, fields.len());
            for (name, field) in fields {
                text(hasher, name);
                self::value(hasher, field);
            }
        }
    }
}

/// Writes a string.
pub fn text(hasher: &mut blake3::Hasher, s: &str) {
    tag(hasher, b's');
    length(hasher, s.len());
    hasher.update(s.as_bytes());
}

/// Starts a list of `len` values, which the caller writes next.
pub fn list(hasher: &mut blake3::Hasher, len: usize) {
    tag(hasher, b'[');
    length(hasher, len);
}

fn tag(hasher: &mut blake3::Hasher, tag: u8) {
    hasher.update(&[tag]);
}

fn length(hasher: &mut blake3::Hasher, len: usize) {
    hasher.update(&(len as u64).to_le_bytes());
}
