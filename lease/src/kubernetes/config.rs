//! The address of the API server, and the credentials.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper::Uri;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::store::StoreError;

/// The folder that the kubelet mounts into a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The address of an API server, the namespace of the leases, and the credentials.
///
/// In a pod [`in_cluster`](Self::in_cluster) reads all of it. Files of tokens and certificates are read again as they change.
///
/// ```no_run
/// use otel_tasks_lease::{Kubernetes, kubernetes::Config};
/// # fn example() -> Result<(), otel_tasks_lease::StoreError> {
/// let config = Config::new("https://10.0.0.1:6443", "shop").ca_file("ca.crt").token_file("token");
/// let store = Kubernetes::new(config)?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Config {
    pub(super) url: String,
    pub(super) namespace: String,
    ca: Option<Source>,
    pub(super) token: Option<Source>,
    identity: Option<(Source, Source)>,
}

/// A text, or a file that may be replaced.
#[derive(Clone)]
pub(super) enum Source {
    Text(Arc<[u8]>),
    File(PathBuf),
}

impl Source {
    pub(super) fn read(&self) -> io::Result<Arc<[u8]>> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => fs::read(path)
                .map(Arc::from)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }
}

impl Config {
    /// Creates a configuration for the server at an `https` URL. [`ca_pem`](Self::ca_pem) or [`ca_file`](Self::ca_file) is needed, too.
    pub fn new(url: impl Into<String>, namespace: impl Into<String>) -> Self {
        Self { url: url.into(), namespace: namespace.into(), ca: None, token: None, identity: None }
    }

    /// Reads the configuration of a pod: `KUBERNETES_SERVICE_HOST`, `KUBERNETES_SERVICE_PORT`, and the files of its service account.
    ///
    /// # Errors
    /// If a variable or a file is missing: the process does not run in a pod, or the pod has `automountServiceAccountToken: false`.
    pub fn in_cluster() -> Result<Self, StoreError> {
        Self::of_pod(|name| std::env::var(name).ok(), Path::new(SERVICE_ACCOUNT))
    }

    fn of_pod(variable: impl Fn(&str) -> Option<String>, folder: &Path) -> Result<Self, StoreError> {
        let variable =
            |name| variable(name).ok_or_else(|| wrong(format!("{name} is not set: this is no pod")));
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let file = |name| Source::File(folder.join(name));
        let read = |source: &Source| source.read().map_err(|error| wrong(error.to_string()));
        let (ca, token) = (file("ca.crt"), file("token"));
        read(&ca)?;
        read(&token)?;
        let namespace = String::from_utf8_lossy(&read(&file("namespace"))?).trim().to_owned();
        let mut config = Self::new(format!("https://{host}:{port}"), namespace);
        (config.ca, config.token) = (Some(ca), Some(token));
        Ok(config)
    }

    /// Sets the namespace of the objects. Default in a pod: the namespace of the pod.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the certificates, in PEM, that the server's certificate must lead to.
    pub fn ca_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.ca = Some(Source::Text(pem.as_ref().into()));
        self
    }

    /// Sets the file of [`ca_pem`](Self::ca_pem). It is read for each connection.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(Source::File(path.into()));
        self
    }

    /// Sets the bearer token.
    pub fn token(mut self, token: impl AsRef<str>) -> Self {
        self.token = Some(Source::Text(token.as_ref().as_bytes().into()));
        self
    }

    /// Sets the file of the bearer token. It is read each minute, and after it was refused.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(Source::File(path.into()));
        self
    }

    /// Sets the certificate of this client with its chain, and its private key, both in PEM.
    pub fn client_certificate(mut self, pem: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.identity = Some((Source::Text(pem.as_ref().into()), Source::Text(key.as_ref().into())));
        self
    }

    /// Sets the files of [`client_certificate`](Self::client_certificate). They are read for each connection.
    pub fn client_certificate_files(mut self, pem: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((Source::File(pem.into()), Source::File(key.into())));
        self
    }

    /// The server of the URL.
    pub(super) fn server(&self) -> Result<Server, StoreError> {
        let uri: Uri = self.url.parse().map_err(|_| wrong(format!("{} is no URL", self.url)))?;
        let host = uri.host().filter(|_| uri.scheme_str() == Some("https"));
        let host = host.ok_or_else(|| wrong(format!("{} is no https URL with a host", self.url)))?;
        // An address of IPv6 is in brackets there, and nowhere else.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name =
            ServerName::try_from(host.clone()).map_err(|_| wrong(format!("{host} is no name of a host")))?;
        Ok(Server { port: uri.port_u16().unwrap_or(443), host, name })
    }

    /// The URL of the leases of the namespace.
    pub(super) fn leases(&self) -> Result<String, StoreError> {
        let is_letter = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        if self.namespace.is_empty() || !self.namespace.as_bytes().iter().all(is_letter) {
            return Err(wrong(format!("{:?} is no name of a namespace", self.namespace)));
        }
        let url = self.url.trim_end_matches('/');
        Ok(format!("{url}/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace))
    }

    /// The configuration of TLS, with the present contents of the files.
    pub(super) fn tls(&self) -> Result<ClientConfig, StoreError> {
        let ca = self.ca.as_ref().ok_or_else(|| wrong("the certificate of the server's CA is missing"))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("the certificate of the server's CA has no PEM section CERTIFICATE"));
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?
            .with_root_certificates(roots);
        let mut tls = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let pem = key.read().map_err(|error| wrong(error.to_string()))?;
                // The text of this error may not show the key.
                let key = PrivateKeyDer::from_pem_slice(&pem)
                    .map_err(|_| wrong("the client's private key is no PEM"))?;
                builder
                    .with_client_auth_cert(certificates(chain)?, key)
                    .map_err(|error| wrong(error.to_string()))?
            }
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(tls)
    }
}

/// The end of a connection.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) name: ServerName<'static>,
}

fn certificates(source: &Source) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let pem = source.read().map_err(|error| wrong(error.to_string()))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(format!("a certificate is no PEM: {error}")))
}

fn wrong(text: impl Into<String>) -> StoreError {
    StoreError::new("config", text.into())
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without what is secret.
        f.debug_struct("Config")
            .field("url", &self.url)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The folder of a service account, removed when it is dropped.
    struct Account(PathBuf);

    impl Account {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("otel-tasks-account-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).expect("a temporary folder");
            for (file, text) in [("ca.crt", "a certificate"), ("token", "first\n"), ("namespace", "shop\n")] {
                fs::write(folder.join(file), text).expect("written");
            }
            Self(folder)
        }
    }

    impl Drop for Account {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn pod<'a>(host: &'a str, port: &'a str) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| match name {
            "KUBERNETES_SERVICE_HOST" => Some(host.to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some(port.to_owned()),
            _ => None,
        }
    }

    #[test]
    fn a_pod_knows_its_server_and_its_namespace() {
        let account = Account::new("pod");
        for (host, url) in [("10.0.0.1", "https://10.0.0.1:443"), ("fd00::1", "https://[fd00::1]:443")] {
            let config = Config::of_pod(pod(host, "443"), &account.0).expect("a pod");
            let leases = format!("{url}/apis/coordination.k8s.io/v1/namespaces/shop/leases");
            assert_eq!(config.leases().expect("valid"), leases);
            let server = config.server().expect("valid");
            assert_eq!((server.host.as_str(), server.port), (host, 443));
            assert!(matches!(server.name, ServerName::IpAddress(_)));
        }
    }

    #[test]
    fn a_token_that_the_kubelet_replaces_is_the_new_one() {
        let account = Account::new("rotation");
        let config = Config::of_pod(pod("10.0.0.1", "443"), &account.0).expect("a pod");
        let read = || config.token.as_ref().expect("set").read().expect("a file");
        assert_eq!(&*read(), b"first\n");
        fs::write(account.0.join("token"), "second\n").expect("written");
        assert_eq!(&*read(), b"second\n");
    }

    #[test]
    fn outside_of_a_pod_the_error_names_what_is_missing() {
        let account = Account::new("missing");
        let text = |result: Result<Config, StoreError>| {
            std::error::Error::source(&result.expect_err("no pod")).expect("a source").to_string()
        };
        assert!(text(Config::of_pod(|_| None, &account.0)).contains("KUBERNETES_SERVICE_HOST"));
        fs::remove_file(account.0.join("token")).expect("removed");
        let without = Config::of_pod(pod("10.0.0.1", "443"), &account.0);
        assert!(text(without).contains("token"));
    }

    #[test]
    fn nothing_secret_is_shown() {
        let config =
            Config::new("https://10.0.0.1", "shop").token("secret").client_certificate("secret", "secret");
        assert!(!format!("{config:?}").contains("secret"));
    }
}
