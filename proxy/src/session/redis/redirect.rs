//! The words of `CLIENT TRACKING` that name another client: its number is the proxy's, and means something else, or nothing, to the server.

use sidepool_protocol::redis::request::Arguments;

/// Whether invalidations are to go to another client.
pub(super) fn is_redirected(whole: &[u8]) -> bool {
    !places(&Arguments::new(whole).collect::<Vec<_>>()).is_empty()
}

/// Where the numbers of clients stand.
fn places(words: &[&[u8]]) -> Vec<usize> {
    let (mut places, mut at) = (Vec::new(), 3);
    while at + 1 < words.len() {
        let redirects = words[at].eq_ignore_ascii_case(b"redirect");
        if redirects {
            places.push(at + 1);
        }
        at += if redirects || words[at].eq_ignore_ascii_case(b"prefix") { 2 } else { 1 };
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::redis::requests::anew;

    #[test]
    fn a_prefix_of_that_name_redirects_nothing() {
        let redirected = |words: &str| is_redirected(&anew(words.split(' ').map(str::as_bytes)));
        assert!(redirected("CLIENT TRACKING ON REDIRECT 5"));
        assert!(redirected("client tracking on bcast prefix a Redirect 5 noloop"));
        assert!(redirected("CLIENT TRACKING OFF REDIRECT 5"));
        for other in
            ["CLIENT TRACKING ON", "CLIENT TRACKING", "CLIENT TRACKING ON BCAST PREFIX REDIRECT PREFIX b", "CLIENT TRACKING ON REDIRECT"]
        {
            assert!(!redirected(other), "{other}");
        }
    }
}
