//! Why a deployment was refused.

use crate::control::registry::RegistryError;
use crate::control::scheduler::SchedulerError;
use crate::control::store::StoreError;
use crate::model::ServiceName;
use crate::spec::Problem;

/// Why a request was refused; nothing was changed, unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeployError {
    /// No such service is defined.
    #[error("service {0} is not defined")]
    UnknownService(ServiceName),
    /// The service has no such revision, or it is no longer kept.
    #[error("service {0} has no revision {1}; `weir history {0}` lists those that are kept")]
    UnknownRevision(ServiceName, u64),
    /// No earlier revision worked.
    #[error("service {0} has no earlier revision that worked")]
    NothingEarlier(ServiceName),
    /// The service has no `run`, so there is nothing to patch or to scale.
    #[error("service {0} is not run by Weir: it has no [service.run]")]
    NotRun(ServiceName),
    /// The patch changes nothing that could be named.
    #[error("nothing to change: name an image, a command or a variable")]
    EmptyPatch,
    /// The definition that would result is wrong.
    #[error("{}", list(.1))]
    Invalid(Option<ServiceName>, Vec<Problem>),
    /// Two definitions of one service.
    #[error("service {0} is defined twice")]
    Twice(ServiceName),
    /// The wanted revision is another than the caller thought.
    #[error("service {service} is at revision {found}, not at {expected}: somebody else changed it")]
    Moved {
        /// The service.
        service: ServiceName,
        /// What the caller thought.
        expected: u64,
        /// What is.
        found: u64,
    },
    /// A route or a listener leads to a port that the definition does not have.
    #[error("{user} leads to port {port:?} of service {service}, which this definition does not have")]
    PortInUse {
        /// The service.
        service: ServiceName,
        /// The route or listener, with its kind.
        user: String,
        /// The port's name.
        port: String,
    },
    /// Static endpoints stand in the configuration file only.
    #[error("the endpoints of service {0} are the configuration file's: edit them there, a reload takes them up")]
    Endpoints(ServiceName),
    /// The configuration file defines the service, so it alone can take it away.
    #[error("service {0} is defined in the configuration file: remove its section there, a reload takes that up")]
    InFile(ServiceName),
    /// A route or a listener leads to the service.
    #[error("{user} leads to service {service}: remove it from the configuration file first")]
    InUse {
        /// The service.
        service: ServiceName,
        /// The route or listener, with its kind.
        user: String,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The registry refused a part of what was stored.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The scheduler refused.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// Deployments have ended.
    #[error("deployments have ended")]
    Closed,
}

fn list(problems: &[Problem]) -> String {
    let line = |problem: &Problem| match &problem.hint {
        Some(hint) => format!("{problem} ({hint})"),
        None => problem.to_string(),
    };
    problems.iter().map(line).collect::<Vec<_>>().join("; ")
}
