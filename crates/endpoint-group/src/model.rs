//! The model: endpoint groups, endpoints and the policy values that cannot hold nonsense.

use std::{collections::BTreeMap, fmt, net::IpAddr, num::NonZeroU16, time::Duration};

use crate::Name;

/// The place of an endpoint in the edge-wide array of endpoints.
///
/// Stable for as long as any flow may hold it; a name that changes its address gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(u16);

impl EndpointId {
    /// The most endpoints one edge can hold; `u16::MAX` marks an empty slot.
    pub const MAX_ENDPOINTS: usize = u16::MAX as usize;

    /// The id at `index`, if the index is one that a slot can hold.
    pub fn new(index: usize) -> Option<Self> {
        u16::try_from(index).ok().filter(|&i| i != u16::MAX).map(Self)
    }

    /// The index into the array of endpoints.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn to_slot(self) -> u16 {
        self.0
    }

    pub(crate) fn from_slot(raw: u16) -> Option<Self> {
        (raw != u16::MAX).then_some(Self(raw))
    }
}

/// An endpoint's share within its group, 0 to 255 as in AWS Global Accelerator; 0 drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u8);

impl Weight {
    /// Drains: no new flow in any state.
    pub const ZERO: Self = Self(0);

    /// A weight of 0 to 255.
    pub const fn new(weight: u8) -> Self {
        Self(weight)
    }

    /// The number as configured.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(128)
    }
}

/// A traffic dial: the share of the traffic reaching a group that the group accepts, in thousandths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dial(u32);

impl Dial {
    /// Takes nothing unless every other group is out.
    pub const CLOSED: Self = Self(0);
    /// Takes all that reaches it.
    pub const FULL: Self = Self(100_000);

    /// A dial of 0 to 100 percent, rounded to a thousandth of a percent; `None` outside that range.
    pub fn from_percent(percent: f64) -> Option<Self> {
        // The range check keeps the value inside u32, and NaN out.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        (0.0..=100.0).contains(&percent).then(|| Self((percent * 1000.0).round() as u32))
    }

    /// In percent.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// In thousandths of a percent, 0 to 100,000.
    pub fn thousandths(self) -> u32 {
        self.0
    }

    /// This dial scaled by `step / steps`, rounded down.
    pub(crate) fn scaled(self, step: u32, steps: u32) -> Self {
        Self(self.0 * step / steps)
    }
}

impl Default for Dial {
    fn default() -> Self {
        Self::FULL
    }
}

/// How many usable endpoints a group needs to be eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinHealthy {
    /// A count, at least 1.
    Count(NonZeroU16),
    /// A share of the endpoints with weight > 0, 1 to 100 percent, rounded up.
    Percent(u8),
}

impl MinHealthy {
    /// The count needed of `weighted` endpoints with weight > 0; never less than 1.
    pub fn needed(self, weighted: usize) -> usize {
        match self {
            Self::Count(count) => usize::from(count.get()),
            Self::Percent(percent) => (weighted * usize::from(percent)).div_ceil(100).max(1),
        }
    }
}

impl Default for MinHealthy {
    fn default() -> Self {
        Self::Count(NonZeroU16::MIN)
    }
}

impl fmt::Display for MinHealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Listener port → endpoint port, for a whole group.
pub type PortOverrides = BTreeMap<u16, u16>;

/// How a recovered endpoint, or a group that becomes eligible again, comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailbackPolicy {
    /// How long a recovered endpoint waits before it takes its share again.
    pub hold: Duration,
    /// Over how long its share then grows to the whole.
    pub ramp: Duration,
}

impl Default for FailbackPolicy {
    fn default() -> Self {
        Self { hold: Duration::from_secs(5), ramp: Duration::from_secs(10) }
    }
}

/// What becomes of new flows when no group is eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenAllUnhealthy {
    /// Send them to the first group that has weight > 0: a wrong verdict then costs nothing.
    #[default]
    FailOpen,
    /// Refuse them.
    FailClosed,
}

/// One endpoint of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Identity: unique on the edge, survives changes of weight and address.
    pub name: Name,
    /// Where it listens.
    pub ip: IpAddr,
    /// One fixed port for every listener; without it the listener's port is kept, unless overridden.
    pub port: Option<u16>,
    /// Share within the group.
    pub weight: Weight,
}

/// A regional set of endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointGroup {
    /// Identity, unique on the edge.
    pub name: Name,
    /// Free text for people, such as `eu-central`.
    pub region: String,
    /// Share of the traffic reaching the group that it accepts.
    pub dial: Dial,
    /// Fewer usable endpoints, and the group is passed over.
    pub min_healthy: MinHealthy,
    /// Listener port → endpoint port.
    pub port_overrides: PortOverrides,
    /// How endpoints and the group come back.
    pub failback: FailbackPolicy,
    /// In the order of the file; the order has no effect on the choice.
    pub endpoints: Vec<Endpoint>,
}

impl EndpointGroup {
    /// The port of `endpoint` that a flow to `listener_port` goes to: its fixed port, else the group's override, else the same.
    pub fn endpoint_port(&self, endpoint: &Endpoint, listener_port: u16) -> u16 {
        endpoint.port.or_else(|| self.port_overrides.get(&listener_port).copied()).unwrap_or(listener_port)
    }
}
