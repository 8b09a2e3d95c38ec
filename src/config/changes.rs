//! What differs between two configurations, key by key, and what of it needs a restart.
//!
//! Works on the normal form with every default written out, so that a default that is now spelled out is no difference.
//! Values that look like secrets are masked here, once, for the log, the API and the command line.

use crate::config::file::File;
use crate::config::loaded::Loaded;
use crate::spec::{Key, KeyPath};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Instead of a secret.
const MASK: &str = "***";
/// Parts of names of variables whose values are masked.
const SECRETS: [&str; 9] = ["SECRET", "TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "KEY", "AUTH", "DSN"];
/// Keys that are taken up while Weir runs, but for definitions, which all are.
const LIVE: [&[&str]; 18] = [
    &["node", "workers"],
    &["log", "level"],
    &["dns", "forward"],
    &["dns", "limits"],
    &["dns", "log"],
    &["dns", "nsid"],
    &["dns", "negative_ttl"],
    &["dns", "rate_limit"],
    &["dns", "tcp_idle"],
    &["dns", "view"],
    &["dns", "alias"],
    &["dns", "changed_ttl"],
    &["dns", "settle"],
    &["dns", "schemas"],
    &["dns", "kubernetes"],
    &["dns", "consul"],
    &["listener"],
    &["route"],
];

/// One key that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key, elements of lists by their names: `service.web.limits.queue`.
    pub key: String,
    /// The value before; `None`: it was not there.
    pub before: Option<String>,
    /// The value after; `None`: it is gone.
    pub after: Option<String>,
    path: Vec<String>,
}

impl Difference {
    /// Returns whether the key is taken up while Weir runs.
    pub fn is_live(&self) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        path.first() == Some(&"service") || LIVE.iter().any(|live| path.starts_with(live))
    }

    /// Returns whether the key holds as long as Weir runs: not even another process on the same sockets can change it,
    /// because what runs and what is stored depend on it.
    pub fn is_fixed(&self) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        path.first() == Some(&"store") || path.starts_with(&["node", "workloads_on_exit"])
    }

    /// Returns the service that it is about, as `name` or `namespace/name`.
    pub fn service(&self) -> Option<&str> {
        match self.path.as_slice() {
            [list, name, ..] if list == "service" => Some(name),
            _ => None,
        }
    }

    /// Returns where the key stands, as far as it is not inside a list.
    pub fn key_path(&self) -> KeyPath {
        KeyPath::new(self.path.iter().map(|name| Key::Name(name.clone())).collect())
    }
}

impl Loaded {
    /// Returns what differs in `after`, in the order of the keys.
    pub fn differences(&self, after: &Self) -> Vec<Difference> {
        differences(&self.to_file(), &after.to_file())
    }
}

/// Returns what differs between two files in normal form.
pub fn differences(before: &File, after: &File) -> Vec<Difference> {
    let value = |file: &File| serde_json::to_value(file).unwrap_or_default();
    let mut found = Vec::new();
    compare(&mut found, &mut Vec::new(), Some(&value(before)), Some(&value(after)));
    found
}

fn compare(found: &mut Vec<Difference>, path: &mut Vec<String>, before: Option<&Value>, after: Option<&Value>) {
    if before == after {
        return;
    }
    // A list that is not written has no elements.
    let none = is_named_list(path).then(Map::new);
    let old = before.map_or_else(|| none.clone(), |value| table(path, value));
    let new = after.map_or_else(|| none.clone(), |value| table(path, value));
    // A section or element that comes or goes is one difference; one that stays is looked into.
    let (Some(old), Some(new)) = (old, new) else {
        found.push(Difference {
            key: path.join("."),
            before: before.map(|value| shown(path, value)),
            after: after.map(|value| shown(path, value)),
            path: path.clone(),
        });
        return;
    };
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        path.push(key.clone());
        compare(found, path, old.get(key), new.get(key));
        path.pop();
    }
}

/// Returns a table, or a list whose elements have names as one.
fn table(path: &[String], value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(table) => Some(table.clone()),
        Value::Array(list) => {
            is_named_list(path).then(|| list.iter().map(|element| (name(element), element.clone())).collect())
        }
        _ => None,
    }
}

fn is_named_list(path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    matches!(*path, ["listener" | "route" | "service"] | ["service", _, "port" | "endpoint"])
}

/// Returns how an element of a list is told from others.
fn name(element: &Value) -> String {
    let text = |key: &str| element.get(key).and_then(Value::as_str);
    let name = text("name").or_else(|| text("address")).unwrap_or_default();
    match text("namespace") {
        None | Some("default") => name.to_owned(),
        Some(namespace) => format!("{namespace}/{name}"),
    }
}

/// Writes a value for people, without secrets.
fn shown(path: &[String], value: &Value) -> String {
    let secret = |name: &str| {
        let upper = name.to_ascii_uppercase();
        SECRETS.iter().any(|part| upper.contains(part))
    };
    let in_environment = |path: &[String]| path.iter().rev().nth(1).is_some_and(|section| section == "env");
    match value {
        Value::String(_) if in_environment(path) && path.last().is_some_and(|name| secret(name)) => MASK.to_owned(),
        Value::String(text) => format!("{:?}", without_password(text)),
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(|element| shown(path, element)).collect();
            format!("[{}]", list.join(", "))
        }
        Value::Object(table) => {
            let inner = |(key, value): (&String, &Value)| {
                let path = [path, std::slice::from_ref(key)].concat();
                format!("{key} = {}", shown(&path, value))
            };
            format!("{{ {} }}", table.iter().map(inner).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Masks the password of a URL: `scheme://user:password@host`.
fn without_password(text: &str) -> String {
    let masked = || {
        let (scheme, rest) = text.split_once("://")?;
        let (user, host) = rest.split_once('@')?;
        let (user, _) = user.split_once(':').filter(|(user, _)| !user.contains('/'))?;
        Some(format!("{scheme}://{user}:{MASK}@{host}"))
    };
    masked().unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use crate::config::load::load_text;
    use crate::config::{Environment, Flags, Loaded};
    use std::collections::BTreeMap;

    fn loaded(text: &str) -> Loaded {
        let variables = BTreeMap::from([("HOME".to_owned(), "/home/me".to_owned())]);
        load_text("t.toml", text, &Environment { variables, root: false }, &Flags::default()).unwrap()
    }

    fn diff(before: &str, after: &str) -> Vec<String> {
        let found = loaded(before).differences(&loaded(after));
        let part = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        found.iter().map(|d| format!("{} {} {} {}", d.key, part(&d.before), part(&d.after), d.is_live())).collect()
    }

    const WEB: &str = "[[service]]\nname = \"web\"\n[service.run]\ncommand = [\"web\"]\n";

    #[test]
    fn defaults_comments_and_order_are_no_difference() {
        assert_eq!(diff(WEB, WEB), [""; 0]);
        assert_eq!(diff(WEB, &format!("# later\n{WEB}stop_grace = \"10s\"\n[log]\nlevel = \"info\"\n")), [""; 0]);
        let two = "[[service]]\nname = \"a\"\n[[service]]\nname = \"b\"\n";
        assert_eq!(diff(two, "[[service]]\nname = \"b\"\n[[service]]\nname = \"a\"\n"), [""; 0]);
    }

    #[test]
    fn a_changed_key_is_named_with_both_values() {
        let limits = format!("{WEB}[service.limits]\nqueue = 5\n");
        assert_eq!(diff(WEB, &limits), ["service.web.limits.queue 100 5 true"]);
        let command = WEB.replace("[\"web\"]", "[\"web\", \"-v\"]");
        assert_eq!(diff(WEB, &command), ["service.web.run.command [\"web\"] [\"web\", \"-v\"] true"]);
        let staging = "[[service]]\nname = \"web\"\nnamespace = \"staging\"\n";
        let differences = loaded(staging).differences(&loaded(&format!("{staging}retries = 3\n")));
        assert_eq!(
            (differences[0].key.as_str(), differences[0].service()),
            ("service.staging/web.retries", Some("staging/web"))
        );
    }

    #[test]
    fn whole_elements_come_and_go() {
        let endpoint = "[[service]]\nname = \"old\"\n[[service.endpoint]]\naddress = \"10.0.0.1:80\"\n";
        assert_eq!(
            diff(endpoint, &endpoint.replace("0.1:80", "0.2:80")),
            [
                "service.old.endpoint.10.0.0.1:80 { address = \"10.0.0.1:80\", weight = 1 } - true",
                "service.old.endpoint.10.0.0.2:80 - { address = \"10.0.0.2:80\", weight = 1 } true",
            ]
        );
        let listener = "[[listener]]\nname = \"web\"\naddress = \":8080\"\n";
        let found = diff("", listener);
        assert!(
            found.len() == 1 && found[0].starts_with("listener.web - {") && found[0].ends_with("true"),
            "{found:?}"
        );
    }

    #[test]
    fn tells_what_needs_a_restart() {
        let before = "[node]\nname = \"a\"\nworkers = 1\n[dns]\n[log]\nlevel = \"info\"\n";
        let after = "[node]\nname = \"b\"\nworkers = 2\n[dns]\nzone = \"x.internal\"\nnegative_ttl = \"1s\"\n[dns.forward]\n[log]\nlevel = \"warn\"\nformat = \"json\"\n";
        let found = loaded(before).differences(&loaded(after));
        let restart: Vec<&str> = found.iter().filter(|d| !d.is_live()).map(|d| d.key.as_str()).collect();
        assert_eq!(restart, ["dns.zone", "log.format", "node.name"]);
        let live: Vec<&str> = found.iter().filter(|d| d.is_live()).map(|d| d.key.as_str()).collect();
        assert_eq!(live, ["dns.forward", "dns.negative_ttl", "log.level", "node.workers"]);
        assert_eq!(loaded("").differences(&loaded("[dns]\n")).iter().filter(|d| !d.is_live()).count(), 1);
    }

    #[test]
    fn what_runs_and_what_is_stored_cannot_change_its_ground() {
        let before = "[store]\npath = \"/a\"\n[admin]\nlisten = \"127.0.0.1:1\"\n";
        let after = "[store]\npath = \"/b\"\n[admin]\nlisten = \"127.0.0.1:2\"\n[node]\nworkloads_on_exit = \"stop\"\n";
        let found = loaded(before).differences(&loaded(after));
        let fixed: Vec<&str> = found.iter().filter(|d| d.is_fixed()).map(|d| d.key.as_str()).collect();
        assert_eq!(fixed, ["node.workloads_on_exit", "store.path"]);
        assert!(found.iter().any(|d| d.key == "admin.listen" && !d.is_live()));
    }

    #[test]
    fn secrets_are_masked() {
        let with = |token: &str| {
            format!(
                "{WEB}[service.run.env]\nAPI_TOKEN = \"{token}\"\nLEVEL = \"{token}\"\nDB = \"pg://me:{token}@db/x\"\n"
            )
        };
        assert_eq!(
            diff(&with("one"), &with("two")),
            [
                "service.web.run.env.API_TOKEN *** *** true",
                "service.web.run.env.DB \"pg://me:***@db/x\" \"pg://me:***@db/x\" true",
                "service.web.run.env.LEVEL \"one\" \"two\" true",
            ]
        );
        let added = diff("", &with("one"));
        assert!(added[0].contains("API_TOKEN = ***") && !added[0].contains(":one@"), "{added:?}");
    }
}
