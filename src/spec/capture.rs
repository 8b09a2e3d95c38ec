//! The definition of what a listener does with connections that rules of the kernel lead to it.

use crate::model;
use crate::spec::{Network, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Connections that rules of the kernel lead to a listener go where they were going: to the service that has the address, an
/// endpoint's or its own, else there itself where that is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CaptureDefinition)]
pub struct Capture {
    /// How they are led here; default `redirect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<CaptureMode>,
    /// What decides; default `service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<CaptureTo>,
    /// What becomes of those that go where no service is known; default `deny`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Unknown>,
    /// With `unknown = "deny"`: networks that they may go to all the same. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Network>,
    /// With `mode = "tproxy"`: whether endpoints see the client's own address; needs CAP_NET_ADMIN, and a way back through this
    /// machine. HTTP is then passed on by connection, not by request. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_source: Option<bool>,
}

/// How the kernel leads connections here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureMode {
    /// REDIRECT.
    #[default]
    Redirect,
    /// TPROXY; needs CAP_NET_ADMIN.
    Tproxy,
}

/// What decides where captured connections go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureTo {
    /// The service that has the address: what a workload sends.
    #[default]
    Service,
    /// Nothing but the address: what comes to a workload.
    Original,
}

/// What becomes of connections to what is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// They are closed.
    #[default]
    Deny,
    /// They go where they were going.
    Allow,
}

impl Capture {
    pub(super) fn read(&self, p: &mut Problems) -> model::CaptureSpec {
        let allow_all = self.unknown == Some(Unknown::Allow);
        if allow_all && !self.allow.is_empty() {
            p.add("capture.allow", "is there beside unknown = \"allow\"", "all is allowed: remove one of them");
        }
        let keep_source = self.keep_source.unwrap_or_default();
        if keep_source && self.mode != Some(CaptureMode::Tproxy) {
            let hint = "what is led by REDIRECT has no way back to it: write mode = \"tproxy\", or remove it";
            p.add("capture.keep_source", "is there without mode = \"tproxy\"", hint);
        }
        model::CaptureSpec {
            mode: match self.mode.unwrap_or_default() {
                CaptureMode::Redirect => model::CaptureMode::Redirect,
                CaptureMode::Tproxy => model::CaptureMode::Tproxy,
            },
            original_only: self.to == Some(CaptureTo::Original),
            allow_all,
            allow: self.allow.iter().map(|network| network.get()).collect(),
            keep_source,
        }
    }

    pub(super) fn write(model: &model::CaptureSpec) -> Self {
        Self {
            mode: Some(match model.mode {
                model::CaptureMode::Redirect => CaptureMode::Redirect,
                model::CaptureMode::Tproxy => CaptureMode::Tproxy,
            }),
            to: Some(if model.original_only { CaptureTo::Original } else { CaptureTo::Service }),
            unknown: Some(if model.allow_all { Unknown::Allow } else { Unknown::Deny }),
            allow: model.allow.iter().map(|(ip, prefix)| Network::new(*ip, *prefix)).collect(),
            keep_source: Some(model.keep_source),
        }
    }
}
