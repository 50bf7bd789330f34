//! The chart as Helm renders it, and the image by its digest: by Helm, and by kustomize.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::example;
use super::manifest::{Manifest, OURS};
use super::schemas::{kustomized, output};
use super::support::lab::find_tool;
use super::support::{Need, require, testdata};

/// Helm's own library: Helm itself is in none of the registries that these tests use. `false`: it is not here, and the test
/// has said so.
fn helm_is_here() -> bool {
    let Some(python) = find_tool("python3") else { return require(&[Need::Tool("python3", "python3")]) };
    let mut python = Command::new(python);
    python.args(["-c", "import helm_python"]).stdin(Stdio::null()).stderr(Stdio::null());
    if python.status().is_ok_and(|status| status.success()) {
        return true;
    }
    let required = std::env::var("SFUNNEL_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
    assert!(!required, "this test needs Helm's library: pip install helm-python-sdk==0.2.2");
    let _ = writeln!(std::io::stderr(), "skipped: no helm_python (pip install helm-python-sdk==0.2.2)");
    false
}

pub fn file() -> PathBuf {
    testdata("helm/edge.yaml")
}

/// As `helm template edge` renders it.
pub fn chart() -> Manifest {
    Manifest::parse(&fs::read_to_string(file()).expect("the rendered chart"))
}

/// `helm lint --strict` and `helm template edge`, with these values.
fn template(values: &str) -> Output {
    let mut command = Command::new(find_tool("python3").expect("python3"));
    command.arg(testdata("helm/template.py")).arg("edge").arg(example("helm/sfunnel")).arg(values);
    command.stdin(Stdio::null()).output().expect("python3")
}

/// The images of all containers that are sfunnel's.
fn images(manifest: &Manifest) -> Vec<String> {
    let mut images = Vec::new();
    for object in &manifest.0 {
        let pod = if object["kind"] == "Pod" { &object["spec"] } else { &object["spec"]["template"]["spec"] };
        for containers in ["initContainers", "containers"] {
            let all = pod[containers].as_array().into_iter().flatten();
            images.extend(all.map(|one| one["image"].as_str().expect("an image").to_owned()));
        }
    }
    images.retain(|image| image.starts_with(OURS));
    images
}

#[test]
fn helm_finds_nothing_wrong_and_renders_what_is_stored() {
    if !helm_is_here() {
        return;
    }
    let said = template("{}");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let now = Manifest::parse(&String::from_utf8(said.stdout).expect("text"));
    let stored = chart();
    assert_eq!(now.0, stored.0, "render {} again: docs/testing.md says how", file().display());
    assert_eq!(images(&stored), [format!("{OURS}:{}", env!("CARGO_PKG_VERSION"))]);
    // Where there is a Helm itself.
    if find_tool("helm").is_some() {
        let chart = example("helm/sfunnel");
        let chart = chart.to_str().expect("a path");
        output("helm", &["lint", "--strict", chart]);
        let now = output("helm", &["template", "edge", chart]);
        assert_eq!(Manifest::parse(&now).0, stored.0, "Helm and its library differ");
    }
}

/// The digest that the page has as its example.
fn digest() -> String {
    let readme = fs::read_to_string(example("README.md")).expect("the page");
    let at = readme.find("digest: sha256:").expect("a digest");
    let digest: String = readme[at + "digest: ".len()..].chars().take("sha256:".len() + 64).collect();
    assert!(readme.contains(&format!("--set image.digest={digest}")), "the same for Helm");
    digest
}

#[test]
fn the_chart_takes_a_digest_and_refuses_what_is_none() {
    if !helm_is_here() {
        return;
    }
    let digest = digest();
    let said = template(&format!("{{ \"image\": {{ \"digest\": \"{digest}\" }} }}"));
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let manifest = Manifest::parse(&String::from_utf8(said.stdout).expect("text"));
    assert_eq!(images(&manifest), [format!("{OURS}@{digest}")]);
    for wrong in ["sha256:12", "latest", &digest.to_uppercase()] {
        let said = template(&format!("{{ \"image\": {{ \"digest\": \"{wrong}\" }} }}"));
        assert!(!said.status.success(), "{wrong}");
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(error.contains("at '/image/digest'"), "{wrong}: {error}");
    }
}

/// With the kustomization of the page, beside a copy of the examples.
#[test]
fn kustomize_puts_a_digest_into_every_example() {
    let readme = fs::read_to_string(example("README.md")).expect("the page");
    let mut blocks = readme.split("```yaml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
    let kustomization = blocks.find(|block| block.contains("digest: ")).expect("a kustomization");
    let directory = tempfile::tempdir().expect("a directory");
    copy(&example(""), &directory.path().join("examples"));
    let pinned = directory.path().join("pinned");
    fs::create_dir(&pinned).expect("a directory");
    const SHOWN: &str = "../examples/init-container";
    assert!(kustomization.contains(SHOWN), "{kustomization}");
    for name in
        ["init-container", "sidecar", "gateway", "gateway-watch", "consumer", "bypass", "kustomize/overlay"]
    {
        let text = kustomization.replace(SHOWN, &format!("../examples/{name}"));
        fs::write(pinned.join("kustomization.yaml"), text).expect("a file");
        let Some(manifest) = kustomized(&pinned) else { return };
        let images = images(&manifest);
        assert!(!images.is_empty(), "{name}");
        assert!(images.iter().all(|image| *image == format!("{OURS}@{}", digest())), "{name}: {images:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("a copy");
        }
    }
}
