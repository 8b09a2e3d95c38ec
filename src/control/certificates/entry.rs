//! One name: what there is for it, and what is to be done next. Pure.

use crate::control::certificates::held::Held;
use crate::control::certificates::schedule::Window;
use crate::control::store::Origin;

/// A name that has a certificate or should have one.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Who is to issue for it.
    pub(crate) origin: Origin,
    /// Whether anybody wants one.
    pub(crate) is_wanted: bool,
    /// Whether a handshake asked for it, and no configuration.
    pub(crate) on_demand: bool,
    /// Whether whoever says so said when asked again that it is not welcome any more.
    pub(crate) is_unwelcome: bool,
    /// What is served.
    pub(crate) held: Option<Held>,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Not before this again, in milliseconds since the epoch.
    pub(crate) retry_ms: u64,
    /// Why the last attempt failed.
    pub(crate) error: Option<String>,
    /// What the authority says of the renewal.
    pub(crate) window: Option<Window>,
    /// When to ask it.
    pub(crate) ask_ms: u64,
    /// Whether somebody works on it: one at a time.
    pub(crate) is_busy: bool,
    /// Whether a new one was asked for by hand.
    pub(crate) is_forced: bool,
}

/// What is to be done for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Issue a certificate.
    Issue,
    /// Ask the authority when to renew.
    AskWindow,
    /// Forget it: nobody wants it, and what there is has expired.
    Forget,
    /// Nothing before this, in milliseconds since the epoch.
    Wait(u64),
}

impl Entry {
    /// Makes the entry of a name that nothing is known of.
    pub(crate) fn new(origin: Origin, on_demand: bool) -> Self {
        Self {
            origin,
            is_wanted: true,
            on_demand,
            is_unwelcome: false,
            held: None,
            failures: 0,
            retry_ms: 0,
            error: None,
            window: None,
            ask_ms: 0,
            is_busy: false,
            is_forced: false,
        }
    }

    /// Returns what is to be done now.
    pub(crate) fn step(&self, now_ms: u64) -> Step {
        if self.is_busy {
            return Step::Wait(u64::MAX);
        }
        let not_after = self.held.as_ref().map_or(0, Held::not_after_ms);
        // What is not welcome is asked about again until it expires: it may be by then.
        if !self.is_wanted || (self.on_demand && self.is_unwelcome && not_after <= now_ms) {
            return if not_after <= now_ms { Step::Forget } else { Step::Wait(not_after) };
        }
        if self.is_forced {
            return Step::Issue;
        }
        let Some(renew_ms) = self.renew_ms().filter(|at| *at > now_ms) else {
            return if self.retry_ms <= now_ms { Step::Issue } else { Step::Wait(self.retry_ms) };
        };
        match self.origin {
            Origin::Acme if self.ask_ms <= now_ms => Step::AskWindow,
            Origin::Acme => Step::Wait(renew_ms.min(self.ask_ms)),
            Origin::Internal => Step::Wait(renew_ms),
        }
    }

    /// Returns when the certificate is renewed, in milliseconds since the epoch; `None`: there is none from who should
    /// issue it, so at once.
    pub(crate) fn renew_ms(&self) -> Option<u64> {
        let held = self.held.as_ref().filter(|held| held.record.origin == self.origin)?;
        Some(held.renew_at_ms(self.window))
    }

    /// Takes note of a failure.
    pub(crate) fn failed(&mut self, error: String, retry_ms: u64) {
        self.failures = self.failures.saturating_add(1);
        self.retry_ms = retry_ms;
        self.error = Some(error);
    }

    /// Takes a new certificate up.
    pub(crate) fn issued(&mut self, held: Held) {
        self.held = Some(held);
        (self.failures, self.retry_ms, self.error, self.is_unwelcome) = (0, 0, None, false);
        (self.window, self.ask_ms) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, Step};
    use crate::control::certificates::held::Held;
    use crate::control::certificates::issuer::Made;
    use crate::control::certificates::schedule::Window;
    use crate::control::store::{Origin, Secret};
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    const DAY_MS: u64 = 24 * 3_600_000;

    /// A certificate of 90 days from 2026-01-01, and that day.
    fn held(origin: Origin) -> (Held, u64) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["a.test".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2026, 4, 1));
        let made = Made { chain: params.self_signed(&key).unwrap().pem(), key: Secret::new(key.serialize_pem()) };
        (Held::new("a.test", made, origin, 0, false).unwrap(), 1_767_225_600_000)
    }

    #[test]
    fn a_name_without_a_certificate_is_issued_one_at_once_and_after_a_failure_later() {
        let mut entry = Entry::new(Origin::Acme, false);
        assert_eq!(entry.step(5), Step::Issue);
        entry.failed("no".to_owned(), 100);
        assert_eq!((entry.step(99), entry.step(100)), (Step::Wait(100), Step::Issue));
        entry.is_forced = true;
        assert_eq!(entry.step(6), Step::Issue, "by hand it does not wait");
        entry.is_busy = true;
        assert_eq!(entry.step(6), Step::Wait(u64::MAX), "one order at a time");
    }

    #[test]
    fn it_is_renewed_at_two_thirds_or_when_the_authority_says() {
        let (held, begin) = held(Origin::Acme);
        let mut entry = Entry::new(Origin::Acme, false);
        entry.issued(held);
        assert_eq!(entry.step(begin + DAY_MS), Step::AskWindow);
        entry.ask_ms = begin + 3 * DAY_MS;
        assert_eq!(entry.step(begin + DAY_MS), Step::Wait(begin + 3 * DAY_MS));
        entry.ask_ms = u64::MAX;
        assert_eq!(entry.step(begin + 57 * DAY_MS), Step::Wait(entry.renew_ms().unwrap()));
        assert_eq!(entry.step(begin + 60 * DAY_MS), Step::Issue);
        entry.window = Some(Window { start_ms: begin + DAY_MS, end_ms: begin + 2 * DAY_MS });
        assert_eq!(entry.step(begin + 2 * DAY_MS), Step::Issue);
        // A failure keeps what there is, and waits.
        entry.failed("no".to_owned(), begin + 3 * DAY_MS);
        assert_eq!(entry.step(begin + 2 * DAY_MS), Step::Wait(begin + 3 * DAY_MS));
        assert!(entry.held.is_some());
    }

    #[test]
    fn another_authority_issues_anew_and_what_nobody_wants_is_kept_until_it_expires() {
        let (held, begin) = held(Origin::Internal);
        let mut entry = Entry::new(Origin::Acme, false);
        entry.issued(held);
        assert_eq!(entry.step(begin + 1), Step::Issue);
        entry.is_wanted = false;
        assert_eq!(entry.step(begin + 1), Step::Wait(begin + 90 * DAY_MS));
        assert_eq!(entry.step(begin + 90 * DAY_MS), Step::Forget);
    }

    #[test]
    fn what_is_not_welcome_any_more_is_not_renewed_and_forgotten_once_it_has_expired() {
        let (held, begin) = held(Origin::Acme);
        let mut entry = Entry::new(Origin::Acme, true);
        entry.issued(held.clone());
        let due = begin + 60 * DAY_MS;
        assert_eq!(entry.step(due), Step::Issue);
        entry.failed("it is not welcome".to_owned(), due + DAY_MS);
        entry.is_unwelcome = true;
        // It is served on, and asked about again.
        assert_eq!((entry.step(due), entry.step(due + DAY_MS)), (Step::Wait(due + DAY_MS), Step::Issue));
        assert_eq!(entry.step(begin + 90 * DAY_MS), Step::Forget);
        // Welcome again, it goes on; so it does while nobody can say.
        entry.issued(held);
        entry.failed("nobody answers".to_owned(), due);
        assert_eq!(entry.step(begin + 90 * DAY_MS), Step::Issue);
    }

    #[test]
    fn a_certificate_for_another_name_is_refused() {
        let (held, _) = held(Origin::Acme);
        let error = Held::read("b.test", held.record).unwrap_err();
        assert_eq!(error.to_string(), "the certificate is not for b.test");
    }
}
