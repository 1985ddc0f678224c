//! TLS on ring, with the system's root certificates or those of the settings.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::otlp::settings::{OtlpSettings, Warning, WarningKind, shown_path};

/// Whom https endpoints are trusted by.
#[derive(Default)]
pub(super) struct Trusts {
    /// The problems of the files of the settings.
    pub(super) warnings: Vec<Warning>,
    /// The system's root certificates, once they have been needed.
    system: Option<RootCertStore>,
}

struct Trust {
    roots: RootCertStore,
    identity: Option<PemIdentity>,
}

#[derive(Clone)]
struct PemIdentity {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl PemIdentity {
    fn parsed(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rustls::pki_types::pem::Error> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_slice(&self.key)?))
    }
}

impl Trusts {
    #[cfg(feature = "otlp-grpc")]
    pub(super) fn grpc(&mut self, settings: &OtlpSettings) -> tonic::transport::ClientTlsConfig {
        let trust = self.trust(settings);
        // The default has no roots at all, so that every handshake would fail.
        let tls = tonic::transport::ClientTlsConfig::new().trust_anchors(trust.roots.roots);
        match trust.identity {
            Some(PemIdentity { certificate, key }) => {
                tls.identity(tonic::transport::Identity::from_pem(certificate, key))
            }
            None => tls,
        }
    }

    pub(super) fn http(
        &mut self,
        settings: &OtlpSettings,
        is_tls: bool,
    ) -> Result<rustls::ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
        // Plain HTTP needs no roots, and reading the system's takes milliseconds.
        rustls_config(match is_tls {
            true => self.trust(settings),
            false => Trust { roots: RootCertStore::empty(), identity: None },
        })
    }

    fn file(&mut self, variable: &str, path: &Path, used: &str) -> Option<Vec<u8>> {
        match std::fs::read(path) {
            Ok(pem) => Some(pem),
            Err(error) => {
                self.warn(variable, path, format!("{used} ({error})"));
                None
            }
        }
    }

    fn warn(&mut self, variable: &str, path: &Path, used: String) {
        let (variable, value) = (variable.to_owned(), shown_path(&path.display().to_string()));
        self.warnings.push(Warning { variable, value, kind: WarningKind::Malformed, used });
    }

    /// Whom an https endpoint is trusted by and who we are to it, as far as the files of the settings can be read.
    fn trust(&mut self, settings: &OtlpSettings) -> Trust {
        let roots = settings.certificate.as_ref().and_then(|(variable, path)| self.authority(variable, path));
        let roots = roots.unwrap_or_else(|| self.system_roots());
        let identity = settings
            .identity
            .as_ref()
            .and_then(|(variable, certificate, key)| self.identity(variable, certificate, key));
        Trust { roots, identity }
    }

    fn authority(&mut self, variable: &str, path: &Path) -> Option<RootCertStore> {
        let used = "the system's roots are used";
        let pem = self.file(variable, path, used)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem).flatten() {
            // What cannot be parsed is as good as missing.
            let _ = roots.add(certificate);
        }
        if roots.is_empty() {
            self.warn(variable, path, format!("{used} (no certificate in it)"));
            return None;
        }
        Some(roots)
    }

    fn identity(&mut self, variable: &str, certificate: &Path, key: &Path) -> Option<PemIdentity> {
        let used = "no client certificate is used";
        let identity = PemIdentity {
            certificate: self.file(variable, certificate, used)?,
            key: self.file(&variable.replace("CLIENT_CERTIFICATE", "CLIENT_KEY"), key, used)?,
        };
        // Also a key that is another certificate's.
        let tried = Trust { roots: RootCertStore::empty(), identity: Some(identity.clone()) };
        if let Err(error) = rustls_config(tried) {
            self.warn(variable, certificate, format!("{used} ({error})"));
            return None;
        }
        Some(identity)
    }

    fn system_roots(&mut self) -> RootCertStore {
        if let Some(roots) = &self.system {
            return roots.clone();
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            self.warnings.push(Warning {
                variable: "OTEL_EXPORTER_OTLP_CERTIFICATE".to_owned(),
                value: String::new(),
                kind: WarningKind::Suspicious,
                used: "the system has no root certificates, so no https endpoint is trusted".to_owned(),
            });
        }
        self.system.insert(roots).clone()
    }
}

/// A client configuration on the process's crypto provider, or on ring where there is none.
fn rustls_config(trust: Trust) -> Result<rustls::ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = rustls::crypto::CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()));
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(trust.roots);
    Ok(match trust.identity {
        Some(identity) => {
            let (chain, key) = identity.parsed()?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    })
}
