//! Every manifest against the schemas of Kubernetes itself, and what the chart renders.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::example;
use super::manifest::Manifest;
use super::support::lab::find_tool;
use super::support::{Need, require, testdata};

const KUBECTL: Need = Need::Tool("kubectl", "kubernetes-client");
const VALIDATE: Need = Need::Python("kubernetes-validate", "kubernetes-validate");

/// The oldest version that the examples are for, and the newest.
const VERSIONS: [&str; 2] = ["1.30.0", "1.37.0"];

/// What a tool writes to standard output.
fn output(tool: &str, args: &[&str]) -> String {
    let mut command = Command::new(find_tool(tool).expect("the tool"));
    let output = command.args(args).stdin(Stdio::null()).output().expect("a process");
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{tool} {args:?}: {out}{err}");
    out.into_owned()
}

/// What `kubectl apply -k` applies; `None`: no kubectl here.
pub fn kustomized(directory: &Path) -> Option<Manifest> {
    require(&[KUBECTL])
        .then(|| Manifest::parse(&output("kubectl", &["kustomize", directory.to_str().expect("a path")])))
}

#[test]
fn all_manifests_are_valid() {
    if !require(&[KUBECTL, VALIDATE]) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let mut files = vec![chart_file(), testdata("original/example.yaml")];
    for name in [
        "init-container",
        "sidecar",
        "gateway",
        "gateway-watch",
        "consumer",
        "annotations",
        "bypass",
        "kustomize/overlay",
    ] {
        let file = directory.path().join(name.replace('/', "-")).with_extension("yaml");
        fs::write(&file, output("kubectl", &["kustomize", example(name).to_str().expect("a path")]))
            .expect("a file");
        files.push(file);
    }
    let files: Vec<&str> = files.iter().map(|file| file.to_str().expect("a path")).collect();
    for version in VERSIONS {
        let said = output("kubernetes-validate", &[&["--strict", "-k", version], &files[..]].concat());
        let passed = said.lines().filter(|line| line.contains(" passed for resource ")).count();
        let objects =
            files.iter().map(|file| Manifest::parse(&fs::read_to_string(file).expect("a file")).0.len());
        assert_eq!(passed, objects.sum::<usize>(), "{version}: {said}");
    }
}

fn chart_file() -> PathBuf {
    testdata("helm/edge.yaml")
}

/// The chart as `helm template` renders it. Without Helm: as it did when the chart was what it is now.
pub fn chart() -> Manifest {
    let rendered = fs::read_to_string(chart_file()).expect("the rendered chart");
    let chart = example("helm/sfunnel");
    let hash = hash(&chart);
    if find_tool("helm").is_some() {
        let chart = chart.to_str().expect("a path");
        output("helm", &["lint", "--strict", chart]);
        let now = output("helm", &["template", "edge", chart]);
        assert_eq!(Manifest::parse(&now).0, Manifest::parse(&rendered).0, "render it again: docs/testing.md");
    }
    assert!(
        rendered.contains(&hash),
        "the chart has changed (SHA-256 {hash}): render {} again, as docs/testing.md says",
        chart_file().display()
    );
    Manifest::parse(&rendered)
}

/// Of the names and the contents of all files.
fn hash(directory: &Path) -> String {
    let mut files = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { left.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.strip_prefix(directory).expect("a file of it").to_str().expect("a name"));
        hash.update([0]);
        hash.update(fs::read(&file).expect("a file"));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
