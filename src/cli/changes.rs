//! `weir scale`, `weir drain`: what a user changes by hand.

use crate::admin::Scale;
use crate::cli::args::{DrainArgs, ScaleArgs, Wanted};
use crate::cli::global::{Format, Global};
use crate::cli::output;
use crate::cli::remote::{Remote, encode};
use anyhow::Result;
use http::Method;

/// Changes the wanted number of replicas of a service.
pub(super) async fn scale(global: &Global, args: &ScaleArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let path = format!("/v1/services/{}/scale", encode(&args.service));
    let Wanted::Replicas(replicas) = args.replicas else {
        remote.change(Method::DELETE, &path, None::<&()>).await?;
        return match global.output {
            Format::Json => Ok(()),
            Format::Table => Ok(output::write(&format!("{}: scaled automatically\n", args.service))?),
        };
    };
    let wanted = Scale { replicas };
    remote.change(Method::POST, &path, Some(&wanted)).await?;
    if global.output == Format::Json {
        return output::json(&wanted);
    }
    let plural = if replicas == 1 { "" } else { "s" };
    Ok(output::write(&format!("{}: {replicas} replica{plural} wanted\n", args.service))?)
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
