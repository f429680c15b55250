//! What happens on the stage.

use std::time::Duration;

use super::{
    DemoError, render,
    scene::{CAST, FIRST, NEAR, SECOND},
    stage::Stage,
    summary::Summary,
};

/// How long there is nothing but traffic.
const STEADY: Duration = Duration::from_millis(2_500);
/// How long a death is watched: more than the bound, so that what comes late is seen to come late.
const DEATH: Duration = Duration::from_millis(2_000);
/// From one line about the shares to the next while they return.
const STEP: Duration = Duration::from_millis(500);
/// What the return may take beyond hold and ramp: being found healthy, and a busy machine.
const RETURN_SLACK: Duration = Duration::from_secs(3);
/// How long there is traffic after everything has returned.
const AFTER: Duration = Duration::from_millis(500);
/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What the config promises.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promises {
    pub(super) bound: Duration,
    pub(super) hold: Duration,
    pub(super) ramp: Duration,
}

/// Plays it all; what came of it.
pub(super) async fn play(stage: &mut Stage, promises: Promises) -> Result<Summary, DemoError> {
    let Promises { bound, hold, ramp } = promises;
    let [first, second] = [FIRST, SECOND].map(|index| CAST[index].name);
    stage.phase("Everything goes to the near region, where eu-1 has double weight.")?;
    stage.pass(STEADY, |_, _| false).await?;
    stage.table().await?;

    stage.phase(format!("{first} dies. New connections go on at once, its flows within {:.1} s.", bound.as_secs_f64()))?;
    death(stage, FIRST, bound).await?;

    stage.phase(format!("{second} dies too, and with it the near region. Everything goes to the far one."))?;
    death(stage, SECOND, bound).await?;

    let (held, ramped) = (hold.as_secs_f64(), ramp.as_secs_f64());
    stage.phase(format!("Both are back: held for {held} s, then their share grows over {ramped} s. Moved flows stay."))?;
    let restarted = stage.time();
    stage.restart(FIRST).await?;
    stage.restart(SECOND).await?;
    let returned = failback(stage, restarted, hold + ramp + RETURN_SLACK).await?;
    stage.pass(AFTER, |_, _| false).await?;
    stage.table().await?;

    stage.traffic.pause();
    stage.pass(LAST_ANSWERS, |_, tally| !tally.pending()).await?;
    let now = stage.time();
    let mut tally = stage.clients().tally();
    tally.give_up(now);
    Ok(Summary::new(&tally, bound, restarted, returned))
}

async fn death(stage: &mut Stage, endpoint: usize, bound: Duration) -> Result<(), DemoError> {
    stage.kill(endpoint).await?;
    stage.pass(DEATH.max(bound * 2), |_, _| false).await?;
    stage.clients().tally().settle(endpoint);
    stage.table().await
}

/// Watches the near region take its share again; how long after `restarted` it had all of it.
async fn failback(stage: &mut Stage, restarted: Duration, at_most: Duration) -> Result<Option<Duration>, DemoError> {
    while stage.time() < restarted + at_most {
        let complete = stage
            .pass(STEP, |snapshot, _| {
                let Some(near) = snapshot.regions.iter().find(|region| region.name == NEAR) else { return false };
                // Exact: a complete ramp is a factor of one.
                let in_full = near.endpoints.iter().all(|row| row.effective_weight >= f64::from(row.weight));
                in_full && near.share == 100
            })
            .await?;
        let snapshot = stage.look().await?;
        let shares = snapshot.regions.iter().map(|region| format!("{} {} %", region.name, region.share));
        let shares: Vec<_> = shares.collect();
        stage.event(snapshot.at, format!("new connections: {}", shares.join(", ")))?;
        if complete {
            return Ok(Some(snapshot.at.saturating_sub(restarted)));
        }
    }
    Ok(None)
}

/// Shows the summary, and what was missed as an error.
pub(super) fn conclude(stage: &mut Stage, summary: &Summary) -> Result<(), DemoError> {
    stage.show.go_plain()?;
    stage.show.say(&render::summary(summary))?;
    let missed = summary.missed();
    if missed.is_empty() { Ok(()) } else { Err(DemoError::Missed(missed)) }
}
