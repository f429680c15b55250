//! What a `quic` probe asks: a whole handshake, ended by a CONNECTION_CLOSE.

use std::sync::Arc;

use quinn_proto::{ClientConfig, EndpointConfig, TransportConfig, crypto::rustls::QuicClientConfig};

use crate::tls::{Tls, TlsError, TlsSettings, Versions};

/// A QUIC handshake.
#[derive(Debug, Clone)]
pub struct Quic {
    tls: Tls,
    client: ClientConfig,
    endpoint: Arc<EndpointConfig>,
}

/// Equal if configured alike.
impl PartialEq for Quic {
    fn eq(&self, other: &Self) -> bool {
        self.tls == other.tls
    }
}

impl Eq for Quic {}

/// Why there is no such probe.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// A server would not know what to speak.
    #[error("a quic probe must offer a protocol")]
    NoProtocol,
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The crypto provider lacks the cipher suite that QUIC begins with.
    #[error("cannot set up QUIC: no cipher suite for its first packets")]
    NoInitialCipherSuite,
}

impl Quic {
    /// A handshake that offers `alpn`, in order of preference.
    pub fn new(settings: TlsSettings, alpn: Vec<Vec<u8>>) -> Result<Self, QuicError> {
        if alpn.is_empty() {
            return Err(QuicError::NoProtocol);
        }
        let tls = Tls::load(settings, alpn, Versions::Quic)?;
        let crypto = QuicClientConfig::try_from(tls.config()).map_err(|_| QuicError::NoInitialCipherSuite)?;
        let mut client = ClientConfig::new(Arc::new(crypto));
        let mut transport = TransportConfig::default();
        // A handshake needs no larger packets than its first, and no more of them than it has.
        transport.mtu_discovery_config(None).enable_segmentation_offload(false);
        client.transport_config(Arc::new(transport));
        Ok(Self { tls, client, endpoint: Arc::new(EndpointConfig::default()) })
    }

    /// TLS as configured.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The protocols offered.
    pub fn alpn(&self) -> Vec<Vec<u8>> {
        self.tls.config().alpn_protocols.clone()
    }

    /// What the library needs: of each connection, and of its end.
    pub(crate) fn configs(&self) -> (ClientConfig, Arc<EndpointConfig>) {
        (self.client.clone(), Arc::clone(&self.endpoint))
    }
}
