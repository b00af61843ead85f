//! Whom the client trusts, and who it says it is.

use std::sync::Arc;

use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    client::WebPkiServerVerifier,
    client::danger::ServerCertVerifier,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use rustls_platform_verifier::Verifier;

/// What the builder was given.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    /// Authorities beside those of the system, in PEM.
    pub(crate) roots: Vec<Vec<u8>>,
    /// The client's own certificate chain and key, in PEM.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Tls {
    /// For a service without TLS: a system without authorities is no error, and reqwest must not look for a provider of
    /// the whole process.
    pub(crate) fn unused() -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| format!("TLS cannot be set up: {error}"))?;
        Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
    }

    /// The configuration; the error is a sentence.
    pub(crate) fn config(&self) -> Result<ClientConfig, String> {
        let mut roots = Vec::new();
        for pem in &self.roots {
            let found = certificates(pem).map_err(|error| format!("a root certificate cannot be read: {error}"))?;
            roots.extend(found);
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let config = config.map_err(|error| format!("TLS cannot be set up: {error}"))?;
        let config = config.dangerous().with_custom_certificate_verifier(verifier(roots, provider)?);
        match &self.identity {
            None => Ok(config.with_no_client_auth()),
            Some((chain, key)) => {
                let unreadable = |error| format!("the client certificate cannot be read: {error}");
                let chain = certificates(chain).map_err(unreadable)?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unreadable(error.to_string()))?;
                config.with_client_auth_cert(chain, key).map_err(|error| format!("the client certificate: {error}"))
            }
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("there is no certificate in the PEM text".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}

/// The system's authorities and those that were given; on a system without any, those alone.
fn verifier(
    roots: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let system = Verifier::new_with_extra_roots(roots.clone(), Arc::clone(&provider));
    match system {
        Ok(verifier) => Ok(Arc::new(verifier)),
        Err(error) if roots.is_empty() => Err(format!("the system has no certificate authorities: {error}")),
        Err(_) => {
            let mut store = RootCertStore::empty();
            for root in roots {
                store.add(root).map_err(|error| format!("a root certificate is not usable: {error}"))?;
            }
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build();
            Ok(verifier.map_err(|error| format!("the root certificates: {error}"))?)
        }
    }
}

/// What a failure says about certificates, if it is about them.
pub(crate) fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(reason)) => {
                return Some(format!(
                    "the certificate of the service is not trusted ({reason:?}): check the address, or give the \
                     builder its authority with `root_certificate`"
                ));
            }
            Some(rustls::Error::AlertReceived(
                alert @ (AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired),
            )) => {
                return Some(format!(
                    "the service does not accept this client ({alert:?}): give the builder a certificate that it \
                     knows with `client_certificate`"
                ));
            }
            _ => {}
        }
        // What an I/O error was made from is not its source.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    None
}
