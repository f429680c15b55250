//! `--hold`: everything keeps running, to be poked at.

use std::{collections::BTreeMap, time::Duration};

use super::{DemoError, place::Place, render, scene::CAST, stage::Stage};

/// How long an endpoint that somebody killed stays dead.
const DEAD_FOR: Duration = Duration::from_secs(5);
/// How often the endpoints are looked after.
const LOOK: Duration = Duration::from_millis(100);

/// Says what can be tried, lets everything run, and brings back what was killed. Ends only with an error.
pub(super) async fn hold(stage: &mut Stage, place: &Place) -> Result<(), DemoError> {
    // Err: somebody moved the program; its name is as good a guess as any.
    let program = std::env::current_exe().unwrap_or_else(|_| "landfall".into());
    let endpoints: Vec<_> = CAST.iter().zip(&stage.endpoints).map(|(role, endpoint)| (role.name, endpoint.pid())).collect();
    stage.show.say(&render::commands(&program, stage.ports, &endpoints, &place.config(), &place.control(), DEAD_FOR))?;
    stage.traffic.resume();
    let mut dead: BTreeMap<usize, Duration> = BTreeMap::new();
    loop {
        let now = stage.time();
        let looked_at = stage.endpoints.iter_mut().enumerate();
        let ended = looked_at.filter_map(|(at, endpoint)| (!dead.contains_key(&at) && endpoint.is_dead()).then_some(at));
        for endpoint in ended.collect::<Vec<_>>() {
            let clients = stage.clients().clone();
            // When exactly since the last look, nobody knows.
            clients.tally().kill(endpoint, now.saturating_sub(LOOK));
            clients.tally().dead(endpoint, now);
            stage.event(now, format!("the process of {} has ended", CAST[endpoint].name))?;
            dead.insert(endpoint, now);
        }
        let due: Vec<usize> = dead.iter().filter(|&(_, &since)| since + DEAD_FOR <= now).map(|(&endpoint, _)| endpoint).collect();
        for endpoint in due {
            dead.remove(&endpoint);
            stage.restart(endpoint).await?;
            let pid = stage.endpoints[endpoint].pid().map_or_else(String::new, |pid| pid.to_string());
            stage.event(stage.time(), format!("kill -9 {pid} kills it again"))?;
        }
        stage.pass(LOOK, |_, _| false).await?;
    }
}
