//! Collector, Jaeger and Prometheus, with the files that are shipped, on free loopback ports.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Result;

use crate::{
    jaeger::Jaeger,
    process::{Program, free_port},
    prometheus::Prometheus,
};

/// How long a program may take until it answers, on a machine that is busy.
const READY: Duration = Duration::from_secs(60);

/// Where things are.
#[derive(Clone)]
pub(crate) struct Places {
    /// The repository.
    pub(crate) root: PathBuf,
    /// The programs that `stack/build` built.
    pub(crate) programs: PathBuf,
    /// Data and logs of this test.
    pub(crate) scratch: PathBuf,
}

pub(crate) struct Ports {
    pub(crate) otlp_grpc: u16,
    pub(crate) otlp_http: u16,
    pub(crate) jaeger_otlp: u16,
    pub(crate) jaeger_query: u16,
    jaeger_query_grpc: u16,
    pub(crate) prometheus: u16,
}

impl Ports {
    pub(crate) fn free() -> Result<Self> {
        Ok(Self {
            otlp_grpc: free_port()?,
            otlp_http: free_port()?,
            jaeger_otlp: free_port()?,
            jaeger_query: free_port()?,
            jaeger_query_grpc: free_port()?,
            prometheus: free_port()?,
        })
    }

    /// Those that the files name where the environment says nothing.
    pub(crate) fn default_ones() -> Self {
        Self {
            otlp_grpc: 4317,
            otlp_http: 4318,
            jaeger_otlp: 14317,
            jaeger_query: 16686,
            jaeger_query_grpc: 16685,
            prometheus: 9090,
        }
    }
}

pub(crate) struct Stack {
    places: Places,
    logs: PathBuf,
    pub(crate) ports: Ports,
    pub(crate) collector: Program,
    pub(crate) jaeger: Program,
    pub(crate) prometheus: Program,
}

impl Stack {
    pub(crate) fn start(name: &str, places: &Places, ports: Ports) -> Result<Self> {
        let logs = places.scratch.join(name);
        std::fs::create_dir_all(&logs)?;
        let mut stack = Self {
            jaeger: jaeger(places, &ports, &logs)?,
            prometheus: prometheus(places, &ports, &logs)?,
            collector: collector(places, &ports, &logs)?,
            places: places.clone(),
            logs,
            ports,
        };
        stack.wait()?;
        Ok(stack)
    }

    fn wait(&mut self) -> Result<()> {
        self.wait_for_jaeger()?;
        self.wait_for_prometheus()?;
        self.wait_for_collector()
    }

    fn wait_for_collector(&mut self) -> Result<()> {
        // Its receiver refuses a GET, and so it is there.
        self.collector.wait_for(&format!("http://127.0.0.1:{}/v1/traces", self.ports.otlp_http), READY)
    }

    fn wait_for_jaeger(&mut self) -> Result<()> {
        self.jaeger.wait_for(&format!("http://127.0.0.1:{}/api/services", self.ports.jaeger_query), READY)
    }

    fn wait_for_prometheus(&mut self) -> Result<()> {
        self.prometheus.wait_for(&format!("http://127.0.0.1:{}/-/ready", self.ports.prometheus), READY)
    }

    pub(crate) fn restart_collector(&mut self) -> Result<()> {
        self.collector = collector(&self.places, &self.ports, &self.logs)?;
        self.wait_for_collector()
    }

    pub(crate) fn restart_jaeger(&mut self) -> Result<()> {
        self.jaeger = jaeger(&self.places, &self.ports, &self.logs)?;
        self.wait_for_jaeger()
    }

    pub(crate) fn restart_prometheus(&mut self) -> Result<()> {
        self.prometheus = prometheus(&self.places, &self.ports, &self.logs)?;
        self.wait_for_prometheus()
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        let limit = Duration::from_secs(30);
        self.collector.stop(limit)?;
        self.jaeger.stop(limit)?;
        self.prometheus.stop(limit)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.otlp_http)
    }

    pub(crate) fn asked_jaeger(&self) -> Jaeger {
        Jaeger::at(self.ports.jaeger_query)
    }

    pub(crate) fn asked_prometheus(&self) -> Prometheus {
        Prometheus::at(self.ports.prometheus)
    }
}

fn collector(places: &Places, ports: &Ports, logs: &Path) -> Result<Program> {
    let mut command = Command::new(places.programs.join("collector"));
    command
        .arg(format!("--config={}", places.root.join("otel-collector.yaml").display()))
        .env("OTLP_GRPC_LISTEN", format!("127.0.0.1:{}", ports.otlp_grpc))
        .env("OTLP_HTTP_LISTEN", format!("127.0.0.1:{}", ports.otlp_http))
        .env("JAEGER_OTLP_ENDPOINT", format!("127.0.0.1:{}", ports.jaeger_otlp))
        .env(
            "PROMETHEUS_OTLP_ENDPOINT",
            format!("http://127.0.0.1:{}/api/v1/otlp/v1/metrics", ports.prometheus),
        );
    Program::start("collector", &mut command, logs)
}

fn jaeger(places: &Places, ports: &Ports, logs: &Path) -> Result<Program> {
    let mut command = Command::new(places.programs.join("jaeger"));
    command
        .arg(format!("--config={}", places.root.join("stack/jaeger.yaml").display()))
        .env("JAEGER_OTLP_LISTEN", format!("127.0.0.1:{}", ports.jaeger_otlp))
        .env("JAEGER_QUERY_LISTEN", format!("127.0.0.1:{}", ports.jaeger_query))
        .env("JAEGER_QUERY_GRPC_LISTEN", format!("127.0.0.1:{}", ports.jaeger_query_grpc));
    Program::start("jaeger", &mut command, logs)
}

fn prometheus(places: &Places, ports: &Ports, logs: &Path) -> Result<Program> {
    let mut command = Command::new(places.programs.join("prometheus"));
    command
        .arg(format!("--config.file={}", places.root.join("stack/prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", logs.join("prometheus").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{}", ports.prometheus))
        .arg("--web.enable-otlp-receiver");
    Program::start("prometheus", &mut command, logs)
}
