//! The metrics of real traces, judged by Prometheus: promtool reads them, and a server scrapes them and fires the alerts.
//!
//! Needs `prometheus` and `promtool`: on Debian, `apt-get install prometheus`.

#![allow(clippy::float_cmp, reason = "the page has the report's numbers to the last digit")]

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use leaktrace_tests::asset;
use leaktrace_tests::net::{free_port, http_get, metrics_at_rest, sample};
use leaktrace_tests::process::{Service, signal};
use leaktrace_tests::python::supported;
use leaktrace_tests::trace::{Trace, run};
use rustix::process::Signal;
use serde_json::Value;

fn monitoring() -> PathBuf {
    asset("../docs/monitoring")
}

fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new("promtool")
        .current_dir(monitoring())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start promtool ({error}); install prometheus"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn sum(page: &str, prefix: &str) -> f64 {
    let of = page.lines().filter(|line| line.starts_with(prefix));
    of.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

#[test]
fn a_scrape_has_the_totals_of_the_report() {
    let python = &supported()[0];
    let mut service = Service::start(python, "services/leak_class_registry.py", &[]);
    let address = free_port();
    let trace = Trace::attach(service.pid(), &["--interval", "200ms", "--metrics", &address]);
    assert_eq!(http_get(&address, "/healthz"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    service.go();
    service.progress(800);
    let page = metrics_at_rest(service.pid(), &address);
    let report = trace.finish();
    signal(service.pid(), Signal::CONT);

    let checked = promtool(&["check", "metrics"], &page);
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
    let live = report.totals.live_bytes as f64;
    assert!(live > 0.0);
    assert_eq!(sample(&page, "leaktrace_live_bytes"), live);
    assert_eq!(sample(&page, "leaktrace_live_blocks"), report.totals.live_blocks as f64);
    assert_eq!(sample(&page, "leaktrace_allocated_bytes_total"), report.totals.allocated_bytes as f64);
    assert_eq!(sum(&page, "leaktrace_site_live_bytes") + sample(&page, "leaktrace_other_sites_live_bytes"), live);
    assert_eq!(sum(&page, "leaktrace_domain_live_bytes"), live);
    assert_eq!(sample(&page, "leaktrace_events_total{event=\"alloc\"}"), report.capture.events.alloc as f64);
    assert_eq!(sample(&page, "process_resident_memory_bytes"), report.target.rss_bytes.end as f64);
    for of in &report.gc.generations {
        let name = format!("leaktrace_gc_collections_total{{generation=\"{}\"}}", of.generation);
        assert_eq!(sample(&page, &name), of.collections as f64);
    }
    assert!(sum(&page, "leaktrace_gc_pause_seconds_count") > 0.0);
}

#[test]
fn a_port_in_use_is_told_before_anything_is_traced() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let python = &supported()[0];
    let service = Service::start(python, "services/leak_cycles.py", &[]);
    let ran = run(&["run", "--pid", &service.pid().to_string(), "--duration", "1s", "--metrics", &address]);
    assert_eq!(ran.code, Some(14), "{:?}", ran.stderr);
    assert!(ran.stderr.len() == 1 && ran.stderr[0].contains(&address), "{:?}", ran.stderr);
}

#[test]
fn promtool_accepts_the_alert_rules() {
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let output = promtool(&arguments, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A Prometheus that scrapes some addresses each second, with the alert rules of docs/ but without their patience.
struct Prometheus {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(targets: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = fs::read_to_string(monitoring().join("alerts.yml")).unwrap();
        let rules: Vec<_> = rules.lines().filter(|line| !line.trim_start().starts_with("for: ")).collect();
        fs::write(folder.path().join("alerts.yml"), rules.join("\n")).unwrap();
        fs::write(
            folder.path().join("prometheus.yml"),
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [alerts.yml]\n\
                 scrape_configs: [{{job_name: python, static_configs: [{{targets: {targets:?}}}]}}]\n"
            ),
        )
        .unwrap();
        let address = free_port();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let at = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let child = Command::new("prometheus")
            .arg(at("config.file", &folder.path().join("prometheus.yml")))
            .arg(at("storage.tsdb.path", &folder.path().join("data")))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start prometheus: {error}"));
        Self { child, address, _folder: folder }
    }

    /// Whether it answers already.
    fn is_ready(&self) -> bool {
        TcpStream::connect(&self.address).is_ok() && http_get(&self.address, "/-/ready").0.contains(" 200 ")
    }

    /// The result of an instant query.
    fn query(&self, expression: &str) -> Vec<Value> {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric();
        let encoded: String = expression
            .bytes()
            .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect();
        let (_, body) = http_get(&self.address, &format!("/api/v1/query?query={encoded}"));
        let mut answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!(answer["status"], "success", "{expression}: {body}");
        serde_json::from_value(answer["data"]["result"].take()).unwrap()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All queries of the dashboard, as Grafana sends them.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_slice(&fs::read(monitoring().join("dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let text = queries.map(|query| query["expr"].as_str().unwrap().to_owned());
    text.map(|text| text.replace("$instance", ".+").replace("$__rate_interval", "10s")).collect()
}

#[test]
fn alerts_fire_on_a_leak_and_not_on_an_innocent() {
    let python = &supported()[0];
    let mut leaking = Service::start(python, "services/leak_dict_cache.py", &[]);
    let mut calm = Service::start(python, "services/calm_lru.py", &[]);
    let (leak_address, calm_address) = (free_port(), free_port());
    let trace =
        |service: &Service, address: &str| Trace::attach(service.pid(), &["--interval", "1s", "--metrics", address]);
    let leak_trace = trace(&leaking, &leak_address);
    let calm_trace = trace(&calm, &calm_address);
    let prometheus = Prometheus::start(&[&leak_address, &calm_address]);
    leaking.go();
    calm.go();
    let begin = Instant::now();
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        while !done() {
            assert!(begin.elapsed() < Duration::from_mins(3), "{what} does not come: {:?}", prometheus.query("ALERTS"));
            // What is waited for comes once a second, and the services need the processor.
            let _ = leaktrace_tests::process::wait_for_end(prometheus.child.id(), Duration::from_millis(500));
        }
    };
    wait("the server", &|| prometheus.is_ready());
    wait("the alert", &|| !prometheus.query("ALERTS{alertname=\"PythonMemoryLeak\",alertstate=\"firing\"}").is_empty());
    let judged = format!("leaktrace_outlook{{instance=\"{calm_address}\",outlook=\"not_leaking\"}} == 1");
    wait("the acquittal", &|| !prometheus.query(&judged).is_empty());
    for alert in prometheus.query("ALERTS{alertname=~\"Python.*\"}") {
        assert_eq!(alert["metric"]["instance"], leak_address, "{alert}");
    }
    let place = &leaking.leaks()[0];
    let growing = prometheus.query("topk(1, leaktrace_site_growth_bytes_per_second and leaktrace_site_growing == 1)");
    assert_eq!(growing[0]["metric"]["line"], place.line.to_string(), "{growing:?}");
    assert_eq!(growing[0]["metric"]["function"], place.function, "{growing:?}");
    wait("the second census", &|| !prometheus.query("leaktrace_type_objects").is_empty());
    for query in dashboard_queries() {
        assert!(!prometheus.query(&query).is_empty() || query.contains("histogram_quantile"), "{query} shows nothing");
    }
    drop((leak_trace, calm_trace));
}
