//! The way to the engine: connected when first needed, its version negotiated once and again after it was away, each call
//! within a time limit, and what is known of its state.

use crate::clock;
use crate::control::runtime::{EngineState, RuntimeError};
use bollard::errors::Error;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A connection to the engine's socket, shared by all calls.
#[derive(Debug)]
pub(super) struct Link {
    socket: PathBuf,
    limit: Duration,
    /// Short lock, never across an await.
    inner: Mutex<Inner>,
    /// Told when the engine answers again.
    answers: Notify,
}

#[derive(Debug)]
struct Inner {
    /// None before the first call and after the engine was away.
    client: Option<Arc<bollard::Docker>>,
    state: EngineState,
    since_ms: u64,
}

impl Link {
    /// Knows where the engine is; does not speak to it yet.
    pub(super) fn new(socket: PathBuf, limit: Duration) -> Self {
        let inner = Inner { client: None, state: EngineState::Unused, since_ms: clock::now_ms() };
        Self { socket, limit, inner: Mutex::new(inner), answers: Notify::new() }
    }

    /// Returns how long a call may take.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Returns what is known of the engine, and since when in milliseconds of `clock::now_ms`.
    pub(super) fn state(&self) -> (EngineState, u64) {
        let inner = self.lock();
        (inner.state.clone(), inner.since_ms)
    }

    /// Returns the connected client; negotiates the version when there is none.
    ///
    /// # Errors
    /// When the engine does not answer; the state says so from then on.
    pub(super) async fn client(&self) -> Result<Arc<bollard::Docker>, RuntimeError> {
        if let Some(client) = &self.lock().client {
            return Ok(client.clone());
        }
        let doing = format!("connect to the Docker Engine at {}", self.socket.display());
        // Its own limit is for the head of an answer only and in whole seconds; ours is the one that decides.
        let seconds = self.limit.as_secs() + 3600;
        let path = self.socket.to_string_lossy();
        let connecting = async {
            let client = bollard::Docker::connect_with_unix(&path, seconds, bollard::API_DEFAULT_VERSION)?;
            client.negotiate_version().await
        };
        let client = Arc::new(self.within(&doing, self.limit, connecting).await?);
        self.lock().client = Some(client.clone());
        Ok(client)
    }

    /// Makes one call within the usual limit.
    ///
    /// # Errors
    /// What the engine said, or that it said nothing.
    pub(super) async fn call<T, F: Future<Output = Result<T, Error>>>(
        &self,
        doing: &str,
        call: impl FnOnce(Arc<bollard::Docker>) -> F,
    ) -> Result<T, CallError> {
        self.call_within(doing, self.limit, call).await
    }

    /// Makes one call within a limit of its own, for what takes as long as it takes.
    ///
    /// # Errors
    /// As [`Link::call`].
    pub(super) async fn call_within<T, F: Future<Output = Result<T, Error>>>(
        &self,
        doing: &str,
        limit: Duration,
        call: impl FnOnce(Arc<bollard::Docker>) -> F,
    ) -> Result<T, CallError> {
        let client = self.client().await.map_err(CallError::Away)?;
        self.judge(doing, limit, call(client)).await
    }

    /// Waits at most so long for an engine that is away or stuck.
    pub(super) async fn wait(&self, most: Duration) {
        let answers = async {
            loop {
                let answers = self.answers.notified();
                if matches!(self.state().0, EngineState::Unused | EngineState::Reachable) {
                    return;
                }
                answers.await;
            }
        };
        // Then the next call says what is wrong.
        let _ = tokio::time::timeout(most, answers).await;
    }

    /// Forgets the connection: what was negotiated may not hold any more.
    pub(super) fn reset(&self) {
        self.lock().client = None;
    }

    async fn within<T>(
        &self,
        doing: &str,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, RuntimeError> {
        self.judge(doing, limit, call).await.map_err(CallError::into_runtime)
    }

    /// Waits for a call and draws conclusions on the engine.
    async fn judge<T>(
        &self,
        doing: &str,
        limit: Duration,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(value)) => {
                self.enter(EngineState::Reachable);
                Ok(value)
            }
            Ok(Err(Error::DockerResponseServerError { status_code, message })) => {
                self.enter(EngineState::Reachable);
                Err(CallError::Refused { doing: doing.to_owned(), status: status_code, message })
            }
            Ok(Err(error)) => {
                let why = match &error {
                    Error::SocketNotFoundError(path) => format!("there is no socket {path}"),
                    error => chain(error),
                };
                self.reset();
                self.enter(EngineState::Away(why.clone().into()));
                Err(CallError::Away(RuntimeError::Away { doing: doing.to_owned(), why }))
            }
            Err(_) => {
                let why = format!("no answer in {limit:?}");
                self.enter(EngineState::Stuck(why.clone().into()));
                Err(CallError::Away(RuntimeError::Away { doing: doing.to_owned(), why }))
            }
        }
    }

    fn enter(&self, state: EngineState) {
        let mut inner = self.lock();
        if std::mem::discriminant(&inner.state) != std::mem::discriminant(&state) {
            match &state {
                EngineState::Away(why) | EngineState::Stuck(why) => {
                    tracing::warn!(socket = %self.socket.display(), %why, "the Docker Engine is {state}; what runs goes on");
                }
                EngineState::Reachable => {
                    tracing::info!(socket = %self.socket.display(), "the Docker Engine answers");
                }
                EngineState::Unused => {}
            }
            inner.since_ms = clock::now_ms();
        }
        inner.state = state;
        if matches!(inner.state, EngineState::Reachable) {
            self.answers.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// The engine answered with an error.
    Refused {
        /// What was attempted.
        doing: String,
        /// The status code of HTTP.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The engine did not answer.
    Away(RuntimeError),
}

impl CallError {
    /// Returns true when the engine does not know what was named.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Returns the error as callers of the runtime see it: to be tried again.
    pub(super) fn into_runtime(self) -> RuntimeError {
        match self {
            Self::Refused { doing, message, .. } => RuntimeError::system(doing)(io::Error::other(message)),
            Self::Away(error) => error,
        }
    }

    /// As [`CallError::into_runtime`], but what the engine finds wrong with the request is the definition's fault.
    pub(super) fn into_definition(self) -> RuntimeError {
        match self {
            Self::Refused { status: 400 | 404, message, .. } => RuntimeError::Definition(message),
            other => other.into_runtime(),
        }
    }
}

/// Returns an error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
