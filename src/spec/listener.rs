//! The definition of a listener.

use crate::model::{self, parse_label};
use crate::spec::{Address, Network, Problem, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest name of a listener or route in octets: one DNS label, RFC 1035 §2.3.4.
pub(crate) const MAX_NAME_OCTETS: usize = 63;

/// An address where traffic enters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ListenerDefinition)]
pub struct Listener {
    /// Name, one DNS label, unique among listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub name: Option<String>,
    /// Where it listens: `127.0.0.1:8080`, `[::1]:8080`, or `:8080` for every address of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub address: Option<Address>,
    /// What it speaks; default `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ListenerProtocol>,
    /// Networks whose `X-Forwarded-*` and `Forwarded` fields are believed; default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Network>,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ListenerProtocol {
    /// HTTP/1.1 in clear text.
    #[default]
    Http,
}

impl Listener {
    /// Converts the definition, with every default filled in.
    ///
    /// # Errors
    /// Every problem of it.
    pub fn to_model(&self) -> Result<model::ListenerSpec, Vec<Problem>> {
        let mut problems = Problems::new();
        let name = name(&mut problems, self.name.as_deref(), "listener");
        if self.address.is_none() {
            problems.absent("address", "add where it listens, such as address = \"127.0.0.1:8080\"");
        }
        match (name, self.address) {
            (Some(name), Some(address)) if problems.is_empty() => Ok(model::ListenerSpec {
                name: name.into(),
                address: address.get(),
                trusted_proxies: self.trusted_proxies.iter().map(|network| network.get()).collect(),
            }),
            _ => Err(problems.into_vec()),
        }
    }

    /// Writes the definition of a listener in use.
    pub fn from_model(model: &model::ListenerSpec) -> Self {
        Self {
            name: Some(model.name.to_string()),
            address: Some(Address::new(model.address)),
            protocol: Some(ListenerProtocol::Http),
            trusted_proxies: model.trusted_proxies.iter().map(|(ip, prefix)| Network::new(*ip, *prefix)).collect(),
        }
    }
}

/// Checks the name of a listener or route: one DNS label.
pub(crate) fn name<'a>(problems: &mut Problems, name: Option<&'a str>, what: &str) -> Option<&'a str> {
    let Some(name) = name else {
        problems.absent("name", format!("add name = \"...\": logs, metrics and references name the {what} by it"));
        return None;
    };
    match parse_label(name, MAX_NAME_OCTETS) {
        Ok(()) => Some(name),
        Err(error) => {
            problems.add("name", error.to_string(), "use one DNS label, such as \"web\" or \"web-2\"");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Listener;

    #[test]
    fn converts_there_and_back() {
        let listener = Listener {
            name: Some("web".into()),
            address: Some("127.0.0.1:80".parse().unwrap()),
            protocol: None,
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
        };
        let model = listener.to_model().unwrap();
        assert_eq!(model.trusted_proxies, [("10.0.0.0".parse().unwrap(), 8)]);
        assert_eq!(Listener::from_model(&model).to_model().unwrap(), model);
    }

    #[test]
    fn names_all_that_is_missing() {
        let problems = Listener::default().to_model().unwrap_err();
        assert_eq!(
            problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["name: is missing", "address: is missing"]
        );
    }
}
