//! How far two connections of a hub are with the mark that both listen to, what is kept of either meanwhile, and when the new one takes over. Pure:
//! frames and looks go in, a verdict comes out. Not here: the connections themselves (`hub_heir`), and who hears what is handed over (`hub_line`).
//!
//! ```text
//!   old:  … m1 m2 MARK m3 m4     m1 and m2 are handed over as they come, m3 and m4 are held back
//!   new:  … m1 m2 MARK m3 m4     m3 and m4 are kept
//! ```
//! When both have come to the mark the new one takes over: m3 and m4 are handed over as it heard them. When it does not take over after all, they are
//! handed over as the old one did. Where the old one leads elsewhere and never hears the mark, the new one takes over all the same, after some time:
//! all that it has heard is handed over if the old one has told nothing meanwhile, and nothing from before the mark if it has, for it may be the same.

use std::rc::Rc;

use sidepool_protocol::redis::request::Arguments;

use super::topics::Kind;

/// How many looks it may take.
const MOST_LOOKS: u32 = 3;

/// How much is kept of both while one of them has not come to the mark, in bytes.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// How a new connection takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Both have come to the mark: nothing is lost and nothing told twice.
    Clean,
    /// The old one is left as it is. It may owe answers, and messages may have been missed.
    Forced,
}

/// The state of one attempt.
pub(super) struct Handover {
    mark: Rc<[u8]>,
    /// How many answers the new connection is owed.
    left: usize,
    /// What the server does not allow.
    refused: Option<String>,
    /// The old connection has heard the mark.
    passed: bool,
    /// The new one has; so many of `kept` came before it.
    reached: Option<usize>,
    /// What the new one has heard.
    kept: Vec<Vec<u8>>,
    /// What the old one has heard behind the mark.
    held: Vec<Vec<u8>>,
    /// How much both are.
    bytes: usize,
    /// The old one has told something since this began.
    spoke: bool,
    looks: u32,
    /// The old one leads elsewhere: it is better to lose something than to keep it.
    forced: bool,
}

impl Handover {
    /// Nothing has happened yet; the new connection is owed `left` answers.
    pub(super) fn new(mark: Rc<[u8]>, left: usize, forced: bool) -> Self {
        let (kept, held) = (Vec::new(), Vec::new());
        Self { mark, left, refused: None, passed: false, reached: None, kept, held, bytes: 0, spoke: false, looks: 0, forced }
    }

    /// The channel that both listen to.
    pub(super) fn mark(&self) -> &Rc<[u8]> {
        &self.mark
    }

    /// The old connection has heard something: whether it is to be handed over now.
    pub(super) fn on_old(&mut self, frame: &[u8]) -> bool {
        if self.passed {
            self.bytes += frame.len();
            self.held.push(frame.to_vec());
            return false;
        }
        self.passed = self.is_mark(frame);
        self.spoke |= !self.passed && is_message(frame);
        !self.passed
    }

    /// The new connection has.
    pub(super) fn on_new(&mut self, frame: Vec<u8>) {
        if frame.first() == Some(&b'-') {
            self.refuse(String::from_utf8_lossy(&frame[1..]).trim_end().to_owned());
            self.left = self.left.saturating_sub(1);
        } else if !is_message(&frame) {
            self.left = self.left.saturating_sub(1);
        } else if self.is_mark(&frame) {
            self.reached = Some(self.kept.len());
        } else if self.forced || self.reached.is_some() {
            // Otherwise it is before the mark, where the old one hears it, too.
            self.bytes += frame.len();
            self.kept.push(frame);
        }
    }

    /// The server does not allow something.
    pub(super) fn refuse(&mut self, why: String) {
        self.refused.get_or_insert(why);
    }

    /// Some time has passed.
    pub(super) fn look(&mut self) {
        self.looks += 1;
    }

    /// Whether all that the mark needs is there: it can be published.
    pub(super) fn is_ready(&self) -> bool {
        self.left == 0 && self.refused.is_none()
    }

    /// How the new connection takes over now, if it does. An error means that it never does.
    pub(super) fn verdict(&self) -> Result<Option<Manner>, String> {
        if self.passed && self.reached.is_some() {
            return Ok(Some(Manner::Clean));
        }
        let (late, full) = (self.looks > MOST_LOOKS, self.bytes > MOST_BYTES);
        if self.forced && self.left == 0 && (late || full || self.refused.is_some()) {
            return Ok(Some(Manner::Forced));
        }
        match &self.refused {
            Some(refused) => Err(refused.clone()),
            None if late => Err("it took too long".to_owned()),
            None if full => Err("too much came before it could take over".to_owned()),
            None => Ok(None),
        }
    }

    /// The new connection has taken over: what is still to be handed over.
    pub(super) fn taken_over(mut self, manner: Manner) -> Vec<Vec<u8>> {
        let behind = self.reached.unwrap_or(self.kept.len());
        match manner {
            Manner::Clean => self.kept.split_off(behind),
            Manner::Forced => {
                let from = if self.spoke { behind } else { 0 };
                self.held.append(&mut self.kept.split_off(from));
                self.held
            }
        }
    }

    /// It has not: what is still to be handed over.
    pub(super) fn given_up(self) -> Vec<Vec<u8>> {
        self.held
    }

    fn is_mark(&self, frame: &[u8]) -> bool {
        let mut words = Arguments::new(frame);
        words.next() == Some(Kind::Channel.message().as_bytes()) && words.next() == Some(&*self.mark)
    }
}

fn is_message(frame: &[u8]) -> bool {
    let word = Arguments::new(frame).next().unwrap_or_default();
    Kind::ALL.into_iter().any(|kind| kind.message().as_bytes() == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidepool_protocol::redis::encode;

    const MARK: &[u8] = b"the mark";

    fn frame(words: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::command(&mut out, words);
        out
    }

    fn message(text: &str) -> Vec<u8> {
        frame(&[b"message", b"news", text.as_bytes()])
    }

    fn mark() -> Vec<u8> {
        frame(&[b"message", MARK, b""])
    }

    /// An attempt whose new connection is subscribed to everything.
    fn subscribed(forced: bool) -> Handover {
        let mut handover = Handover::new(Rc::from(MARK), 1, forced);
        assert!(!handover.is_ready() && handover.verdict() == Ok(None));
        handover.on_new(frame(&[b"subscribe", MARK, b"1"]));
        assert!(handover.is_ready());
        handover
    }

    #[test]
    fn what_both_hear_is_handed_over_once() {
        let mut both = subscribed(false);
        assert!(both.on_old(&message("1")));
        both.on_new(message("1"));
        both.on_new(mark());
        both.on_new(message("2"));
        assert_eq!(both.verdict(), Ok(None));
        assert!(!both.on_old(&mark()) && !both.on_old(&message("2")));
        assert_eq!(both.verdict(), Ok(Some(Manner::Clean)));
        assert_eq!(both.taken_over(Manner::Clean), [message("2")]);
    }

    #[test]
    fn what_the_old_one_holds_back_is_handed_over_when_it_stays() {
        let ends: [fn(&mut Handover); 2] = [|refused| refused.refuse("no".to_owned()), |late| (0..9).for_each(|_| late.look())];
        for end in ends {
            let mut stays = subscribed(false);
            assert!(!stays.on_old(&mark()) && !stays.on_old(&message("1")) && !stays.on_old(&message("2")));
            assert_eq!(stays.verdict(), Ok(None), "the new one has not heard the mark");
            end(&mut stays);
            assert!(stays.verdict().is_err());
            assert_eq!(stays.given_up(), [message("1"), message("2")]);
        }
    }

    #[test]
    fn it_is_never_too_late_when_both_have_come_to_the_mark() {
        let mut late = subscribed(false);
        late.on_new(mark());
        late.on_new(frame(&[b"message", b"news", &vec![b'x'; MOST_BYTES]]));
        (0..9).for_each(|_| late.look());
        late.refuse("the answer to PUBLISH did not come".to_owned());
        assert!(late.verdict().is_err());
        late.on_old(&mark());
        assert_eq!(late.verdict(), Ok(Some(Manner::Clean)));
    }

    #[test]
    fn what_is_kept_of_both_is_bounded() {
        let large = frame(&[b"message", b"news", &vec![b'x'; MOST_BYTES / 2]]);
        let mut full = subscribed(false);
        full.on_old(&mark());
        full.on_old(&large);
        assert_eq!(full.verdict(), Ok(None));
        full.on_old(&large);
        assert!(full.verdict().is_err());
        let mut forced = subscribed(true);
        forced.on_new(large.clone());
        assert_eq!(forced.verdict(), Ok(None));
        forced.on_new(large);
        assert_eq!(forced.verdict(), Ok(Some(Manner::Forced)));
    }

    #[test]
    fn who_takes_over_from_a_silent_one_hands_over_all_that_it_has_heard() {
        let mut silent = subscribed(true);
        silent.on_new(message("1"));
        silent.on_new(mark());
        silent.on_new(message("2"));
        assert_eq!(silent.verdict(), Ok(None));
        (0..9).for_each(|_| silent.look());
        assert_eq!(silent.verdict(), Ok(Some(Manner::Forced)));
        assert_eq!(silent.taken_over(Manner::Forced), [message("1"), message("2")]);
    }

    #[test]
    fn who_takes_over_from_a_talking_one_repeats_nothing() {
        let mut talking = subscribed(true);
        assert!(talking.on_old(&message("1")));
        talking.on_new(message("1"));
        talking.refuse("no".to_owned());
        assert_eq!(talking.verdict(), Ok(Some(Manner::Forced)));
        assert_eq!(talking.taken_over(Manner::Forced), Vec::<Vec<u8>>::new());
    }
}
