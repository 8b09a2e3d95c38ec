//! What control refuses, as answers: which status, which code, what to do.

use crate::admin::Problem;
use crate::control::deployments::DeployError;
use crate::control::registry::RegistryError;
use crate::control::scheduler::SchedulerError;
use crate::control::store::StoreError;
use crate::model::{InstanceId, ServiceName};
use axum::http::StatusCode;

/// The answer for a service that does not exist.
pub(super) fn unknown_service(name: &ServiceName) -> Problem {
    // It may be listed all the same.
    let detail =
        format!("there is no service {name}; `weir services` lists them; one of another Weir is changed there");
    Problem::new(StatusCode::NOT_FOUND, "unknown_service", detail)
}

/// The answer for an instance that does not exist.
pub(super) fn unknown_instance(id: &InstanceId) -> Problem {
    let detail = format!("there is no instance {id}; `weir ps` lists them");
    Problem::new(StatusCode::NOT_FOUND, "unknown_instance", detail)
}

/// The answer for what the registry refused.
pub(super) fn registry(error: RegistryError) -> Problem {
    match error {
        RegistryError::UnknownService(name) => unknown_service(&name),
        RegistryError::UnknownInstance(id) => unknown_instance(&id),
        RegistryError::Expired(id) => {
            let detail = format!("the lease of instance {id} ran out; renew it or register it again");
            Problem::new(StatusCode::CONFLICT, "lease_expired", detail)
        }
        RegistryError::Duplicate(id) => {
            let detail = format!("instance {id} exists already; deregister it, or leave the id out");
            Problem::new(StatusCode::CONFLICT, "duplicate_instance", detail)
        }
        RegistryError::Invalid(why) => Problem::invalid(why),
        RegistryError::Store(error) => store(error),
        RegistryError::Closed => Problem::stopping(),
    }
}

/// The answer for what deployments refused.
pub(super) fn deployment(error: DeployError) -> Problem {
    let conflict = |code, error: &DeployError| Problem::new(StatusCode::CONFLICT, code, error.to_string());
    match error {
        DeployError::UnknownService(name) => unknown_service(&name),
        DeployError::UnknownRevision(..) => Problem::new(StatusCode::NOT_FOUND, "unknown_revision", error.to_string()),
        DeployError::NothingEarlier(_) => conflict("nothing_earlier", &error),
        DeployError::NotRun(_) => conflict("not_run", &error),
        DeployError::Moved { .. } => conflict("revision_moved", &error),
        DeployError::PortInUse { .. } => conflict("port_in_use", &error),
        DeployError::InFile(_) => conflict("defined_in_file", &error),
        DeployError::InUse { .. } => conflict("service_in_use", &error),
        DeployError::Endpoints(_) => conflict("endpoints_in_file", &error),
        DeployError::EmptyPatch => Problem::invalid(error.to_string()),
        DeployError::Invalid(..) | DeployError::Twice(_) => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_definition", error.to_string())
        }
        DeployError::Store(error) => store(error),
        DeployError::Registry(error) => registry(error),
        DeployError::Scheduler(error) => scheduler(error),
        DeployError::Closed => Problem::stopping(),
    }
}

/// The answer for what deployments refused of a number of replicas.
pub(super) fn scaling(error: DeployError) -> Problem {
    match error {
        DeployError::NotRun(name) => scheduler(SchedulerError::NotRun(name)),
        error => deployment(error),
    }
}

/// The answer for what could not be written down: nothing was changed.
pub(super) fn store(error: StoreError) -> Problem {
    let detail = error.to_string();
    match error {
        StoreError::Full => Problem::new(StatusCode::INSUFFICIENT_STORAGE, "store_full", detail),
        StoreError::Failed(_) => Problem::new(StatusCode::INSUFFICIENT_STORAGE, "store_failed", detail),
        StoreError::Closed => Problem::stopping(),
    }
}

/// The answer for what the scheduler refused.
pub(super) fn scheduler(error: SchedulerError) -> Problem {
    match error {
        SchedulerError::UnknownService(name) => unknown_service(&name),
        SchedulerError::UnknownInstance(id) => unknown_instance(&id),
        SchedulerError::NotRun(_) => Problem::new(StatusCode::CONFLICT, "not_scalable", error.to_string()),
        SchedulerError::Stopping(_) => Problem::new(StatusCode::CONFLICT, "already_stopping", error.to_string()),
        SchedulerError::TooMany(_) => Problem::invalid(error.to_string()),
        SchedulerError::Registry(error) => registry(error),
        SchedulerError::Closed => Problem::stopping(),
    }
}
