//! A thousand clients, a gateway, a node with kube-proxy's rules, and pods that say who they are.
//!
//! In: a Service, how many pods, and whether sfunnel is at both ends. Out: on which pods each client's flows landed. Real
//! sockets, one address for each client.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, shutdown, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::proxy::{Kind, Mode, NODE, Port, Service};
use super::support::lab::{DEADLINE, Ns, link};

/// Who received what: port and client, and the pod.
type Log = Arc<(Mutex<BTreeMap<(u16, u32), Ipv4Addr>>, Condvar)>;

pub struct City {
    pub service: Service,
    pub mode: Mode,
    clients: Ns,
    gateway: Option<Ns>,
    pub node: Ns,
    pub pods: Vec<Pod>,
    log: Log,
    made: u8,
}

/// A pod that receives, notes the client's number, and answers with it.
pub struct Pod {
    pub address: Ipv4Addr,
    ns: Option<Ns>,
    stop: Arc<AtomicBool>,
    listeners: Vec<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

/// In which order a thousand clients open their flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    ClientByClient,
    /// All clients the first port, then all the second, each time in another order.
    PortByPort,
}

/// How clients use the ports of a Service.
#[derive(Debug, Clone)]
pub struct Use {
    pub ports: Vec<Port>,
    /// Answers come back; otherwise what is UDP goes one way.
    pub answers: bool,
    pub order: Order,
}

impl City {
    /// Clients inside the cluster are pods of this node; others are behind a gateway.
    pub fn new(mode: Mode, service: Service, ports: &[Port], pods: usize) -> City {
        let inside = service.kind == Kind::ClusterIp;
        let (clients, node) = (Ns::new("clients"), Ns::new("node"));
        let network = network(inside);
        let gateway = (!inside).then(|| Ns::new("gateway"));
        match &gateway {
            Some(gateway) => {
                link((&clients, "eth0", "10.9.0.1/30"), (gateway, "lan", "10.9.0.2/30"));
                link((gateway, "eth0", "10.3.0.1/24"), (&node, "wan", &format!("{NODE}/24")));
                gateway.sysctl("ipv4/ip_forward", "1");
                gateway.tool("ip", "route add default via 10.3.0.254");
                gateway.tool("ip", &format!("route add {network} via 10.9.0.1"));
                node.tool("ip", &format!("route add {network} via 10.3.0.1"));
            }
            None => {
                link((&clients, "eth0", "10.9.0.1/30"), (&node, "wan", "10.9.0.2/30"));
                node.tool("ip", &format!("addr add {NODE}/32 dev lo"));
                node.tool("ip", &format!("route add {network} via 10.9.0.1"));
            }
        }
        clients.tool("ip", "route add default via 10.9.0.2");
        // All of the network's addresses are the clients' own.
        clients.tool("ip", &format!("route add local {network} dev lo"));
        node.sysctl("ipv4/ip_forward", "1");
        let mut city =
            City { service, mode, clients, gateway, node, pods: Vec::new(), log: Arc::default(), made: 0 };
        for _ in 0..pods {
            city.add_pod(ports);
        }
        city.sync(&[]);
        city
    }

    fn add_pod(&mut self, ports: &[Port]) {
        let ns = Ns::new("pod");
        let at = self.made * 4;
        self.made += 1;
        let address = Ipv4Addr::new(10, 244, 0, at + 1);
        let gateway = Ipv4Addr::new(10, 244, 0, at + 2);
        link(
            (&ns, "eth0", &format!("{address}/30")),
            (&self.node, &format!("pod{at}"), &format!("{gateway}/30")),
        );
        ns.tool("ip", &format!("route add default via {gateway}"));
        self.pods.push(Pod::start(ns, address, ports, &self.log));
    }

    fn sync(&self, gone: &[Ipv4Addr]) {
        let endpoints: Vec<Ipv4Addr> = self.pods.iter().map(|pod| pod.address).collect();
        self.service.sync(&self.node, self.mode, &endpoints, gone);
    }

    /// The pod on which a client landed ends, and one with another address takes its place. (Which pods a client gets is
    /// chance: any other pod may have none.)
    pub fn replace_pod_of(&mut self, landed: &BTreeSet<Option<Ipv4Addr>>, ports: &[Port]) -> Ipv4Addr {
        let at =
            self.pods.iter().position(|pod| landed.contains(&Some(pod.address))).expect("the client's pod");
        let pod = self.pods.remove(at);
        pod.ns.as_ref().expect("a pod that lives").tool("ip", "link del eth0");
        let gone = pod.address;
        drop(pod);
        self.add_pod(ports);
        self.sync(&[gone]);
        gone
    }

    /// At both ends: the clients', which is the gateway if there is one, and each pod's.
    pub fn attach(&self, client: &str, pod: &str) {
        let end = self.gateway.as_ref().unwrap_or(&self.clients);
        attach(end, "client", client);
        for one in &self.pods {
            one.attach(pod);
        }
    }

    /// On which pods the flows of each of the first clients land.
    pub fn land(&self, clients: u32, how: &Use) -> Vec<BTreeSet<Option<Ipv4Addr>>> {
        let mut landed = vec![BTreeSet::new(); clients as usize];
        let mut turns: Vec<(u32, Port)> =
            (0..clients).flat_map(|client| how.ports.iter().map(move |port| (client, *port))).collect();
        if how.order == Order::PortByPort {
            turns.sort_by_key(|(client, (_, port))| {
                (*port, client.wrapping_mul(2_654_435_761).rotate_left(u32::from(*port) % 31))
            });
        }
        self.clients.run(|| {
            for (client, port) in turns {
                landed[client as usize].insert(self.ask(client, port, how));
            }
        });
        landed
    }

    /// How many of the first clients get through before one does not.
    pub fn until_lost(&self, clients: u32, port: Port, how: &Use) -> u32 {
        self.clients
            .run(|| (0..clients).find(|client| self.ask(*client, port, how).is_none()).unwrap_or(clients))
    }

    /// The pod that a flow reaches. (`None` after a second without an answer.)
    fn ask(&self, client: u32, (protocol, port): Port, how: &Use) -> Option<Ipv4Addr> {
        let from = address(client, self.service.kind == Kind::ClusterIp);
        let is_the_services = self.service.ports.contains(&(protocol, port));
        let called = if is_the_services { self.service.port(port) } else { port };
        let to = SocketAddrV4::new(self.service.address(), called);
        let number = client.to_be_bytes();
        let mut answer = [0; 4];
        self.log.0.lock().expect("the log").remove(&(port, client));
        if protocol == "tcp" {
            let mut stream = tcp(from, to).ok()?;
            stream.write_all(&number).ok()?;
            stream.read_exact(&mut answer).ok()?;
        } else {
            let socket = UdpSocket::bind((from, 0)).expect("a client's address");
            socket.set_read_timeout(Some(WAIT)).expect("a timeout");
            socket.send_to(&number, to).ok()?;
            if how.answers {
                socket.recv_from(&mut answer).ok()?;
            } else {
                answer = number;
            }
        }
        assert_eq!(answer, number, "somebody else's answer");
        let (log, written) = &*self.log;
        let key = (port, client);
        let (log, _) = written
            .wait_timeout_while(log.lock().expect("the log"), WAIT, |log| !log.contains_key(&key))
            .expect("the log");
        log.get(&key).copied()
    }
}

/// Only what is lost takes so long.
const WAIT: Duration = Duration::from_secs(1);

fn network(inside: bool) -> &'static str {
    if inside { "10.244.128.0/17" } else { "10.1.0.0/16" }
}

fn address(client: u32, inside: bool) -> Ipv4Addr {
    let first = if inside { Ipv4Addr::new(10, 244, 128, 1) } else { Ipv4Addr::new(10, 1, 0, 1) };
    Ipv4Addr::from(u32::from(first) + client)
}

/// How many clients use more than one pod; each flow has to arrive somewhere.
pub fn split(landed: &[BTreeSet<Option<Ipv4Addr>>]) -> usize {
    let lost = landed.iter().filter(|pods| pods.contains(&None)).count();
    assert_eq!(lost, 0, "clients without an answer");
    landed.iter().filter(|pods| pods.len() > 1).count()
}

impl Pod {
    fn start(ns: Ns, address: Ipv4Addr, ports: &[Port], log: &Log) -> Pod {
        let stop = Arc::new(AtomicBool::new(false));
        let mut pod = Pod { address, ns: None, stop, listeners: Vec::new(), threads: Vec::new() };
        for (protocol, port) in ports {
            let (log, stop, port) = (Arc::clone(log), Arc::clone(&pod.stop), *port);
            let note = move |number: &[u8; 4]| {
                let (log, written) = &*log;
                log.lock().expect("the log").insert((port, u32::from_be_bytes(*number)), address);
                written.notify_all();
            };
            if *protocol == "tcp" {
                let listener = ns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).expect("bind");
                pod.listeners.push(listener.try_clone().expect("a descriptor"));
                pod.threads.push(thread::spawn(move || {
                    while let Ok((mut stream, _)) = listener.accept() {
                        let _ = stream.set_read_timeout(Some(DEADLINE));
                        let mut number = [0; 4];
                        if stream.read_exact(&mut number).is_ok() {
                            note(&number);
                            let _ = stream.write_all(&number);
                        }
                    }
                }));
            } else {
                let socket = ns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).expect("bind");
                socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
                pod.threads.push(thread::spawn(move || {
                    let mut number = [0; 4];
                    while !stop.load(Ordering::Relaxed) {
                        if let Ok((4, from)) = socket.recv_from(&mut number) {
                            note(&number);
                            let _ = socket.send_to(&number, from);
                        }
                    }
                }));
            }
        }
        pod.ns = Some(ns);
        pod
    }

    pub fn attach(&self, rules: &str) {
        attach(self.ns.as_ref().expect("a pod that lives"), "pod", rules);
    }
}

/// Its sockets are closed when this returns.
impl Drop for Pod {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// `rules` are a service, or have chains.
fn attach(ns: &Ns, end: &str, rules: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sfunnel"));
    command.args(["attach", "-i", "eth0", "--finish-checksums", "--ruleset", rules]).stdin(Stdio::null());
    if rules.contains("service") {
        command.args(["--end", end]);
    }
    let output = ns.run(|| command.output()).expect("sfunnel");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A connection from one of many addresses of one's own.
fn tcp(from: Ipv4Addr, to: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let wait = TimeVal::seconds(1);
    setsockopt(&socket, sockopt::SendTimeout, &wait)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &wait)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(TcpStream::from(socket))
}
