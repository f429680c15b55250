//! Ends flows. The process decides, from the flow table as it lies in memory; the program `end_flows` carries it out, because it alone
//! can tell that no packet has come meanwhile, and gives back all that a flow held.

use std::{ops::Range, time::Duration};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};

use super::{FastPath, failed, flow_table::Place};
use crate::{EndReason, Error, Sweep};

/// Orders in one call; `MOST_ORDERS` of the program.
const ORDERS: usize = 200;
/// An Ethernet header, without which no frame is run.
const HEADER: usize = 14;

impl FastPath {
    /// Ends the flows whose time is over at `now`, a moment of [`crate::clock`], and counts the others. To be called every second or so.
    pub fn sweep(&mut self, now: Duration) -> Result<Sweep, Error> {
        let mut all = Sweep::default();
        for number in 0..self.parts() {
            all += self.sweep_part(now, number)?;
        }
        Ok(all)
    }

    /// As [`FastPath::sweep`], of one part of all flows by its number: it ends within milliseconds.
    pub fn sweep_part(&mut self, now: Duration, number: usize) -> Result<Sweep, Error> {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let timeouts: Vec<_> = self.settings.listeners.iter().map(|listener| listener.timeouts).collect();
        self.end(number..number.saturating_add(1), |place| {
            let timeouts = timeouts.get(place.listener())?;
            timeouts.verdict(place.answered(), Duration::from_nanos(place.last()), now)
        })
    }

    /// Ends all flows, because the edge stops. Gives how many.
    pub fn end_all(&mut self) -> Result<usize, Error> {
        let all = 0..u32::try_from(self.parts()).unwrap_or(u32::MAX);
        let sweep = self.end(all, |_| Some(EndReason::Shutdown))?;
        Ok(sweep.ended.iter().sum())
    }

    /// Ends the flows of these parts that `verdict` gives a reason for.
    fn end(&mut self, parts: Range<u32>, verdict: impl Fn(&Place) -> Option<EndReason>) -> Result<Sweep, Error> {
        let mut sweep = Sweep { by_endpoint: vec![0; self.endpoints.len()], ..Sweep::default() };
        let mut over: [Vec<Place>; EndReason::COUNT] = Default::default();
        for place in self.places(parts) {
            match verdict(&place) {
                Some(reason) => over[reason as usize].push(place),
                None => keep(&mut sweep, &place),
            }
        }
        for &reason in EndReason::ALL {
            for places in over[reason as usize].chunks(ORDERS) {
                sweep.ended[reason as usize] += self.order_end(places, reason)?;
                // Those that a packet has come for meanwhile.
                let spared = places
                    .iter()
                    .filter_map(|place| self.flows.get(place.index).filter(|now| now.generation() == place.generation()));
                spared.for_each(|place| keep(&mut sweep, &place));
            }
        }
        Ok(sweep)
    }

    /// Has the program end these flows; gives how many it did.
    fn order_end(&mut self, places: &[Place], reason: EndReason) -> Result<usize, Error> {
        let mut frame = vec![0; HEADER];
        for place in places {
            frame.extend_from_slice(&place.index.to_ne_bytes());
            frame.extend_from_slice(&place.generation().to_ne_bytes());
            frame.extend_from_slice(&place.last().to_ne_bytes());
        }
        // The beginning of `struct __sk_buff`: length and type, which must be zero, and the mark.
        let mut context = [0; 12];
        context[8..].copy_from_slice(&(reason as u32).to_ne_bytes());
        let options = TestRunOptions { data_in: Some(&frame), ctx_in: Some(&context), ..TestRunOptions::default() };
        let program: &mut SchedClassifier = self.program("end_flows")?;
        let result = program.test_run(options).map_err(failed("end flows"))?;
        Ok(usize::try_from(result.return_value).unwrap_or(0))
    }
}

fn keep(sweep: &mut Sweep, place: &Place) {
    sweep.live += 1;
    if let Some(flows) = place.endpoint().and_then(|endpoint| sweep.by_endpoint.get_mut(endpoint.index())) {
        *flows += 1;
    }
}
