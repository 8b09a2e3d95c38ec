//! Why a message is refused: a closed list, each with its status and reason code.

/// Why a message was refused; each has one status and one reason code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Reject {
    /// The start line is not `method SP target SP version` (RFC 9112 §3) or a status line (§4).
    #[error("malformed start line")]
    StartLine,
    /// The version is not HTTP/1.x.
    #[error("unsupported HTTP version")]
    Version,
    /// The target has no accepted form (RFC 9112 §3.2).
    #[error("malformed request target")]
    Target,
    /// The target is longer than its limit.
    #[error("request target too long")]
    TargetTooLong,
    /// CONNECT is not offered.
    #[error("CONNECT is not allowed")]
    Connect,
    /// The head is longer than its limit.
    #[error("head too large")]
    HeadTooLarge,
    /// More fields than the limit.
    #[error("too many header fields")]
    TooManyFields,
    /// A line does not end in CRLF (RFC 9112 §2.2).
    #[error("a line must end in CRLF")]
    LineEnd,
    /// A folded line (RFC 9112 §5.2), or a blank before the first field.
    #[error("folded header line")]
    Fold,
    /// A field name is empty, no token, or followed by a blank (RFC 9112 §5.1).
    #[error("malformed header name")]
    FieldName,
    /// A field name has an underscore, which some servers read as a hyphen.
    #[error("underscore in header name")]
    Underscore,
    /// A control character in a field value (RFC 9110 §5.5).
    #[error("control character in header value")]
    FieldValue,
    /// Host is missing, repeated or malformed (RFC 9112 §3.2).
    #[error("missing, repeated or malformed Host")]
    Host,
    /// Content-Length is repeated or no plain decimal number (RFC 9110 §8.6).
    #[error("malformed Content-Length")]
    ContentLength,
    /// Transfer-Encoding is repeated or malformed (RFC 9112 §6.1).
    #[error("malformed Transfer-Encoding")]
    TransferEncoding,
    /// Content-Length and Transfer-Encoding in one message (RFC 9112 §6.1).
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    /// A well-formed transfer coding other than `chunked` (RFC 9112 §6.1).
    #[error("unknown transfer coding")]
    UnknownCoding,
    /// An expectation other than `100-continue` (RFC 9110 §10.1.1).
    #[error("unknown expectation")]
    Expectation,
    /// Malformed chunked framing (RFC 9112 §7.1).
    #[error("malformed chunk")]
    Chunk,
    /// Malformed or oversized trailer section (RFC 9112 §7.1.2).
    #[error("malformed trailer")]
    Trailer,
    /// The body is longer than its limit.
    #[error("body too large")]
    BodyTooLarge,
}

impl Reject {
    /// Returns the status that a client is answered.
    pub fn status(self) -> u16 {
        match self {
            Self::Connect => 405,
            Self::BodyTooLarge => 413,
            Self::TargetTooLong => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::UnknownCoding => 501,
            Self::Version => 505,
            _ => 400,
        }
    }

    /// Returns the reason code for the `weir-reason` header, logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::StartLine => "start_line",
            Self::Version => "version",
            Self::Target => "target",
            Self::TargetTooLong => "target_too_long",
            Self::Connect => "connect",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
            Self::LineEnd => "line_end",
            Self::Fold => "fold",
            Self::FieldName => "field_name",
            Self::Underscore => "underscore",
            Self::FieldValue => "field_value",
            Self::Host => "host",
            Self::ContentLength => "cl_value",
            Self::TransferEncoding => "te_value",
            Self::LengthAndCoding => "cl_te",
            Self::UnknownCoding => "te_unknown",
            Self::Expectation => "expectation",
            Self::Chunk => "chunk",
            Self::Trailer => "trailer",
            Self::BodyTooLarge => "body_too_large",
        }
    }
}
