//! What this edge knows now of every endpoint and group: the input of every decision besides the flow.

use crate::{
    Dial, EndpointId, MinHealthy, Weight,
    failback::{RAMP_STEPS, RampStep},
    rendezvous::NameKey,
};

/// Verdict of the health checker on one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Health {
    /// No result yet. Not the same as healthy.
    #[default]
    Unknown,
    /// Takes flows.
    Healthy,
    /// Takes none, unless everything is unhealthy and the listener fails open.
    Unhealthy,
}

impl Health {
    /// `unknown`, `healthy` or `unhealthy`: the metric label and the word in `/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One endpoint as this edge sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointView {
    /// Its place in the edge-wide array.
    pub id: EndpointId,
    /// Its name, hashed.
    pub key: NameKey,
    /// The checker's verdict.
    pub health: Health,
    /// The weight in force: the file's, or one set at run time.
    pub weight: Weight,
    /// How far it has come back after a recovery.
    pub ramp: RampStep,
}

impl EndpointView {
    /// Weight in units of 1 / [`RAMP_STEPS`], as far as the ramp has come; 0 unless healthy.
    pub fn effective_weight(&self) -> u32 {
        match self.health {
            Health::Healthy => u32::from(self.weight.get()) * self.ramp.get(),
            Health::Unknown | Health::Unhealthy => 0,
        }
    }

    /// Weight in the same units as if there were no ramp.
    pub fn full_weight(&self) -> u32 {
        u32::from(self.weight.get()) * RAMP_STEPS
    }
}

/// One endpoint group as this edge sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// Its name, hashed.
    pub key: NameKey,
    /// The dial in force.
    pub dial: Dial,
    /// How far the dial has come back since the group became eligible again.
    pub ramp: RampStep,
    /// How many usable endpoints it needs.
    pub min_healthy: MinHealthy,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

impl GroupView {
    /// The dial as far as the ramp has come.
    pub fn effective_dial(&self) -> Dial {
        self.dial.scaled(self.ramp.get(), RAMP_STEPS)
    }

    /// How many endpoints have weight > 0.
    pub fn weighted(&self) -> usize {
        self.endpoints.iter().filter(|e| e.weight > Weight::ZERO).count()
    }

    /// Whether the endpoints that take flows now are enough for the group to be eligible.
    pub fn eligible(&self) -> bool {
        let usable = self.endpoints.iter().filter(|e| e.effective_weight() > 0).count();
        usable >= self.min_healthy.needed(self.weighted())
    }

    /// The same when held and ramping endpoints count in full.
    pub fn eligible_with_held(&self) -> bool {
        let usable = self.endpoints.iter().filter(|e| e.health == Health::Healthy && e.weight > Weight::ZERO).count();
        usable >= self.min_healthy.needed(self.weighted())
    }
}
