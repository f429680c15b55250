//! What a group's probes ask: the keys of `health_check` that depend on its `protocol`.

use std::path::PathBuf;

use health_checker::{
    Exchange, Expect, ProbeKind,
    http::Http,
    preset::{DnsName, Preset, Protocol},
    quic::{Quic, QuicError},
    tls::{TlsError, TlsSettings},
};

use super::{
    diagnostic::{Fault, Mark, one_of},
    probe_values as values,
    reader::{Item, Report, Section},
    values::{boolean, choice},
};

/// The word of `protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Tcp,
    Udp,
    Http,
    Https,
    Quic,
    A2s,
    Stun,
    SipOptions,
    Mqtt,
    Dns,
}
use Speaks::{A2s, Dns, Http as PlainHttp, Https, Mqtt, Quic as QuicHandshake, SipOptions, Stun, Tcp, Udp};

const WORDS: [(&str, Speaks); 10] = [
    ("tcp", Tcp),
    ("udp", Udp),
    ("http", PlainHttp),
    ("https", Https),
    ("quic", QuicHandshake),
    ("a2s", A2s),
    ("stun", Stun),
    ("sip_options", SipOptions),
    ("mqtt", Mqtt),
    ("dns", Dns),
];

/// Which protocols have which key.
const KEYS: [(&str, &[Speaks]); 12] = [
    ("send", &[Tcp, Udp]),
    ("expect", &[Tcp, Udp, PlainHttp, Https]),
    ("path", &[PlainHttp, Https]),
    ("method", &[PlainHttp, Https]),
    ("host", &[PlainHttp, Https]),
    ("status", &[PlainHttp, Https]),
    ("server_name", &[Https, QuicHandshake]),
    ("ca", &[Https, QuicHandshake]),
    ("verify", &[Https, QuicHandshake]),
    ("alpn", &[QuicHandshake]),
    ("transport", &[A2s, Stun, SipOptions, Mqtt, Dns]),
    ("query", &[Dns]),
];

/// What is asked, as read.
pub(super) struct RawProbe {
    /// Whether the file names the protocol.
    pub(super) named: bool,
    /// `None` if it could not be read.
    pub(super) kind: Option<ProbeKind>,
}

/// The keys that are there, each asked for once.
struct Keys<'a> {
    items: Vec<(&'static str, Item<'a>)>,
    /// Where absent ones would stand.
    section: Mark,
    report: &'a Report,
}

/// Reads `protocol` and the keys that belong to it; refuses those that belong to another.
pub(super) fn read(section: &mut Section<'_>, report: &Report) -> RawProbe {
    let protocol = section.item("protocol");
    let named = protocol.is_some();
    let speaks = match protocol {
        Some(item) => item.read(|item| choice(item, &WORDS, &[])),
        None => Some(Tcp),
    };
    let section_at = section.at.clone();
    let items: Vec<_> = KEYS.iter().filter_map(|&(key, _)| Some((key, section.item(key)?))).collect();
    // Which keys belong here nobody knows who cannot read the protocol.
    let Some(speaks) = speaks else { return RawProbe { named, kind: None } };
    let (items, strange): (Vec<_>, Vec<_>) = items.into_iter().partition(|(key, _)| belongs(key, speaks));
    for (key, item) in &strange {
        let owners = KEYS.iter().find(|(owned, _)| owned == key).map_or(&[][..], |(_, owners)| owners);
        let cure = format!("remove it, or write protocol = {}", one_of(owners.iter().map(|&owner| word(owner))));
        report.error(&item.at, Fault::new(format!("a probe of protocol {:?} has no {key}", word(speaks)), cure));
    }
    let keys = Keys { items, section: section_at, report };
    RawProbe { named, kind: keys.kind(speaks).filter(|_| strange.is_empty()) }
}

fn belongs(key: &str, speaks: Speaks) -> bool {
    KEYS.iter().any(|(owned, owners)| *owned == key && owners.contains(&speaks))
}

fn word(speaks: Speaks) -> &'static str {
    WORDS.iter().find(|(_, known)| *known == speaks).map_or("", |(word, _)| word)
}

impl<'a> Keys<'a> {
    fn item(&self, key: &str) -> Option<&Item<'a>> {
        self.items.iter().find(|(name, _)| *name == key).map(|(_, item)| item)
    }

    fn mark(&self, key: &str) -> Mark {
        let absent = || Mark { key: format!("{}.{key}", self.section.key), line: self.section.line };
        self.item(key).map_or_else(absent, |item| item.at.clone())
    }

    /// The value of `key`, or `default` if it is absent; `None` if it is wrong and reported.
    fn get<T>(&self, key: &str, default: T, parse: impl FnOnce(&Item<'a>) -> Result<T, Fault>) -> Option<T> {
        self.item(key).map_or(Some(default), |item| item.read(parse))
    }

    fn kind(&self, speaks: Speaks) -> Option<ProbeKind> {
        match speaks {
            Tcp => self.exchange().map(ProbeKind::Tcp),
            Udp => self.exchange().map(ProbeKind::Udp),
            PlainHttp => self.http().map(|http| ProbeKind::Http(Box::new(http))),
            Https => {
                let (http, tls) = (self.http(), self.tls());
                let http = http?.over_tls(tls?).map_err(|error| self.refuse_tls(&error)).ok()?;
                Some(ProbeKind::Http(Box::new(http)))
            }
            QuicHandshake => self.quic().map(|quic| ProbeKind::Quic(Box::new(quic))),
            A2s => self.preset(Protocol::A2s),
            Stun => self.preset(Protocol::Stun),
            SipOptions => self.preset(Protocol::SipOptions),
            Mqtt => self.preset(Protocol::Mqtt),
            Dns => self.preset(Protocol::Dns(self.get("query", DnsName::root(), values::dns_name)?)),
        }
    }

    fn exchange(&self) -> Option<Exchange> {
        let send = self.item("send").map_or(Some(Vec::new()), values::send);
        let expect = self.item("expect").map_or(Some(Expect::Anything), values::expect);
        Some(Exchange::new(send?, expect?))
    }

    fn http(&self) -> Option<Http> {
        let default = Http::default();
        // All before the first `?`, so that every mistake is told.
        let path = self.get("path", default.path, values::path);
        let method = self.get("method", default.method, values::method);
        let host = self.get("host", None, |item| values::host(item).map(Some));
        let status = self.item("status").map_or(Some(default.status), values::statuses);
        let body = self.item("expect").map_or(Some(Expect::Anything), values::expect);
        Some(Http { path: path?, method: method?, host: host?, status: status?, body: body?, tls: None })
    }

    fn tls(&self) -> Option<TlsSettings> {
        let server_name = self.get("server_name", None, |item| values::server_name(item).map(Some));
        let ca: Option<Option<PathBuf>> = self.get("ca", None, |item| values::ca(item).map(Some));
        let verify = self.get("verify", true, boolean);
        let (server_name, ca, verify) = (server_name?, ca?, verify?);
        if !verify {
            if ca.is_some() {
                let reason = "verify = false looks at no certificate, so there is nothing to trust";
                self.report.error(&self.mark("ca"), Fault::new(reason, "remove ca, or remove verify"));
                return None;
            }
            let reason = "any server passes for the endpoint, because its certificate is not looked at";
            let cure = "write ca = \"/path/to/ca.pem\" with the certificate to trust in place of verify = false";
            self.report.warn(&self.mark("verify"), Fault::new(reason, cure));
        }
        Some(TlsSettings { server_name, ca, verify })
    }

    fn quic(&self) -> Option<Quic> {
        const CURE: &str = "write what the service speaks, such as alpn = [\"h3\"]";
        let tls = self.tls();
        let Some(alpn) = self.item("alpn") else {
            let reason = "a quic probe must offer a protocol";
            self.report.absent(&self.mark("alpn"), Fault::new(reason, CURE));
            return None;
        };
        let alpn = values::alpn(alpn)?;
        match Quic::new(tls?, alpn) {
            Ok(quic) => return Some(quic),
            Err(QuicError::Tls(error)) => self.refuse_tls(&error),
            Err(error) => self.report.error(&self.mark("alpn"), Fault::new(error.to_string(), CURE)),
        }
        None
    }

    fn refuse_tls(&self, error: &TlsError) {
        let cure = match error {
            TlsError::Read { .. } | TlsError::Content { .. } => {
                "name a file that this user may read, with the certificates to trust in PEM form"
            }
            TlsError::NoSystemRoots { .. } => {
                "install ca-certificates, or write ca = \"/path/to/ca.pem\" with the certificate to trust"
            }
            TlsError::Setup(_) => "use a build of landfall with its usual TLS library",
        };
        self.report.error(&self.mark("ca"), Fault::new(error.to_string(), cure));
    }

    fn preset(&self, protocol: Protocol) -> Option<ProbeKind> {
        let possible = protocol.transports();
        let transport = self.get("transport", None, |item| values::transport(item).map(Some))?;
        match Preset::new(protocol, transport) {
            Ok(preset) => Some(ProbeKind::Preset(preset)),
            Err(error) => {
                let cure = format!("write {}", one_of(possible.iter().map(|transport| transport.as_str())));
                self.report.error(&self.mark("transport"), Fault::new(error.to_string(), cure));
                None
            }
        }
    }
}
