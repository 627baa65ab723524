//! The lexical side of `pg_hba.conf` and `pg_ident.conf`: lines into fields, fields into words.
//!
//! Blanks separate fields, commas the words of one field (a blank after a comma does not end it), `#` begins a comment, double quotes hold
//! anything and take a keyword's meaning away, a doubled quote inside is a quote, a backslash at the end continues the line.
//!
//! Source: PostgreSQL documentation, "The pg_hba.conf File".

/// A line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its number, from 1.
    pub line: u32,
    /// What is wrong with it, and what is allowed.
    pub message: String,
    /// Whether what it would have matched is refused because of it; otherwise the line is as if it were not there.
    pub refuses: bool,
}

impl Fault {
    pub(super) fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into(), refuses: false }
    }
}

/// A word, and whether it was in quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) quoted: bool,
}

impl Word {
    /// Whether it is this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }

    /// The file that it stands for, if it does.
    pub(super) fn file(&self) -> Option<&str> {
        self.text.strip_prefix('@').filter(|name| !self.quoted && !name.is_empty())
    }
}

/// The words of one field; at least one.
pub(super) type Field = Vec<Word>;

/// The lines of a file that say something, each with its number and its fields; or what is wrong with it.
pub(super) fn lines(text: &str) -> Vec<(u32, Result<Vec<Field>, &'static str>)> {
    let (mut found, mut joined, mut first) = (Vec::new(), String::new(), None);
    let mut numbered = text.lines().zip(1_u32..).peekable();
    while let Some((line, number)) = numbered.next() {
        let start = *first.get_or_insert(number);
        if let (Some(head), true) = (line.strip_suffix('\\'), numbered.peek().is_some()) {
            joined.push_str(head);
            continue;
        }
        joined.push_str(line);
        match fields(&joined) {
            Ok(fields) if fields.is_empty() => {}
            other => found.push((start, other)),
        }
        joined.clear();
        first = None;
    }
    found
}

/// All words of a text, whatever separates them: what a file holds that a field refers to with `@`.
pub(super) fn all_words(text: &str) -> Result<Vec<Word>, &'static str> {
    let mut words = Vec::new();
    for (_, fields) in lines(text) {
        words.extend(fields?.into_iter().flatten());
    }
    Ok(words)
}

/// The fields of one line.
pub(super) fn fields(line: &str) -> Result<Vec<Field>, &'static str> {
    let mut fields: Vec<Field> = Vec::new();
    let mut rest = line.trim_start();
    let mut goes_on = false;
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = word(rest)?;
        match fields.last_mut() {
            Some(field) if goes_on => field.extend(word),
            Some(_) | None => fields.extend(word.map(|word| vec![word])),
        }
        goes_on = after.starts_with(',');
        rest = after.strip_prefix(',').unwrap_or(after).trim_start();
    }
    Ok(fields)
}

/// The word at the front (none before a comma that follows nothing), and what comes after it.
fn word(text: &str) -> Result<(Option<Word>, &str), &'static str> {
    let (mut word, mut in_quotes) = (String::new(), false);
    let mut chars = text.char_indices().peekable();
    let mut end = text.len();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' if in_quotes && chars.peek().is_some_and(|(_, next)| *next == '"') => {
                chars.next();
                word.push('"');
            }
            '"' => in_quotes = !in_quotes,
            _ if in_quotes => word.push(char),
            ',' | '#' => {
                end = at;
                break;
            }
            _ if char.is_whitespace() => {
                end = at;
                break;
            }
            _ => word.push(char),
        }
    }
    if in_quotes {
        return Err("a double quote is never closed");
    }
    let quoted = text.starts_with('"');
    let found = (quoted || !word.is_empty()).then_some(Word { text: word, quoted });
    // A blank before a comma belongs to the list as well.
    let after = &text[end..];
    let trimmed = after.trim_start();
    Ok((found, if trimmed.starts_with(',') { trimmed } else { after }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> Vec<Vec<String>> {
        let show = |word: &Word| if word.quoted { format!("\"{}\"", word.text) } else { word.text.clone() };
        fields(line).unwrap().iter().map(|field| field.iter().map(show).collect()).collect()
    }

    #[test]
    fn blanks_separate_fields_and_commas_words() {
        assert_eq!(shown(" host  all\tbob # me"), [vec!["host"], vec!["all"], vec!["bob"]]);
        assert_eq!(shown("a,b, c ,d e"), [vec!["a", "b", "c", "d"], vec!["e"]]);
        assert_eq!(shown(",a,,b c,"), [vec!["a", "b"], vec!["c"]]);
        assert!(shown("# nothing").is_empty() && shown("").is_empty() && shown(" , ").is_empty());
    }

    #[test]
    fn quotes_hold_anything() {
        assert_eq!(
            shown("\"all\" \"a b\" \"a\"\"b\" x\"y z\" \"#\" \"\""),
            [vec!["\"all\""], vec!["\"a b\""], vec!["\"a\"b\""], vec!["xy z"], vec!["\"#\""], vec!["\"\""]]
        );
        assert_eq!(shown("map=\"a b\""), [vec!["map=a b"]]);
        assert!(fields("host \"all").is_err());
    }

    #[test]
    fn lines_are_counted_where_they_begin() {
        let found = lines("# one\nlocal \\\nall\n\n\"open\nhost\\");
        let numbers: Vec<_> = found.iter().map(|(number, fields)| (*number, fields.as_ref().map(Vec::len).ok())).collect();
        assert_eq!(numbers, [(2, Some(2)), (5, None), (6, Some(1))]);
    }

    #[test]
    fn words_know_their_files() {
        let words = all_words("@list \"@list\" @\nall, \"all\"").unwrap();
        assert_eq!(words.iter().map(Word::file).collect::<Vec<_>>(), [Some("list"), None, None, None, None]);
        assert_eq!(words.iter().filter(|word| word.is("all")).count(), 1);
    }
}
