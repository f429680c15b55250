//! The walk through a listener's groups, in words.

use endpoint_group::{
    Dial, Health, MinHealthy, Slot, Weight,
    failback::{RAMP_STEPS, RampStep},
    plan::{Plan, PlannedGroup, Refusal, Stage},
    table::Target,
    view::{EndpointView, GroupView},
};

use super::{GroupVerdict, what_if::shortened};
use crate::{config::Listener, control::state::State};

/// Endpoints of one group that are named because something is the matter with them.
const NAMED: usize = 4;

/// One slot's way through one listener's groups.
pub(super) struct Walk<'a> {
    pub state: &'a State,
    pub listener: &'a Listener,
    /// Its groups, in order of preference.
    pub order: &'a [usize],
    pub plan: &'a Plan,
    pub slot: Slot,
}

impl Walk<'_> {
    /// What becomes of the slot at each group.
    pub fn verdicts(&self) -> Vec<GroupVerdict> {
        let taker = self.taker().map(|group| group.index);
        let verdict = |(index, &group): (usize, &usize)| {
            let view = &self.state.views()[group];
            let eligible = if self.in_full() { view.eligible_with_held() } else { view.eligible() };
            let standing = self.standing(view, eligible);
            let verdict = match self.fate(index, view, eligible) {
                Some(fate) => format!("{standing}; {fate}"),
                None => standing,
            };
            let name = self.state.config().endpoint_groups[group].group.name.to_string();
            let rtt_seconds = self.state.rtt(group).map(|rtt| rtt.as_secs_f64());
            GroupVerdict { name, eligible, takes: taker == Some(index), verdict, rtt_seconds }
        };
        self.order.iter().enumerate().map(verdict).collect()
    }

    fn taker(&self) -> Option<&PlannedGroup> {
        self.plan.group_for(self.slot).map(|group| &self.plan.groups()[group])
    }

    /// Whether held and ramping endpoints count in full; where nothing is eligible at all they do, and it is not enough.
    fn in_full(&self) -> bool {
        self.plan.stage() != Stage::Eligible
    }

    /// Whether the group is eligible, and why.
    fn standing(&self, view: &GroupView, eligible: bool) -> String {
        let usable = view.endpoints.iter().filter(|endpoint| self.usable(endpoint)).count();
        let troubles: Vec<String> = view.endpoints.iter().filter_map(|endpoint| self.trouble(endpoint)).collect();
        let troubles = match troubles.as_slice() {
            [] => String::new(),
            all => format!(" ({})", shortened(all.iter(), NAMED)),
        };
        let needed = match view.min_healthy {
            MinHealthy::Count(count) => format!("min_healthy {count}"),
            percent @ MinHealthy::Percent(_) => {
                format!("min_healthy {percent} of {} is {}", view.weighted(), percent.needed(view.weighted()))
            }
        };
        let word = if eligible { "eligible" } else { "not eligible" };
        format!("{word}: {usable} of {} usable{troubles}, {needed}", view.endpoints.len())
    }

    fn usable(&self, endpoint: &EndpointView) -> bool {
        if self.in_full() {
            endpoint.health == Health::Healthy && endpoint.weight > Weight::ZERO
        } else {
            endpoint.effective_weight() > 0
        }
    }

    /// What keeps an endpoint from its whole share.
    fn trouble(&self, endpoint: &EndpointView) -> Option<String> {
        let name = &self.state.endpoints().get(endpoint.id).target.name;
        match (endpoint.health, endpoint.ramp) {
            _ if endpoint.weight == Weight::ZERO => Some(format!("{name} has weight 0")),
            (Health::Unhealthy, _) => Some(format!("{name} is unhealthy")),
            (Health::Unknown, _) => Some(format!("{name} has no probe result yet")),
            (Health::Healthy, RampStep::FULL) => None,
            (Health::Healthy, RampStep::HELD) => Some(format!("{name} is held after its recovery")),
            (Health::Healthy, step) => Some(format!("{name} is back by {}/{RAMP_STEPS}", step.get())),
        }
    }

    /// What the group does with the slot, if it is asked at all.
    fn fate(&self, index: usize, view: &GroupView, eligible: bool) -> Option<String> {
        let taker = self.taker()?;
        let planned = self.plan.groups().iter().find(|group| group.index == index);
        let Some(planned) = planned else {
            return (eligible && view.effective_dial() == Dial::CLOSED)
                .then(|| "dial 0 %: takes nothing while a group with an open dial is eligible".to_owned());
        };
        let takes = taker.index == index;
        // A slot goes past its taker only where nobody accepts it.
        if !takes && taker.accepts(self.slot) && taker.index < index {
            return Some("not reached".to_owned());
        }
        Some(match self.plan.stage() {
            Stage::DialsIgnored => "dials are ignored and it is the first that is eligible: takes all".to_owned(),
            Stage::FailOpen => "the first group that has weight above 0: takes all, whatever the health".to_owned(),
            _ => self.dialled(planned, view, takes),
        })
    }

    fn dialled(&self, planned: &PlannedGroup, view: &GroupView, takes: bool) -> String {
        let last = self.plan.groups().last().is_some_and(|last| last.index == planned.index);
        let dial = match (view.ramp, last) {
            (RampStep::FULL, _) => format!("dial {} %", planned.dial.percent()),
            _ if self.in_full() => format!("dial {} %", planned.dial.percent()),
            (step, true) => format!("takes the rest, back by {}/{RAMP_STEPS}: {} %", step.get(), planned.dial.percent()),
            (step, false) => {
                let (whole, now) = (view.dial.percent(), planned.dial.percent());
                format!("dial {whole} %, back by {}/{RAMP_STEPS}: {now} %", step.get())
            }
        };
        let draw = draw(planned, self.slot);
        match (planned.accepts(self.slot), takes) {
            (true, _) if planned.dial == Dial::FULL && last && view.dial < Dial::FULL => {
                format!("takes the rest: the last that is eligible, so its dial of {} % has no effect", view.dial.percent())
            }
            (true, _) if planned.dial == Dial::FULL && last => "takes the rest".to_owned(),
            (true, _) if planned.dial == Dial::FULL => "dial 100 %: takes all that reaches it".to_owned(),
            (true, _) => format!("{dial}, the slot's draw of {draw} % falls under it: takes the slot"),
            (false, true) => {
                format!("{dial}, the slot's draw of {draw} % does not fall under it; no other accepts: takes the rest")
            }
            (false, false) => format!("{dial}, the slot's draw of {draw} % does not fall under it: passes it on"),
        }
    }

    /// The choice, or the refusal.
    pub fn reason(&self, choice: Option<&Target>) -> String {
        if let (Some(target), Some(group)) = (choice, self.taker()) {
            let name = &target.name;
            let among = match group.candidates.as_slice().len() {
                1 => format!("{name} is its only endpoint that can take flows"),
                count => format!("of its {count} endpoints that can take flows {name} bids highest for slot {}", self.slot.0),
            };
            return format!("{}; {among}", self.group_reason(&target.group.to_string(), group));
        }
        match self.plan.stage() {
            Stage::Refuse(Refusal::NotReady) => {
                let groups = self.listener.groups.iter().map(|&group| &self.state.views()[group]);
                let unknown = groups.flat_map(|group| &group.endpoints).filter(|endpoint| endpoint.health == Health::Unknown);
                let names = unknown.map(|endpoint| self.state.endpoints().get(endpoint.id).target.name.to_string());
                format!("refused: no group is eligible, and without a probe result for {} none can be", shortened(names, NAMED))
            }
            Stage::Refuse(Refusal::Drained) => "refused: every endpoint of these groups has weight 0".to_owned(),
            _ => "refused: no group is eligible, and when_all_unhealthy is \"fail_closed\"".to_owned(),
        }
    }

    fn group_reason(&self, name: &str, group: &PlannedGroup) -> String {
        let by_dial = || match group.accepts(self.slot) {
            true if group.dial == Dial::FULL && self.plan.groups().first().is_some_and(|first| first.index == group.index) => {
                format!("{name} is the first group that takes flows, and takes all")
            }
            true if group.dial == Dial::FULL => {
                format!("no group before it accepts the slot, and {name} takes all that reaches it")
            }
            true => format!("{name} is the first group whose dial accepts the slot"),
            false => format!("no group's dial accepts the slot, and {name} takes the rest"),
        };
        match self.plan.stage() {
            Stage::HeldInFull => {
                format!("without held and ramping endpoints no group is eligible, so they count in full; {}", by_dial())
            }
            Stage::DialsIgnored => {
                format!("no group with an open dial is eligible, so dials are ignored and {name} is the first eligible")
            }
            Stage::FailOpen => {
                format!("no group is eligible, so the listener fails open to {name}, the first group that has weight above 0")
            }
            Stage::Eligible | Stage::Refuse(_) => by_dial(),
        }
    }
}

/// The slot's draw at a group in percent, in the resolution of a dial.
fn draw(group: &PlannedGroup, slot: Slot) -> f64 {
    let thousandths = ((group.key.draw(slot) >> 32) * u64::from(Dial::FULL.thousandths())) >> 32;
    // Below 100,000: exact.
    f64::from(u32::try_from(thousandths).unwrap_or(u32::MAX)) / 1000.0
}
