//! The DNS server as the admin API asks it.

use crate::admin::{NameCandidate, NameQuestion, Names, Resolution, ResolvedRecord};
use crate::clock;
use crate::dns::{Live, Riddle};
use crate::table::Table;
use std::net::{IpAddr, Ipv4Addr};

/// Answers from the table and the options in force.
#[derive(Debug)]
pub(super) struct Resolver {
    /// The running server.
    pub(super) dns: Live,
    /// The table that it answers from.
    pub(super) table: Table,
}

impl Names for Resolver {
    fn resolve(&self, asked: &NameQuestion) -> Result<Resolution, String> {
        let riddle = Riddle {
            name: asked.name.clone(),
            kind: asked.kind.clone(),
            client: asked.from.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            listener: asked.listener,
        };
        let found = self.dns.explain(&self.table.load(), clock::now_ms(), &riddle)?;
        let record = |line: crate::dns::Line| ResolvedRecord {
            section: line.section,
            name: line.name,
            ttl_s: line.ttl_s,
            kind: line.kind,
            data: line.data,
        };
        let candidate = |one: crate::dns::Candidacy| NameCandidate {
            id: one.id,
            address: one.address,
            usable: one.usable,
            because: one.because,
        };
        Ok(Resolution {
            generation: found.generation,
            view: found.view,
            namespace: found.namespace,
            schema: found.schema,
            rule: found.rule,
            path: found.path,
            rcode: found.rcode,
            records: found.records.into_iter().map(record).collect(),
            endpoints: found.endpoints.into_iter().map(candidate).collect(),
            ttl: found.ttl,
        })
    }
}
