//! What a plugin answers when it cannot: an object with a number, which runtimes put into their own message.
//!
//! Input: our failures. Output: the specification's codes, from 100 on our own.

use serde_json::{Value, json};

use super::super::Failure;
use crate::net;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Version,
    Field,
    /// The container, or its namespace, is not there.
    Container,
    /// A variable is missing or wrong.
    Variable,
    Input,
    Decode,
    Config,
    /// Waiting may help.
    Later,
    NotReady,
    Rules,
    System,
    Drift,
}

impl Code {
    fn number(self) -> u32 {
        match self {
            Code::Version => 1,
            Code::Field => 2,
            Code::Container => 3,
            Code::Variable => 4,
            Code::Input => 5,
            Code::Decode => 6,
            Code::Config => 7,
            Code::Later => 11,
            Code::NotReady => 50,
            Code::Rules => 100,
            Code::System => 101,
            Code::Drift => 102,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Error {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Error {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// As the specification wants it. `talk` is what was said on the way: the places in the rules, for one thing.
    pub(super) fn object(&self, version: &str, talk: &str) -> Value {
        let message = format!("sfunnel: {}", self.message);
        json!({ "cniVersion": version, "code": self.code.number(), "msg": message, "details": talk })
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let code = match &failure {
            Failure::Rules | Failure::NotText(_) | Failure::TooLarge { .. } => Code::Rules,
            Failure::Usage(_) => Code::Config,
            Failure::Container(_) => Code::Variable,
            Failure::File { .. } => Code::Input,
            Failure::Net(net::Error::Namespace { .. }) => Code::Container,
            Failure::Net(error) if error.is_missing_interface() => Code::Later,
            _ => Code::System,
        };
        Self::new(code, failure.to_string())
    }
}
