//! The findings of `sidepool doctor` for people (aligned, with colours on a terminal) and for machines (JSON). Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::finding::{Finding, Report, Verdict};

/// How wide text is broken.
const WIDTH: usize = 110;

/// For people.
#[must_use]
pub fn text(report: &Report, coloured: bool) -> String {
    let plural = if report.replicas == 1 { "replica" } else { "replicas" };
    let mut out = format!("sidepool doctor: {}, {} {plural}\n", report.source, report.replicas);
    for section in &report.sections {
        let _ = writeln!(out, "\n{}", tame(&section.subject));
        let widest = section.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        for finding in &section.findings {
            push(&mut out, finding, widest, coloured);
        }
    }
    let _ = writeln!(out, "\n{}", summary(report));
    out
}

fn push(out: &mut String, finding: &Finding, widest: usize, coloured: bool) {
    let Finding { verdict, check, found, why, advice } = finding;
    let (sign, colour) = match verdict {
        Verdict::Good => ("✓", "32"),
        Verdict::Unseen => ("?", "36"),
        Verdict::Warning => ("!", "33"),
        Verdict::Problem => ("✗", "31"),
    };
    let word = format!("{sign} {:<7}", verdict.word());
    let word = if coloured { format!("\x1b[{colour}m{word}\x1b[0m") } else { word };
    let indent = 2 + 9 + 2 + widest + 2;
    let _ = writeln!(out, "  {word}  {check:<widest$}  {}", broken(found, indent));
    for (label, text) in [("why: ", why), ("do:  ", advice)].into_iter().filter(|(_, text)| !text.is_empty()) {
        let _ = writeln!(out, "{:indent$}{label}{}", "", broken(text, indent + label.len()));
    }
}

/// What servers say may hold anything: what a terminal would obey, or would show in another order, is written out.
fn tame(text: &str) -> String {
    let obeyed = |letter: char| {
        let turns = ['\u{200e}', '\u{200f}', '\u{61c}'].contains(&letter);
        letter.is_control() || turns || ('\u{202a}'..='\u{202e}').contains(&letter) || ('\u{2066}'..='\u{2069}').contains(&letter)
    };
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if obeyed(letter) { out.extend(letter.escape_default()) } else { out.push(letter) }
    }
    out
}

/// The text in lines, all but the first indented.
fn broken(text: &str, indent: usize) -> String {
    let text = tame(text);
    let room = WIDTH.saturating_sub(indent).max(40);
    let (mut out, mut line) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if line > 0 && line + 1 + length > room {
            let _ = write!(out, "\n{:indent$}", "");
            line = 0;
        } else if line > 0 {
            out.push(' ');
            line += 1;
        }
        out.push_str(word);
        line += length;
    }
    out
}

fn summary(report: &Report) -> String {
    let said = |verdict, one: &str, many: &str| match report.count(verdict) {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {many}")),
    };
    let parts = [
        said(Verdict::Problem, "problem", "problems"),
        said(Verdict::Warning, "warning", "warnings"),
        said(Verdict::Unseen, "thing that cannot be seen", "things that cannot be seen"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "All is well.".to_owned() } else { format!("{}.", parts.join(", ")) }
}

/// For machines.
#[must_use]
pub fn json(report: &Report) -> Value {
    let findings: Vec<Value> = report
        .sections
        .iter()
        .flat_map(|section| section.findings.iter().map(move |finding| (section, finding)))
        .map(|(section, Finding { verdict, check, found, why, advice })| {
            json!({ "subject": section.subject, "check": check, "verdict": verdict.word(), "found": found, "why": why, "advice": advice })
        })
        .collect();
    json!({
        "source": report.source,
        "replicas": report.replicas,
        "good": report.is_good(),
        "problems": report.count(Verdict::Problem),
        "warnings": report.count(Verdict::Warning),
        "unseen": report.count(Verdict::Unseen),
        "findings": findings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Section;

    fn report(findings: Vec<Finding>) -> Report {
        Report { source: "sidepool.toml".to_owned(), replicas: 2, sections: vec![Section { subject: "Here".to_owned(), findings }] }
    }

    #[test]
    fn columns_line_up_and_reasons_stand_below() {
        let report = report(vec![
            Finding::good("dns", "fine"),
            Finding::problem("max_connections", "too few", "clients are refused", "raise it"),
            Finding::unseen("clock", "nobody says", "look"),
        ]);
        let expected = "sidepool doctor: sidepool.toml, 2 replicas\n\n\
                        Here\n\
                        \x20 ✓ ok       dns              fine\n\
                        \x20 ✗ problem  max_connections  too few\n\
                        \x20                             why: clients are refused\n\
                        \x20                             do:  raise it\n\
                        \x20 ? unseen   clock            nobody says\n\
                        \x20                             do:  look\n\n\
                        1 problem, 1 thing that cannot be seen.\n";
        assert_eq!(text(&report, false), expected);
        assert!(!text(&report, false).contains('\x1b'));
        assert!(text(&report, true).contains("\x1b[31m✗ problem\x1b[0m"));
        assert!(!report.is_good());
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        let words = "bad \x1b[2J\r\n\u{9b}31m \u{202e}thing é";
        let finding = Finding::problem("login", words, words, words);
        let shown = text(&report(vec![finding]), false);
        assert!(!shown.chars().any(|letter| (letter.is_control() && letter != '\n') || letter == '\u{202e}'), "{shown:?}");
        assert_eq!(shown.matches(r"\u{1b}[2J\r\n\u{9b}31m \u{202e}thing é").count(), 3, "{shown}");
    }

    #[test]
    fn long_text_is_broken_between_words() {
        let long = "word ".repeat(60);
        let shown = text(&report(vec![Finding::good("dns", long.trim_end())]), false);
        assert!(shown.lines().all(|line| line.chars().count() <= WIDTH), "{shown}");
        assert_eq!(shown.matches("word").count(), 60);
    }

    #[test]
    fn machines_have_everything() {
        let shown = json(&report(vec![Finding::warning("tls", "a", "b", "c")]));
        assert_eq!((&shown["good"], &shown["warnings"]), (&Value::Bool(true), &json!(1)));
        let expected = json!({ "subject": "Here", "check": "tls", "verdict": "warning", "found": "a", "why": "b", "advice": "c" });
        assert_eq!(shown["findings"], json!([expected]));
        assert!(text(&report(vec![Finding::good("dns", "fine")]), false).ends_with("All is well.\n"));
    }
}
