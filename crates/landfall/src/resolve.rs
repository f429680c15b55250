//! DNS names of endpoints: asked for again whenever their answer's TTL is over, each name by a task of its own.
//!
//! A name whose lookup fails keeps the addresses that it had: a resolver that is down must not empty a group. That there are no
//! addresses counts as a failure as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{RData, RecordType},
    },
};
use tokio::{
    sync::{OnceCell, mpsc},
    task::JoinHandle,
    time::{Instant, sleep},
};

/// Between two lookups of a name, whatever its TTL says.
const LEAST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// After a lookup that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Answers that wait for the control loop; tasks beyond it wait.
const ANSWERS: usize = 64;

/// What became of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The name.
    pub host: String,
    /// Its addresses, at least one, or why there are none.
    pub outcome: Result<BTreeSet<IpAddr>, String>,
}

/// Looks names up.
pub trait Lookup: Send + Sync + 'static {
    /// The addresses of `host` and for how long they are good, or why not, in words.
    fn lookup(&self, host: &str) -> impl Future<Output = Result<(BTreeSet<IpAddr>, Duration), String>> + Send;
}

/// Asks DNS servers.
pub struct Dns {
    servers: Vec<SocketAddr>,
    resolver: OnceCell<TokioResolver>,
}

impl Dns {
    /// Asks `servers`, or without any those that `/etc/resolv.conf` has at the first lookup; `/etc/hosts` comes first.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, resolver: OnceCell::new() }
    }

    fn build(&self) -> Result<TokioResolver, String> {
        let builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio()
                .map_err(|error| format!("cannot read /etc/resolv.conf: {error}; set edge.resolvers"))?
        } else {
            let server = |server: &SocketAddr| {
                let mut config = NameServerConfig::udp_and_tcp(server.ip());
                for connection in &mut config.connections {
                    connection.port = server.port();
                }
                config
            };
            let config = ResolverConfig::from_name_servers(self.servers.iter().map(server).collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        builder.build().map_err(|error| format!("cannot set up the resolver: {error}"))
    }
}

impl Lookup for Dns {
    async fn lookup(&self, host: &str) -> Result<(BTreeSet<IpAddr>, Duration), String> {
        let resolver = self.resolver.get_or_try_init(|| async { self.build() }).await?;
        // Names of a config are whole: no search list.
        let name = format!("{host}.");
        // Each by itself: where one of the two fails, its addresses must not seem to be gone.
        let (v4, v6) =
            tokio::join!(resolver.lookup(name.as_str(), RecordType::A), resolver.lookup(name.as_str(), RecordType::AAAA));
        let mut addresses = BTreeSet::new();
        let mut good_for = LONGEST_WAIT;
        for answer in [v4, v6] {
            match answer {
                Ok(found) => {
                    addresses.extend(found.answers().iter().filter_map(|record| match record.data {
                        RData::A(ip) => Some(IpAddr::from(ip.0)),
                        RData::AAAA(ip) => Some(IpAddr::from(ip.0)),
                        _ => None,
                    }));
                    good_for = good_for.min(found.valid_until().saturating_duration_since(Instant::now().into_std()));
                }
                Err(error) if says_there_is_none(&error) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok((addresses, good_for)) }
    }
}

/// Whether a server has said that the name has no such record; a server that failed has not.
fn says_there_is_none(error: &NetError) -> bool {
    let NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })) = error else { return false };
    matches!(response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// The names that are looked up.
pub struct Resolver<L> {
    lookup: Arc<L>,
    tasks: BTreeMap<String, JoinHandle<()>>,
    answers: mpsc::Sender<Resolution>,
}

impl<L> Drop for Resolver<L> {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

/// A resolver of no names yet, and where its answers come: of every lookup one.
pub fn resolver<L: Lookup>(lookup: L) -> (Resolver<L>, mpsc::Receiver<Resolution>) {
    let (answers, receiver) = mpsc::channel(ANSWERS);
    (Resolver { lookup: Arc::new(lookup), tasks: BTreeMap::new(), answers }, receiver)
}

impl<L: Lookup> Resolver<L> {
    /// Looks these names up from now on, the new ones at once, and no others. Answers for others may still be on their way.
    pub fn set_hosts(&mut self, hosts: &BTreeSet<&str>) {
        self.tasks.retain(|host, task| {
            let kept = hosts.contains(host.as_str());
            if !kept {
                task.abort();
            }
            kept
        });
        for &host in hosts {
            let begin = || tokio::spawn(keep(Arc::clone(&self.lookup), host.to_owned(), self.answers.clone()));
            self.tasks.entry(host.to_owned()).or_insert_with(begin);
        }
    }
}

/// Looks `host` up for as long as anybody listens.
async fn keep<L: Lookup>(lookup: Arc<L>, host: String, answers: mpsc::Sender<Resolution>) {
    loop {
        let (outcome, wait) = match lookup.lookup(&host).await {
            Ok((addresses, good_for)) => (Ok(addresses), good_for.clamp(LEAST_WAIT, LONGEST_WAIT)),
            Err(error) => (Err(error), RETRY),
        };
        if answers.send(Resolution { host: host.clone(), outcome }).await.is_err() {
            return;
        }
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Answers that were prepared, in their order; counts.
    #[derive(Default)]
    struct Prepared(Mutex<Vec<(String, Instant)>>);

    impl Lookup for Arc<Prepared> {
        async fn lookup(&self, host: &str) -> Result<(BTreeSet<IpAddr>, Duration), String> {
            let mut asked = self.0.lock().unwrap();
            asked.push((host.to_owned(), Instant::now()));
            match (host, asked.iter().filter(|(other, _)| other == host).count()) {
                ("dead", _) => Err("nobody answers".to_owned()),
                ("quick", _) => Ok(([[10, 0, 0, 9].into()].into(), Duration::ZERO)),
                (_, count) => Ok(([[10, 0, 0, u8::try_from(count).unwrap()].into()].into(), Duration::from_secs(60))),
            }
        }
    }

    fn asked(prepared: &Prepared, host: &str) -> Vec<Instant> {
        prepared.0.lock().unwrap().iter().filter(|(other, _)| other == host).map(|(_, at)| *at).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn names_are_asked_for_again_when_their_time_is_over() {
        let prepared = Arc::new(Prepared::default());
        let (mut resolver, mut answers) = resolver(Arc::clone(&prepared));
        resolver.set_hosts(&["steady", "dead", "quick"].into());
        let mut steady = Vec::new();
        while asked(&prepared, "steady").len() < 4 {
            let Resolution { host, outcome } = answers.recv().await.unwrap();
            if host == "steady" {
                steady.push(outcome.unwrap());
            }
        }
        let gaps = |host| asked(&prepared, host).windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>();
        // The runtime's timer has a grain of a millisecond.
        let close = |gaps: Vec<Duration>, expected: Duration| {
            assert!(gaps.iter().all(|&gap| gap >= expected && gap < expected + Duration::from_millis(10)), "{gaps:?}");
        };
        close(gaps("steady"), Duration::from_secs(60));
        close(gaps("dead"), RETRY);
        close(gaps("quick"), LEAST_WAIT);
        assert_eq!(steady[1], [IpAddr::from([10, 0, 0, 2])].into());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_left_is_asked_for_no_more_and_one_that_stays_is_not_asked_anew() {
        let prepared = Arc::new(Prepared::default());
        let (mut resolver, mut answers) = resolver(Arc::clone(&prepared));
        resolver.set_hosts(&["a", "b"].into());
        answers.recv().await.unwrap();
        answers.recv().await.unwrap();
        resolver.set_hosts(&["b", "c"].into());
        assert_eq!(answers.recv().await.unwrap().host, "c");
        let begin = Instant::now();
        assert_eq!(answers.recv().await.unwrap().host, "b");
        assert!(begin.elapsed() > Duration::from_secs(59));
        assert_eq!((asked(&prepared, "a").len(), asked(&prepared, "b").len()), (1, 2));
    }
}
