//! The DNS wire format as functions on byte slices: no socket, no clock, no allocation per message.
//!
//! [`Query::parse`] reads the common shape of a question strictly and says what to do with everything else; [`Answer`]
//! encodes into the caller's buffer. Names are wire names: length-prefixed labels with the final root. Usable by `table`
//! (records kept encoded) and `dns` (questions and answers). Invariant: no input makes it panic or read past its end.
//! Follows RFC 1035 §4, RFC 2181, RFC 2308, RFC 6891, RFC 9619; the next file on a query's path is `dns/handler.rs`.

mod answer;
mod name;
mod query;
pub mod record;
mod ttl;

pub use answer::{Answer, HEADER_BYTES, OWNER_IS_QUESTION, Section, reject};
pub use name::{MAX_NAME_BYTES, address_of_reverse, labels, lower_into, parse_name, skip_label};
pub use query::{Edns, Parsed, Query, REPLY_COOKIE_BYTES};
pub use ttl::least_ttl;

/// Type codes that are answered here (IANA registry "Resource Record (RR) TYPEs").
pub mod rtype {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Name server of the zone.
    pub const NS: u16 = 2;
    /// Another name, RFC 1034 §3.6.2.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Name of an address.
    pub const PTR: u16 = 12;
    /// Host information; the minimal answer to ANY, RFC 8482 §4.2.
    pub const HINFO: u16 = 13;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Service with port, RFC 2782.
    pub const SRV: u16 = 33;
    /// How a service is reached by HTTPS, RFC 9460.
    pub const HTTPS: u16 = 65;
    /// EDNS, RFC 6891.
    pub const OPT: u16 = 41;
    /// Any type, RFC 8482.
    pub const ANY: u16 = 255;
}

/// Class codes.
pub mod class {
    /// Internet.
    pub const IN: u16 = 1;
    /// Chaos: the server about itself.
    pub const CH: u16 = 3;
}

/// Response codes; those above 15 need EDNS.
pub mod rcode {
    /// No error; without an answer record: no data of that type.
    pub const NOERROR: u16 = 0;
    /// The message could not be read.
    pub const FORMERR: u16 = 1;
    /// The server cannot answer now.
    pub const SERVFAIL: u16 = 2;
    /// The name does not exist.
    pub const NXDOMAIN: u16 = 3;
    /// The operation is not implemented.
    pub const NOTIMP: u16 = 4;
    /// The server will not answer this.
    pub const REFUSED: u16 = 5;
    /// The key of a signature is not known, RFC 8945 §5.2.1.
    pub const NOTAUTH: u16 = 9;
    /// The EDNS version is not known, RFC 6891 §6.1.3.
    pub const BADVERS: u16 = 16;
    /// The server's part of a cookie is missing or not good, RFC 7873 §5.2.
    pub const BADCOOKIE: u16 = 23;
}
