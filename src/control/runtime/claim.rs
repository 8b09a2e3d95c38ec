//! Records × processes → what is taken up, what is killed: a pure function.
//!
//! A record with a process is matched by number, start and boot alone, because a program may overwrite its environment. A
//! record of an intent is matched by the marks: the process that leads a session is the one that was meant. What carries
//! marks and belongs to nothing that runs is left over from a leader that ended.

use crate::control::runtime::procfs::{Birth, Marks, Process, Stat};
use crate::model::{InstanceId, ServiceName};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: InstanceId,
    /// Its process; `None`: only the intent was written.
    pub(super) process: Option<(u32, Birth)>,
}

/// A leader to take up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) id: InstanceId,
    pub(super) leader: Stat,
    /// Absent when the program has overwritten them; then a record knows.
    pub(super) service: Option<ServiceName>,
    pub(super) ports: Vec<u16>,
    /// Whether a record names it.
    pub(super) is_recorded: bool,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Claims {
    /// Leaders, ordered by instance.
    pub(super) claims: Vec<Claim>,
    /// Processes of instances whose leader has ended.
    pub(super) strays: Vec<Stat>,
    /// Records of which nothing runs.
    pub(super) missing: Vec<InstanceId>,
    /// Something of an intent runs but leads no session yet: look again in a moment.
    pub(super) is_unsettled: bool,
}

/// Matches; `boot` is this boot's id.
pub(super) fn claim(records: &[Record], processes: &[Process], boot: &str) -> Claims {
    let mut claims = Claims::default();
    let by_pid: BTreeMap<u32, &Process> = processes.iter().map(|process| (process.stat.pid, process)).collect();
    let mut marked: BTreeMap<&InstanceId, Vec<(&Stat, &Marks)>> = BTreeMap::new();
    for Process { stat, marks } in processes {
        if let Some(marks) = marks {
            marked.entry(&marks.instance).or_default().push((stat, marks));
        }
    }
    let mut seen = BTreeSet::new();
    for record in records {
        seen.insert(&record.id);
        let members = marked.remove(&record.id).unwrap_or_default();
        let found = match &record.process {
            Some((pid, (start_ticks, born))) => {
                let process = by_pid.get(pid).filter(|process| process.stat.start_ticks == *start_ticks);
                process.filter(|_| **born == *boot).map(|process| (&process.stat, process.marks.as_ref()))
            }
            None => leader(&members).map(|(stat, marks)| (stat, Some(marks))),
        };
        match found {
            Some((stat, marks)) => claims.claims.push(Claim::new(&record.id, stat, marks, true)),
            None => {
                claims.is_unsettled |= record.process.is_none() && !members.is_empty();
                claims.strays.extend(members.iter().map(|(stat, _)| **stat));
                claims.missing.push(record.id.clone());
            }
        }
    }
    for (id, members) in marked {
        match leader(&members) {
            Some((stat, marks)) => claims.claims.push(Claim::new(id, stat, Some(marks), false)),
            None => claims.strays.extend(members.iter().map(|(stat, _)| **stat)),
        }
    }
    claims.claims.sort_by(|one, other| one.id.cmp(&other.id));
    claims
}

/// Returns the process that leads a session, the oldest of several: a workload may start sessions of its own.
fn leader<'a>(members: &[(&'a Stat, &'a Marks)]) -> Option<(&'a Stat, &'a Marks)> {
    let leaders = members.iter().filter(|(stat, _)| stat.pid == stat.session);
    leaders.min_by_key(|(stat, _)| (stat.start_ticks, stat.pid)).copied()
}

impl Claim {
    fn new(id: &InstanceId, leader: &Stat, marks: Option<&Marks>, is_recorded: bool) -> Self {
        // Marks of another instance are inherited from whoever started this Weir's parent: they say nothing.
        let marks = marks.filter(|marks| marks.instance == *id);
        Self {
            id: id.clone(),
            leader: *leader,
            service: marks.map(|marks| marks.service.clone()),
            ports: marks.map(|marks| marks.ports.clone()).unwrap_or_default(),
            is_recorded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Claims, Record, claim};
    use crate::control::runtime::procfs::{Marks, Process, Stat};
    use crate::model::{InstanceId, ServiceName};
    use crate::rng::Rng;
    use std::collections::BTreeSet;

    const BOOT: &str = "this-boot";

    fn id(name: &str) -> InstanceId {
        InstanceId::parse(name).unwrap()
    }

    fn record(name: &str, process: Option<(u32, u64)>) -> Record {
        Record { id: id(name), process: process.map(|(pid, start)| (pid, (start, BOOT.into()))) }
    }

    /// A process; marked with an instance unless that is empty.
    fn process(pid: u32, session: u32, start_ticks: u64, instance: &str) -> Process {
        let marks = (!instance.is_empty()).then(|| Marks {
            instance: id(instance),
            service: ServiceName::parse("web").unwrap(),
            ports: vec![20_000],
        });
        Process { stat: Stat { pid, is_zombie: false, session, start_ticks }, marks }
    }

    fn taken(claims: &Claims) -> Vec<(&str, u32, bool)> {
        claims.claims.iter().map(|claim| (claim.id.as_str(), claim.leader.pid, claim.is_recorded)).collect()
    }

    fn strays(claims: &Claims) -> Vec<u32> {
        claims.strays.iter().map(|stat| stat.pid).collect()
    }

    #[test]
    fn a_recorded_process_is_taken_up_also_without_marks_and_its_members_are_left_alone() {
        let processes = [process(10, 10, 5, ""), process(11, 10, 6, "web-a"), process(12, 12, 7, "web-a")];
        let claims = claim(&[record("web-a", Some((10, 5)))], &processes, BOOT);
        assert_eq!(taken(&claims), [("web-a", 10, true)]);
        assert!(claims.strays.is_empty() && claims.missing.is_empty() && !claims.is_unsettled);
    }

    #[test]
    fn a_reused_number_or_another_boot_is_another_process() {
        let processes = [process(10, 10, 6, "")];
        let claims = claim(&[record("web-a", Some((10, 5)))], &processes, BOOT);
        assert_eq!((taken(&claims), claims.missing.len()), (vec![], 1));
        let claims = claim(&[record("web-a", Some((10, 6)))], &processes, "another-boot");
        assert_eq!((taken(&claims), claims.missing.len()), (vec![], 1));
        assert!(claims.strays.is_empty(), "a stranger is never touched");
    }

    #[test]
    fn an_intent_is_found_by_its_marks_once_it_leads_a_session() {
        let intent = [record("web-a", None)];
        let claims = claim(&intent, &[process(10, 3, 5, "web-a")], BOOT);
        assert!(claims.is_unsettled && taken(&claims).is_empty());
        let claims = claim(&intent, &[process(11, 11, 9, "web-a"), process(10, 10, 5, "web-a")], BOOT);
        assert_eq!(taken(&claims), [("web-a", 10, true)]);
        assert_eq!(claims.claims[0].ports, [20_000]);
        let claims = claim(&intent, &[], BOOT);
        assert_eq!((claims.missing.len(), claims.is_unsettled), (1, false));
    }

    #[test]
    fn what_a_dead_leader_left_is_stray_and_what_no_record_knows_is_told() {
        let processes = [process(11, 10, 6, "web-a"), process(20, 20, 7, "web-b"), process(31, 30, 8, "web-c")];
        let claims = claim(&[record("web-a", Some((10, 5)))], &processes, BOOT);
        assert_eq!(taken(&claims), [("web-b", 20, false)]);
        assert_eq!(strays(&claims), [11, 31]);
        assert_eq!(claims.missing, [id("web-a")]);
    }

    #[test]
    fn every_record_and_every_marked_process_is_accounted_for_exactly_once() {
        for seed in 0..2_000 {
            let mut rng = Rng::from_seed(seed);
            let names: Vec<String> = (0..6).map(|n| format!("web-{n}")).collect();
            let mut processes: Vec<Process> = Vec::new();
            for pid in 2..14_u32 {
                if rng.below(3) > 0 {
                    let session = if rng.below(2) == 0 { pid } else { 2 + rng.below(12) as u32 };
                    let name = if rng.below(3) == 0 { "" } else { names[rng.below(6)].as_str() };
                    processes.push(process(pid, session, rng.below(4) as u64, name));
                }
            }
            let mut records = Vec::new();
            for name in &names[..4] {
                let process = (rng.below(2) == 0).then(|| (2 + rng.below(12) as u32, rng.below(4) as u64));
                if rng.below(4) > 0 {
                    records.push(record(name, process));
                }
            }
            let claims = claim(&records, &processes, BOOT);
            let claimed: BTreeSet<_> = claims.claims.iter().map(|claim| claim.id.clone()).collect();
            assert_eq!(claimed.len(), claims.claims.len(), "seed {seed}: an instance is claimed twice");
            for record in &records {
                let (found, missing) = (claimed.contains(&record.id), claims.missing.contains(&record.id));
                assert!(found != missing, "seed {seed}: {record:?} is found or missing");
            }
            for Process { stat, marks } in &processes {
                let is_stray = claims.strays.contains(stat);
                match marks {
                    None => assert!(!is_stray, "seed {seed}: a stranger is touched"),
                    Some(marks) => assert!(
                        is_stray != claimed.contains(&marks.instance),
                        "seed {seed}: {marks:?} has a leader or is stray"
                    ),
                }
            }
        }
    }
}
