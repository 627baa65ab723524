//! A client that sets and takes back at random, in every way there is, and compares what it sees with the model.

use sidepool_tests::postgres::wire::{Message, Wire};
use sidepool_tests::postgres::{cluster::PASSWORD, frame};

use super::model::{Model, ROLE, SETTINGS, TENANT};

/// Random numbers that are the same in each run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `bound`.
    pub(crate) fn roll(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % bound
    }
}

/// Where to, as what, and how bold.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) port: u16,
    /// Parameters of the startup message beside the user and the database, with the settings that they are.
    pub(crate) startup: Vec<(&'static str, &'static str)>,
    /// What the settings are for a session that sets nothing.
    pub(crate) defaults: Vec<String>,
    /// Whether functions that hide what they do are called.
    pub(crate) hides: bool,
    /// Whether the client drops its connection now and then.
    pub(crate) leaves: bool,
    pub(crate) rounds: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Values that were compared.
    pub(crate) checks: usize,
    /// Times that rows of other tenants were looked for.
    pub(crate) rows: usize,
    /// Connections that were lost, or left.
    pub(crate) lost: usize,
    /// What was not as it should be.
    pub(crate) leaks: Vec<String>,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.checks += other.checks;
        self.rows += other.rows;
        self.lost += other.lost;
        self.leaks.extend(other.leaks);
    }
}

/// What something does to the model.
type Effect = Box<dyn FnOnce(&mut Model) + Send>;

pub(crate) struct Client {
    plan: Plan,
    dice: Dice,
    wire: Wire,
    model: Model,
    seen: Seen,
    history: Vec<String>,
    /// Whether it has its prepared statement.
    is_parsed: bool,
}

/// One row with everything: the settings, how many rows of the table are visible, and whose they are.
fn question() -> String {
    let settings: Vec<&str> = SETTINGS.iter().map(|(_, _, sql)| *sql).collect();
    let rows = "(SELECT count(*) FROM public.tenant_rows)::text, \
                coalesce((SELECT string_agg(DISTINCT tenant, ',') FROM public.tenant_rows), '')";
    format!("SELECT {}, {rows}", settings.join(", "))
}

/// Asks a fresh session what it finds.
pub(crate) async fn defaults(port: u16) -> Vec<String> {
    let mut wire = Wire::login(port, "app", "app", PASSWORD).await;
    let messages = wire.query(&question()).await;
    let row = messages.iter().find(|message| message.tag == b'D').expect("a row");
    row.columns().into_iter().take(SETTINGS.len()).map(Option::unwrap_or_default).collect()
}

impl Client {
    pub(crate) async fn run(plan: Plan, seed: u64) -> Seen {
        let (wire, model) = Self::enter(&plan).await;
        let mut client = Self { wire, model, dice: Dice::new(seed), plan, seen: Seen::default(), history: Vec::new(), is_parsed: false };
        for _ in 0..client.plan.rounds {
            if client.round().await.is_none() {
                client.seen.lost += 1;
                (client.wire, client.model) = Self::enter(&client.plan).await;
                client.history.clear();
                client.is_parsed = false;
            }
        }
        client.seen
    }

    async fn enter(plan: &Plan) -> (Wire, Model) {
        let mut defaults = plan.defaults.clone();
        for (name, value) in &plan.startup {
            let index = SETTINGS.iter().position(|(known, _, _)| known == name).expect("a setting");
            defaults[index] = (*value).to_owned();
        }
        let options: Vec<String> = plan.startup.iter().map(|(name, value)| format!("-c {name}={}", value.replace(' ', "\\ "))).collect();
        let options = options.join(" ");
        let mut parameters = vec![("user", "app"), ("database", "app")];
        if !options.is_empty() {
            parameters.push(("options", &options));
        }
        loop {
            // While its servers are being killed, a login may fail that needs one.
            if let Ok(wire) = Wire::try_login(plan.port, &parameters, PASSWORD).await {
                return (wire, Model::new(defaults));
            }
        }
    }

    /// A transaction or a few statements, and a look at everything; `None`: the connection is gone.
    async fn round(&mut self) -> Option<()> {
        match self.dice.roll(10) {
            0..4 => self.block().await?,
            4..8 => {
                let (sql, effect) = self.change(false);
                self.say(&sql).await?;
                effect(&mut self.model);
            }
            8 => self.several().await?,
            _ => self.rare().await?,
        }
        self.look().await
    }

    /// BEGIN, some changes and savepoints with looks between them, and either end.
    async fn block(&mut self) -> Option<()> {
        self.say("BEGIN").await?;
        self.model.begin();
        for _ in 0..1 + self.dice.roll(4) {
            match self.dice.roll(8) {
                0 => {
                    self.say("SAVEPOINT s").await?;
                    self.model.savepoint();
                }
                1 if self.model.has_savepoint() => {
                    self.say("ROLLBACK TO s").await?;
                    self.model.roll_back_to();
                }
                2 => self.look().await?,
                _ => {
                    let (sql, effect) = self.change(true);
                    self.say(&sql).await?;
                    effect(&mut self.model);
                }
            }
        }
        if self.plan.leaves && self.dice.roll(40) == 0 {
            // In the middle of it.
            return None;
        }
        match self.dice.roll(4) {
            0 => {
                self.say("ROLLBACK").await?;
                self.model.roll_back();
            }
            1 => {
                self.fail("SELECT 1/0").await?;
                self.say("COMMIT").await?;
                self.model.roll_back();
            }
            _ => {
                self.say("COMMIT").await?;
                self.model.commit();
            }
        }
        Some(())
    }

    /// Several statements in one message, which are one transaction; sometimes the last of them fails.
    async fn several(&mut self) -> Option<()> {
        self.model.begin();
        let mut texts = Vec::new();
        for _ in 0..1 + self.dice.roll(3) {
            let (sql, effect) = self.change(true);
            texts.push(sql);
            effect(&mut self.model);
        }
        if self.dice.roll(3) == 0 {
            texts.push("SELECT 1/0".to_owned());
            self.fail(&texts.join(";")).await?;
            self.model.roll_back();
        } else {
            self.say(&texts.join(";")).await?;
            self.model.commit();
        }
        Some(())
    }

    async fn rare(&mut self) -> Option<()> {
        match self.dice.roll(4) {
            0 => {
                self.say("DISCARD ALL").await?;
                self.model.discard();
                self.is_parsed = false;
            }
            1 => {
                self.say("RESET ALL").await?;
                self.model.reset_all();
            }
            2 if self.plan.leaves => return None,
            _ => {
                // By the extended protocol, names and values bound.
                let (setting, value) = self.pick();
                let (name, plain) = (SETTINGS[setting].0, value.replace("''", "'"));
                let statement = if self.dice.roll(2) == 0 { "" } else { "set" };
                let known = statement == "set" && self.is_parsed;
                let parse = if known { Vec::new() } else { frame::parse(statement, "SELECT set_config($1, $2, false)") };
                self.is_parsed |= statement == "set";
                let request = [parse, frame::bind("", statement, &[name, &plain]), frame::execute("", 0), frame::sync()].concat();
                self.ask(&request, &format!("bound {name} = {plain}")).await?;
                self.model.set(setting, &plain);
            }
        }
        Some(())
    }

    fn pick(&mut self) -> (usize, &'static str) {
        let setting = self.dice.roll(SETTINGS.len());
        let values = SETTINGS[setting].1;
        (setting, values[self.dice.roll(values.len())])
    }

    /// SQL that changes a setting in some way, and what it does to the model.
    fn change(&mut self, in_block: bool) -> (String, Effect) {
        let (setting, value) = self.pick();
        let name = SETTINGS[setting].0;
        let plain = value.replace("''", "'");
        let identity = setting == ROLE;
        // A list of names is not one quoted text to SET.
        let spelled = if name == "search_path" { value.to_owned() } else { format!("'{value}'") };
        let set: Effect = Box::new(move |model| model.set(setting, &plain));
        match self.dice.roll(9) {
            0 => (format!("SET {name} TO {spelled}"), set),
            1 => (format!("set session {name} = {spelled}"), set),
            2 => (format!("SELECT set_config('{name}', '{value}', false)"), set),
            3 if identity => (format!("SET ROLE {value}"), set),
            3 if self.plan.hides => (format!("SELECT set_hidden('{name}', '{value}')"), set),
            4 => (format!("DO $do$ BEGIN PERFORM set_config('{name}', '{value}', false); END $do$"), set),
            5 if in_block => {
                let plain = value.replace("''", "'");
                (format!("SET LOCAL {name} TO {spelled}"), Box::new(move |model| model.set_local(setting, &plain)))
            }
            6 if identity => ("SET ROLE NONE".to_owned(), Box::new(move |model| model.reset(ROLE))),
            // Until the transaction ends, the server's own value stands for what the client began with.
            7 | 8 if !in_block || self.plan.startup.iter().all(|(started, _)| *started != name) => {
                (format!("RESET {name}"), Box::new(move |model| model.reset(setting)))
            }
            _ => (format!("SET {name} TO {spelled}"), set),
        }
    }

    async fn say(&mut self, sql: &str) -> Option<()> {
        self.ask(&frame::query(sql), sql).await
    }

    async fn fail(&mut self, sql: &str) -> Option<()> {
        self.history.push(sql.to_owned());
        let messages = self.exchange(&frame::query(sql)).await?;
        assert!(messages.iter().any(|message| message.tag == b'E'), "{sql}: no error");
        Some(())
    }

    async fn ask(&mut self, request: &[u8], what: &str) -> Option<()> {
        self.history.push(what.to_owned());
        let messages = self.exchange(request).await?;
        if let Some(error) = messages.iter().find(|message| message.tag == b'E') {
            if error.field(b'C').as_deref() == Some("57P01") {
                // Its server was ended, and the client has been told so.
                return None;
            }
            self.leak(format!("{what} failed: {:?}", error.field(b'M')));
        }
        Some(())
    }

    async fn exchange(&mut self, request: &[u8]) -> Option<Vec<Message>> {
        self.wire.try_send(request).await.ok()?;
        let messages = self.wire.until_ready().await;
        messages.last().is_some_and(|message| message.tag == b'Z').then_some(messages)
    }

    /// Asks for everything, a few times in one go, and compares.
    async fn look(&mut self) -> Option<()> {
        let times = 1 + self.dice.roll(2);
        let request = frame::query(&question()).repeat(times);
        self.wire.try_send(&request).await.ok()?;
        let expected = self.model.shown();
        for _ in 0..times {
            let messages = self.wire.until_ready().await;
            if messages.last().is_none_or(|message| message.tag != b'Z') {
                return None;
            }
            let Some(row) = messages.iter().find(|message| message.tag == b'D') else {
                self.leak(format!("no row: {messages:?}"));
                continue;
            };
            let columns: Vec<String> = row.columns().into_iter().map(Option::unwrap_or_default).collect();
            for (index, expected) in expected.iter().enumerate() {
                self.seen.checks += 1;
                if columns[index] != *expected {
                    self.leak(format!("{} is {:?} and not {expected:?}", SETTINGS[index].0, columns[index]));
                }
            }
            self.compare_rows(&columns, &expected[TENANT]);
        }
        Some(())
    }

    /// Each tenant has ten rows, and row-level security lets it see those alone.
    fn compare_rows(&mut self, columns: &[String], tenant: &str) {
        self.seen.rows += 1;
        let visible = if tenant.is_empty() { "0" } else { "10" };
        let (rows, whose) = (&columns[SETTINGS.len()], &columns[SETTINGS.len() + 1]);
        if rows != visible || whose != tenant {
            self.leak(format!("tenant {tenant:?} sees {rows} rows of {whose:?}"));
        }
    }

    fn leak(&mut self, what: String) {
        let said: Vec<&String> = self.history.iter().rev().take(12).rev().collect();
        self.seen.leaks.push(format!("{what}\n    after {said:?}"));
    }
}
