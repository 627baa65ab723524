//! The status page: one document with its style and its script inside, and the policy that lets a browser run these and nothing else.
//!
//! The page asks `/statusz` and draws; there is nothing of it here that could fail. What it shows is said in `status`.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

static PAGE: LazyLock<String> = LazyLock::new(|| HTML.replacen("/*STYLE*/", STYLE, 1).replacen("/*SCRIPT*/", SCRIPT, 1));

static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; connect-src 'self'; img-src data:; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// The document.
#[must_use]
pub fn html() -> &'static str {
    &PAGE
}

/// What a browser may do with it: run the one script, apply the one style, ask where it came from, and nothing else.
#[must_use]
pub fn policy() -> &'static str {
    &POLICY
}

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_document_that_needs_nobody_else() {
        assert!(html().contains(STYLE) && html().contains(SCRIPT));
        for foreign in ["http://", "https://", "//cdn", "@import", "url("] {
            let found = html().replace("http://www.w3.org/2000/svg", "").contains(foreign);
            assert!(!found, "the page names {foreign}");
        }
        assert!(html().len() < 64 * 1024, "{} bytes", html().len());
    }

    #[test]
    fn names_can_only_become_text() {
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "onclick=", "style=\""] {
            assert!(!html().contains(way), "{way} would let a name become more than text");
        }
    }

    #[test]
    fn the_policy_names_what_is_in_the_page() {
        let between = |open: &str, close: &str| html().split_once(open).unwrap().1.split_once(close).unwrap().0.to_owned();
        assert!(policy().contains(&format!("style-src '{}'", hash(&between("<style>", "</style>")))));
        assert!(policy().contains(&format!("script-src '{}'", hash(&between("<script>", "</script>")))));
        assert!(!policy().contains("unsafe"));
    }
}
