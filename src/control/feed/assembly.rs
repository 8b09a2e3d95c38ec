//! Lines → tables. Pure: no socket, no clock. Whatever is not exactly what may come next refuses the stream, and nothing of
//! an update counts before its end.

use crate::control::feed::table::{FedService, FedTable};
use crate::control::feed::wire::{Begin, End, FORMAT, Hello, Line};
use crate::model::{RouteSpec, ServiceName};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest line, in octets: a service with 50,000 endpoints.
pub const MAX_LINE: usize = 8 << 20;
/// Endpoints that a table holds at most, as the registry does.
const MAX_ENDPOINTS: usize = 200_000;
/// Octets of one update: what 200,000 endpoints need many times over.
const MAX_UPDATE: usize = 1 << 28;
/// Weirs by which a table may have come.
const MAX_CHAIN: usize = 16;
/// Services that a table holds at most.
const MAX_SERVICES: usize = 100_000;

/// Why a stream was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has another format.
    #[error("it speaks format {0}, and this Weir reads {FORMAT}")]
    Version(u32),
    /// It ended inside of a line or an update.
    #[error("it ended inside of an update")]
    Truncated,
    /// It is of another time: an update that does not follow what came before, or another subscription's stream.
    #[error("it does not follow what came before: {0}")]
    Replayed(String),
    /// A line that is none.
    #[error("it is no feed: {0}")]
    Malformed(String),
    /// It is this Weir's own table that comes back.
    #[error("it follows this Weir, itself or by others: nobody can follow in a circle")]
    Circle,
    /// More than one table may hold.
    #[error("it is too large: {0}")]
    TooLarge(String),
}

impl Refusal {
    /// All reasons, as metrics name them.
    pub const REASONS: [&str; 8] =
        ["version", "truncated", "replayed", "malformed", "too_large", "circle", "unauthorized", "unreachable"];

    /// Returns the reason as metrics name it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Version(_) => "version",
            Self::Truncated => "truncated",
            Self::Replayed(_) => "replayed",
            Self::Malformed(_) => "malformed",
            Self::TooLarge(_) => "too_large",
            Self::Circle => "circle",
        }
    }
}

/// What a line completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    Nothing,
    /// Who speaks is known.
    Hello {
        /// What its generations are counted in.
        epoch: Arc<str>,
    },
    /// A table is complete.
    Table(Arc<FedTable>),
    /// Nothing changed.
    Heartbeat,
}

/// An update that has begun.
#[derive(Debug)]
struct Update {
    begin: Begin,
    by: Arc<[String]>,
    lines: usize,
    octets: usize,
    endpoints: usize,
    services: BTreeMap<ServiceName, Option<Arc<FedService>>>,
    routes: Option<Vec<crate::spec::Route>>,
}

/// Puts lines together.
#[derive(Debug)]
pub(super) struct Assembly {
    /// What this subscription is called; `None`: any, as in a file.
    session: Option<String>,
    /// What whoever reads it is called in its own feed; `None`: it is a file.
    own: Option<Arc<str>>,
    hello: Option<Hello>,
    /// The table so far.
    table: Option<Arc<FedTable>>,
    update: Option<Update>,
}

impl Assembly {
    /// Begins a stream; `known` is the table that it may go on from, `own` what this Weir is called in its own feed.
    pub(super) fn new(session: Option<String>, known: Option<Arc<FedTable>>, own: Option<Arc<str>>) -> Self {
        Self { session, own, hello: None, table: known, update: None }
    }

    /// Takes one line, without its end.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<Step, Refusal> {
        let octets = line.len();
        let line = self.parse(line)?;
        let in_update = self.update.is_some();
        match line {
            Line::Hello(hello) => self.hello(hello),
            _ if self.hello.is_none() => Err(Refusal::Malformed("it does not begin with who speaks".to_owned())),
            Line::Begin(begin) if !in_update => self.begin(begin),
            Line::Heartbeat(beat) if !in_update => {
                let by = self.chain(&beat.by)?;
                let Some(table) = self.table.as_mut().filter(|table| table.generation == beat.generation) else {
                    return Err(Refusal::Replayed(format!("a heartbeat of generation {}", beat.generation)));
                };
                if table.by == by {
                    return Ok(Step::Heartbeat);
                }
                // The same table, by another way.
                Arc::make_mut(table).by = by;
                Ok(Step::Table(table.clone()))
            }
            Line::Begin(_) | Line::Heartbeat(_) => Err(Refusal::Malformed("inside of an update".to_owned())),
            Line::End(end) => self.end(end),
            line => self.put(line, octets),
        }
    }

    /// Says that the stream ended.
    pub(super) fn ended(&self, rest: &[u8]) -> Option<Refusal> {
        (self.update.is_some() || !rest.is_empty()).then_some(Refusal::Truncated)
    }

    fn parse(&self, line: &[u8]) -> Result<Line, Refusal> {
        if self.hello.is_none() {
            // Another format may have any other shape.
            let value: Value = serde_json::from_slice(line).map_err(|error| Refusal::Malformed(error.to_string()))?;
            let format = value.pointer("/hello/format").and_then(Value::as_u64);
            if let Some(format) = format.filter(|format| *format != u64::from(FORMAT)) {
                return Err(Refusal::Version(u32::try_from(format).unwrap_or(u32::MAX)));
            }
        }
        serde_json::from_slice(line).map_err(|error| Refusal::Malformed(error.to_string()))
    }

    fn hello(&mut self, hello: Hello) -> Result<Step, Refusal> {
        if self.hello.is_some() {
            return Err(Refusal::Malformed("it begins twice".to_owned()));
        }
        if self.session.as_ref().is_some_and(|session| *session != hello.session) {
            return Err(Refusal::Replayed("it answers another subscription".to_owned()));
        }
        if self.table.as_ref().is_some_and(|table| *table.epoch != *hello.epoch) {
            // Its numbers mean nothing here: a whole table must come.
            self.table = None;
        }
        let epoch = hello.epoch.as_str().into();
        self.hello = Some(hello);
        Ok(Step::Hello { epoch })
    }

    /// Returns by which Weirs something came, who speaks first.
    fn chain(&self, before: &[String]) -> Result<Arc<[String]>, Refusal> {
        let epoch = self.hello.iter().map(|hello| hello.epoch.clone());
        let by: Arc<[String]> = epoch.chain(before.iter().cloned()).collect();
        if self.own.as_ref().is_some_and(|own| by.iter().any(|one| **one == **own)) {
            return Err(Refusal::Circle);
        }
        if by.len() > MAX_CHAIN {
            return Err(Refusal::TooLarge(format!("it came by more than {MAX_CHAIN} Weirs")));
        }
        Ok(by)
    }

    fn begin(&mut self, begin: Begin) -> Result<Step, Refusal> {
        let by = self.chain(&begin.by)?;
        let known = self.table.as_ref().map(|table| table.generation);
        let follows = match begin.after {
            None => known.is_none_or(|known| begin.generation >= known),
            Some(after) => known == Some(after) && begin.generation > after,
        };
        if !follows {
            let (after, known) = (begin.after, known.unwrap_or_default());
            return Err(Refusal::Replayed(format!("generation {} after {after:?}, at {known}", begin.generation)));
        }
        let (services, routes) = (BTreeMap::new(), None);
        self.update = Some(Update { begin, by, lines: 0, octets: 0, endpoints: 0, services, routes });
        Ok(Step::Nothing)
    }

    fn put(&mut self, line: Line, octets: usize) -> Result<Step, Refusal> {
        let Some(update) = &mut self.update else {
            return Err(Refusal::Malformed("outside of an update".to_owned()));
        };
        update.lines += 1;
        update.octets += octets;
        match line {
            Line::Service(service) => {
                let service = service.read().map_err(Refusal::Malformed)?;
                update.endpoints += service.endpoints.len();
                update.services.insert(service.spec.name.clone(), Some(Arc::new(service)));
            }
            Line::Remove(name) => {
                let name = ServiceName::parse(&name).map_err(|error| Refusal::Malformed(error.to_string()))?;
                update.services.insert(name, None);
            }
            Line::Routes(routes) => update.routes = Some(routes),
            Line::Hello(_) | Line::Begin(_) | Line::End(_) | Line::Heartbeat(_) => {}
        }
        if update.endpoints > MAX_ENDPOINTS || update.services.len() > MAX_SERVICES {
            let text = format!("more than {MAX_SERVICES} services or {MAX_ENDPOINTS} endpoints");
            return Err(Refusal::TooLarge(text));
        }
        if update.octets > MAX_UPDATE {
            return Err(Refusal::TooLarge(format!("an update above {MAX_UPDATE} octets")));
        }
        Ok(Step::Nothing)
    }

    fn end(&mut self, end: End) -> Result<Step, Refusal> {
        let update = self.update.take();
        let update = update.ok_or_else(|| Refusal::Malformed("outside of an update".to_owned()))?;
        if end.generation != update.begin.generation || end.lines != update.lines {
            let text = format!("{} lines of generation {}", end.lines, end.generation);
            return Err(Refusal::Malformed(format!("its end says {text}, and {} came", update.lines)));
        }
        let before = if update.begin.after.is_some() { self.table.clone() } else { None };
        let epoch = self.hello.as_ref().map(|hello| hello.epoch.as_str()).unwrap_or_default().into();
        let before = before.map_or_else(FedTable::default, |before| FedTable::clone(&before));
        let mut table = FedTable { epoch, by: update.by, generation: end.generation, ..before };
        for (name, service) in update.services {
            match service {
                Some(service) => drop(table.services.insert(name, service)),
                None => drop(table.services.remove(&name)),
            }
        }
        let endpoints: usize = table.services.values().map(|service| service.endpoints.len()).sum();
        if table.services.len() > MAX_SERVICES || endpoints > MAX_ENDPOINTS {
            let text = format!("{} services with {endpoints} endpoints", table.services.len());
            return Err(Refusal::TooLarge(text));
        }
        if let Some(routes) = update.routes {
            table.routes = read_routes(&routes, &table.services)?;
        }
        let table = Arc::new(table);
        self.table = Some(table.clone());
        Ok(Step::Table(table))
    }
}

fn read_routes(
    routes: &[crate::spec::Route],
    services: &BTreeMap<ServiceName, Arc<FedService>>,
) -> Result<Arc<[RouteSpec]>, Refusal> {
    let route = |route: &crate::spec::Route| {
        let service = route.service.as_deref().and_then(|name| ServiceName::parse(name).ok());
        let service = service.and_then(|name| services.get(&name));
        let ports: Option<Vec<String>> =
            service.map(|service| service.spec.ports.iter().map(|port| port.name.to_string()).collect());
        route.to_model(ports.as_deref()).map_err(|problems| {
            let first = problems.first().map(ToString::to_string).unwrap_or_default();
            Refusal::Malformed(format!("route {:?}: {first}", route.name.as_deref().unwrap_or_default()))
        })
    };
    routes.iter().map(route).collect()
}
