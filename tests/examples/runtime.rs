//! A runtime that starts containers of manifests.
//!
//! In: containers, and where. Out: the binary was run as its image would be: in a root of its own with nothing else in it,
//! with the capabilities of the manifest and no others, in the pod's network namespace.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::chroot;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use tempfile::TempDir;

use super::manifest::{Container, Pod};
use super::support::lab::Ns;

/// Runs a container to its end.
pub fn run(ns: &Ns, container: &Container) -> Output {
    run_with(ns, container, &[])
}

/// With variables besides those of the manifest.
pub fn run_with(ns: &Ns, container: &Container, more: &[(&str, &str)]) -> Output {
    let (root, allowed) = prepare(container);
    ns.run(|| {
        confine(root.path(), container, allowed);
        let mut command = image(container, more);
        command.output().expect("the container starts")
    })
}

/// A container that goes on until it is told to stop, and what it has mounted.
#[derive(Debug)]
pub struct Running {
    pub child: Child,
    pub root: TempDir,
}

/// Starts one; what it says goes to that file.
pub fn spawn(ns: &Ns, container: &Container, log: fs::File) -> Running {
    let (root, allowed) = prepare(container);
    let child = ns.run(|| {
        confine(root.path(), container, allowed);
        image(container, &[]).stderr(log).spawn().expect("the container starts")
    });
    Running { child, root }
}

/// Where a kubelet puts what a ConfigMap has: files are links by way of another link, which it exchanges.
const DATA: &str = "..data";

impl Running {
    /// The ConfigMap has changed: what a kubelet does then.
    pub fn change(&self, path: &Path, text: &str) {
        let file = self.root.path().join(path.strip_prefix("/").expect("an absolute path"));
        let (directory, name) = (file.parent().expect("a directory"), file.file_name().expect("a name"));
        let old = fs::read_link(directory.join(DATA)).expect("a link");
        let number: u32 = old.to_string_lossy().trim_start_matches('.').parse().expect("a number");
        let new = format!("..{}", number + 1);
        fs::create_dir(directory.join(&new)).expect("a directory");
        fs::write(directory.join(&new).join(name), text).expect("a file");
        symlink(&new, directory.join("..tmp")).expect("a link");
        fs::rename(directory.join("..tmp"), directory.join(DATA)).expect("another link");
        fs::remove_dir_all(directory.join(old)).expect("gone");
    }
}

/// What is mounted, in a directory that is to become its root.
fn prepare(container: &Container) -> (TempDir, CapabilitySet) {
    assert!(container.is_ours(), "{}", container.image);
    let root = tempfile::tempdir().expect("a directory");
    let inside = |path: &Path| root.path().join(path.strip_prefix("/").expect("an absolute path"));
    fs::write(inside(Path::new("/sfunnel")), "").expect("a file");
    for directory in &container.directories {
        fs::create_dir_all(inside(directory)).expect("a directory");
    }
    for (path, text) in &container.files {
        let file = inside(path);
        let (directory, name) = (file.parent().expect("a directory"), file.file_name().expect("a name"));
        fs::create_dir_all(directory.join("..1")).expect("a directory");
        fs::write(directory.join("..1").join(name), text).expect("a file");
        if !directory.join(DATA).exists() {
            symlink("..1", directory.join(DATA)).expect("a link");
        }
        symlink(Path::new(DATA).join(name), &file).expect("a link");
    }
    let allowed = capabilities(container);
    (root, allowed)
}

/// This thread, for good.
fn confine(root: &Path, container: &Container, allowed: CapabilitySet) {
    enter(root, container.read_only);
    for capability in CapabilitySet::all().iter().filter(|one| !allowed.contains(*one)) {
        // What this kernel does not know cannot be dropped.
        let _ = remove_capability_from_bounding_set(capability);
    }
}

fn image(container: &Container, more: &[(&str, &str)]) -> Command {
    let mut command = Command::new("/sfunnel");
    command
        .args(&container.args)
        .env_clear()
        .envs(&container.env)
        .envs(more.iter().copied())
        .stdin(Stdio::piped());
    command
}

/// Makes that directory the root of this thread, with the binary in it.
fn enter(root: &Path, read_only: bool) {
    let flags = |source: Option<&Path>, target: &Path, flags| {
        mount(source, target, None::<&str>, flags, None::<&str>).expect("a mount");
    };
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    flags(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    flags(Some(root), root, MsFlags::MS_BIND);
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_sfunnel"));
    flags(Some(&binary), &root.join("sfunnel"), MsFlags::MS_BIND);
    if read_only {
        flags(None, root, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
    }
    chroot(root).expect("chroot");
    std::env::set_current_dir("/").expect("the root");
}

fn capabilities(container: &Container) -> CapabilitySet {
    let mut all = CapabilitySet::empty();
    for name in &container.capabilities {
        all |= match name.as_str() {
            "BPF" => CapabilitySet::BPF,
            "NET_ADMIN" => CapabilitySet::NET_ADMIN,
            "NET_RAW" => CapabilitySet::NET_RAW,
            "SYS_ADMIN" => CapabilitySet::SYS_ADMIN,
            other => panic!("no example needs CAP_{other}"),
        };
    }
    // Of a runtime's default ones, what could make a difference.
    if !container.drops_all {
        all |= CapabilitySet::DAC_OVERRIDE | CapabilitySet::NET_RAW | CapabilitySet::SETUID;
    }
    all
}

/// Starts a pod: init containers in their order, ours to their end. `other` sees those of others when they start.
pub fn start(ns: &Ns, pod: &Pod, mut other: impl FnMut(&Container)) {
    for container in pod.init.iter().chain(&pod.containers) {
        if !container.is_ours() {
            other(container);
            continue;
        }
        let output = run(ns, container);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}, in {}: {said}", container.name, ns.name);
    }
}

/// Starts it again with `CLEAN`, on both hooks.
pub fn clean(ns: &Ns, pod: &Pod) {
    for container in pod.init.iter().filter(|container| container.is_ours()) {
        let output = run_with(ns, container, &[("CLEAN", "yes"), ("DIRECTION", "both")]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
