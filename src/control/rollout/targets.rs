//! How many replicas of each revision there are to be.

use crate::model::{RolloutSpec, Strategy};

/// What is seen of a service's replicas; those that are being stopped count only as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Replicas that are wanted.
    pub wanted: u32,
    /// Those that run as wanted, whatever their health.
    pub new: u32,
    /// Of these, those that have proved themselves.
    pub proven: u32,
    /// Those that run as the stable revision says, where that differs.
    pub stable: u32,
    /// Of these, those that serve.
    pub stable_ready: u32,
    /// Those that run in any other way.
    pub others: u32,
    /// Those that are being stopped and do not run as wanted.
    pub stopping: u32,
    /// Those that are being stopped and run as wanted.
    pub stopping_new: u32,
}

/// How many there are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Targets {
    /// As wanted.
    pub new: u32,
    /// As the stable revision says.
    pub stable: u32,
    /// In any other way; these are only ever stopped.
    pub others: u32,
}

/// Returns what there is to be while a rollout goes on, or after it succeeded; `has_stable`: there is a stable revision
/// that runs in another way, so replicas of it can be started.
///
/// Start-first: at most a batch above the wanted number; an old replica goes for each new one that has proved itself.
/// Stop-first: never above the wanted number; a batch of old ones goes first.
pub fn targets(policy: &RolloutSpec, counts: &Counts, has_stable: bool) -> Targets {
    let Counts { wanted, new, proven, .. } = *counts;
    let unproven = wanted.saturating_sub(proven);
    let next = proven.saturating_add(policy.batch).min(wanted);
    match policy.strategy {
        Strategy::StartFirst => Targets {
            new: if has_stable || counts.others > 0 { next.max(new.min(wanted)) } else { wanted },
            stable: if has_stable { unproven } else { 0 },
            others: unproven.saturating_sub(counts.stable_ready).min(counts.others),
        },
        Strategy::StopFirst => {
            let old = unproven.saturating_sub(policy.batch);
            let occupied = counts.stable + counts.others + counts.stopping;
            Targets {
                new: next.min(wanted.saturating_sub(occupied)).max(new.min(wanted)),
                stable: if has_stable { old } else { 0 },
                others: old.saturating_sub(counts.stable_ready).min(counts.others),
            }
        }
    }
}

/// Returns what there is to be after a rollout failed, until somebody decides: what has proved itself stays, the stable
/// revision gives the rest. Without one that runs in another way, what is wanted is tried on.
pub fn held(policy: &RolloutSpec, counts: &Counts, has_stable: bool) -> Targets {
    let Counts { wanted, proven, .. } = *counts;
    if !has_stable {
        return targets(policy, counts, false);
    }
    let missing = wanted.saturating_sub(proven);
    let room = match policy.strategy {
        Strategy::StartFirst => missing,
        // Where two must not run at a time, what failed has stopped before the stable one starts.
        Strategy::StopFirst => missing.min(wanted.saturating_sub(counts.new + counts.others + counts.stopping_new)),
    };
    Targets {
        new: proven.min(wanted),
        stable: room.max(counts.stable.min(missing)),
        others: missing.saturating_sub(counts.stable_ready).min(counts.others),
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Targets, held, targets};
    use crate::model::{RolloutSpec, Strategy};

    fn policy(strategy: Strategy, batch: u32) -> RolloutSpec {
        RolloutSpec { strategy, batch, ..RolloutSpec::default() }
    }

    fn counts(wanted: u32, new: u32, proven: u32, stable: u32) -> Counts {
        Counts { wanted, new, proven, stable, stable_ready: stable, ..Counts::default() }
    }

    fn numbers(targets: Targets) -> (u32, u32, u32) {
        (targets.new, targets.stable, targets.others)
    }

    #[test]
    fn start_first_adds_a_batch_and_takes_one_old_for_each_that_proved_itself() {
        let one = policy(Strategy::StartFirst, 1);
        for (counts, expected) in [
            (counts(3, 0, 0, 3), (1, 3, 0)),
            (counts(3, 1, 0, 3), (1, 3, 0)),
            (counts(3, 1, 1, 3), (2, 2, 0)),
            (counts(3, 2, 2, 1), (3, 1, 0)),
            (counts(3, 3, 3, 0), (3, 0, 0)),
            // One that had proved itself is lost: the stable revision fills in, the others stay.
            (counts(3, 2, 1, 1), (2, 2, 0)),
            // Scaled while it goes on.
            (counts(5, 1, 0, 3), (1, 5, 0)),
            (counts(1, 2, 1, 1), (1, 0, 0)),
            (counts(0, 1, 0, 1), (0, 0, 0)),
        ] {
            assert_eq!(numbers(targets(&one, &counts, true)), expected, "{counts:?}");
        }
        assert_eq!(numbers(targets(&policy(Strategy::StartFirst, 4), &counts(3, 0, 0, 3), true)), (3, 3, 0));
    }

    #[test]
    fn without_a_stable_revision_everything_starts_at_once() {
        let one = policy(Strategy::StartFirst, 1);
        assert_eq!(numbers(targets(&one, &counts(3, 0, 0, 0), false)), (3, 0, 0));
        assert_eq!(numbers(held(&one, &counts(3, 1, 0, 0), false)), (3, 0, 0));
    }

    #[test]
    fn a_superseded_revision_goes_as_the_others_can_serve() {
        let one = policy(Strategy::StartFirst, 1);
        let seen = |stable, others, proven| Counts { others, ..counts(4, proven, proven, stable) };
        assert_eq!(numbers(targets(&one, &seen(2, 2, 0), true)), (1, 4, 2));
        assert_eq!(numbers(targets(&one, &seen(4, 2, 0), true)), (1, 4, 0));
        // Back to what is stable: it runs as wanted, so only the others are old.
        assert_eq!(numbers(targets(&one, &seen(0, 2, 2), false)), (3, 0, 2));
        assert_eq!(numbers(targets(&one, &seen(0, 1, 4), false)), (4, 0, 0));
    }

    #[test]
    fn stop_first_never_runs_more_than_are_wanted() {
        let one = policy(Strategy::StopFirst, 1);
        assert_eq!(numbers(targets(&one, &counts(1, 0, 0, 1), true)), (0, 0, 0), "the old one goes first");
        let stopping = Counts { stopping: 1, ..counts(1, 0, 0, 0) };
        assert_eq!(numbers(targets(&one, &stopping, true)), (0, 0, 0), "until nothing of it runs");
        assert_eq!(numbers(targets(&one, &counts(1, 0, 0, 0), true)), (1, 0, 0));
        assert_eq!(numbers(targets(&one, &counts(3, 0, 0, 3), true)), (0, 2, 0));
        assert_eq!(numbers(targets(&one, &counts(3, 0, 0, 2), true)), (1, 2, 0));
        assert_eq!(numbers(targets(&one, &counts(3, 1, 0, 2), true)), (1, 2, 0));
        assert_eq!(numbers(targets(&one, &counts(3, 1, 1, 2), true)), (1, 1, 0));
        for wanted in 1..=4 {
            for (new, stable, stopping) in
                (0..=4).flat_map(|n| (0..=4).flat_map(move |s| (0..=2).map(move |t| (n, s, t))))
            {
                if new + stable + stopping > wanted {
                    continue;
                }
                for proven in 0..=new {
                    let seen = Counts { stopping, ..counts(wanted, new, proven, stable) };
                    let found = targets(&one, &seen, true);
                    assert!(found.new.max(new) + stable + stopping <= wanted, "{seen:?} {found:?}");
                }
            }
        }
    }

    #[test]
    fn start_first_keeps_the_wanted_number_serving_and_adds_no_more_than_a_batch() {
        for batch in 1..=3 {
            let policy = policy(Strategy::StartFirst, batch);
            for wanted in 0..=5_u32 {
                for (new, stable) in (0..=5).flat_map(|new| (0..=5).map(move |stable| (new, stable))) {
                    for proven in 0..=new {
                        let seen = counts(wanted, new, proven, stable);
                        for found in [targets(&policy, &seen, true), held(&policy, &seen, true)] {
                            assert!(proven.min(wanted) + found.stable >= wanted, "{seen:?} {found:?}");
                            assert!(found.new <= wanted && found.stable <= wanted);
                            let most = wanted + batch + new.saturating_sub(proven);
                            assert!(found.new + found.stable <= most, "{seen:?} {found:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn after_a_failure_the_stable_revision_gives_what_is_missing() {
        let one = policy(Strategy::StartFirst, 1);
        assert_eq!(numbers(held(&one, &counts(3, 1, 0, 3), true)), (0, 3, 0));
        assert_eq!(numbers(held(&one, &counts(3, 2, 1, 2), true)), (1, 2, 0));
        let alone = policy(Strategy::StopFirst, 1);
        assert_eq!(numbers(held(&alone, &counts(1, 1, 0, 0), true)), (0, 0, 0), "what failed goes first");
        let stopping = Counts { stopping_new: 1, ..counts(1, 0, 0, 0) };
        assert_eq!(numbers(held(&alone, &stopping, true)), (0, 0, 0), "until nothing of it runs");
        assert_eq!(numbers(held(&alone, &counts(1, 0, 0, 0), true)), (0, 1, 0));
        assert_eq!(numbers(held(&alone, &counts(1, 0, 0, 1), true)), (0, 1, 0));
    }
}
