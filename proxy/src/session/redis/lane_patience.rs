//! How long what is queued on a lane waits for a connection: each request for as long as anybody waits (`query_wait_timeout`), from when it was asked. A
//! read that was sent to a connection that is lost, and is asked again, has waited already.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;

use super::lane::Lane;
use super::refusal;
use crate::clock;
use crate::observe::record::PoolCounter;
use crate::pool::acquire::AcquireError;
use crate::pool::handle::Pool;
use crate::pool::id::IdentityId;
use crate::pool::lease::Lease;
use crate::pool::measure;
use crate::pool::reason::RefuseReason;
use crate::upstream::redis::connector::RedisConnector;

/// However long a read has waited for a server that vanished, another connection has so long to open.
const ONE_CONNECT: Duration = Duration::from_secs(1);

/// A wait may be seen to be so much shorter than it is.
const LOOK: Duration = Duration::from_millis(10);

impl Lane {
    /// A connection for what is queued.
    pub(super) async fn acquire(&self, pool: &Rc<Pool<RedisConnector>>) -> Result<Lease<RedisConnector>, AcquireError> {
        let limit = pool.wait_timeout();
        let left = |replayed| limit.and_then(|limit| Some(limit.saturating_sub(self.longest_wait(replayed)?)));
        // As ever, unless somebody has waited for a while.
        let patience = left(false).filter(|left| Some(*left + LOOK * 2) < limit).map(|left| left.max(LOOK));
        let mut acquiring = pin!(pool.acquire(IdentityId::default()).within(patience));
        let started = clock::now();
        while let Some(left) = left(true) {
            let least = ONE_CONNECT.saturating_sub(clock::now().saturating_duration_since(started));
            if let Ok(acquired) = timeout(left.max(least), &mut acquiring).await {
                return acquired;
            }
            let waited = limit.map_or(0, ms).saturating_sub(ms(LOOK));
            let failed = self.pipeline.borrow_mut().fail_waited(true, waited, refusal::LOST_READ);
            pool.record().add(PoolCounter::ErrorUpstreamLost, failed);
            self.tell();
        }
        acquiring.await
    }

    /// There was no connection to be had: what has waited for as long as it may is told so, and everything where that is for another reason. The log
    /// `says_so`.
    pub(super) fn refuse(&self, pool: &Pool<RedisConnector>, mut error: AcquireError, says_so: bool) {
        let limit = pool.wait_timeout().filter(|_| error.refusal.reason == RefuseReason::WaitTimeout);
        let (mut lost, mut failed) = (0, 0);
        if let Some(limit) = limit {
            error.refusal.waited = limit;
            let (mut pipeline, limit) = (self.pipeline.borrow_mut(), ms(limit.saturating_sub(LOOK * 2)));
            lost = pipeline.fail_waited(true, limit, refusal::LOST_READ);
            failed = pipeline.fail_waited(false, limit, &refusal::line(&error));
        }
        // Time stands still where nobody looks, as at a lane that has retired: somebody has waited for as long as this took.
        if lost == 0 && failed == 0 {
            let mut pipeline = self.pipeline.borrow_mut();
            failed = pipeline.owed();
            pipeline.fail_all(&refusal::line(&error));
        }
        pool.record().add(PoolCounter::ErrorUpstreamLost, lost);
        if says_so && failed > 0 {
            let reason = measure::refusal_label(error.refusal.reason);
            tracing::warn!(pool = &**pool.name(), requests = failed, reason, "no connection for the requests of clients: {error}");
        }
        pool.record().add(PoolCounter::ErrorRefused, failed);
        self.tell();
    }

    /// Clients hear what has become known.
    fn tell(&self) {
        for own in self.pipeline.borrow_mut().take_known() {
            self.hand_over(&own);
        }
        self.count_in_flight(&self.record);
        self.call_next();
    }

    fn longest_wait(&self, replayed: bool) -> Option<Duration> {
        self.pipeline.borrow().longest_wait(replayed).map(|ms| Duration::from_millis(u64::from(ms)))
    }
}

fn ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
