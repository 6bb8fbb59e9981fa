//! As much of JSON Schema, draft 7, as the pipelines' schema uses. A keyword that it doesn't know fails the test.

use serde_json::Value;

/// The first thing in which `value` doesn't satisfy `schema`, with its place.
pub(crate) fn problem(schema: &Value, value: &Value) -> Option<String> {
    Validator { root: schema }.problem(schema, value, "")
}

struct Validator<'a> {
    root: &'a Value,
}

impl Validator<'_> {
    fn problem(&self, schema: &Value, value: &Value, at: &str) -> Option<String> {
        let fields = match schema {
            Value::Bool(true) => return None,
            Value::Bool(false) => return Some(format!("{at} may not be there")),
            other => other.as_object().expect("a schema is a mapping"),
        };
        let fits = |schema: &Value| self.problem(schema, value, at).is_none();
        fields.iter().find_map(|(keyword, given)| {
            let fine = match keyword.as_str() {
                "$schema"
                | "title"
                | "description"
                | "default"
                | "definitions"
                | "markdownEnumDescriptions"
                | "then"
                | "else" => true,
                "$ref" => {
                    let target = given.as_str().and_then(|name| self.root.pointer(name.strip_prefix('#')?));
                    let target = target.unwrap_or_else(|| panic!("{given} leads nowhere"));
                    return self.problem(target, value, at);
                }
                "type" => match given {
                    Value::Array(names) => names.iter().any(|name| is(name, value)),
                    name => is(name, value),
                },
                "enum" => list(given).contains(value),
                "const" => given == value,
                "anyOf" => list(given).iter().any(fits),
                "oneOf" => list(given).iter().filter(|schema| fits(schema)).count() == 1,
                "allOf" => return list(given).iter().find_map(|schema| self.problem(schema, value, at)),
                "if" => {
                    let branch = fields.get(if fits(given) { "then" } else { "else" });
                    return branch.and_then(|schema| self.problem(schema, value, at));
                }
                "required" => {
                    list(given).iter().all(|name| !value.is_object() || value.get(name.as_str().unwrap()).is_some())
                }
                "minimum" => value.as_f64().is_none_or(|value| value >= given.as_f64().unwrap()),
                "maximum" => value.as_f64().is_none_or(|value| value <= given.as_f64().unwrap()),
                "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= given.as_u64().unwrap()),
                "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= given.as_u64().unwrap()),
                "minProperties" => {
                    value.as_object().is_none_or(|fields| fields.len() as u64 >= given.as_u64().unwrap())
                }
                "uniqueItems" => {
                    value.as_array().is_none_or(|items| (1..items.len()).all(|i| !items[..i].contains(&items[i])))
                }
                // The only pattern there is: a template.
                "pattern" => value.as_str().is_none_or(|text| text.contains("${") && text.contains('}')),
                "items" => {
                    let items = value.as_array().into_iter().flatten().enumerate();
                    return items.into_iter().find_map(|(i, item)| self.problem(given, item, &format!("{at}[{i}]")));
                }
                "properties" | "patternProperties" => return self.known(keyword, given, value, at),
                "additionalProperties" => return self.others(fields, given, value, at),
                other => panic!("the keyword `{other}` is not known here"),
            };
            (!fine).then(|| format!("{at} breaks `{keyword}: {given}`"))
        })
    }

    fn known(&self, keyword: &str, given: &Value, value: &Value, at: &str) -> Option<String> {
        let fields = value.as_object().into_iter().flatten();
        fields.into_iter().find_map(|(name, field)| {
            let schema = match keyword {
                "properties" => given.get(name),
                _ => given.as_object().unwrap().iter().find(|(p, _)| starts(name, p)).map(|(_, schema)| schema),
            };
            self.problem(schema?, field, &format!("{at}.{name}"))
        })
    }

    fn others(
        &self,
        fields: &serde_json::Map<String, Value>,
        given: &Value,
        value: &Value,
        at: &str,
    ) -> Option<String> {
        let known = |name: &str| {
            let patterns = fields.get("patternProperties").and_then(Value::as_object).into_iter().flatten();
            fields.get("properties").is_some_and(|known| known.get(name).is_some())
                || patterns.into_iter().any(|(pattern, _)| starts(name, pattern))
        };
        let others = value.as_object().into_iter().flatten().filter(|(name, _)| !known(name));
        others.into_iter().find_map(|(name, field)| self.problem(given, field, &format!("{at}.{name}")))
    }
}

/// The only patterns of names are beginnings.
fn starts(name: &str, pattern: &str) -> bool {
    name.starts_with(pattern.strip_prefix('^').expect("a pattern begins with `^`"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn is(name: &Value, value: &Value) -> bool {
    match name.as_str().expect("a type has a name") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|x| x.fract() == 0.0),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type `{other}` is not known here"),
    }
}
