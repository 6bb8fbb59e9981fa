//! The shape of `profiles:`, of those too that nobody asked for.

use serde_yaml::Value;

use crate::{
    data::{describe, key_text},
    mistake::Mistake,
    overlay::files::{At, Found},
    source::Place,
};

/// What a profile may overlay.
pub(crate) const PROFILE: [&str; 5] = ["params", "axes", "resources", "defaults", "stages"];

/// Looks at the profiles of each file in `chain`.
pub(super) fn check(chain: &[usize], values: &[Option<Value>], found: &mut Vec<Found>) {
    for &file in chain {
        let profiles = values[file].as_ref().and_then(|value| value.get("profiles"));
        let place = Place::root().to("profiles");
        let mut tell = |place: Place, mistake| found.push(Found { at: At::Place(file, place), mistake });
        let wrong =
            |what: String, value: &Value| Mistake::WrongType { what, expected: "a mapping", found: describe(value) };
        let profiles = match profiles {
            None | Some(Value::Null) => continue,
            Some(Value::Mapping(profiles)) => profiles,
            Some(other) => {
                tell(place, wrong("`profiles`".to_owned(), other));
                continue;
            }
        };
        for (name, profile) in profiles {
            let Some(name) = key_text(name) else { continue };
            let place = place.to(&name);
            match profile {
                Value::Null => {}
                Value::Mapping(profile) => {
                    for key in profile.keys().filter_map(key_text).filter(|key| !PROFILE.contains(&key.as_str())) {
                        let known = PROFILE.map(str::to_owned).to_vec();
                        tell(place.to(&key).key(), Mistake::UnknownKey { key, within: "a profile", known });
                    }
                }
                other => tell(place, wrong(format!("the profile `{name}`"), other)),
            }
        }
    }
}

/// The names of profiles.
pub(super) fn names(profiles: &Value) -> Vec<String> {
    profiles.as_mapping().into_iter().flat_map(|profiles| profiles.keys()).filter_map(key_text).collect()
}
