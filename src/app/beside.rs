//! How Weir and the program beside it end together: whoever ends first, the other follows in order.
//!
//! Asked to end, Weir first sees off what it has announced, so that nobody sends the program anything new; then the program is
//! told, with its upstreams still there; Weir drains when it has ended. Nobody uses one that has ended: then nothing is waited for.

use crate::app::asks::{Ask, Asks, End};
use crate::app::companion::Companion;
use crate::app::wire::Parts;
use rustix::process::Signal;
use std::ffi::OsString;
use std::time::Duration;

/// Runs the program to its end; returns how Weir ends then, and the program's exit code.
///
/// # Errors
/// When it cannot be started.
pub(super) async fn until_its_end(
    command: &[OsString],
    asks: &mut Asks,
    parts: &mut Parts,
    drain: Duration,
) -> anyhow::Result<(End, Option<u8>)> {
    let table = parts.following.table().clone();
    let mut companion = tokio::select! {
        started = Companion::start(command, &table) => started?,
        ask = asks.ending() => {
            // A program that never ran is no success: a job that was stopped before it began is to run again.
            let end = if ask == Ask::Stop { End::Stop } else { End::Drain };
            return Ok((end, Some(asks.code())));
        }
    };
    let mut end = End::Drain;
    loop {
        let ask = tokio::select! {
            code = companion.ended() => return Ok((end, Some(code))),
            ask = asks.next() => ask,
        };
        match ask {
            Ask::Drain => break,
            // Where it ends by that, so does Weir; some write down what they do, and go on.
            Ask::Stop => {
                companion.signal(Signal::QUIT);
                end = End::Stop;
            }
            Ask::Reload => companion.signal(Signal::HUP),
            Ask::Reopen => companion.signal(Signal::USR1),
            Ask::Upgrade => companion.signal(Signal::USR2),
            // There is no keeper to ask for these.
            Ask::StandDown | Ask::Leave | Ask::Cut(_) | Ask::KeeperGone => {}
        }
    }
    tokio::select! {
        code = companion.ended() => return Ok((End::Drain, Some(code))),
        () = parts.following.withdraw(drain) => {}
        () = asks.hurry() => {}
    }
    companion.signal(Signal::TERM);
    Ok((End::Drain, Some(end_of(&mut companion, asks).await)))
}

/// Waits for the end of a program that was told to end; it is killed when it is to be quick.
async fn end_of(companion: &mut Companion, asks: &mut Asks) -> u8 {
    tokio::select! {
        code = companion.ended() => code,
        () = asks.hurry() => {
            companion.signal(Signal::KILL);
            companion.ended().await
        }
    }
}
