//! What `sidepool doctor` has to say: what is so, why it matters, what to do. Not here: how it is shown (`show`), or who finds it (`judge`).

/// How good or bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It cannot be seen from here, which is no fault of anybody.
    Unseen,
    /// It works, but not as well, or not for long.
    Warning,
    /// It does not work, or will fail under load.
    Problem,
}

impl Verdict {
    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Unseen => "unseen",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How good or bad it is.
    pub verdict: Verdict,
    /// What was looked at, in one word.
    pub check: &'static str,
    /// What is so.
    pub found: String,
    /// Why that matters; empty where it does not.
    pub why: String,
    /// What to do; empty where there is nothing.
    pub advice: String,
}

impl Finding {
    /// All is well.
    pub fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, check, found: found.into(), why: String::new(), advice: String::new() }
    }

    /// It cannot be seen; the advice is how it could.
    pub fn unseen(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = advice.into();
        debug_assert!(!advice.is_empty(), "{check}: how it could be seen");
        Self { verdict: Verdict::Unseen, check, found: found.into(), why: String::new(), advice }
    }

    /// It works, but.
    pub fn warning(check: &'static str, found: impl Into<String>, why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, check, found: found.into(), why: why.into(), advice: advice.into() }
    }

    /// It does not work.
    pub fn problem(check: &'static str, found: impl Into<String>, why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Problem, check, found: found.into(), why: why.into(), advice: advice.into() }
    }
}

/// What was found about one subject: a server, or this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The subject.
    pub subject: String,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Where the configuration came from.
    pub source: String,
    /// How many processes with this configuration there are to be.
    pub replicas: u32,
    /// What was found, by subject.
    pub sections: Vec<Section>,
}

impl Report {
    /// How many findings have this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.sections.iter().flat_map(|section| &section.findings).filter(|finding| finding.verdict == verdict).count()
    }

    /// Whether nothing is broken.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.count(Verdict::Problem) == 0
    }
}
