//! What the DNS server would answer, and why: from the table and the options in force.

use crate::admin::{Problem, State, extract};
use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use utoipa::{IntoParams, ToSchema};

/// Who answers a question as the DNS server of this Weir would.
pub trait Names: Send + Sync {
    /// Answers, and says why.
    ///
    /// # Errors
    /// What is wrong with the question.
    fn resolve(&self, asked: &NameQuestion) -> Result<Resolution, String>;
}

/// The DNS server, once it runs.
#[derive(Clone, Default)]
pub struct NameServer(Arc<OnceLock<Box<dyn Names>>>);

impl fmt::Debug for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NameServer").field(&self.0.get().is_some()).finish()
    }
}

impl NameServer {
    /// Says who answers from now on; the first who does stays.
    pub fn runs(&self, names: Box<dyn Names>) {
        // A second server does not come into being: a changed address is another process.
        let _ = self.0.set(names);
    }
}

/// What is asked, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NameQuestion {
    /// The whole name, such as `web.weir.internal`.
    pub name: String,
    /// The type, such as `A`, or its number.
    #[serde(rename = "type")]
    pub kind: String,
    /// The client that is supposed to ask; 127.0.0.1 when absent.
    #[param(value_type = Option<String>)]
    pub from: Option<IpAddr>,
    /// The listener that it is supposed to ask, as `IP:PORT`.
    #[param(value_type = Option<String>)]
    pub listener: Option<SocketAddr>,
}

/// An answer, and why it is that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resolution {
    /// The generation of the table.
    pub generation: u64,
    /// The view of the asker; empty: none was configured for it.
    pub view: String,
    /// The namespace of its short names.
    pub namespace: String,
    /// The schema whose zone the name is in; empty: in none.
    pub schema: String,
    /// What the name stands for, as a sentence.
    pub rule: String,
    /// How it is answered: `fast`, `full` or `forwarded`.
    pub path: String,
    /// The response code; `-` where the forwarder has the question.
    pub rcode: String,
    /// The records, section by section; of a forwarded question those that come before.
    pub records: Vec<ResolvedRecord>,
    /// Endpoints of the service that the name stands for.
    pub endpoints: Vec<NameCandidate>,
    /// Why the TTL is what it is; empty: there is no service.
    pub ttl: String,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResolvedRecord {
    /// `answer`, `authority` or `additional`.
    pub section: String,
    /// The name that it is of.
    pub name: String,
    /// For how long it may be kept, in seconds.
    pub ttl_s: u32,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its data.
    pub data: String,
}

/// Whether an endpoint may be named, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NameCandidate {
    /// The instance.
    pub id: String,
    /// Its address.
    pub address: String,
    /// Whether answers may name it now.
    pub usable: bool,
    /// Why.
    pub because: String,
}

/// Answers a question as the DNS server would, and explains the answer.
#[utoipa::path(get, path = "/v1/resolve", operation_id = "resolve", tag = "routes", params(NameQuestion),
    responses((status = 200, description = "the answer, and why it is that", body = Resolution),
              (status = 400, description = "invalid", body = Problem),
              (status = 404, description = "no_dns", body = Problem)))]
pub(super) async fn show(
    state: axum::extract::State<Arc<State>>,
    extract::Params(asked): extract::Params<NameQuestion>,
) -> Result<Json<Resolution>, Problem> {
    let Some(names) = state.names.0.get() else {
        let detail = "this Weir answers no DNS: add a [dns] section";
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_dns", detail));
    };
    names.resolve(&asked).map(Json).map_err(Problem::invalid)
}
