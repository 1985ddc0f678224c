//! An API server of the test's own on Debian's etcd: a temporary folder, authorities and users of its own, stopped by their pids.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use otel_tasks_lease::{Kubernetes, kubernetes::Config};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_json::{Value, json};

use crate::guarded::{Folder, Guarded, free_port, shared, wait_until};

/// The namespace of the leases.
pub(crate) const NAMESPACE: &str = "shop";
/// The token of the user whom RBAC permits what the store needs.
pub(crate) const SHOP: &str = "token-of-shop";
/// The token of a user whom RBAC permits what is given to it in a test.
pub(crate) const GUEST: &str = "token-of-guest";
/// The token of a user who may do everything.
pub(crate) const ADMIN: &str = "token-of-admin";
/// The token of a user whose requests the server refuses to serve: it limits its load.
pub(crate) const BUSY: &str = "token-of-busy";
/// The verbs that the store needs, as `docs/fleet.md` has them.
pub(crate) const VERBS: [&str; 4] = ["create", "get", "update", "watch"];

/// The store of these tests.
pub(crate) type Store = Kubernetes;

/// A store by the address of a cluster.
pub(crate) fn open(address: &str) -> Store {
    let words: Vec<&str> = address.split(' ').collect();
    let [url, ca, token] = words[..] else { panic!("{address} is not an address") };
    Kubernetes::new(Config::new(url, NAMESPACE).ca_file(ca).token(token)).expect("valid")
}

/// A cluster without nodes, stopped and removed when it is dropped.
pub(crate) struct Cluster {
    // Stopped before its store is.
    server: Mutex<Option<Guarded>>,
    etcd: Mutex<Option<Guarded>>,
    etcd_port: u16,
    folder: Folder,
    pub(crate) port: u16,
}

impl Cluster {
    /// The cluster that the tests share while at least one of them uses it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        shared(&SHARED, Self::start)
    }

    /// Starts a cluster that has the namespace, and a user who may use leases in it.
    pub(crate) fn start() -> Self {
        let cluster = Self {
            server: Mutex::new(None),
            etcd: Mutex::new(None),
            etcd_port: free_port(),
            folder: Folder::new(),
            port: free_port(),
        };
        cluster.certify();
        let users =
            format!("{ADMIN},admin,1,\"system:masters\"\n{SHOP},shop,2\n{GUEST},guest,3\n{BUSY},busy,4\n");
        fs::write(cluster.file("users.csv"), users).expect("written");
        cluster.start_etcd();
        cluster.serve();
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
        cluster.make("/api/v1/namespaces", &namespace);
        cluster.permit("shop", &VERBS);
        cluster.wait_for(SHOP);
        cluster
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a path of text").to_owned()
    }

    /// The authority, the certificates of the server and of a client, and the key that signs tokens.
    fn certify(&self) {
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "otel-tasks tests");
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().expect("a key")).expect("an authority");
        fs::write(self.file("ca.crt"), ca.pem()).expect("written");
        let write = |name: &str, parameters: CertificateParams| {
            let key = KeyPair::generate().expect("a key");
            let certificate = parameters.signed_by(&key, &ca).expect("a certificate");
            fs::write(self.file(&format!("{name}.crt")), certificate.pem()).expect("written");
            fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).expect("written");
        };
        let names = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
        let mut server = CertificateParams::new(names).expect("parameters");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        write("server", server);
        let mut client = CertificateParams::new(Vec::new()).expect("parameters");
        client.distinguished_name = rcgen::DistinguishedName::new();
        client.distinguished_name.push(DnType::CommonName, "shop");
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        write("shop", client);
        let key = KeyPair::generate().expect("a key");
        fs::write(self.file("tokens.key"), key.serialize_pem()).expect("written");
        fs::write(self.file("tokens.pub"), key.public_key_pem()).expect("written");
    }

    fn run(&self, program: &Path, arguments: &[String], log: &str) -> Guarded {
        let mut command = Command::new("sh");
        command.current_dir(self.folder.path()).env_clear().env("PATH", "/usr/bin:/bin");
        let arguments = arguments.iter().map(String::as_str);
        Guarded::start(command, "-KILL", program, arguments, &self.folder.path().join(log))
    }

    fn start_etcd(&self) {
        let (clients, peers) =
            (format!("http://127.0.0.1:{}", self.etcd_port), format!("http://127.0.0.1:{}", free_port()));
        let arguments = [
            format!("--data-dir={}", self.file("etcd")),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
            "--log-level=warn".to_owned(),
        ];
        let etcd = Path::new("/usr/bin/etcd");
        assert!(etcd.exists(), "these tests need etcd: apt-get install etcd-server");
        *self.etcd.lock().expect("no panic") = Some(self.run(etcd, &arguments, "etcd.log"));
    }

    /// Starts the API server, and waits until it answers.
    pub(crate) fn serve(&self) {
        let arguments = [
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            format!("--cert-dir={}", self.file("certificates")),
            format!("--tls-cert-file={}", self.file("server.crt")),
            format!("--tls-private-key-file={}", self.file("server.key")),
            format!("--client-ca-file={}", self.file("ca.crt")),
            format!("--token-auth-file={}", self.file("users.csv")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", self.file("tokens.pub")),
            format!("--service-account-signing-key-file={}", self.file("tokens.key")),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        let server = self.run(&api_server(), &arguments, "server.log");
        *self.server.lock().expect("no panic") = Some(server);
        wait_until(|| self.ask(ADMIN, "GET", "/readyz", None).0 == 200, || self.folder.log("server.log"));
    }

    /// Stops the API server, which ends its connections.
    pub(crate) fn stop(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(server);
    }

    /// The status and the body of a response.
    pub(crate) fn ask(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        self.ask_with(token, method, path, body, "Content-Type: application/json")
    }

    fn ask_with(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
        content: &str,
    ) -> (u16, String) {
        let mut command = Command::new("curl");
        command.args([
            "-s",
            "-m",
            "20",
            "-w",
            "\n%{http_code}",
            "-X",
            method,
            "--cacert",
            &self.file("ca.crt"),
        ]);
        command.args(["-H", &format!("Authorization: Bearer {token}"), "-H", content]);
        if let Some(body) = body {
            command.args(["-d", &body.to_string()]);
        }
        let output = command.arg(format!("{}{path}", self.url_by(self.port))).output();
        let output = output.expect("these tests need curl: apt-get install curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("curl writes the status");
        (status.parse().expect("a status"), body.to_owned())
    }

    /// Makes an object as a user who may do everything.
    pub(crate) fn make(&self, path: &str, object: &Value) {
        let (status, body) = self.ask(ADMIN, "POST", path, Some(object));
        assert_eq!(status, 201, "{body}");
    }

    /// Permits a user verbs on leases, with a Role and a RoleBinding as `docs/fleet.md` has them.
    pub(crate) fn permit(&self, user: &str, verbs: &[&str]) {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}");
        let name = format!("{user}-{}", verbs.join("-"));
        let metadata = json!({ "name": name, "namespace": NAMESPACE });
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
            "rules": [{ "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs }],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
        });
        self.make(&format!("{path}/roles"), &role);
        self.make(&format!("{path}/rolebindings"), &binding);
    }

    /// Waits until the server knows that a user may get leases.
    pub(crate) fn wait_for(&self, token: &str) {
        let path = self.path("none");
        wait_until(|| self.ask(token, "GET", &path, None).0 == 404, || self.folder.log("server.log"));
    }

    /// A token of a service account of the namespace, as the kubelet asks for it.
    pub(crate) fn token_of(&self, account: &str) -> String {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        let metadata = json!({ "name": account, "namespace": NAMESPACE });
        self.make(&path, &json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata }));
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "expirationSeconds": 600 },
        });
        let (status, body) = self.ask(ADMIN, "POST", &format!("{path}/{account}/token"), Some(&request));
        assert_eq!(status, 201, "{body}");
        let body: Value = serde_json::from_str(&body).expect("an object");
        body["status"]["token"].as_str().expect("a token").to_owned()
    }

    fn path(&self, lease: &str) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/{lease}")
    }

    /// The object of a lease.
    pub(crate) fn lease(&self, name: &str) -> Option<Value> {
        let (status, body) = self.ask(ADMIN, "GET", &self.path(name), None);
        (status == 200).then(|| serde_json::from_str(&body).expect("an object"))
    }

    pub(crate) fn delete(&self, name: &str) {
        let (status, body) = self.ask(ADMIN, "DELETE", &self.path(name), None);
        assert_eq!(status, 200, "{body}");
    }

    /// The sum of a counter of the server, over the lines with this text.
    pub(crate) fn sum(&self, counter: &str, text: &str) -> u64 {
        let (_, metrics) = self.ask(ADMIN, "GET", "/metrics", None);
        let is_counted = |line: &&str| line.starts_with(&format!("{counter}{{")) && line.contains(text);
        let count = |line: &str| line.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok());
        metrics.lines().filter(is_counted).map(|line| count(line).expect("a number")).sum()
    }

    /// Changes an object of a lease by hand.
    pub(crate) fn annotate(&self, lease: &str) {
        let patch = json!({ "metadata": { "annotations": { "edited": "by hand" } } });
        let content = "Content-Type: application/merge-patch+json";
        let (status, body) = self.ask_with(ADMIN, "PATCH", &self.path(lease), Some(&patch), content);
        assert_eq!(status, 200, "{body}");
    }

    /// The number of leases without a holder.
    pub(crate) fn free_leases(&self) -> usize {
        let (_, body) = self.ask(ADMIN, "GET", self.path("").trim_end_matches('/'), None);
        let all: Value = serde_json::from_str(&body).expect("a list");
        let all = all["items"].as_array().expect("objects");
        all.iter().filter(|lease| lease["spec"]["holderIdentity"].as_str().is_none_or(str::is_empty)).count()
    }

    /// The number of open connections from this process to the server, which has some to itself.
    pub(crate) fn connections(&self) -> usize {
        let links = fs::read_dir("/proc/self/fd").expect("open files").flatten();
        let own: Vec<_> = links.filter_map(|link| fs::read_link(link.path()).ok()).collect();
        let port = format!(":{:04X}", self.port);
        let table = fs::read_to_string("/proc/net/tcp").expect("a table of connections");
        let is_own = |line: &&str| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let socket = PathBuf::from(format!("socket:[{}]", columns[9]));
            columns[2].ends_with(&port) && columns[3] == "01" && own.contains(&socket)
        };
        table.lines().skip(1).filter(is_own).count()
    }

    fn url_by(&self, port: u16) -> String {
        format!("https://127.0.0.1:{port}")
    }

    /// The configuration by way of the server's own port, without credentials.
    pub(crate) fn config(&self) -> Config {
        Config::new(self.url_by(self.port), NAMESPACE).ca_file(self.file("ca.crt"))
    }

    /// The certificate and the key of the user `shop`.
    pub(crate) fn certificate(&self) -> (PathBuf, PathBuf) {
        (self.file("shop.crt").into(), self.file("shop.key").into())
    }

    /// What a replica opens, by way of a port: that of the server or of a proxy.
    pub(crate) fn address_by(&self, port: u16) -> String {
        format!("{} {} {SHOP}", self.url_by(port), self.file("ca.crt"))
    }

    pub(crate) fn address(&self) -> String {
        self.address_by(self.port)
    }

    /// A store of its own.
    pub(crate) fn store(&self) -> Store {
        open(&self.address())
    }
}

/// The receiver of what holders write: it refuses a lower term.
pub(crate) struct Fenced(Mutex<u64>);

impl Fenced {
    pub(crate) fn new(_: &Cluster, _: &str) -> Self {
        Self(Mutex::new(0))
    }

    /// Returns the number of rows that a write of this term changed.
    pub(crate) fn write(&self, term: u64) -> u64 {
        let mut row = self.0.lock().expect("no panic");
        if *row > term {
            return 0;
        }
        *row = term;
        1
    }
}

/// The program that `stack/build` built last.
fn api_server() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).expect("a home");
    let folders = fs::read_dir(cache.join("otel-tasks-ci/stack")).into_iter().flatten().flatten();
    let programs = folders.map(|folder| folder.path()).filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kube-apiserver-"))
    });
    let programs = programs.map(|path| path.join("kube-apiserver")).filter(|path| path.exists());
    let newest = programs.max_by_key(|path| fs::metadata(path).and_then(|file| file.modified()).ok());
    newest.unwrap_or_else(|| panic!("these tests need an API server: stack/build kube-apiserver"))
}
