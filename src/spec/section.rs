//! What the configuration file says of a service, as a hash that changes only when somebody edits it.

use crate::model::ServiceSpec;
use crate::spec::{Health, Run, Scale, Service, ServiceTls, canonical};
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

/// Returns the hash of a service's section.
///
/// Keys at their default are left out, whether they are written or not: the hash is the same in a later build, unless that
/// build has another default for a key that is written.
pub fn section_hash(spec: &ServiceSpec) -> String {
    let written = Service::from_model(spec);
    let bare = Service {
        name: written.name.clone(),
        namespace: written.namespace.clone(),
        ports: written.ports.clone(),
        health: written.health.as_ref().map(|health| Health { kind: health.kind, ..Health::default() }),
        run: written.run.as_ref().map(|run| Run {
            command: run.command.clone(),
            image: run.image.clone(),
            ..Run::default()
        }),
        scale: written.scale.as_ref().map(|_| Scale::default()),
        tls: written.tls.as_ref().map(|_| ServiceTls::default()),
        ..Service::default()
    };
    let defaults = bare.to_model().map(|model| Service::from_model(&model)).unwrap_or_default();
    let mut value = serde_json::to_value(&written).unwrap_or_default();
    strip(&mut value, &serde_json::to_value(&defaults).unwrap_or_default());
    // What the defaults were made from is no longer in it.
    number(&serde_json::json!([value, bare]))
}

/// Returns the hash of what the file says of the number of replicas.
pub fn size_hash(spec: &ServiceSpec) -> String {
    let written = Service::from_model(spec);
    number(&serde_json::json!([written.replicas, written.scale]))
}

fn number(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

/// Removes what stands at its default.
fn strip(value: &mut Value, defaults: &Value) {
    let Value::Object(keys) = value else { return };
    keys.retain(|key, inner| {
        let default = &defaults[key.as_str()];
        if inner == default {
            return false;
        }
        strip(inner, default);
        true
    });
}

#[cfg(test)]
mod tests {
    use super::{section_hash as hash, size_hash};
    use crate::model::ServiceSpec;
    use crate::spec::{Limits, Rollout, Run, Service};

    fn web() -> Service {
        let run = Run { command: vec!["./web".to_owned()], ..Run::default() };
        Service { name: Some("web".to_owned()), run: Some(run), ..Service::default() }
    }

    fn model(service: &Service) -> ServiceSpec {
        service.to_model().unwrap()
    }

    #[test]
    fn a_default_that_is_written_out_is_no_edit() {
        let written = Service::from_model(&model(&web()));
        assert_eq!(hash(&model(&written)), hash(&model(&web())));
        let mut numbered = model(&web());
        numbered.revision = 7;
        assert_eq!(hash(&numbered), hash(&model(&web())));
    }

    #[test]
    fn each_edit_changes_it() {
        let limits = Limits { queue: Some(7), ..Limits::default() };
        let rollout = Rollout { batch: Some(2), ..Rollout::default() };
        let program = Run { command: vec!["./web".to_owned(), "-v".to_owned()], ..Run::default() };
        let edits = [
            web(),
            Service { limits: Some(limits), ..web() },
            Service { rollout: Some(rollout), ..web() },
            Service { replicas: Some(3), ..web() },
            Service { run: Some(program), ..web() },
            Service { run: None, ..web() },
            Service { namespace: Some("staging".to_owned()), ..web() },
        ];
        let different: std::collections::BTreeSet<String> = edits.iter().map(|edit| hash(&model(edit))).collect();
        assert_eq!(different.len(), edits.len());
    }

    #[test]
    fn the_number_of_replicas_is_known_apart() {
        let three = Service { replicas: Some(3), ..web() };
        let queue = Service { limits: Some(Limits { queue: Some(7), ..Limits::default() }), ..web() };
        assert_ne!(size_hash(&model(&three)), size_hash(&model(&web())));
        assert_eq!(size_hash(&model(&queue)), size_hash(&model(&web())));
    }
}
