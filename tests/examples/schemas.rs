//! Every manifest against the schemas of Kubernetes itself.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::manifest::Manifest;
use super::support::lab::find_tool;
use super::support::{Need, require, testdata};
use super::{chart, example};

const KUBECTL: Need = Need::Tool("kubectl", "kubernetes-client");
const VALIDATE: Need = Need::Python("kubernetes-validate", "kubernetes-validate");

/// The oldest version that the examples are for, and the newest.
const VERSIONS: [&str; 2] = ["1.30.0", "1.37.0"];

/// What a tool writes to standard output.
pub fn output(tool: &str, args: &[&str]) -> String {
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
    let mut files = vec![chart::file(), testdata("original/example.yaml")];
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
