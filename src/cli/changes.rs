//! `weir scale`, `weir drain`: what a user changes by hand.

use crate::admin::{Scale, Service};
use crate::cli::args::{DrainArgs, ScaleArgs, Wanted};
use crate::cli::failure::{Code, Failure};
use crate::cli::global::{Format, Global};
use crate::cli::output;
use crate::cli::remote::{Remote, encode};
use crate::clock;
use anyhow::Result;
use http::Method;
use std::time::Duration;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Sets the wanted number of replicas of a service by hand, or gives it back.
pub(super) async fn scale(global: &Global, args: &ScaleArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let path = format!("/v1/services/{}/scale", encode(&args.service));
    match args.replicas {
        Wanted::Auto => {
            remote.change(Method::DELETE, &path, None::<&()>).await?;
            if global.output == Format::Table {
                output::write(&format!("{}: scaled automatically\n", args.service))?;
            }
        }
        Wanted::Replicas(replicas) => {
            let wanted = Scale { replicas };
            remote.change(Method::POST, &path, Some(&wanted)).await?;
            if global.output == Format::Json {
                output::json(&wanted)?;
            } else {
                let plural = if replicas == 1 { "" } else { "s" };
                output::write(&format!("{}: {replicas} replica{plural} wanted\n", args.service))?;
            }
        }
    }
    if args.wait { settled(&mut remote, args).await } else { Ok(()) }
}

/// Waits until as many replicas serve as are wanted, and no more run.
async fn settled(remote: &mut Remote, args: &ScaleArgs) -> Result<()> {
    let path = format!("/v1/services/{}", encode(&args.service));
    let begin = clock::now();
    loop {
        let service: Service = remote.get(&path).await?;
        let Service { replicas, running, usable, .. } = service;
        if running == replicas && usable == replicas {
            return Ok(());
        }
        if begin.elapsed() >= args.timeout {
            let message = format!("{running} of {replicas} replicas run and {usable} serve; it goes on");
            return Err(Failure::new(Code::TimedOut, message).into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Drains an instance, or undoes that.
pub(super) async fn drain(global: &Global, args: &DrainArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let path = format!("/v1/instances/{}/drain", encode(&args.instance));
    let (method, done) =
        if args.undo { (Method::DELETE, "takes new work again") } else { (Method::POST, "is draining") };
    remote.change(method, &path, None::<&()>).await?;
    if global.output == Format::Json {
        return Ok(());
    }
    Ok(output::write(&format!("{} {done}\n", args.instance))?)
}
