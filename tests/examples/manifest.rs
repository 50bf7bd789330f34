//! Manifests as Kubernetes reads them: objects, and of a pod what a runtime starts.
//!
//! In: YAML. Out: containers with their environment, files and capabilities. What a manifest says and these lines do
//! not understand is a failure, never left out: a test would run something else than what is written there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Names of images that are sfunnel's.
pub const OURS: &str = "registry.example/sfunnel";

/// What `kubectl apply` would be given.
#[derive(Debug)]
pub struct Manifest(pub Vec<Value>);

/// A container of a pod.
#[derive(Debug)]
pub struct Container {
    pub name: String,
    pub image: String,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// What is mounted, by path in the container.
    pub files: BTreeMap<PathBuf, String>,
    /// Directories of the host.
    pub directories: Vec<PathBuf>,
    /// Those it has: its `add`, where it drops all of them, and else a runtime's default ones as well.
    pub capabilities: Vec<String>,
    pub drops_all: bool,
    pub read_only: bool,
    /// `restartPolicy: Always`: a native sidecar.
    pub sidecar: bool,
}

impl Container {
    pub fn is_ours(&self) -> bool {
        self.image.split([':', '@']).next() == Some(OURS)
    }
}

/// What a pod is made of.
#[derive(Debug)]
pub struct Pod {
    pub annotations: BTreeMap<String, String>,
    pub host_network: bool,
    pub init: Vec<Container>,
    pub containers: Vec<Container>,
}

/// One port of a Service.
#[derive(Debug, PartialEq, Eq)]
pub struct Port {
    pub protocol: String,
    pub port: u64,
    pub target: u64,
}

impl Manifest {
    pub fn parse(text: &str) -> Manifest {
        let all: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
        Manifest(all.into_iter().filter(|one| !one.is_null()).collect())
    }

    /// What `kubectl apply -k` of a directory that only lists files applies.
    pub fn of(directory: &Path) -> Manifest {
        let kustomization =
            fs::read_to_string(directory.join("kustomization.yaml")).expect("a kustomization");
        let Value::Object(all) = Manifest::parse(&kustomization).0.remove(0) else { panic!("an object") };
        let known = ["apiVersion", "kind", "resources"];
        assert!(all.keys().all(|key| known.contains(&key.as_str())), "for kustomize itself: {all:?}");
        let files = all["resources"].as_array().expect("a list").iter().map(|file| {
            let file = directory.join(file.as_str().expect("a file"));
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        });
        Manifest(files.flat_map(|text| Manifest::parse(&text).0).collect())
    }

    /// An object by kind and name.
    pub fn object(&self, kind: &str, name: &str) -> &Value {
        let is = |one: &&Value| one["kind"] == kind && one["metadata"]["name"] == name;
        self.0.iter().find(is).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// The pod that a Deployment, a DaemonSet or a Pod makes.
    pub fn pod(&self, kind: &str, name: &str) -> Pod {
        let object = self.object(kind, name);
        let template = if kind == "Pod" { object } else { &object["spec"]["template"] };
        let spec = &template["spec"];
        let containers = |key: &str| {
            let list = spec[key].as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().map(|container| self.container(container, spec)).collect()
        };
        Pod {
            annotations: strings(&template["metadata"]["annotations"]),
            host_network: spec["hostNetwork"] == true,
            init: containers("initContainers"),
            containers: containers("containers"),
        }
    }

    fn container(&self, container: &Value, spec: &Value) -> Container {
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        for key in ["command", "envFrom"] {
            assert!(container[key].is_null(), "`{key}` is not understood here");
        }
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let env =
            list(&container["env"]).iter().map(|one| (text(&one["name"]), text(&one["value"]))).collect();
        let (mut files, mut directories) = (BTreeMap::new(), Vec::new());
        for mount in list(&container["volumeMounts"]) {
            let volumes = list(&spec["volumes"]);
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
            let volume = volume.unwrap_or_else(|| panic!("no volume {}", mount["name"]));
            let path = PathBuf::from(text(&mount["mountPath"]));
            if volume["hostPath"].is_object() {
                directories.push(path);
                continue;
            }
            let map = self.object("ConfigMap", &text(&volume["configMap"]["name"]));
            for (name, data) in strings(&map["data"]) {
                match mount["subPath"].as_str() {
                    None => files.insert(path.join(name), data),
                    Some(one) if one == name => files.insert(path.clone(), data),
                    Some(_) => None,
                };
            }
        }
        let security = &container["securityContext"];
        let drop = list(&security["capabilities"]["drop"]);
        Container {
            name: text(&container["name"]),
            image: text(&container["image"]),
            args: list(&container["args"]).iter().map(text).collect(),
            env,
            files,
            directories,
            capabilities: list(&security["capabilities"]["add"]).iter().map(text).collect(),
            drops_all: drop.iter().any(|one| one == "ALL"),
            read_only: security["readOnlyRootFilesystem"] == true,
            sidecar: container["restartPolicy"] == "Always",
        }
    }

    /// The ports that a Service has, and no others.
    pub fn ports(&self, service: &str) -> Vec<Port> {
        let ports = self.object("Service", service)["spec"]["ports"].as_array().expect("ports").clone();
        let port = |port: &Value| Port {
            protocol: port["protocol"].as_str().unwrap_or("TCP").to_lowercase(),
            port: port["port"].as_u64().expect("a port"),
            target: port["targetPort"].as_u64().or(port["port"].as_u64()).expect("a port"),
        };
        ports.iter().map(port).collect()
    }
}

/// A map of names to strings, and to nothing else.
fn strings(map: &Value) -> BTreeMap<String, String> {
    let entries = map.as_object().into_iter().flatten();
    entries.map(|(key, value)| (key.clone(), value.as_str().expect("a string").to_owned())).collect()
}
