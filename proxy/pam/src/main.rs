//! `sidepool-pam`: asks PAM whether one password is right, and ends. sidepool starts it for each login whose method is `pam`.
//!
//! A program of its own, because the modules that PAM loads are foreign code: they may hang, crash, fork or not bear threads, and here that
//! costs one login. And because sidepool then needs no libpam, neither when it is built nor where it runs.
//!
//! Reads service, user, client's host and password from its standard input, a zero byte behind each of the first three. Its exit status is the
//! answer; why it is not yes stands on its standard output. Not here: who may ask, how long it may take (sidepool's `authenticate/pam`).

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::process::ExitCode;
use std::rc::Rc;

use nonstick::items::ItemsMut as _;
use nonstick::{AuthnFlags, ConversationAdapter, ErrorCode, PamShared as _, Result as PamResult, Transaction as _, TransactionBuilder};
use zeroize::Zeroizing;

/// The password is wrong, or its owner may not come in.
const NO: u8 = 1;
/// It cannot be found out.
const UNKNOWN: u8 = 2;
/// The longest question that is read.
const LONGEST: u64 = 64 * 1024;

fn main() -> ExitCode {
    let mut question = Zeroizing::new(Vec::new());
    if let Err(error) = io::stdin().take(LONGEST).read_to_end(&mut question) {
        println!("no question: {error}");
        return ExitCode::from(UNKNOWN);
    }
    let parts: Vec<&[u8]> = question.split(|byte| *byte == 0).collect();
    let [service, user, host, password] = parts.as_slice() else {
        println!("sidepool starts this program; it is of no use by itself");
        return ExitCode::from(UNKNOWN);
    };
    let text = |part: &[u8]| OsString::from_vec(part.to_vec());
    let said = Rc::new(RefCell::new(Vec::new()));
    let answers = Answers { user: text(user), password: Zeroizing::new(password.to_vec()), said: Rc::clone(&said) };
    let Err(Failure { step, error, is_answer }) = ask(&text(service), &text(user), &text(host), answers) else { return ExitCode::SUCCESS };
    let said = said.borrow().iter().map(|line| format!(" ({line})")).collect::<String>();
    println!("{step}() failed: {error}{said}");
    ExitCode::from(if is_answer { NO } else { UNKNOWN })
}

/// What did not end well, where, and whether that is what PAM says of the user.
struct Failure {
    step: &'static str,
    error: ErrorCode,
    is_answer: bool,
}

fn ask(service: &OsStr, user: &OsStr, host: &OsStr, answers: Answers) -> Result<(), Failure> {
    let before = |step| move |error| Failure { step, error, is_answer: false };
    let answer = |step| move |error| Failure { step, error, is_answer: true };
    let started = TransactionBuilder::new_with_service(service).username(user).build(answers.into_conversation());
    let mut transaction = started.map_err(before("pam_start"))?;
    transaction.items_mut().set_remote_host(Some(host)).map_err(before("pam_set_item"))?;
    transaction.authenticate(AuthnFlags::SILENT).map_err(answer("pam_authenticate"))?;
    transaction.account_management(AuthnFlags::SILENT).map_err(answer("pam_acct_mgmt"))
}

/// What the client would say.
struct Answers {
    user: OsString,
    password: Zeroizing<Vec<u8>>,
    /// What the modules have to say.
    said: Rc<RefCell<Vec<String>>>,
}

impl ConversationAdapter for Answers {
    fn prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
        Ok(self.user.clone())
    }

    fn masked_prompt(&self, _: impl AsRef<OsStr>) -> PamResult<OsString> {
        Ok(OsString::from_vec(self.password.to_vec()))
    }

    fn error_msg(&self, message: impl AsRef<OsStr>) {
        self.said.borrow_mut().push(message.as_ref().to_string_lossy().into_owned());
    }

    fn info_msg(&self, _: impl AsRef<OsStr>) {}
}
