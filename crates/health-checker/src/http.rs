//! What an `http` or `https` probe asks.

use std::ops::RangeInclusive;

pub use hyper::http::uri::{Authority, PathAndQuery};

use crate::{
    script::Expect,
    tls::{Tls, TlsError, TlsSettings, Versions},
};

/// The request method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// `GET`
    #[default]
    Get,
    /// `HEAD`
    Head,
}

impl Method {
    /// As it stands in the request and in the config.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

/// A request and the answers that are good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The request method.
    pub method: Method,
    /// Path, and query if any.
    pub path: PathAndQuery,
    /// The header field Host. Default: the address that is asked.
    pub host: Option<Authority>,
    /// The status must be in one of these. Redirects are not followed.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the first 64 KiB of the body must contain; [`Expect::Anything`] leaves the body unread.
    pub body: Expect,
    /// `https`.
    pub tls: Option<Tls>,
}

impl Default for Http {
    fn default() -> Self {
        let path = PathAndQuery::from_static("/");
        Self { method: Method::Get, path, host: None, status: vec![200..=399], body: Expect::Anything, tls: None }
    }
}

impl Http {
    /// The same over TLS. Without a server name in `settings` that of `host` is used, if there is one.
    pub fn over_tls(mut self, mut settings: TlsSettings) -> Result<Self, TlsError> {
        if let Some(host) = &self.host {
            // An IPv6 address stands in brackets in a Host field, and nowhere else.
            let host = host.host().trim_matches(['[', ']']).to_owned();
            settings.server_name = settings.server_name.or_else(|| host.try_into().ok());
        }
        self.tls = Some(Tls::load(settings, vec![b"http/1.1".to_vec()], Versions::Usual)?);
        Ok(self)
    }
}
