//! iperf3 between two namespaces.
//!
//! In: namespaces, a port, arguments. Out: its report. The server goes when it is dropped.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;

use super::lab::{Ns, find_tool};

#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Returns once it listens.
    pub fn start(ns: &Ns, port: u16) -> Server {
        let mut command = Command::new(find_tool("iperf3").expect("iperf3"));
        command.args(["-s", "--forceflush", "-p", &port.to_string()]).stdin(Stdio::null());
        let mut child = ns.spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()));
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let listening = lines.any(|line| line.is_ok_and(|line| line.contains("listening")));
        assert!(listening, "iperf3 does not listen");
        // Its pipe stays open and empty.
        thread::spawn(move || lines.count());
        Server(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A run with these arguments, besides the address; gives the report.
pub fn run(client: &Ns, address: &str, args: &str) -> serde_json::Value {
    let report = client.tool("iperf3", &format!("-c {address} -J {args}"));
    serde_json::from_str(&report).expect("JSON")
}
