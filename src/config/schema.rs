//! JSON schema of the file, for editors and for the test that the example shows every key.

use crate::config::file::File;
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;

/// Returns the JSON schema of a configuration file.
pub fn schema() -> Schema {
    SchemaSettings::draft2020_12().with_transform(no_null).into_generator().into_root_schema_for::<File>()
}

/// TOML has no null: what may be absent is only not required.
fn no_null(schema: &mut Schema) {
    if let Some(kinds) = schema.get_mut("type").and_then(|kinds| kinds.as_array_mut()) {
        kinds.retain(|kind| kind != "null");
        if let [kind] = kinds.as_slice() {
            let kind = kind.clone();
            schema.insert("type".to_owned(), kind);
        }
    }
    if let Some(choices) = schema.get_mut("anyOf").and_then(|choices| choices.as_array_mut()) {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if let [choice] = choices.as_slice()
            && let Some(choice) = choice.as_object().cloned()
        {
            schema.remove("anyOf");
            for (key, value) in choice {
                schema.insert(key, value);
            }
        }
    }
    transform_subschemas(&mut no_null, schema);
}
