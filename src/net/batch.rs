//! Requests for several devices in few messages, and for whom one was refused.
//!
//! Input: requests, each for somebody, and what its refusal means. Output: an error for each who has one. Nothing more
//! is asked for those.

use super::netlink::{self, Netlink, Request};
use super::{Error, Result};

/// What a refusal means; `None`: nothing.
type Meaning<'a> = Box<dyn FnOnce(netlink::Error) -> Option<Error> + 'a>;

#[derive(Default)]
pub struct Batch<'a> {
    each: Vec<(usize, Request, Meaning<'a>)>,
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("requests", &self.each.len()).finish()
    }
}

impl<'a> Batch<'a> {
    /// For `whom`: a place among the results.
    pub fn add(
        &mut self,
        whom: usize,
        request: Request,
        meaning: impl FnOnce(netlink::Error) -> Option<Error> + 'a,
    ) {
        self.each.push((whom, request, Box::new(meaning)));
    }

    /// Sends what was added. Only the first error of each is kept.
    pub fn send<T>(self, netlink: &mut Netlink, results: &mut [Result<T>]) -> Result<()> {
        /// So many answers fit into a socket.
        const AT_ONCE: usize = 100;
        let mut rest = self.each.into_iter().filter(|(whom, ..)| results[*whom].is_ok()).collect::<Vec<_>>();
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(AT_ONCE));
            let (requests, meanings): (Vec<Request>, Vec<_>) =
                rest.into_iter().map(|(whom, request, meaning)| (request, (whom, meaning))).unzip();
            rest = later;
            let refusals =
                netlink.batch(requests).map_err(|source| Error::netlink("set up devices", source))?;
            for ((whom, meaning), refusal) in meanings.into_iter().zip(refusals) {
                if let Some(error) = refusal.and_then(meaning)
                    && results[whom].is_ok()
                {
                    results[whom] = Err(error);
                }
            }
        }
        Ok(())
    }
}
