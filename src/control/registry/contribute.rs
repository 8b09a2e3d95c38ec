//! What a contribution changes: each part in its order, and where it is that of one source nothing of what others registered.

use crate::control::registry::state::{Outcome, State, TOLD};
use crate::control::registry::{Adopted, Clash, Contribution, Done, Effects, NO_LONGER_LISTED, Registration};
use crate::model::{InstanceId, InstanceState, Source, Transition, Verdict};

impl State {
    /// Carries out what of a contribution is accepted.
    pub(super) fn contribute(&mut self, contribution: Contribution, now_ms: u64, effects: &mut Effects) -> Outcome {
        let only = contribution.only;
        let (mut first_error, mut clashes) = (None, Vec::new());
        let mut note = |result: Outcome| {
            if let Err(error) = result {
                first_error.get_or_insert(error);
            }
        };
        for id in contribution.gone {
            if self.is_of(&id, only) {
                note(self.gone(&id, "no longer listed", now_ms, effects));
            }
        }
        for id in contribution.withdraw {
            if self.is_of(&id, only) {
                note(self.withdraw(&id, NO_LONGER_LISTED, effects));
            }
        }
        for name in contribution.undefine {
            note(self.undefine(&name, effects));
        }
        for spec in contribution.define {
            self.define(spec, effects);
        }
        for registration in contribution.register {
            note(self.register(registration, None, now_ms, effects));
        }
        for adopted in contribution.adopt {
            match only.and_then(|_| self.clash(&adopted.registration)) {
                Some(clash) => clashes.push(clash),
                None => note(self.adopt(adopted, now_ms, effects)),
            }
        }
        for id in contribution.restore {
            if self.is_of(&id, only) {
                note(self.restore(&id, effects));
            }
        }
        for (id, to) in contribution.judge {
            if self.is_of(&id, only) {
                let from = self.instance(&id).map_or(Verdict::Unknown, |instance| instance.verdict);
                note(self.report(&id, Transition { from, to }, TOLD, now_ms, effects));
            }
        }
        effects.touched.extend(contribution.touch.into_iter().filter(|name| self.spec(name).is_some()));
        effects.routes = self.routes.take_up(contribution.routes, contribution.fed_routes);
        effects.listeners = contribution.listeners;
        match (only, first_error) {
            (Some(_), refused) => Ok(Done::TakenIn { clashes, refused }),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(Done::Applied),
        }
    }

    /// Returns whether an instance may be changed by this source; `None`: by any.
    fn is_of(&self, id: &InstanceId, only: Option<Source>) -> bool {
        only.is_none_or(|only| self.entry(id).is_none_or(|entry| entry.instance().source == only))
    }

    /// Returns who has the id of an instance that is to be adopted, and keeps it. One of another service whose lease ran out may be
    /// back; one of the same is replaced, as it is the same that lives on where it is listed.
    fn clash(&self, wanted: &Registration) -> Option<Clash> {
        let entry = self.entry(wanted.id.as_ref()?)?;
        let known = entry.instance();
        let may_be_back = entry.departure().is_some_and(|departure| departure.expired);
        let (is_kin, is_own) = (known.service == wanted.service, known.source == wanted.source);
        let stays = entry.lives() || may_be_back && !is_kin;
        (stays && !(is_kin && is_own)).then(|| Clash {
            id: known.id.clone(),
            service: wanted.service.clone(),
            holder: known.service.clone(),
            is_same: is_kin && known.address == wanted.address && known.ports == wanted.ports,
        })
    }

    /// Registers what an earlier Weir knew, as it was.
    fn adopt(&mut self, adopted: Adopted, now_ms: u64, effects: &mut Effects) -> Outcome {
        let Adopted { registration, ready, drained } = adopted;
        let done = self.register(registration, ready.then_some(InstanceState::Ready), now_ms, effects)?;
        if let (true, Done::Registered(instance)) = (drained, &done) {
            let reason = if instance.source == Source::Feed { TOLD } else { "drained by hand" };
            self.withdraw(&instance.id.clone(), reason, effects)?;
        }
        Ok(done)
    }
}
