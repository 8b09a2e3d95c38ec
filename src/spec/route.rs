//! The definition of a route.

use crate::model::{self, ServiceName, parse_label};
use crate::spec::listener::{MAX_NAME_OCTETS, find_port, name};
use crate::spec::{Problem, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest host name in octets, RFC 1035 §2.3.4.
const MAX_HOST_OCTETS: usize = 253;

/// A rule of listeners: requests for a host and path go to a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RouteDefinition)]
pub struct Route {
    /// Name, one DNS label, unique among routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub name: Option<String>,
    /// Names of the listeners it applies to; default all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<String>,
    /// Host without port: `app.example.com`, or `*.example.com` for every host below; default any host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Path prefix by whole segments: `/api` covers `/api` and `/api/x`, not `/apix`; default `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The service that answers, `name` or `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub service: Option<String>,
    /// Name of the service's port; default its first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

impl Route {
    /// Converts the definition, with every default filled in; `ports` are the names of its service's ports in order, and
    /// `None` when there is no such service or its ports are not known.
    ///
    /// # Errors
    /// Every problem of it, but that its service does not exist.
    pub fn to_model(&self, ports: Option<&[String]>) -> Result<model::RouteSpec, Vec<Problem>> {
        let mut problems = Problems::new();
        let name = name(&mut problems, self.name.as_deref(), "route");
        let host = self.host.as_deref().and_then(|host| read_host(&mut problems, "host", host));
        let path = self.path.as_deref().unwrap_or("/");
        check_path(&mut problems, "path", path, false);
        let service = self.read_service(&mut problems);
        let port = match (&self.port, ports) {
            (Some(port), Some(ports)) => find_port(&mut problems, "port", port, ports),
            _ => Some(0),
        };
        match (name, service, port) {
            (Some(name), Some(service), Some(port)) if problems.is_empty() => Ok(model::RouteSpec {
                name: name.into(),
                listeners: self.listeners.iter().map(|listener| listener.as_str().into()).collect(),
                host: host.map(Into::into),
                path: path.into(),
                service,
                port,
            }),
            _ => Err(problems.into_vec()),
        }
    }

    /// Writes the definition of a route in use; `ports` are the names of its service's ports.
    pub fn from_model(model: &model::RouteSpec, ports: &[model::PortSpec]) -> Self {
        Self {
            name: Some(model.name.to_string()),
            listeners: model.listeners.iter().map(ToString::to_string).collect(),
            host: model.host.as_deref().map(str::to_owned),
            path: Some(model.path.to_string()),
            service: Some(model.service.to_string()),
            port: ports.get(model.port).map(|port| port.name.to_string()),
        }
    }

    fn read_service(&self, problems: &mut Problems) -> Option<ServiceName> {
        let Some(service) = &self.service else {
            problems.absent("service", "add the service that answers, such as service = \"web\"");
            return None;
        };
        ServiceName::parse(service)
            .map_err(|error| problems.add("service", error.to_string(), "write name or namespace/name of a service"))
            .ok()
    }
}

/// Reads a host or `*.suffix`; returns it in lower case.
pub(super) fn read_host(problems: &mut Problems, key: &str, host: &str) -> Option<String> {
    let lower = host.to_ascii_lowercase();
    let bare = lower.strip_prefix("*.").unwrap_or(&lower);
    let (message, hint) = if bare.is_empty() || bare == "*" {
        (format!("{host:?} is no host"), "leave host out to match any host".to_owned())
    } else if bare.starts_with('[') && bare.ends_with(']') && bare.parse::<std::net::SocketAddrV6>().is_err() {
        let inner = bare.trim_start_matches('[').trim_end_matches(']');
        if inner.parse::<std::net::Ipv6Addr>().is_ok() {
            return Some(lower);
        }
        (format!("host {host:?} is no IPv6 address"), "write it as \"[::1]\"".to_owned())
    } else if bare.contains(':') {
        (format!("host {host:?} has a port"), "leave the port out: the listener decides it".to_owned())
    } else if bare.contains('*') {
        (
            format!("host {host:?} has an inner wildcard"),
            "a wildcard is the whole first label: \"*.example.com\"".to_owned(),
        )
    } else if !bare.is_ascii() {
        (format!("host {host:?} is not ASCII"), "write it in its xn-- form, as clients send it".to_owned())
    } else if bare.len() > MAX_HOST_OCTETS || !bare.split('.').all(is_host_label) {
        (
            format!("{host:?} is no host name"),
            "write labels of letters, digits and hyphens: \"app.example.com\"".to_owned(),
        )
    } else {
        return Some(lower);
    };
    problems.add(key, message, hint);
    None
}

/// Returns whether a label may stand in a Host field; underscores are in use there.
fn is_host_label(label: &str) -> bool {
    parse_label(&label.replace('_', "x"), MAX_NAME_OCTETS).is_ok()
}

/// Checks a path; `query` says whether a query may follow.
pub(crate) fn check_path(problems: &mut Problems, key: &str, path: &str, query: bool) {
    if !path.starts_with('/') {
        problems.add(key, "must start with \"/\"", format!("write \"/{path}\""));
    } else if let Some(bad) = path.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        problems.add(key, format!("must not hold {bad:?}"), "percent-encode it");
    } else if !query && path.contains('?') {
        problems.add(key, "must not hold a query", "routes match by path only: leave out what follows \"?\"");
    } else if !query && path.split('/').any(|segment| segment == "." || segment == "..") {
        problems.add(key, "must not hold \".\" or \"..\" segments", "write the path that they lead to");
    } else if !query && (path.contains("//") || path.split('%').skip(1).any(|escape| !is_normal(escape))) {
        let hint = "requests are routed by one form of their path: no \"//\", and only what needs it is percent-encoded, in upper case";
        problems.add(key, "is a form that no request is routed by", hint);
    }
}

/// Returns whether what follows a `%` is an escape that routed paths may have: upper case, and of an octet that needs it.
fn is_normal(escape: &str) -> bool {
    let value = escape.get(..2).filter(|digits| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')));
    value.and_then(|digits| u8::from_str_radix(digits, 16).ok()).is_some_and(|value| {
        !value.is_ascii_alphanumeric() && !matches!(value, b'-' | b'.' | b'_' | b'~' | b'/' | b'\\' | 0)
    })
}

#[cfg(test)]
mod tests {
    use super::Route;

    fn route(host: Option<&str>, path: Option<&str>) -> Route {
        Route {
            name: Some("r".into()),
            host: host.map(str::to_owned),
            path: path.map(str::to_owned),
            service: Some("web".into()),
            ..Route::default()
        }
    }

    fn messages(route: &Route) -> Vec<String> {
        route
            .to_model(Some(&["http".into()]))
            .map_or_else(|p| p.iter().map(ToString::to_string).collect(), |_| Vec::new())
    }

    #[test]
    fn fills_defaults_and_lowers_the_host() {
        let model = route(Some("App.Example.com"), None).to_model(Some(&["http".into()])).unwrap();
        assert_eq!((model.host.as_deref(), &*model.path, model.port), (Some("app.example.com"), "/", 0));
        for host in ["*.example.com", "[::1]", "127.0.0.1", "localhost", "my_app.test"] {
            assert!(messages(&route(Some(host), None)).is_empty(), "{host}");
        }
    }

    #[test]
    fn refuses_hosts_that_no_request_has() {
        for host in
            ["", "*", "*.", "a:80", "a.*.b", "ä.de", "a b", "-a.de", "[::1", "[::1]:80", "[x]", &"a.".repeat(200)]
        {
            assert_eq!(messages(&route(Some(host), None)).len(), 1, "{host}");
        }
    }

    #[test]
    fn refuses_paths_that_no_request_has() {
        for path in ["", "api", "/a b", "/a?x", "/a#x", "/ä", "/a/../b", "/a//b", "/%61", "/%c3%a4", "/%2F", "/%zz"] {
            assert_eq!(messages(&route(None, Some(path))).len(), 1, "{path}");
        }
    }

    #[test]
    fn names_a_port_that_the_service_lacks() {
        let mut route = route(None, None);
        route.port = Some("htpp".into());
        let problems = route.to_model(Some(&["http".into(), "admin".into()])).unwrap_err();
        assert_eq!(problems[0].to_string(), "port: the service has no port \"htpp\"");
        assert_eq!(problems[0].hint.as_deref(), Some("did you mean \"http\"?"));
    }
}
