//! TLS as probes speak it: whom they trust and what they call the server. Everything is loaded here, before the first probe.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
};

pub use rustls::pki_types::ServerName;

/// TLS as the config has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Sent as SNI unless it is an address, and what the certificate must be for. Default: the endpoint's address.
    pub server_name: Option<ServerName<'static>>,
    /// A PEM file of the certificates to trust in place of the system's.
    pub ca: Option<PathBuf>,
    /// Whether the certificate is looked at; without, any server will do.
    pub verify: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self { server_name: None, ca: None, verify: true }
    }
}

/// TLS that is ready for use.
#[derive(Debug, Clone)]
pub struct Tls {
    settings: TlsSettings,
    config: Arc<ClientConfig>,
}

/// Equal if configured alike; what the files said when they were loaded does not count.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && self.config.alpn_protocols == other.config.alpn_protocols
    }
}

impl Eq for Tls {}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read the certificates in {}: {source}", path.display())]
    Read {
        /// As configured.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is there, and is not what it should be.
    #[error("cannot use the certificates in {}: {cause}", path.display())]
    Content {
        /// As configured.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// The system trusts nobody.
    #[error("this host has no trusted certificates{}", cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default())]
    NoSystemRoots {
        /// Why, if there was an error.
        cause: Option<String>,
    },
    /// The crypto provider does not do what is asked of it.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// The versions of TLS that a probe speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Versions {
    /// 1.2 and 1.3.
    Usual,
    /// 1.3, as QUIC has it.
    Quic,
}

impl Tls {
    /// Loads what `settings` name. `alpn` are the protocols offered, in order of preference.
    pub(crate) fn load(settings: TlsSettings, alpn: Vec<Vec<u8>>, versions: Versions) -> Result<Self, TlsError> {
        // Named, not the process's default, which is for the binary to choose and may not be chosen yet.
        let provider = Arc::new(ring::default_provider());
        let versions = match versions {
            Versions::Usual => rustls::DEFAULT_VERSIONS,
            Versions::Quic => &[&rustls::version::TLS13],
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
        let builder = if settings.verify {
            builder.with_root_certificates(roots(settings.ca.as_deref())?)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustAnyone(provider)))
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = alpn;
        // A resumed session shows no certificate: one that has expired since would go unnoticed.
        config.resumption = Resumption::disabled();
        Ok(Self { settings, config: Arc::new(config) })
    }

    /// As configured.
    pub fn settings(&self) -> &TlsSettings {
        &self.settings
    }

    /// What the library needs.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// What to call the server at `ip`.
    pub(crate) fn server_name(&self, ip: IpAddr) -> ServerName<'static> {
        self.settings.server_name.clone().unwrap_or_else(|| ServerName::IpAddress(ip.into()))
    }
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    match ca {
        Some(path) => roots_of_file(path),
        None => roots_of_system(),
    }
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, TlsError> {
    let content = |cause: String| TlsError::Content { path: path.to_owned(), cause };
    // Reading from a device or a pipe may never end.
    if path.exists() && !path.is_file() {
        return Err(content("it is not a file".to_owned()));
    }
    let bytes = std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| content(error.to_string()))?;
        store.add(certificate).map_err(|error| content(error.to_string()))?;
    }
    if store.is_empty() { Err(content("it holds no certificate in PEM form".to_owned())) } else { Ok(store) }
}

fn roots_of_system() -> Result<RootCertStore, TlsError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Stores of real systems hold oddities; one that cannot be used is one that nothing is signed by.
    store.add_parsable_certificates(loaded.certs);
    if store.is_empty() {
        return Err(TlsError::NoSystemRoots { cause: loaded.errors.first().map(ToString::to_string) });
    }
    Ok(store)
}

/// Takes any certificate. The handshake still proves that the server has its key.
#[derive(Debug)]
struct TrustAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
