//! What a session's settings are, by PostgreSQL's rules: a dumb model, against which every answer is compared.

use std::collections::BTreeMap;

/// The settings that are looked at, each with some values and SQL that shows the present one.
#[rustfmt::skip]
pub(crate) const SETTINGS: &[(&str, &[&str], &str)] = &[
    ("work_mem", &["1MB", "2MB", "3MB", "7MB"], "current_setting('work_mem')"),
    ("search_path", &["a", "b, public", "\"Odd One\", public"], "current_setting('search_path')"),
    ("statement_timeout", &["61s", "62s", "1h"], "current_setting('statement_timeout')"),
    ("lock_timeout", &["71s", "72s"], "current_setting('lock_timeout')"),
    ("default_transaction_isolation", &["repeatable read", "serializable"], "current_setting('default_transaction_isolation')"),
    ("timezone", &["Asia/Tokyo", "Etc/GMT-3"], "current_setting('timezone')"),
    ("application_name", &["one", "it''s two", ""], "current_setting('application_name')"),
    ("app.tenant_id", &["t1", "t2", "t3", "t4"], "coalesce(current_setting('app.tenant_id', true), '')"),
    ("app.other", &["x", "y z", "\\ \"'' é"], "coalesce(current_setting('app.other', true), '')"),
    ("role", &["role_a", "role_b"], "current_user::text"),
];

/// Where the tenant stands in [`SETTINGS`].
pub(crate) const TENANT: usize = 7;

/// Where the role does.
pub(crate) const ROLE: usize = 9;

/// The value of one setting as it is shown; `None`: the default.
type Values = BTreeMap<usize, String>;

/// The session: what is set, what is set until the end of the transaction, and both at each savepoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    /// What is shown where nothing is set.
    defaults: Vec<String>,
    set: Values,
    local: Values,
    /// What was set before the transaction.
    before: Option<Values>,
    savepoints: Vec<(Values, Values)>,
}

impl Model {
    /// A session that has set nothing.
    pub(crate) fn new(defaults: Vec<String>) -> Self {
        Self { defaults, ..Self::default() }
    }

    pub(crate) fn begin(&mut self) {
        self.before = Some(self.set.clone());
        self.local.clear();
        self.savepoints.clear();
    }

    pub(crate) fn commit(&mut self) {
        self.before = None;
        self.local.clear();
    }

    pub(crate) fn roll_back(&mut self) {
        if let Some(before) = self.before.take() {
            self.set = before;
        }
        self.local.clear();
    }

    pub(crate) fn savepoint(&mut self) {
        self.savepoints.push((self.set.clone(), self.local.clone()));
    }

    /// ROLLBACK TO the last savepoint, which stays.
    pub(crate) fn roll_back_to(&mut self) {
        if let Some((set, local)) = self.savepoints.last() {
            (self.set, self.local) = (set.clone(), local.clone());
        }
    }

    pub(crate) fn has_savepoint(&self) -> bool {
        !self.savepoints.is_empty()
    }

    pub(crate) fn set(&mut self, setting: usize, value: &str) {
        self.set.insert(setting, value.to_owned());
        self.local.remove(&setting);
    }

    pub(crate) fn set_local(&mut self, setting: usize, value: &str) {
        self.local.insert(setting, value.to_owned());
    }

    pub(crate) fn reset(&mut self, setting: usize) {
        self.set.remove(&setting);
        self.local.remove(&setting);
    }

    /// RESET ALL leaves the role.
    pub(crate) fn reset_all(&mut self) {
        self.set.retain(|setting, _| *setting == ROLE);
        self.local.retain(|setting, _| *setting == ROLE);
    }

    pub(crate) fn discard(&mut self) {
        self.set.clear();
        self.local.clear();
    }

    /// What is shown now.
    pub(crate) fn shown(&self) -> Vec<String> {
        let value = |index: usize| self.local.get(&index).or_else(|| self.set.get(&index)).unwrap_or(&self.defaults[index]).clone();
        (0..SETTINGS.len()).map(value).collect()
    }
}
