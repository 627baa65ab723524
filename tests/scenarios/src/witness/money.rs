//! Transfers between accounts, each with a receipt in the same transaction: the sum stays, what was confirmed is there, and nothing happens twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sidepool_tests::postgres::Cluster;

use super::{Testimony, Visitor};
use crate::postgres::{Door, Session};
use crate::tally::Failure;

const ACCOUNTS: u64 = 20;
const EACH: i64 = 1_000;

/// The numbers of transfers.
#[derive(Debug, Default)]
pub struct Receipts {
    confirmed: Vec<String>,
    /// Whose COMMIT was not answered.
    unknown: HashSet<String>,
}

impl Receipts {
    /// Adds those of another witness.
    pub fn merge(&mut self, other: Self) {
        self.confirmed.extend(other.confirmed);
        self.unknown.extend(other.unknown);
    }
}

/// Makes accounts and an empty book of receipts.
pub async fn prepare(cluster: &Cluster) {
    let sql = format!(
        "CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL);
         INSERT INTO account SELECT n, {EACH} FROM generate_series(1, {ACCOUNTS}) n;
         CREATE TABLE receipt (token text PRIMARY KEY);
         GRANT ALL ON account, receipt TO app"
    );
    cluster.sql(&sql).await;
}

/// Transfers until it is over.
pub async fn transfer_until(door: Door, number: usize, over: Arc<AtomicBool>) -> Testimony {
    let mut seen = Testimony::default();
    let mut visitor = Visitor::new(door, over);
    while let Some((client, turn)) = visitor.turn().await {
        let token = format!("transfer-{number}-{turn}");
        match transfer(client, &token, turn).await {
            Ok(()) => {
                seen.receipts.confirmed.push(token);
                seen.answered += 1;
                continue;
            }
            Err(Undone::NotBegun(Failure::Wrong(what))) => seen.broken.push(what),
            // 23505: this number was used before, and only we use it.
            Err(Undone::NotBegun(Failure::Told(code))) if code == "23505" => seen.broken.push(format!("{token} happened twice")),
            Err(Undone::NotBegun(_)) => {}
            Err(Undone::Unknown) => {
                seen.receipts.unknown.insert(token);
            }
        }
        if client.is_usable() {
            // Where it cannot be taken back, the connection is of no use any more, and says so.
            let _ = client.ask("ROLLBACK").await;
        }
    }
    seen
}

/// Why a transfer is not confirmed.
enum Undone {
    /// It failed before its COMMIT was sent.
    NotBegun(Failure),
    /// Its COMMIT was sent and not answered.
    Unknown,
}

async fn transfer(session: &mut Session, token: &str, round: u64) -> Result<(), Undone> {
    let (from, to, amount) = (round * 7 % ACCOUNTS + 1, round * 13 % ACCOUNTS + 1, i64::try_from(round % 50).expect("small"));
    let mut changes = [(from, -amount), (to, amount)];
    // In the same order by all: a deadlock of witnesses would take their connections from the pool until the server sees it, after a second.
    changes.sort_unstable();
    session.ask("BEGIN").await.map_err(Undone::NotBegun)?;
    for (account, change) in changes {
        let update = format!("UPDATE account SET balance = balance + ({change}) WHERE id = {account}");
        session.ask(&update).await.map_err(Undone::NotBegun)?;
    }
    let receipt = session.ask(&format!("INSERT INTO receipt VALUES ('{token}') RETURNING token")).await.map_err(Undone::NotBegun)?;
    if receipt != [token] {
        return Err(Undone::NotBegun(Failure::Wrong(format!("{receipt:?} in place of {token}"))));
    }
    session.ask("COMMIT").await.map(drop).map_err(|_| Undone::Unknown)
}

/// What the server's books say to these receipts; where there are no books, nothing was to be kept.
pub async fn audit(cluster: &Cluster, receipts: &Receipts) -> Vec<String> {
    let admin = cluster.superuser("app").await;
    let mut broken = Vec::new();
    let books = "SELECT to_regclass('public.account') IS NOT NULL";
    if !admin.query_one(books, &[]).await.expect(books).get::<_, bool>(0) {
        assert!(receipts.confirmed.is_empty() && receipts.unknown.is_empty(), "transfers without accounts");
        return broken;
    }
    let total: i64 = admin.query_one("SELECT sum(balance)::bigint FROM account", &[]).await.expect("a sum").get(0);
    let expected = EACH * i64::try_from(ACCOUNTS).expect("few");
    if total != expected {
        broken.push(format!("the accounts hold {total} and not {expected}"));
    }
    let rows = admin.query("SELECT token FROM receipt", &[]).await.expect("a table of ours");
    let kept: HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let confirmed: HashSet<&String> = receipts.confirmed.iter().collect();
    broken.extend(confirmed.iter().filter(|token| !kept.contains(**token)).map(|token| format!("{token} was confirmed and is not there")));
    let excused = |token: &&String| confirmed.contains(*token) || receipts.unknown.contains(*token);
    broken.extend(kept.iter().filter(|token| !excused(token)).map(|token| format!("{token} is there and failed before its COMMIT")));
    broken
}
