//! Data plane: names.
//!
//! Authoritative answers for one zone and for the addresses in the table. [`bind`] makes the sockets, [`serve`] the
//! threads: UDP in blocking batches on threads of its own, TCP and everything unusual on one more, TLS and HTTPS on one. [`answer()`] is the pure
//! core between them; what is not ours is asked of other resolvers by `forward` where that is configured. Invariant: an answer names only endpoints that the proxy would pick now, and each
//! is stamped before the answer leaves. Follows RFC 1034, 1035, 2181, 2308, 2782, 6891, 7766, 7858, 7873, 8020, 8482, 8484, 9018.

mod alias;
mod answer;
mod authority;
mod containers;
mod cookies;
mod counters;
mod explain;
mod forward;
mod gauges;
mod handler;
mod https;
mod locate;
mod network;
mod onward;
mod options;
mod order;
mod querylog;
mod rate;
mod responder;
mod schema;
mod server;
mod settings;
mod slow;
mod tcp;
mod udp;
mod view;

pub use alias::Aliases;
pub use answer::Scratch;
pub use authority::Authority;
pub use containers::{Containers, Gateway};
pub use counters::{Count, Counters, Forwarded, Forwards, Limited, Limits, Path};
pub use explain::{Candidacy, Explanation, Line, Riddle};
pub use gauges::Gauges;
pub use handler::{Reply, Transport, answer};
pub use options::{
    AliasOptions, AliasTargetOptions, ForwardOptions, ForwardZoneOptions, ListenOptions, Options, QueryLogOptions,
    RateLimitOptions, SchemaOptions, ServerOptions, TlsOptions, ViewOptions,
};
pub use schema::{Schema, Schemas};
pub use server::{Live, Server, ServerError, Sockets, bind, serve};
pub use view::{Asker, Scope, Scopes, View};
