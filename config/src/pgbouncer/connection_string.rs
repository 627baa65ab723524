//! The `key=value key='quoted value'` texts behind the names in `[databases]`, `[users]` and `[peers]`: like libpq's, with `''` for a quote.

/// The pairs in their order, or what is wrong with the text. Repeats nothing of it: there may be a password in it.
pub(crate) fn pairs(text: &str) -> Result<Vec<(&str, String)>, &'static str> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(['=', ' ', '\t']).ok_or("a key without = and a value")?;
        let (key, after) = rest.split_at(end);
        let after = after.trim_start().strip_prefix('=').ok_or("a key without = and a value")?;
        if key.is_empty() {
            return Err("a = without a key before it");
        }
        let (value, after) = value(after.trim_start())?;
        if value.is_empty() {
            return Err("an empty value; leave the key out instead");
        }
        pairs.push((key, value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// A value and what follows it.
fn value(text: &str) -> Result<(String, &str), &'static str> {
    let Some(mut rest) = text.strip_prefix('\'') else {
        let end = text.find([' ', '\t']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Ok((value.to_owned(), rest));
    };
    let mut value = String::new();
    loop {
        let (part, after) = rest.split_once('\'').ok_or("a quoted value without its closing quote")?;
        value.push_str(part);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Ok((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(text: &str) -> Vec<(&str, String)> {
        pairs(text).unwrap()
    }

    #[test]
    fn plain_and_quoted_values() {
        let found = good(" host=a,b  port = 5433\tconnect_query='select ''x'' = 1' password=p=q ");
        let expected = [("host", "a,b"), ("port", "5433"), ("connect_query", "select 'x' = 1"), ("password", "p=q")];
        assert_eq!(found, expected.map(|(key, value)| (key, value.to_owned())));
        assert!(good("").is_empty());
        assert_eq!(good("user='a'host=b"), [("user", "a".to_owned()), ("host", "b".to_owned())]);
    }

    #[test]
    fn what_is_no_such_text_says_why_without_repeating_it() {
        for text in ["hunter2", "=hunter2", "password='hunter2", "a=1 hunter2 b=2", "password=", "password='' host=h"] {
            let message = pairs(text).unwrap_err();
            assert!(!message.contains("hunter2"), "{text}: {message}");
        }
    }
}
