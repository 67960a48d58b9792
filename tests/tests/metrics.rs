//! Metrics, alert rules and dashboard, judged by Prometheus itself.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use leaktrace_tests::asset;
use leaktrace_tests::process::Service;
use leaktrace_tests::python::supported;
use leaktrace_tests::trace::{Trace, run};
use serde_json::Value;

/// Looks (seconds) after which a leak must have been told.
const PATIENCE: usize = 120;

fn get(address: &str, path: &str) -> Option<String> {
    let mut server = TcpStream::connect(address).ok()?;
    write!(server, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    server.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// A Prometheus server that scrapes every second. Dropping it ends it.
struct Prometheus {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(targets: &[&str], rules: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        // As they are, but for the time that an alert waits.
        let rules = fs::read_to_string(rules).unwrap().replace("for: 1m", "for: 1s");
        fs::write(folder.path().join("rules.yml"), rules).unwrap();
        let configuration = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
             scrape_configs: [{{job_name: leaktrace, static_configs: [{{targets: [{}]}}]}}]\n",
            targets.join(", ")
        );
        fs::write(folder.path().join("prometheus.yml"), configuration).unwrap();
        // A port that was free just now.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let child = Command::new("prometheus")
            .current_dir(folder.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"])
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .spawn()
            .expect("prometheus is installed (Debian: prometheus)");
        Self { child, address, _folder: folder }
    }

    fn ask(&self, path: &str) -> Option<Value> {
        serde_json::from_str(&get(&self.address, path)?).ok()
    }

    /// Names of the alerts of a target that fire or are about to.
    fn alerts(&self, instance: &str) -> Vec<String> {
        let answer = self.ask("/api/v1/alerts").unwrap_or_default();
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let of_it = alerts.iter().filter(|alert| alert["labels"]["instance"] == instance);
        of_it
            .map(|alert| {
                format!("{} {}", alert["labels"]["alertname"].as_str().unwrap(), alert["state"].as_str().unwrap())
            })
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (Debian: prometheus)");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

/// The value of a series without labels, a whole number.
fn value(page: &str, name: &str) -> u64 {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {page}"))
}

#[test]
fn alerts_fire_on_a_leak_and_on_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("a.leaktrace");
    let start = |script: &str, arguments: &[&str]| {
        let mut service = Service::start(&supported()[0], script, &[]);
        let trace =
            Trace::attach(service.pid(), &[&["--metrics", "127.0.0.1:0", "--interval", "1s"], arguments].concat());
        service.go();
        (service, trace)
    };
    let (_leak, mut leaking) = start("services/leak_global_list.py", &["--record", recording.to_str().unwrap()]);
    let (_calm, innocent) = start("services/calm_lru.py", &[]);
    let (leak, calm) = (leaking.metrics().unwrap().to_owned(), innocent.metrics().unwrap().to_owned());
    let files = asset("../docs/prometheus");
    let rules = files.join("leaktrace.rules.yml");
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
    let prometheus = Prometheus::start(&[&leak, &calm], &rules);

    let firing = "MemoryLeak firing".to_owned();
    let told = (0..PATIENCE).any(|_| leaking.look().is_some() && prometheus.alerts(&leak).contains(&firing));
    assert!(told, "alerts: {:?}", prometheus.alerts(&leak));
    assert_eq!(prometheus.alerts(&calm), Vec::<String>::new());

    let page = get(&leak, "/metrics").unwrap();
    promtool(&["check", "metrics"], &page);
    assert_eq!(get(&leak, "/healthz").unwrap(), "ok\n");
    // The recording has the same totals at that look, and the sites are all of them.
    let look = value(&page, "leaktrace_looks_total");
    let query = "SELECT live_bytes, live_blocks, allocated_bytes, allocated_blocks FROM scan WHERE id = ?";
    let recorded = rusqlite::Connection::open(&recording).unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]);
    let recorded: [u64; 4] = recorded.query_row(query, [look], row).unwrap();
    let names = ["live_bytes", "live_blocks", "allocated_bytes_total", "allocated_blocks_total"];
    assert_eq!(names.map(|name| value(&page, &format!("leaktrace_{name}"))), recorded);
    let sites = page.lines().filter(|line| line.starts_with("leaktrace_site_live_bytes{"));
    let sum: u64 = sites.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum, value(&page, "leaktrace_live_bytes"));

    // Every query of the dashboard is one that the server answers, and most have something to show.
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(files.join("grafana-dashboard.json")).unwrap()).unwrap();
    let (mut queries, mut shown) = (0, 0);
    for target in dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap())
    {
        let query = target["expr"].as_str().unwrap().replace("$instance", ".*");
        let escaped = query.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02X}"));
        let answer = prometheus.ask(&format!("/api/v1/query?query={escaped}")).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        queries += 1;
        shown += u32::from(!answer["data"]["result"].as_array().unwrap().is_empty());
    }
    assert!(queries >= 12 && shown * 4 >= queries * 3, "{shown} of {queries}");
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let service = Service::start(&supported()[0], "services/calm_lru.py", &[]);
    let ran = run(&["run", "--pid", &service.pid().to_string(), "--metrics", &address]);
    assert_eq!(ran.code, Some(14), "{:?}", ran.stderr);
    assert_eq!(ran.stderr.len(), 1, "{:?}", ran.stderr);
    assert!(ran.stderr[0].contains(&address));
}
