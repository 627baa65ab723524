//! One operator at the console: messages in, answers out.
//!
//! Not here: what a command is (`command`), what it answers (`answer`), who is let in (`session::postgres::operator`).

use std::rc::Rc;

use bytes::{Buf as _, Bytes, BytesMut};
use sidepool_protocol::postgres::encode;
use sidepool_protocol::postgres::fault::{Fault, Severity, SqlState};
use sidepool_protocol::postgres::frame::{self, HEAD_BYTES};
use sidepool_protocol::postgres::result::{self, Formats};
use sidepool_protocol::postgres::statement::{CLOSE_COMPLETE, PARSE_COMPLETE};
use sidepool_protocol::postgres::tag::FrontendTag;
use sidepool_protocol::postgres::tracker::TransactionStatus;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::command::{self, Command, Wrong};
use super::control::Order;
use super::extended::Prepared;
use super::guest::{Guest, Rank, Seen};
use super::switching::refused;
use crate::session::postgres::{refusal, say};
use crate::suspension;
use crate::transport::stream::Stream;
use crate::upstream::postgres::roll::seconds_now;
use crate::worker::Worker;

/// Longest message: far above any command.
const LONGEST_MESSAGE: usize = 16 * 1024;

/// How much of a wrong command is repeated to whoever typed it.
const MOST_REPEATED: usize = 900;

/// EmptyQueryResponse.
const EMPTY_QUERY: [u8; 5] = [b'I', 0, 0, 0, 4];

/// Why a command, or a session, comes to its end.
pub(super) enum Stop {
    /// The command fails; with a fatal fault, so does the session.
    Fault(Fault),
    /// The client says goodbye.
    Left,
    /// The client is gone.
    Gone,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What a session at the console has in hand.
pub(super) struct Desk {
    pub(super) worker: Rc<Worker>,
    /// What others see of the client.
    seen: Rc<Seen>,
    pub(super) rank: Rank,
    /// Notified by a cancel.
    pub(super) cancelled: Rc<Notify>,
    /// What is to be sent.
    pub(super) out: Vec<u8>,
    stream: Stream,
    /// What has been read and not been looked at.
    input: BytesMut,
    prepared: Prepared,
    /// A batch has failed: everything up to its Sync is dropped.
    skipping: bool,
}

/// Serves a guest, who has `said` something already, until it leaves, or the process ends.
pub async fn serve(worker: &Rc<Worker>, stream: Stream, said: &[u8], guest: Guest) {
    let visit = worker.guests.enter(&guest);
    let config = worker.config.borrow().clone();
    if config.log.connections && config.pgbouncer.is_none() {
        tracing::info!(peer = %stream.peer(), user = ?guest.user, "console session begins");
    }
    let mut desk = Desk {
        worker: Rc::clone(worker),
        seen: Rc::clone(visit.seen()),
        rank: guest.rank,
        cancelled: Rc::clone(&guest.ticket.cancelled),
        out: Vec::new(),
        stream,
        input: said.into(),
        prepared: Prepared::default(),
        skipping: false,
    };
    let stop = loop {
        let message = match desk.next().await {
            Ok(Some(message)) => message,
            Ok(None) => break Stop::Gone,
            Err(stop) => break stop,
        };
        if matches!(message.0, FrontendTag::Query | FrontendTag::Execute) {
            visit.asks(seconds_now());
        }
        if let Err(stop) = desk.on_message(message).await {
            break stop;
        }
    };
    desk.end(stop).await;
    drop(visit);
    if worker.suspension.state() != suspension::State::Off {
        worker.control.order(Order::Left).await;
    }
}

impl Desk {
    /// The next message; `None` when the client has left.
    async fn next(&mut self) -> Result<Option<(FrontendTag, Bytes)>, Stop> {
        loop {
            if let Some(head) = frame::head(&self.input).map_err(|bad| violation(bad.to_string()))? {
                let tag = FrontendTag::from_byte(head.tag).ok_or_else(|| violation(format!("There is no message 0x{:02x}.", head.tag)))?;
                if head.message_bytes() > LONGEST_MESSAGE {
                    return Err(violation(format!("A message has at most {LONGEST_MESSAGE} bytes here.")).into());
                }
                if self.input.len() >= head.message_bytes() {
                    self.input.advance(HEAD_BYTES);
                    return Ok(Some((tag, self.input.split_to(head.body).freeze())));
                }
            }
            let drain = Rc::clone(&self.worker);
            let begun = std::future::poll_fn(|cx| drain.drain.poll_begun(cx));
            tokio::select! {
                read = self.stream.read_buf(&mut self.input) => match read {
                    Ok(0) | Err(_) => return Ok(None),
                    Ok(_) => {}
                },
                () = begun => return Err(refusal::draining().into()),
            }
        }
    }

    /// Takes in what the client sends while a command runs, up to a bound; returns when it is gone. May be dropped and called again.
    pub(super) async fn listen(&mut self) -> Stop {
        while self.input.len() < LONGEST_MESSAGE {
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return Stop::Gone,
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }

    /// Sends what there is to send.
    pub(super) async fn flush(&mut self) -> Result<(), Stop> {
        let sent = self.stream.write_all(&self.out).await;
        self.out.clear();
        sent.map_err(|_| Stop::Gone)
    }

    /// The last words to the client, and about it.
    async fn end(mut self, stop: Stop) {
        let config = self.worker.config.borrow().clone();
        match stop {
            Stop::Fault(fault) => {
                say::guest_gone(&config, &self.seen, &fault.message);
                say::guest_told(&config, &self.seen, &fault);
                encode::error_response(&Fault { severity: Severity::Fatal, ..fault }, &mut self.out);
                // Whoever does not listen any more is closed all the same.
                let _ = self.flush().await;
            }
            Stop::Left => say::guest_gone(&config, &self.seen, "client close request"),
            Stop::Gone => say::guest_gone(&config, &self.seen, "client unexpected eof"),
        }
    }

    async fn on_message(&mut self, (tag, body): (FrontendTag, Bytes)) -> Result<(), Stop> {
        match tag {
            FrontendTag::Terminate => return Err(Stop::Left),
            FrontendTag::Query => self.on_query(&body).await?,
            FrontendTag::Sync => {
                self.skipping = false;
                self.prepared.sync();
                self.ready();
            }
            FrontendTag::Flush => {}
            FrontendTag::Parse | FrontendTag::Bind | FrontendTag::Describe | FrontendTag::Execute | FrontendTag::Close => {
                if self.skipping {
                    return Ok(());
                }
                if let Err(stop) = self.on_step(tag, &body).await {
                    self.fail(stop)?;
                    self.skipping = true;
                }
                // What is asked for step by step is answered when the batch ends, or when somebody wants it flushed, or it becomes much.
                if self.out.len() < LONGEST_MESSAGE {
                    return Ok(());
                }
            }
            FrontendTag::FunctionCall | FrontendTag::CopyData | FrontendTag::CopyDone | FrontendTag::CopyFail | FrontendTag::Password => {
                let code = tag_byte(tag);
                return Err(Fault::fatal(SqlState::PROTOCOL_VIOLATION, format!("unsupported packet type for admin console: {code}")).into());
            }
        }
        self.flush().await
    }

    async fn on_query(&mut self, body: &[u8]) -> Result<(), Stop> {
        let (text, _) = frame::cstr(body).ok_or_else(|| violation("A query ends with a zero byte.".to_owned()))?;
        let answered = match read(&self.worker, &String::from_utf8_lossy(text)) {
            Ok(command) => self.run(command, &Formats::Text, true).await,
            Err(fault) => Err(fault.into()),
        };
        match answered {
            Ok(tag) => result::command_complete(&tag, &mut self.out),
            Err(stop) => self.fail(stop)?,
        }
        self.ready();
        Ok(())
    }

    /// One message of the extended protocol.
    async fn on_step(&mut self, tag: FrontendTag, body: &[u8]) -> Result<(), Stop> {
        match tag {
            FrontendTag::Parse => {
                self.prepared.parse(body, |text| read(&self.worker, text))?;
                self.out.extend_from_slice(&PARSE_COMPLETE);
            }
            FrontendTag::Bind => {
                self.prepared.bind(body)?;
                result::bind_complete(&mut self.out);
            }
            FrontendTag::Describe => self.prepared.describe(body, &mut self.out)?,
            FrontendTag::Close => {
                self.prepared.close(body)?;
                self.out.extend_from_slice(&CLOSE_COMPLETE);
            }
            _ => match self.prepared.execute(body)? {
                (None, _) => self.out.extend_from_slice(&EMPTY_QUERY),
                (Some(command), formats) => {
                    let tag = self.run(command, &formats, false).await?;
                    result::command_complete(&tag, &mut self.out);
                }
            },
        }
        Ok(())
    }

    /// A command has failed: the client is told, and goes on, unless it is gone or the fault is fatal.
    fn fail(&mut self, stop: Stop) -> Result<(), Stop> {
        match stop {
            Stop::Fault(fault) if fault.severity != Severity::Fatal => {
                if !say::guest_told(&self.worker.config.borrow(), &self.seen, &fault) {
                    tracing::warn!(rank = ?self.rank, "console: {fault}");
                }
                encode::error_response(&fault, &mut self.out);
                Ok(())
            }
            stop @ (Stop::Fault(_) | Stop::Left | Stop::Gone) => Err(stop),
        }
    }

    fn ready(&mut self) {
        encode::ready_for_query(TransactionStatus::Idle, &mut self.out);
    }
}

/// A command, or PgBouncer's words for what is none.
fn read(worker: &Worker, text: &str) -> Result<Command, Fault> {
    let old_columns = worker.config.borrow().postgres.as_ref().is_some_and(|postgres| postgres.console_old_columns);
    let in_full = |command| match command {
        Command::Show(show) if old_columns => Command::Show(show.with_old_columns()),
        command => command,
    };
    command::parse(text).map(in_full).map_err(|wrong| match wrong {
        Wrong::Syntax => {
            let repeated: String = text.chars().take(MOST_REPEATED).collect();
            refused(format!("invalid command '{repeated}', use SHOW HELP;"))
        }
        Wrong::Arguments => refused("bad arguments".into()),
    })
}

fn violation(detail: String) -> Fault {
    Fault::fatal(SqlState::PROTOCOL_VIOLATION, "bad packet").with_detail(detail)
}

/// The byte that stands for a message that the console has no use for.
fn tag_byte(tag: FrontendTag) -> u8 {
    match tag {
        FrontendTag::FunctionCall => b'F',
        FrontendTag::CopyData => b'd',
        FrontendTag::CopyDone => b'c',
        FrontendTag::CopyFail => b'f',
        FrontendTag::Password => b'p',
        FrontendTag::Query
        | FrontendTag::Parse
        | FrontendTag::Bind
        | FrontendTag::Describe
        | FrontendTag::Execute
        | FrontendTag::Close
        | FrontendTag::Sync
        | FrontendTag::Flush
        | FrontendTag::Terminate => b'?',
    }
}
