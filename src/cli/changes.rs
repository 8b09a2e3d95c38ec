//! `weir scale`, `weir drain`, `weir remove`: what a user changes by hand.

use crate::admin::{Instance, RunBy, Scale, Service, Table};
use crate::cli::args::{DrainArgs, RemoveArgs, ScaleArgs, Wanted};
use crate::cli::failure::{Code, Failure, code_of};
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
    if global.output == Format::Table {
        output::write(&format!("{} {done}\n", args.instance))?;
    }
    if args.end.wait { drained(&mut remote, global, args).await } else { Ok(()) }
}

/// Waits until the instance takes nothing any more and nothing is in flight at it; one that Weir runs has then ended.
async fn drained(remote: &mut Remote, global: &Global, args: &DrainArgs) -> Result<()> {
    let path = format!("/v1/instances/{}", encode(&args.instance));
    let begin = clock::now();
    loop {
        // Read before the instance: who has loaded a later table does not use it either.
        let table: Table = remote.get("/v1/table").await?;
        let instance = match remote.get::<Instance>(&path).await {
            Ok(instance) => instance,
            // It ended long ago.
            Err(error) if code_of(&error) == Code::NotFound => break,
            Err(error) => return Err(error),
        };
        let is_run = !matches!(instance.workload, RunBy::Process { pid: None });
        let is_known = table.acknowledgers.iter().all(|who| who.idle || who.generation >= table.generation);
        let is_idle = instance.state == "draining" && is_known && instance.in_flight == 0;
        if instance.state == "gone" || (is_idle && !is_run) {
            break;
        }
        if begin.elapsed() >= args.end.timeout {
            let message = format!(
                "{} is {}, {} requests and streams are in flight at it; it goes on",
                args.instance, instance.state, instance.in_flight
            );
            return Err(Failure::new(Code::TimedOut, message).into());
        }
        tokio::time::sleep(PAUSE).await;
    }
    if global.output == Format::Table {
        output::write(&format!("{} is drained\n", args.instance))?;
    }
    Ok(())
}

/// Removes a service that was made over the API.
pub(super) async fn remove(global: &Global, args: &RemoveArgs) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let service = format!("/v1/services/{}", encode(&args.service));
    remote.change(Method::DELETE, &service, None::<&()>).await?;
    if global.output == Format::Table {
        output::write(&format!("{} is being removed\n", args.service))?;
    }
    if !args.end.wait {
        return Ok(());
    }
    let begin = clock::now();
    loop {
        match remote.get::<Service>(&service).await {
            Ok(Service { running, endpoints, .. }) if begin.elapsed() >= args.end.timeout => {
                let message = format!("{running} replicas still run, {endpoints} endpoints are left; it goes on");
                return Err(Failure::new(Code::TimedOut, message).into());
            }
            Ok(_) => tokio::time::sleep(PAUSE).await,
            Err(error) if code_of(&error) == Code::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    if global.output == Format::Table {
        output::write(&format!("{} is gone\n", args.service))?;
    }
    Ok(())
}
