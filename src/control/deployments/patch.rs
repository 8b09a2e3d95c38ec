//! A small change of a definition.

use crate::spec::Service;
use std::collections::BTreeMap;

/// What `weir deploy SERVICE` changes; the rest stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    /// The image of containers.
    pub image: Option<String>,
    /// Program and arguments.
    pub command: Option<Vec<String>>,
    /// Variables to set, or to remove where there is no value.
    pub env: BTreeMap<String, Option<String>>,
}

impl Patch {
    /// Returns true when it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the patched definition; `None` when there is no `run` to patch.
    pub(super) fn apply(&self, service: &Service) -> Option<Service> {
        let mut service = service.clone();
        let run = service.run.as_mut()?;
        if let Some(image) = &self.image {
            run.image = Some(image.clone());
        }
        if let Some(command) = &self.command {
            run.command.clone_from(command);
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => drop(run.env.insert(name.clone(), value.clone())),
                None => drop(run.env.remove(name)),
            }
        }
        Some(service)
    }
}

#[cfg(test)]
mod tests {
    use super::Patch;
    use crate::spec::{Run, Service};
    use std::collections::BTreeMap;

    #[test]
    fn changes_what_it_names_and_nothing_else() {
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
        let run = Run { command: vec!["./web".to_owned()], env, ..Run::default() };
        let web = Service { replicas: Some(3), run: Some(run), ..Service::default() };
        let env = BTreeMap::from([("A".to_owned(), None), ("C".to_owned(), Some("3".to_owned()))]);
        let patched = Patch { env, ..Patch::default() }.apply(&web).unwrap();
        let run = patched.run.clone().unwrap();
        assert_eq!(run.env.into_keys().collect::<Vec<_>>(), ["B", "C"]);
        assert_eq!((run.command, patched.replicas), (vec!["./web".to_owned()], Some(3)));
        let command = Some(vec!["./new".to_owned()]);
        let patched = Patch { command: command.clone(), ..Patch::default() }.apply(&web).unwrap();
        assert_eq!(patched.run.map(|run| run.command), command);
        assert!(Patch::default().is_empty() && Patch::default().apply(&Service::default()).is_none());
    }
}
