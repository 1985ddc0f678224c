//! What is particular to this store: its objects, permissions and errors.

use std::{
    error::Error as _,
    fs,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::SystemTime,
};

use otel_tasks::gate::{Claim, Gate};
use otel_tasks_lease::{
    Answer, Ask, Held, Kubernetes, LeaseStore, Leases, Renewed, StoreError,
    kubernetes::{Config, NameError, RequestError},
};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    cluster::{ADMIN, BUSY, Cluster, GUEST, NAMESPACE, SHOP, VERBS},
    millis, secs,
    shared::replica::{Does, Replica, assert_no_overlap},
};

/// Keeps the errors of a store.
#[derive(Clone)]
struct Kept {
    store: Kubernetes,
    errors: Arc<Mutex<Vec<StoreError>>>,
    /// True once a renewal failed for one lease and not for another.
    in_part: Arc<AtomicBool>,
}

impl Kept {
    fn new(config: Config) -> Self {
        let store = Kubernetes::new(config).expect("valid");
        Self { store, errors: Arc::default(), in_part: Arc::default() }
    }

    fn errors(&self) -> MutexGuard<'_, Vec<StoreError>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.map_err(|error| {
            let again = StoreError::new(error.error_type(), "kept");
            self.errors().push(error);
            again
        })
    }

    /// Waits for an error of which this is true, and forgets all errors.
    async fn fails(&self, what: &str, is_it: impl Fn(&StoreError) -> bool) {
        let began = Instant::now();
        loop {
            {
                let mut errors = self.errors();
                let found = errors.iter().any(&is_it);
                assert!(found || began.elapsed() < secs(60), "never {what}: {errors:?}");
                if found {
                    errors.clear();
                    return;
                }
            }
            sleep(millis(20)).await;
        }
    }
}

impl LeaseStore for Kept {
    async fn acquire(&self, ask: &Ask) -> Result<Answer, StoreError> {
        self.keep(self.store.acquire(ask).await)
    }

    async fn renew(&self, held: &[Held]) -> Result<Vec<Renewed>, StoreError> {
        let answers = self.keep(self.store.renew(held).await)?;
        let failed = answers.iter().filter(|answer| matches!(answer, Renewed::Failed(_))).count();
        self.in_part.fetch_or(failed > 0 && answers.contains(&Renewed::Kept), SeqCst);
        Ok(answers)
    }

    async fn claim(&self, held: &Held, due: SystemTime) -> Result<Claim, StoreError> {
        self.keep(self.store.claim(held, due).await)
    }

    async fn release(&self, ask: &Ask) -> Result<(), StoreError> {
        self.keep(self.store.release(ask).await)
    }

    async fn freed(&self, lease: &str) {
        self.store.freed(lease).await;
    }
}

/// The store's own error.
fn reason(error: &StoreError) -> Option<&RequestError> {
    error.source()?.downcast_ref()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_rbac_names_the_verb_and_the_resource_to_permit() {
    let cluster = Cluster::shared();
    let config = || cluster.config().token(GUEST);
    let (first, second) = (Kept::new(config()), Kept::new(config()));
    let lease = |store: &Kept| Leases::new(store.clone()).lease("permitted").ttl(secs(6));
    let permits = async |verb: &'static str, store: &Kept| {
        let names_it = |error: &StoreError| {
            let text = error.source().expect("a source").to_string();
            text.contains(&format!("the verb {verb} on leases.coordination.k8s.io"))
                && text.contains("namespace shop")
        };
        store.fails(verb, names_it).await;
        cluster.permit("guest", &[verb]);
    };
    let candidate = tokio::spawn({
        let lease = lease(&first);
        async move { lease.enter().await }
    });
    permits("get", &first).await;
    permits("create", &first).await;
    let grant = timeout(secs(30), candidate).await.expect("permitted").expect("no panic");
    permits("update", &first).await;
    let other = tokio::spawn({
        let lease = lease(&second);
        async move { lease.enter().await }
    });
    permits("watch", &second).await;
    sleep(secs(6)).await;
    second.errors().clear();
    sleep(secs(3)).await;
    assert_eq!(second.errors().len(), 0, "nothing more is needed than {VERBS:?}");
    assert!(grant.pass().is_open(), "it was renewed");
    drop(grant);
    drop(timeout(secs(10), other).await.expect("a release is seen").expect("no panic"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_refused_is_read_again() {
    let cluster = Cluster::shared();
    let file = std::env::temp_dir().join(format!("otel-tasks-lease-token-{}", std::process::id()));
    fs::write(&file, "another\n").expect("written");
    let store = Kept::new(cluster.config().token_file(&file));
    let lease = Leases::new(store.clone()).lease("rotated").ttl(secs(6));
    let candidate = tokio::spawn(async move { lease.enter().await });
    store
        .fails("unauthorized", |error| matches!(reason(error), Some(RequestError::Unauthorized { .. })))
        .await;
    cluster.permit(&format!("system:serviceaccount:{NAMESPACE}:rotated"), &VERBS);
    fs::write(&file, cluster.token_of("rotated")).expect("written");
    drop(timeout(secs(30), candidate).await.expect("permitted").expect("no panic"));
    fs::remove_file(&file).expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_certificate_lets_in() {
    let cluster = Cluster::shared();
    let (certificate, key) = cluster.certificate();
    let texts = (fs::read(&certificate).expect("a file"), fs::read(&key).expect("a file"));
    for config in [
        cluster.config().client_certificate_files(certificate, key),
        cluster.config().client_certificate(texts.0, texts.1),
    ] {
        let lease = Leases::new(Kubernetes::new(config).expect("valid")).lease("certified");
        drop(timeout(secs(30), lease.enter()).await.expect("permitted"));
        lease.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_reached_or_named_is_a_typed_error() {
    let cluster = Cluster::shared();
    let fails = async |config: Config, lease: &str, what: &str, is_it: fn(&StoreError) -> bool| {
        let store = Kept::new(config);
        let lease = Leases::new(store.clone()).lease(lease).ttl(secs(3));
        let candidate = tokio::spawn(async move { lease.enter().await });
        store.fails(what, is_it).await;
        candidate.abort();
    };
    fails(cluster.config().token(ADMIN).namespace("nowhere"), "a", "no namespace", |error| {
        matches!(reason(error), Some(RequestError::NoNamespace { namespace }) if namespace == "nowhere")
    })
    .await;
    let closed = crate::guarded::free_port();
    let (certificate, key) = cluster.certificate();
    let ca = fs::read(certificate.with_file_name("ca.crt")).expect("a file");
    let unreachable = Config::new(format!("https://127.0.0.1:{closed}"), "shop").ca_pem(&ca);
    fails(unreachable, "a", "no answer", |error| matches!(reason(error), Some(RequestError::NoAnswer(_))))
        .await;
    // Of another authority.
    let other = Config::new(format!("https://127.0.0.1:{}", cluster.port), "shop").ca_file(&certificate);
    fails(other, "a", "not the authority", |error| error.error_type() == "connection").await;
    fails(cluster.config().token(SHOP), &"A".repeat(200), "too long", |error| {
        matches!(
            error.source().and_then(|source| source.downcast_ref()),
            Some(NameError::Long { length: 604, .. })
        )
    })
    .await;
    for wrong in [
        Config::new("http://127.0.0.1", "shop").ca_pem(&ca),
        Config::new("https://127.0.0.1", "shop/../kube-system").ca_pem(&ca),
        Config::new("https://127.0.0.1", "shop"),
        Config::new("https://127.0.0.1", "shop").ca_file(&key),
    ] {
        assert_eq!(Kubernetes::new(wrong).expect_err("wrong").error_type(), "config");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_limits_its_load_is_left_alone_for_as_long_as_it_asks() {
    let cluster = Cluster::shared();
    let path = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let level = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": { "name": "busy" },
        "spec": { "type": "Limited", "limited": {
            "nominalConcurrencyShares": 0, "borrowingLimitPercent": 0, "limitResponse": { "type": "Reject" },
        } },
    });
    let flow = json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": { "name": "busy" },
        "spec": {
            "priorityLevelConfiguration": { "name": "busy" }, "matchingPrecedence": 100,
            "rules": [{
                "subjects": [{ "kind": "User", "user": { "name": "busy" } }],
                "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"] }],
            }],
        },
    });
    cluster.make(&format!("{path}/prioritylevelconfigurations"), &level);
    cluster.make(&format!("{path}/flowschemas"), &flow);
    cluster.permit("busy", &VERBS);
    let store = Kept::new(cluster.config().token(BUSY));
    // The server serves one of them at a time. Each asks again after 25 ms, a twelfth of the ttl.
    let leases = Leases::new(store.clone());
    let candidates: Vec<_> = (0..20)
        .map(|number| {
            let lease = leases.lease(format!("busy {number}")).ttl(millis(300));
            tokio::spawn(async move {
                loop {
                    drop(lease.enter().await);
                    lease.settled().await;
                }
            })
        })
        .collect();
    store
        .fails("too many requests", |error| {
            matches!(reason(error), Some(RequestError::TooManyRequests { retry_after: Some(after) }) if *after >= secs(1))
        })
        .await;
    let rejected = || cluster.sum("apiserver_flowcontrol_rejected_requests_total", "flow_schema=\"busy\"");
    let (before, refused) = (rejected(), store.errors().len());
    sleep(secs(5)).await;
    let (sent, refused) = (rejected() - before, store.errors().len() - refused);
    candidates.iter().for_each(tokio::task::JoinHandle::abort);
    println!("{refused} requests refused, {sent} of them by the server");
    assert!(sent > 0 && refused as u64 > 3 * sent, "{refused} refused, {sent} by the server");
}

#[test]
fn a_deleted_object_ends_the_lease_and_its_terms_go_on() {
    let cluster = Cluster::shared();
    let ttl = secs(3);
    let mut pair = [(); 2].map(|()| Replica::start(&cluster.address(), "deleted", ttl, Does::Polls));
    let term = loop {
        let began = pair.iter_mut().find_map(|replica| replica.says_within("began", millis(50)));
        if let Some(began) = began {
            break began.term;
        }
    };
    for replica in &mut pair {
        replica.listen(ttl / 2);
    }
    cluster.delete("deleted");
    let next = loop {
        let began = pair.iter_mut().find_map(|replica| replica.says_within("began", millis(50)));
        if let Some(began) = began {
            break began.term;
        }
    };
    assert!(next > term, "{next} after {term}");
    for replica in &mut pair {
        replica.listen(millis(100));
    }
    let dropped = |line: &&crate::shared::replica::Line| line.word == "dropped" && line.term == term;
    assert!(pair.iter().any(|replica| replica.said.iter().find(dropped).is_some()), "the holder was stopped");
    assert_no_overlap(pair.iter().flat_map(|replica| &replica.said));
    let object = cluster.lease("deleted").expect("made again");
    assert_eq!(object["spec"]["leaseTransitions"], next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_never_saw_a_deleted_object_begins_its_terms_again() {
    let cluster = Cluster::shared();
    let enter = async |leases: &Leases| {
        let lease = leases.lease("deleted while free");
        let term = timeout(secs(30), lease.enter()).await.expect("free").pass().term();
        lease.settled().await;
        term
    };
    let known = Leases::new(cluster.store());
    assert_eq!((enter(&known).await, enter(&known).await), (1, 2));
    cluster.delete("deleted.20while.20free");
    assert_eq!(enter(&known).await, 3, "it goes on");
    cluster.delete("deleted.20while.20free");
    assert_eq!(enter(&Leases::new(cluster.store())).await, 1, "as the documentation says");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_edited_is_renewed_and_its_edit_stays() {
    let cluster = Cluster::shared();
    let ttl = secs(2);
    let lease = Leases::new(cluster.store()).lease("edited").ttl(ttl);
    let grant = timeout(secs(30), lease.enter()).await.expect("free");
    for _ in 0..3 {
        cluster.annotate("edited");
        sleep(ttl / 2).await;
        assert!(grant.pass().is_open());
    }
    let object = cluster.lease("edited").expect("it is held");
    assert_eq!(object["metadata"]["annotations"]["edited"], "by hand");
    assert_eq!(object["metadata"]["annotations"]["otel-tasks/name"], "edited");
    assert_eq!(
        (&object["spec"]["leaseTransitions"], &object["spec"]["leaseDurationSeconds"]),
        (&json!(1), &json!(2))
    );
    drop(grant);
    lease.settled().await;
    assert_eq!(cluster.lease("edited").expect("it stays")["spec"]["holderIdentity"], "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_leases_cost_the_server_three_requests_each_in_a_lifetime() {
    let cluster = Cluster::start();
    let ttl = secs(6);
    let store = Kept::new(cluster.config().token(SHOP));
    let leases = Leases::new(store.clone());
    let mut grants = Vec::new();
    for number in 0..100 {
        grants.push(
            timeout(secs(30), leases.lease(format!("t{number}")).ttl(ttl).enter()).await.expect("free"),
        );
    }
    sleep(ttl).await;
    let requests = || cluster.sum("apiserver_request_total", "resource=\"leases\"");
    let (before, lifetimes) = (requests(), 3);
    sleep(ttl * lifetimes).await;
    let requests = requests() - before;
    println!("{requests} requests of the server in {lifetimes} lifetimes of 100 leases");
    let open = grants.iter().filter(|grant| grant.pass().is_open()).count();
    assert_eq!(open, 100, "{:?}", store.errors());
    // Each is renewed by one request; the server has a few leases of its own.
    assert!(requests <= u64::from(lifetimes) * 100 * 4, "{requests}");
    assert_eq!(cluster.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_object_may_not_be_written_does_not_end_the_others() {
    let cluster = Cluster::shared();
    let ttl = secs(3);
    let store = Kept::new(cluster.config().token(SHOP));
    let leases = Leases::new(store.clone());
    let [denied, other] = ["denied", "allowed"].map(|name| leases.lease(name).ttl(ttl));
    let mut grants = Vec::new();
    for lease in [&denied, &other] {
        grants.push(timeout(secs(30), lease.enter()).await.expect("free"));
    }
    let group = "admissionregistration.k8s.io";
    let policy = json!({
        "apiVersion": format!("{group}/v1"), "kind": "ValidatingAdmissionPolicy", "metadata": { "name": "denied" },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": { "resourceRules": [{
                "apiGroups": ["coordination.k8s.io"], "apiVersions": ["v1"],
                "operations": ["UPDATE"], "resources": ["leases"],
            }] },
            "validations": [{ "expression": "object.metadata.name != 'denied'" }],
        },
    });
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "ValidatingAdmissionPolicyBinding", "metadata": { "name": "denied" },
        "spec": { "policyName": "denied", "validationActions": ["Deny"] },
    });
    cluster.make(&format!("/apis/{group}/v1/validatingadmissionpolicies"), &policy);
    cluster.make(&format!("/apis/{group}/v1/validatingadmissionpolicybindings"), &binding);
    let began = Instant::now();
    while grants[0].pass().is_open() {
        assert!(began.elapsed() < secs(60), "the policy has no effect");
        sleep(millis(10)).await;
    }
    assert!(store.in_part.load(SeqCst), "{:?}", store.errors());
    assert!(grants[1].pass().is_open(), "{:?}", store.errors());
    sleep(ttl * 2).await;
    assert!(grants[1].pass().is_open(), "{:?}", store.errors());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_reaches_a_candidate_however_long_it_waits() {
    let cluster = Cluster::shared();
    // Far longer than the test: without the watch, no candidate takes over in time.
    let ttl = secs(300);
    let holder = Leases::new(cluster.store());
    let pairs: Vec<_> = (0..24)
        .map(|number| {
            let name = format!("waits {number}");
            let (held, waits) =
                (holder.lease(name.as_str()).ttl(ttl), Leases::new(cluster.store()).lease(name).ttl(ttl));
            tokio::spawn(async move {
                let grant = timeout(secs(30), held.enter()).await.expect("free");
                let candidate = tokio::spawn(async move { waits.enter().await });
                // Around the beginning of the watch, too.
                sleep(millis(100) * number).await;
                drop(grant);
                let released = Instant::now();
                let got = timeout(secs(30), candidate).await;
                println!("{number}: {:?}", released.elapsed());
                got.map(|got| drop(got.expect("no panic"))).map_err(|_| number)
            })
        })
        .collect();
    for pair in pairs {
        assert_eq!(pair.await.expect("no panic"), Ok(()), "it waits though the lease is free");
    }
}
