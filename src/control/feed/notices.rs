//! What changed in the registry → each service once, however often.

use crate::model::ServiceName;
use std::collections::HashSet;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// The services of which notices wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    These(HashSet<ServiceName>),
    /// More than were kept.
    Any,
}

/// Takes every notice that waits behind the first; `None`: the registry ended.
pub(super) fn waiting(first: Result<ServiceName, RecvError>, notices: &mut Receiver<ServiceName>) -> Option<Waiting> {
    let mut names = HashSet::new();
    let mut is_any = match first {
        Ok(name) => !names.insert(name),
        Err(RecvError::Lagged(_)) => true,
        Err(RecvError::Closed) => return None,
    };
    loop {
        match notices.try_recv() {
            Ok(name) => drop(names.insert(name)),
            Err(TryRecvError::Lagged(_)) => is_any = true,
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    Some(if is_any { Waiting::Any } else { Waiting::These(names) })
}

#[cfg(test)]
mod tests {
    use super::{Waiting, waiting};
    use crate::model::ServiceName;
    use tokio::sync::broadcast::Sender;

    #[tokio::test]
    async fn each_service_is_named_once_and_all_where_some_were_lost() {
        let sender = Sender::new(4);
        let mut notices = sender.subscribe();
        let name = |text: &str| ServiceName::parse(text).unwrap();
        let tell = |names: &[&str]| names.iter().for_each(|text| assert!(sender.send(name(text)).is_ok()));
        tell(&["a", "b", "a"]);
        let these = |names: &[&str]| Some(Waiting::These(names.iter().map(|text| name(text)).collect()));
        assert_eq!(waiting(notices.recv().await, &mut notices), these(&["a", "b"]));
        tell(&["c"]);
        assert_eq!(waiting(notices.recv().await, &mut notices), these(&["c"]));
        tell(&["a", "b", "c", "d", "e"]);
        assert_eq!(waiting(notices.recv().await, &mut notices), Some(Waiting::Any));
        assert!(notices.try_recv().is_err(), "none waits behind it");
        tell(&["a"]);
        let first = notices.recv().await;
        tell(&["a", "b", "c", "d", "e"]);
        assert_eq!(waiting(first, &mut notices), Some(Waiting::Any));
        drop(sender);
        while notices.try_recv().is_ok() {}
        assert_eq!(waiting(notices.recv().await, &mut notices), None);
    }
}
