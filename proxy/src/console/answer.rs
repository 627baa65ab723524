//! What a command answers: the lists, and what the control loop says to the rest.
//!
//! Large lists are fetched and sent a few rows at a time, so that neither a worker nor memory has to hold them whole.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use sidepool_config::model::{Peer, PgDatabase, PgUser, Postgres};
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, Severity, SqlState};
use sidepool_protocol::postgres::parameters::ParameterSet;
use sidepool_protocol::postgres::result::{self, Formats, Row};

use super::command::{Command, Ending, Fixed};
use super::control::{InForce, Order};
use super::guest::{PGBOUNCER_VERSION, Rank};
use super::rows::Rows;
use super::session::{Desk, Stop};
use super::show::Show;
use super::statistics::{self, PerDatabase};
use super::switching::{Switch, refused};
use super::waiting::{self, Goal, Waited};
use super::{fds, gather, pins, sockets, tables};
use crate::clock;
use crate::observe::record::PoolGauge;
use crate::session::postgres::cancel_lines::{LineKey, LineNumbers};
use crate::session::postgres::presence::{Fate, Presence};
use crate::session::postgres::run::Session;
use crate::transport::buffer::READ_BYTES;
use crate::upstream::postgres::connection::PgConnection;
use crate::upstream::postgres::passed::Passed;
use crate::upstream::postgres::statements;
use crate::worker::WorkerId;

/// How many clients a worker is asked for at a time.
const CLIENTS_AT_A_TIME: usize = 256;

/// `00000`: nothing is wrong.
const SUCCESS: &[u8] = b"00000";

/// The tag that a command ends with.
pub(super) type Tag = String;

impl Desk {
    /// Runs a command. Rows are preceded by their description when that has not been given.
    pub(super) async fn run(&mut self, command: Command, formats: &Formats, describe: bool) -> Result<Tag, Stop> {
        if command.needs_admin() && self.rank != Rank::Admin {
            return Err(refused("admin access needed".into()).into());
        }
        match command {
            Command::Show(show) => {
                if describe && show != Show::Help {
                    result::row_description(show.columns(), formats, &mut self.out);
                }
                self.show(show, formats).await?;
                Ok("SHOW".into())
            }
            Command::ShowFixed(fixed) => {
                self.show_fixed(fixed, formats, describe);
                Ok("SHOW".into())
            }
            Command::SetFixed => {
                self.notice("SET ignored", None);
                Ok("SET".into())
            }
            Command::Set(key, value) => {
                let tag = format!("SET {key}={value}");
                match self.order(|answer| Order::Set(key, value, answer)).await?? {
                    InForce::Now => {}
                    InForce::Later => self.notice("TLS settings could not be applied, still using old configuration", None),
                }
                Ok(tag)
            }
            Command::Reload => {
                tracing::info!("RELOAD command issued");
                if self.order(Order::Reload).await? { Ok("RELOAD".into()) } else { Err(not_reloaded().into()) }
            }
            Command::Suspend => {
                tracing::info!("SUSPEND command issued");
                self.order(Order::Suspend).await??;
                Ok("SUSPEND".into())
            }
            Command::Pause(which) => self.switch_and_wait("PAUSE", Switch::Pause(which), Goal::Released).await,
            Command::WaitClose(which) => self.switch_and_wait("WAIT_CLOSE", Switch::Wait(which), Goal::Closed).await,
            Command::Resume(which) => self.switch("RESUME", Switch::Resume(which)).await,
            Command::Disable(which) => self.switch("DISABLE", Switch::Disable(which)).await,
            Command::Enable(which) => self.switch("ENABLE", Switch::Enable(which)).await,
            Command::Reconnect(which) => self.switch("RECONNECT", Switch::Reconnect(which)).await,
            Command::Kill(which) => self.switch("KILL", Switch::Kill(which)).await,
            Command::KillClient(client) => self.kill_client(client).await,
            Command::Shutdown(ending) => self.shutdown(ending).await,
        }
    }

    /// Has the control loop do something.
    async fn order<T>(&self, order: impl FnOnce(super::control::Answer<T>) -> Order) -> Result<T, Stop> {
        let gone = || Fault::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection because sidepool is shutting down");
        self.worker.control.order(order).await.ok_or_else(|| gone().into())
    }

    async fn switch(&mut self, name: &str, switch: Switch) -> Result<Tag, Stop> {
        match &switch {
            Switch::Pause(Some(database))
            | Switch::Resume(Some(database))
            | Switch::Kill(Some(database))
            | Switch::Disable(Some(database))
            | Switch::Enable(Some(database))
            | Switch::Reconnect(Some(database))
            | Switch::Wait(Some(database)) => tracing::info!("{name} '{}' command issued", database.escape_debug()),
            Switch::Pause(None)
            | Switch::Resume(None)
            | Switch::Kill(None)
            | Switch::Disable(None)
            | Switch::Enable(None)
            | Switch::Reconnect(None)
            | Switch::Wait(None) => tracing::info!("{name} command issued"),
        }
        self.order(|answer| Order::Switch(switch, answer)).await??;
        Ok(name.into())
    }

    /// Switches, and waits for what takes its time; a cancel ends it, and with it the pause.
    async fn switch_and_wait(&mut self, name: &str, switch: Switch, goal: Goal) -> Result<Tag, Stop> {
        let (mailboxes, cancels) = (self.worker.mailboxes.clone(), Rc::clone(&self.cancelled));
        // One that comes while the switch is turned counts, too.
        let mut cancelled = pin!(cancels.notified());
        cancelled.as_mut().enable();
        self.switch(name, switch.clone()).await?;
        match self.unless(cancelled, waiting::until(&mailboxes, &switch, goal)).await? {
            Some(Waited::Done) => Ok(name.into()),
            Some(Waited::Resumed) => Err(refused(format!("{name} has ended: resumed by somebody else")).into()),
            None => {
                if let Switch::Pause(which) = switch {
                    let resume = Switch::Resume(which);
                    // Somebody else may have been faster.
                    let _ = self.order(|answer| Order::Switch(resume, answer)).await?;
                }
                Err(Fault::error(SqlState::QUERY_CANCELED, "canceling statement due to user request").into())
            }
        }
    }

    async fn kill_client(&mut self, client: Option<u64>) -> Result<Tag, Stop> {
        let client = client.ok_or_else(|| refused("invalid client pointer supplied".into()))?;
        let choose = move |presence: &Presence| presence.id == client;
        let killed = gather::ask_all(&self.worker.mailboxes, move |worker| worker.postgres.cancels.end(Fate::Killed, choose)).await;
        if killed.into_iter().sum::<usize>() == 0 {
            return Err(refused("client not found".into()).into());
        }
        // Its task runs before the next job does.
        gather::ask_all(&self.worker.mailboxes, |_| ()).await;
        Ok("KILL_CLIENT".into())
    }

    async fn shutdown(&mut self, ending: Ending) -> Result<Tag, Stop> {
        let how = match ending {
            Ending::Now => "",
            Ending::Servers => " WAIT_FOR_SERVERS",
            Ending::Clients => " WAIT_FOR_CLIENTS",
        };
        tracing::info!("SHUTDOWN{how} command issued");
        self.order(|answer| Order::Shutdown(ending, answer)).await?;
        if ending == Ending::Now {
            // The client learns of it when the connection closes with the process.
            std::future::pending::<()>().await;
        }
        Ok("SHUTDOWN".into())
    }

    fn notice(&mut self, message: &'static str, detail: Option<String>) {
        let notice =
            Fault { severity: Severity::Notice, ..Fault::error(SqlState::parse(SUCCESS).unwrap_or(SqlState::INTERNAL_ERROR), message) };
        let notice = match detail {
            Some(detail) => notice.with_detail(detail),
            None => notice,
        };
        encode::notice_response(&notice, &mut self.out);
    }

    fn show_fixed(&mut self, fixed: Fixed, formats: &Formats, describe: bool) {
        let columns = [fixed.column()];
        if describe {
            result::row_description(&columns, formats, &mut self.out);
        }
        Row::begin(&columns, formats, &mut self.out).text(fixed.value).end();
    }

    async fn show(&mut self, show: Show, formats: &Formats) -> Result<(), Stop> {
        let config = Arc::clone(&self.worker.config.borrow());
        let Some(postgres) = &config.postgres else { return Ok(()) };
        match show {
            Show::Clients | Show::Servers | Show::Sockets | Show::ActiveSockets | Show::Pins => {
                return self.connections(show, formats, postgres).await;
            }
            Show::Config => {
                let settings = self.order(Order::Config).await?;
                tables::config(&mut self.rows(show, formats), &settings);
            }
            Show::Stats | Show::OldStats | Show::StatsTotals | Show::StatsAverages | Show::Totals => self.statistics(show, formats).await,
            Show::Help => self.notice("Console usage", Some(usage())),
            Show::Version => {
                self.rows(show, formats).row().text(&format!("PgBouncer {PGBOUNCER_VERSION}")).end();
            }
            Show::Databases | Show::OldDatabases | Show::Pools | Show::Users | Show::Lists | Show::Mem => {
                self.census(show, formats, postgres).await
            }
            Show::Peers => tables::peers(&mut self.rows(show, formats), postgres),
            Show::PeerPools => {
                let lines = self.worker.postgres.cancel_lines.clone();
                tables::peer_pools(&mut self.rows(show, formats), postgres, |id| lines.numbers(LineKey::Peer(id)));
            }
            Show::State => {
                let switches = self.worker.postgres.pools.switches();
                tables::state(&mut self.rows(show, formats), &switches);
            }
            Show::DnsHosts => {
                let hosts = self.worker.postgres.dialing.dns.snapshot();
                tables::dns_hosts(&mut self.rows(show, formats), &hosts);
            }
            Show::Fds => {
                let (formats, port) = (formats.clone(), tables::listen_port(postgres));
                let rows = gather::ask_all(&self.worker.mailboxes, move |worker| fds::all(worker, &formats, port)).await;
                self.out.extend(rows.into_iter().flatten());
            }
            // Zones are not watched.
            Show::DnsZones => {}
        }
        Ok(())
    }

    fn rows<'a>(&'a mut self, show: Show, formats: &'a Formats) -> Rows<'a> {
        Rows::new(show, formats, &mut self.out)
    }

    async fn statistics(&mut self, show: Show, formats: &Formats) {
        let totals = gather::totals(&self.worker.mailboxes).await;
        let now = clock::now();
        let (averages, of_all): (PerDatabase, _) = {
            let history = self.worker.control.history();
            (history.averages(now, &totals), history.average_of_all(now, &totals))
        };
        let mut rows = self.rows(show, formats);
        if show == Show::Totals {
            statistics::put_totals(&mut rows, &totals, &of_all);
        } else {
            statistics::put(&mut rows, &totals, &averages);
        }
    }

    /// Lists that count what there is.
    async fn census(&mut self, show: Show, formats: &Formats, postgres: &Postgres) {
        let mailboxes = self.worker.mailboxes.clone();
        let pools = gather::pools(&mailboxes).await;
        let console = gather::console(&mailboxes).await;
        let switches = self.worker.postgres.pools.switches();
        let clients: i64 = pools.values().map(|facts| facts.numbers.gauges[PoolGauge::Clients as usize]).sum();
        let clients = u64::try_from(clients).unwrap_or(0) + u64::from(console.present);
        let servers: u64 = pools.values().map(|facts| u64::from(facts.snapshot.connections())).sum();
        let counts = tables::Counts {
            databases: postgres.databases.len() + 1,
            users: postgres.users.len() + usize::from(!postgres.users.contains_key(super::guest::CONSOLE_DATABASE)),
            peers: postgres.peers.len(),
            pools: pools.len() + 1,
            clients,
            login_clients: gather::ask_all(&mailboxes, |worker| u64::from(worker.postgres.arriving.get())).await.into_iter().sum(),
            free_clients: u64::from(postgres.max_client_conn).saturating_sub(clients),
            servers,
            dns_names: self.worker.postgres.dialing.dns.snapshot().len(),
            dns_pending: self.worker.postgres.dialing.dns.pending(),
        };
        match show {
            Show::Users => {
                let logged_in = logged_in(&mailboxes).await;
                tables::users(&mut self.rows(show, formats), postgres, &pools, &logged_in);
            }
            Show::Pools => tables::pools(&mut self.rows(show, formats), postgres, &pools, console),
            Show::Databases | Show::OldDatabases => tables::databases(&mut self.rows(show, formats), postgres, &switches, &pools, console),
            Show::Lists => tables::lists(&mut self.rows(show, formats), counts),
            _ => {
                let shared = gather::ask_all(&mailboxes, |worker| (worker.postgres.states.len(), worker.postgres.statements.len())).await;
                let shared = shared.into_iter().fold((0, 0), |sum, of_one| (sum.0 + of_one.0, sum.1 + of_one.1));
                tables::mem(&mut self.rows(show, formats), &memory(&counts, mailboxes.workers(), shared));
            }
        }
    }

    /// Lists with a row for each connection.
    async fn connections(&mut self, show: Show, formats: &Formats, postgres: &Postgres) -> Result<(), Stop> {
        let (mailboxes, port) = (self.worker.mailboxes.clone(), tables::listen_port(postgres));
        for id in mailboxes.ids() {
            if show == Show::Pins {
                let formats = formats.clone();
                let rows = gather::ask_one(&mailboxes, id, move |worker| pins::rows(worker, &formats)).await;
                self.out.extend_from_slice(&rows.unwrap_or_default());
                self.flush().await?;
                continue;
            }
            if show != Show::Servers {
                self.clients(id, show, formats, port).await?;
            }
            if show != Show::Clients {
                let formats = formats.clone();
                let rows = gather::ask_one(&mailboxes, id, move |worker| sockets::servers(worker, show, &formats, port)).await;
                self.out.extend_from_slice(&rows.unwrap_or_default());
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn clients(&mut self, id: WorkerId, show: Show, formats: &Formats, port: u16) -> Result<(), Stop> {
        let mailboxes = self.worker.mailboxes.clone();
        let wanted = formats.clone();
        let first = gather::ask_one(&mailboxes, id, move |worker| {
            (worker.postgres.cancels.clients(), sockets::guests(worker, show, &wanted, port))
        });
        let Some((clients, guests)) = first.await else { return Ok(()) };
        for some in clients.chunks(CLIENTS_AT_A_TIME) {
            let (some, formats) = (some.to_vec(), formats.clone());
            let rows = gather::ask_one(&mailboxes, id, move |worker| sockets::clients(worker, &some, show, &formats, port)).await;
            self.out.extend_from_slice(&rows.unwrap_or_default());
            self.flush().await?;
        }
        self.out.extend_from_slice(&guests);
        self.flush().await
    }

    /// Awaits `work` unless it is `cancelled` first (`None`) or the client leaves.
    async fn unless<T>(&mut self, cancelled: impl Future<Output = ()>, work: impl Future<Output = T>) -> Result<Option<T>, Stop> {
        tokio::select! {
            biased;
            () = cancelled => Ok(None),
            gone = self.listen() => Err(gone),
            done = work => Ok(Some(done)),
        }
    }
}

/// How many clients each user has.
async fn logged_in(mailboxes: &crate::worker::Mailboxes) -> BTreeMap<Box<str>, u32> {
    let count = |worker: &Rc<crate::worker::Worker>| {
        let mut users: BTreeMap<Box<str>, u32> = BTreeMap::new();
        worker.postgres.cancels.look_at_all(|presence, _| match users.get_mut(&*presence.who.user) {
            Some(count) => *count += 1,
            None => drop(users.insert(presence.who.user.clone(), 1)),
        });
        for guest in worker.guests.present() {
            *users.entry(guest.user.clone()).or_default() += 1;
        }
        users
    };
    let mut sum: BTreeMap<Box<str>, u32> = BTreeMap::new();
    for (user, count) in gather::ask_all(mailboxes, count).await.into_iter().flatten() {
        *sum.entry(user).or_default() += count;
    }
    sum
}

/// What takes memory, under PgBouncer's names for it. `shared`: how many sets of parameters and how many statements there are.
fn memory(counts: &tables::Counts, workers: usize, (states, texts): (usize, usize)) -> [(&'static str, usize, u64); 12] {
    [
        ("user_cache", size_of::<PgUser>(), counts.users as u64),
        ("credentials_cache", size_of::<Passed>(), counts.pools as u64),
        ("db_cache", size_of::<PgDatabase>(), counts.databases as u64),
        ("peer_cache", size_of::<Peer>(), counts.peers as u64),
        ("peer_pool_cache", size_of::<LineNumbers>(), counts.peers as u64),
        ("pool_cache", size_of::<crate::pool::core::Core>(), counts.pools as u64),
        // What a server owes is kept with its connection.
        ("outstanding_request_cache", 0, 0),
        ("server_cache", size_of::<PgConnection>(), counts.servers),
        ("client_cache", size_of::<Session>() + size_of::<Presence>(), counts.clients + counts.login_clients),
        ("iobuf_cache", READ_BYTES, workers as u64),
        ("var_list_cache", size_of::<ParameterSet>(), states as u64),
        ("server_prepared_statement_cache", size_of::<statements::Statement>(), texts as u64),
    ]
}

fn not_reloaded() -> Fault {
    let code = SqlState::parse(b"F0000").unwrap_or(SqlState::INTERNAL_ERROR);
    Fault::error(code, "RELOAD failed, see logs for additional details")
        .with_hint("sidepool check FILE says what is wrong, with line and key.")
}

/// What SHOW HELP says.
fn usage() -> String {
    let shows: Vec<String> = Show::ALL.iter().map(|show| show.name().to_ascii_uppercase()).collect();
    let mut lines: Vec<String> = shows.chunks(6).map(|some| format!("SHOW {}", some.join("|"))).collect();
    let commands = [
        "SET key = arg",
        "RELOAD",
        "PAUSE [<db>]",
        "RESUME [<db>]",
        "DISABLE <db>",
        "ENABLE <db>",
        "RECONNECT [<db>]",
        "KILL [<db>]",
        "KILL_CLIENT <client_id>",
        "SUSPEND",
        "SHUTDOWN",
        "SHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS",
        "WAIT_CLOSE [<db>]",
    ];
    lines.extend(commands.map(str::to_owned));
    lines.iter().map(|line| format!("\n\t{line}")).collect()
}
