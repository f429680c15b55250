//! Silent death: packets vanish, nobody is told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Lab, Namespace, Region};
use crate::Result;

/// Some packets of a namespace are dropped while this guard lives.
#[must_use = "the rule is lifted when the guard is dropped"]
pub struct DropRule {
    namespace: Namespace,
    table: String,
    lifted: bool,
}

impl Namespace {
    /// Drops every packet that arrives here, other than on loopback, to or from `address`, until the guard is dropped.
    ///
    /// Nothing is dropped on the way out: the sender would be told by EPERM, and silence tells nobody. So put the rule
    /// where the packets arrive: in the endpoint's namespace to lose what is sent to it, in the edge's to lose what it
    /// sends. [`Lab::silence`] does both.
    ///
    /// # Errors
    /// When `nft` is not installed or refuses the rule.
    pub fn drop_traffic_to(&self, address: IpAddr) -> Result<DropRule> {
        self.drop_traffic_to_all(&[address])
    }

    /// As [`Namespace::drop_traffic_to`] for several addresses, all from the same moment.
    ///
    /// # Errors
    /// As [`Namespace::drop_traffic_to`].
    pub fn drop_traffic_to_all(&self, addresses: &[IpAddr]) -> Result<DropRule> {
        let mut rules = String::new();
        for field in ["daddr", "saddr"] {
            rules.push_str(&drop_rules("iifname", field, addresses));
        }
        // Before connection tracking and everything else, as if the cable had been cut.
        self.drop_in_chain("prerouting", &rules)
    }

    /// Lets no packet leave for any of `addresses`, other than on loopback, until the guard is dropped.
    ///
    /// As a host's own packet filter does it: whoever sends is told by EPERM. Silence is [`Namespace::drop_traffic_to_all`].
    ///
    /// # Errors
    /// As [`Namespace::drop_traffic_to`].
    pub fn refuse_to_send_to_all(&self, addresses: &[IpAddr]) -> Result<DropRule> {
        self.drop_in_chain("output", &drop_rules("oifname", "daddr", addresses))
    }

    fn drop_in_chain(&self, hook: &str, rules: &str) -> Result<DropRule> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let table = format!("landfall_lab_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let chain = format!("chain dropping {{ type filter hook {hook} priority -300\n{rules}}}\n");
        self.run_with_input(["nft", "-f", "-"], &format!("table inet {table} {{\n{chain}}}\n"))?;
        Ok(DropRule { namespace: self.clone(), table, lifted: false })
    }
}

/// One rule a family that drops packets with `field` among `addresses`, other than on loopback.
fn drop_rules(interface: &str, field: &str, addresses: &[IpAddr]) -> String {
    let families = [("ip", of_family(addresses, true)), ("ip6", of_family(addresses, false))];
    let rule =
        |(family, list): &(&str, Vec<String>)| format!("{interface} != \"lo\" {family} {field} {{ {} }} drop\n", list.join(", "));
    families.iter().filter(|(_, list)| !list.is_empty()).map(rule).collect()
}

fn of_family(addresses: &[IpAddr], ipv4: bool) -> Vec<String> {
    let distinct: BTreeSet<_> = addresses.iter().filter(|address| address.is_ipv4() == ipv4).collect();
    distinct.into_iter().map(ToString::to_string).collect()
}

impl DropRule {
    /// Lets the packets pass again.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn lift(mut self) -> Result<()> {
        self.delete()
    }

    fn delete(&mut self) -> Result<()> {
        self.lifted = true;
        self.namespace.run(["nft", "delete", "table", "inet", &self.table]).map(drop)
    }
}

impl Drop for DropRule {
    fn drop(&mut self) {
        if !self.lifted
            && let Err(failure) = self.delete()
        {
            eprintln!("{failure}");
        }
    }
}

/// A silenced region: nothing reaches its endpoints and nothing comes from them while this guard lives.
#[must_use = "the silence ends when the guard is dropped"]
pub struct Silence {
    towards: DropRule,
    from: DropRule,
}

impl Silence {
    /// Ends the silence.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn lift(self) -> Result<()> {
        self.towards.lift().and(self.from.lift())
    }
}

impl Lab {
    /// The silent death of a whole region as the edge sees it: no answer, no refusal, no error.
    ///
    /// # Errors
    /// When `nft` is not installed or refuses the rules.
    pub fn silence(&self, region: &Region) -> Result<Silence> {
        self.silence_addresses(region, &region.addresses())
    }

    /// As [`Lab::silence`] for some addresses of the region only.
    ///
    /// # Errors
    /// When `nft` is not installed or refuses the rules.
    pub fn silence_addresses(&self, region: &Region, addresses: &[IpAddr]) -> Result<Silence> {
        // From the first rule on the endpoint hears nothing, so that is the moment of death.
        let towards = region.namespace.drop_traffic_to_all(addresses)?;
        let from = self.edge.drop_traffic_to_all(addresses)?;
        Ok(Silence { towards, from })
    }
}
