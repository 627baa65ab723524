//! Watches how much memory is left, and has less done while there is little. What is done when is in `runtime::pressure`; the data path learns of it by
//! a flag of its worker.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::admin::facts::Facts;
use crate::clock;
use crate::runtime::memory::{Gauges, Usage};
use crate::runtime::pressure::{Pressure, Step};
use crate::worker::Worker;

/// How often memory is looked at while there is plenty.
const CALM: Duration = Duration::from_secs(1);

/// And from [`CLOSE`] hundredths of the limit on: a client can ask for much in little time.
const TENSE: Duration = Duration::from_millis(100);

const CLOSE: u64 = 60;

/// How many clients of each protocol each worker closes at a time.
const CLOSED_AT_A_TIME: usize = 8;

/// Watches for ever.
pub(super) async fn watch(facts: Arc<Facts>, gauges: Gauges) {
    let (mut pressure, mut before) = (Pressure::default(), Step::Calm);
    loop {
        let reading = gauges.tightest(facts.memory.own_limit());
        let step = pressure.on_reading(clock::now(), reading);
        let usage = reading.map(|reading| reading.usage);
        facts.memory.note(usage, step);
        facts.gates().set_short_of_memory(step >= Step::Refuse);
        if step != before {
            say(before, step, usage);
            for id in facts.mailboxes.ids() {
                facts.mailboxes.post(id, move |worker| worker.pressure.set(step));
            }
            before = step;
        }
        if pressure.sheds() {
            for id in facts.mailboxes.ids() {
                let closed = Arc::clone(&facts.memory.closed);
                facts.mailboxes.post(id, move |worker| {
                    closed.fetch_add(shed(worker) as u64, Ordering::Relaxed);
                });
            }
        }
        let tense = usage.is_some_and(|usage| usage.percent() >= CLOSE);
        tokio::time::sleep(if tense { TENSE } else { CALM }).await;
    }
}

fn say(before: Step, step: Step, usage: Option<Usage>) {
    let Usage { used, limit } = usage.unwrap_or(Usage { used: 0, limit: 0 });
    let what = match step {
        Step::Calm => "there is enough memory again",
        Step::Throttle => "memory runs low: requests of clients that do not take their replies are not read",
        Step::Refuse => "memory runs out: new clients are refused",
        Step::Shed => "memory has all but run out: the clients that hold most are closed",
    };
    if step > before {
        tracing::warn!(used, limit, step = step.label(), "{what}");
    } else {
        tracing::info!(used, limit, step = step.label(), "{what}");
    }
}

/// Closes the clients that hold most; answers how many.
fn shed(worker: &Rc<Worker>) -> usize {
    worker.redis.close_largest(CLOSED_AT_A_TIME) + worker.postgres.cancels.close_largest(CLOSED_AT_A_TIME)
}
