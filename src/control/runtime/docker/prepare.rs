//! What must be there before a container: its image and its network.

use crate::control::runtime::RuntimeError;
use crate::control::runtime::docker::link::{CallError, Link};
use crate::control::runtime::docker::networks::{Bridge, bridges};
use bollard::models::{ImageInspect, NetworkCreateRequest, NetworkInspect};
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_core::Stream;
use std::io;
use std::pin::pin;
use std::time::Duration;

/// Longest time for pulling an image: a gigabyte over a slow line.
const PULL_LIMIT: Duration = Duration::from_secs(600);

/// Returns what the engine knows of an image; pulls it when it is not there.
///
/// # Errors
/// [`RuntimeError::Definition`] when a registry says that there is no such image; else to be tried again.
pub(super) async fn image(link: &Link, name: &str) -> Result<ImageInspect, RuntimeError> {
    let inspect = || link.call("look for an image", |client| async move { client.inspect_image(name).await });
    match inspect().await {
        Err(error) if error.is_missing() => {}
        other => return other.map_err(CallError::into_runtime),
    }
    tracing::info!(image = name, "pulling an image that the engine lacks");
    if let Err(error) = pull(link, name).await {
        let CallError::Refused { message, .. } = &error else { return Err(error.into_runtime()) };
        let advice = "build or load it on this machine, or make its registry reachable";
        let text = format!("image {name} is not here and cannot be pulled ({}): {advice}", message.trim());
        let is_unknown = ["not found", "manifest unknown", "does not exist", "denied", "invalid reference"];
        return Err(if is_unknown.iter().any(|part| message.contains(part)) {
            RuntimeError::Definition(text)
        } else {
            RuntimeError::system("find an image")(io::Error::other(text))
        });
    }
    inspect().await.map_err(CallError::into_definition)
}

async fn pull(link: &Link, name: &str) -> Result<(), CallError> {
    // Without a tag the engine would pull every one.
    let last = name.rsplit('/').next().unwrap_or(name);
    let full = if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") };
    let doing = "pull an image";
    link.call_within(doing, PULL_LIMIT, |client| async move {
        let options = CreateImageOptionsBuilder::new().from_image(&full).build();
        let mut progress = pin!(client.create_image(Some(options), None, None));
        while let Some(step) = std::future::poll_fn(|context| progress.as_mut().poll_next(context)).await {
            // A failure after the head comes as a line of the progress.
            if let Some(message) = step?.error_detail.and_then(|detail| detail.message) {
                return Err(bollard::errors::Error::DockerResponseServerError { status_code: 500, message });
            }
        }
        Ok(())
    })
    .await
}

/// Makes the network, a bridge, when there is none; returns its ranges.
///
/// # Errors
/// What the engine said.
pub(super) async fn network(link: &Link, name: &str) -> Result<Vec<Bridge>, RuntimeError> {
    let inspect = || link.call("look for a network", |client| async move { client.inspect_network(name, None).await });
    match inspect().await {
        Ok(found) => return Ok(ranges(&found)),
        Err(error) if error.is_missing() => {}
        Err(error) => return Err(error.into_runtime()),
    }
    let request = NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        ..NetworkCreateRequest::default()
    };
    match link.call("make a network", |client| async move { client.create_network(request).await }).await {
        Ok(_) => tracing::info!(network = name, "made a network of the engine"),
        // Another start was faster.
        Err(CallError::Refused { status: 409, .. }) => {}
        Err(error) => return Err(error.into_runtime()),
    }
    inspect().await.map(|found| ranges(&found)).map_err(CallError::into_runtime)
}

fn ranges(found: &NetworkInspect) -> Vec<Bridge> {
    bridges(found.name.as_deref(), found.driver.as_deref(), found.ipam.as_ref())
}
