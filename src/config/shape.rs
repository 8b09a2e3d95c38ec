//! Lists where sections must stand.
//!
//! serde reads a list into a struct by position, so `[[log]]` would be taken apart value by value and complained about in
//! words that nobody understands. The schema knows which keys are sections; this finds the first list that is not.

use crate::spec::{Key, KeyPath};
use serde_json::Value;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Returns path and place of the first list that stands where the schema wants a section.
pub(super) fn misplaced_list(schema: &Value, table: &DeTable<'_>) -> Option<(KeyPath, Range<usize>)> {
    in_table(schema, schema, table, &KeyPath::default())
}

fn in_table(root: &Value, section: &Value, table: &DeTable<'_>, at: &KeyPath) -> Option<(KeyPath, Range<usize>)> {
    let properties = section.get("properties")?;
    table.iter().find_map(|(name, value)| {
        let path = at.join(&KeyPath::new(vec![Key::Name(name.get_ref().to_string())]));
        in_value(root, properties.get(name.get_ref().as_ref())?, value, &path)
    })
}

fn in_value(
    root: &Value,
    schema: &Value,
    value: &Spanned<DeValue<'_>>,
    at: &KeyPath,
) -> Option<(KeyPath, Range<usize>)> {
    let reference = schema.get("$ref").and_then(Value::as_str).map(|reference| reference.trim_start_matches('#'));
    let schema = reference.map_or(Some(schema), |pointer| root.pointer(pointer))?;
    match (value.get_ref(), schema.get("items")) {
        (DeValue::Array(list), Some(items)) => {
            list.iter().enumerate().find_map(|(i, element)| in_value(root, items, element, &at.index(i)))
        }
        (DeValue::Array(_), None) if schema.get("properties").is_some() => Some((at.clone(), value.span())),
        (DeValue::Table(table), _) => in_table(root, schema, table, at),
        _ => None,
    }
}
