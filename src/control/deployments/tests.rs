//! Which definition counts: each rule, on the book alone.

use crate::control::deployments::book::{Book, Draft, Proposal};
use crate::control::deployments::{DeployError, SectionChange};
use crate::control::events::EventKind;
use crate::control::store::{Change, ChangeSource, Contents, Outcome};
use crate::model::{ServiceName, ServiceSpec};
use crate::spec::{Limits, Rollout, Run, Service};
use std::sync::Arc;

fn web() -> ServiceName {
    ServiceName::parse("web").unwrap()
}

fn spec(name: &str, change: impl FnOnce(&mut Service)) -> Arc<ServiceSpec> {
    let run = Run { command: vec!["./web".to_owned()], ..Run::default() };
    let mut service = Service { name: Some(name.to_owned()), run: Some(run), ..Service::default() };
    change(&mut service);
    Arc::new(service.to_model().unwrap())
}

fn running(program: &str) -> Arc<ServiceSpec> {
    spec("web", |service| service.run.as_mut().unwrap().command = vec![program.to_owned()])
}

/// A book with what the store would hold of it.
#[derive(Default)]
struct World {
    book: Book,
    stored: Contents,
}

impl World {
    /// A service whose first revision, from the file, works.
    fn settled() -> Self {
        let mut world = Self::default();
        world.file(&[running("./v1")]);
        world.completes(1);
        world
    }

    /// Stores a draft and takes it over, as the actor does; the book is the one that a restart would open.
    fn take(&mut self, draft: Draft) -> Vec<EventKind> {
        for change in draft.changes {
            match change {
                Change::PutRevision(name, revision) => {
                    self.stored.revisions.entry(name).or_default().insert(revision.number, revision);
                }
                Change::DropRevision(name, number) => {
                    self.stored.revisions.get_mut(&name).unwrap().remove(&number).unwrap();
                }
                Change::PutHead(name, head) => drop(self.stored.heads.insert(name, head)),
                Change::DropHead(name) => drop(self.stored.heads.remove(&name).unwrap()),
                other => panic!("{other:?}"),
            }
        }
        self.book.accept(draft.next);
        let (opened, refused) = Book::open(&self.stored);
        assert!(refused.is_empty(), "{refused:?}");
        let all = |book: &Book| -> Vec<_> {
            book.entries().map(|(name, entry)| (name.clone(), entry.head.clone(), entry.spec.clone())).collect()
        };
        assert_eq!(all(&opened), all(&self.book), "a restart opens the same book");
        draft.events.into_iter().map(|(kind, ..)| kind).collect()
    }

    fn file(&mut self, services: &[Arc<ServiceSpec>]) -> Vec<EventKind> {
        let draft = self.book.file(services, 5);
        self.take(draft)
    }

    fn deploy(&mut self, definition: Arc<ServiceSpec>) -> u64 {
        let proposal = Proposal { definition, source: ChangeSource::Deploy, note: None, undoes: None };
        let draft = self.book.revise(vec![proposal], 5);
        let revision = draft.revisions[0].1;
        self.take(draft);
        revision
    }

    fn completes(&mut self, revision: u64) {
        let draft = self.book.completed(&web(), revision).unwrap();
        self.take(draft);
    }

    fn fails(&mut self, revision: u64) -> Vec<EventKind> {
        let draft = self.book.failed(&web(), revision, "web-a exited with status 3\n  no database", 5).unwrap();
        self.take(draft)
    }

    fn wanted(&self) -> (u64, String) {
        let entry = self.book.entry(&web()).unwrap();
        (entry.head.wanted, entry.spec.run.as_ref().unwrap().command[0].clone())
    }

    fn outcome(&self, revision: u64) -> Outcome {
        self.book.entry(&web()).unwrap().revisions[&revision].outcome
    }
}

#[test]
fn an_unchanged_file_never_undoes_a_deploy_and_an_edited_one_does() {
    let mut world = World::settled();
    assert_eq!(world.deploy(running("./v2")), 2);
    assert!(world.file(&[running("./v1")]).is_empty(), "the file says what it said");
    assert_eq!(world.wanted(), (2, "./v2".to_owned()));
    assert_eq!(world.file(&[running("./v3")]), [EventKind::Deployed]);
    assert_eq!(world.wanted(), (3, "./v3".to_owned()));
    assert_eq!((world.outcome(1), world.outcome(2)), (Outcome::Completed, Outcome::Superseded));
    // Written into the file what was deployed: nothing is to be done, and the file knows it.
    world.deploy(running("./v4"));
    assert!(world.file(&[running("./v4")]).is_empty());
    assert_eq!(world.wanted(), (4, "./v4".to_owned()));
    world.deploy(running("./v5"));
    assert!(world.file(&[running("./v4")]).is_empty());
}

#[test]
fn a_service_that_the_file_owns_ends_with_its_section_and_a_deployed_one_stays() {
    let mut world = World::settled();
    world.deploy(spec("api", |_| {}));
    world.file(&[]);
    assert_eq!(world.book.entries().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["api"]);
    assert_eq!((world.stored.heads.len(), world.stored.revisions[&web()].len()), (1, 0));
    // From now on the file has it.
    world.file(&[spec("api", |service| service.retries = Some(2))]);
    world.file(&[]);
    assert_eq!(world.book.entries().count(), 0);
}

#[test]
fn a_number_by_hand_goes_only_when_the_file_changes_the_number() {
    let mut world = World::settled();
    let draft = world.book.pin(&web(), Some(7)).unwrap();
    world.take(draft);
    world.deploy(running("./v2"));
    let limits = Some(Limits { queue: Some(9), ..Limits::default() });
    assert_eq!(world.file(&[spec("web", |service| service.limits = limits.clone())]), [EventKind::Deployed]);
    assert_eq!(world.book.entry(&web()).unwrap().head.pin, Some(7));
    let three = |service: &mut Service| service.replicas = Some(3);
    let draft = world.book.file(&[spec("web", three)], 5);
    assert_eq!(draft.unpinned, [web()]);
    assert_eq!(world.take(draft), [EventKind::Deployed, EventKind::PinDropped]);
    assert_eq!(world.book.entry(&web()).unwrap().head.pin, None);
    let nobody = ServiceName::parse("nobody").unwrap();
    assert_eq!(world.book.pin(&nobody, None).unwrap_err(), DeployError::UnknownService(nobody));
}

#[test]
fn a_failure_wants_the_last_one_that_worked_again_once() {
    let mut world = World::settled();
    world.deploy(running("./v2"));
    assert_eq!(world.fails(2), [EventKind::RolledBack, EventKind::Deployed]);
    assert_eq!(world.wanted(), (3, "./v1".to_owned()));
    assert_eq!(world.outcome(2), Outcome::RolledBack);
    let entry = world.book.entry(&web()).unwrap();
    let (second, third) = (&entry.revisions[&2], &entry.revisions[&3]);
    assert_eq!((third.source, third.undoes), (ChangeSource::Rollback, Some(2)));
    assert_eq!(third.note.as_deref(), Some("back to revision 1; revision 2 failed: web-a exited with status 3"));
    assert_eq!(second.cause.as_deref(), Some("web-a exited with status 3\n  no database"));
    assert!(world.book.failed(&web(), 2, "late", 5).is_none(), "of a revision that is no longer wanted");
    // What worked does not work any more: nothing is left to go back to.
    assert_eq!(world.fails(3), [EventKind::RolloutFailed]);
    assert_eq!((world.wanted().0, world.outcome(3)), (3, Outcome::Failed));
    assert!(world.book.failed(&web(), 3, "again", 5).is_none(), "told once");
    world.completes(3);
    assert_eq!(world.book.entry(&web()).unwrap().head.stable, Some(3));
    assert!(world.book.completed(&web(), 3).is_none(), "told once");
    // An unchanged file does not bring back what failed.
    assert!(world.file(&[running("./v1")]).is_empty());
}

#[test]
fn without_one_that_worked_or_where_it_pauses_nothing_is_rolled_back() {
    let mut world = World::default();
    world.file(&[running("./v1")]);
    assert_eq!(world.fails(1), [EventKind::RolloutFailed]);
    let mut world = World::settled();
    let pause = Some(Rollout { on_failure: Some(crate::spec::OnFailure::Pause), ..Rollout::default() });
    world.deploy(spec("web", |service| service.rollout = pause.clone()));
    assert_eq!(world.fails(2), [EventKind::RolloutFailed]);
    assert_eq!((world.wanted().0, world.outcome(2)), (2, Outcome::Failed));
}

#[test]
fn the_same_definition_is_deployed_again_only_after_it_failed() {
    let mut world = World::settled();
    assert_eq!(world.deploy(running("./v1")), 1, "it is wanted and works");
    assert_eq!(world.deploy(running("./v2")), 2);
    assert_eq!(world.deploy(running("./v2")), 2, "it is on its way");
    world.fails(2);
    assert_eq!(world.deploy(running("./v2")), 4, "another try");
    assert_eq!(world.outcome(3), Outcome::Superseded);
}

#[test]
fn a_rollback_by_hand_goes_to_the_last_one_that_worked_or_to_the_named_one() {
    let mut world = World::settled();
    assert_eq!(world.book.earlier(&web(), None), Err(DeployError::NothingEarlier(web())));
    assert_eq!(world.book.earlier(&web(), Some(9)), Err(DeployError::UnknownRevision(web(), 9)));
    world.deploy(running("./v2"));
    assert_eq!(world.book.earlier(&web(), None), Ok(1), "the second is not known to work");
    world.completes(2);
    assert_eq!(world.book.earlier(&web(), None), Ok(1), "the stable one is the wanted one");
    world.deploy(running("./v3"));
    world.completes(3);
    assert_eq!(world.book.earlier(&web(), None), Ok(2));
    assert_eq!(world.book.earlier(&web(), Some(1)), Ok(1));
}

#[test]
fn the_history_is_bounded_and_keeps_what_is_wanted_and_what_worked() {
    let mut world = World::settled();
    for n in 2..=80 {
        assert_eq!(world.deploy(running(&format!("./v{n}"))), n);
    }
    let kept: Vec<u64> = world.book.entry(&web()).unwrap().revisions.keys().copied().collect();
    assert_eq!((kept.len(), kept[0], kept[1], kept[49]), (50, 1, 32, 80));
}

#[test]
fn a_file_is_compared_without_being_taken_up() {
    let mut world = World::settled();
    let draft = world.book.pin(&web(), Some(7)).unwrap();
    world.take(draft);
    let edited = spec("web", |service| service.replicas = Some(2));
    let changes = world.book.compare(&[edited, spec("api", |_| {})]);
    let changed = SectionChange::Changed { service: web(), replaces: true, unpins: true };
    assert_eq!(changes, [SectionChange::Added(ServiceName::parse("api").unwrap()), changed]);
    assert_eq!(world.book.compare(&[]), [SectionChange::Removed(web())]);
    assert!(world.book.compare(&[running("./v1")]).is_empty());
}

#[test]
fn a_stored_definition_that_this_build_refuses_is_left_out_with_the_reason() {
    let mut world = World::settled();
    let revision = world.stored.revisions.get_mut(&web()).unwrap().get_mut(&1).unwrap();
    revision.definition.retries = Some(99);
    let (book, refused) = Book::open(&world.stored);
    assert_eq!(book.entries().count(), 0);
    assert_eq!(refused, [(web(), "retries: is 99".to_owned())]);
}
