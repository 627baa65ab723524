//! Notices that configuration files have changed: by events where the kernel gives them, by a slow look at their contents everywhere.
//!
//! It is the *directories* that are watched: a mounted ConfigMap changes by a rename of a link beside the file, which a watch on the file does
//! not survive. Events only say that it is time to look; whether anything changed is decided by a hash of the contents, as time stamps lie.
//! Not here: what happens then (`app::reloading`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::clock;

/// How long after the first event the files are read: editors and mounts change them in several steps.
pub const SETTLE: Duration = Duration::from_millis(250);

/// How often the files are looked at without any event.
pub const POLL: Duration = Duration::from_secs(10);

/// Tells when to look at the files again.
pub struct FileWatch {
    events: mpsc::Receiver<()>,
    sender: mpsc::Sender<()>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    next_poll: Instant,
    settled_at: Option<Instant>,
}

impl FileWatch {
    /// Watches the directories of these files. Without events (too many watchers on the machine, a file system that has none) it polls, and
    /// says so once.
    pub fn start<'a>(files: impl Iterator<Item = &'a Path>) -> Self {
        let (sender, events) = mpsc::channel(1);
        let mut watch = Self { events, sender, watcher: None, watched: BTreeSet::new(), next_poll: in_time(POLL), settled_at: None };
        watch.follow(files);
        watch
    }

    /// Watches the directories of these files from now on, if they are others than before.
    pub fn follow<'a>(&mut self, files: impl Iterator<Item = &'a Path>) {
        let wanted: BTreeSet<PathBuf> = files.map(directory_of).collect();
        if wanted == self.watched {
            return;
        }
        self.watcher = None;
        if !wanted.is_empty() {
            match watcher(&wanted, self.sender.clone()) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => {
                    let every = POLL.as_secs();
                    tracing::warn!(%error, "no events for changed configuration files; looking at their contents every {every} s instead");
                }
            }
        }
        self.watched = wanted;
    }

    /// Waits until it is time to look at the files. May be dropped and called again: what has happened is not forgotten.
    pub async fn changed(&mut self) {
        if self.settled_at.is_none() && timeout_at(self.next_poll, self.events.recv()).await.is_ok() {
            self.settled_at = Some(in_time(SETTLE));
        }
        if let Some(settled_at) = self.settled_at {
            sleep_until(settled_at).await;
            while self.events.try_recv().is_ok() {}
        }
        self.settled_at = None;
        self.next_poll = in_time(POLL);
    }
}

fn in_time(duration: Duration) -> Instant {
    Instant::from_std(clock::now()) + duration
}

fn watcher(directories: &BTreeSet<PathBuf>, sender: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.as_ref().is_ok_and(is_read_only) {
            return;
        }
        // Full means that somebody is about to look already. An error (an overflow) is as good a reason to look as an event.
        let _ = sender.try_send(());
    })?;
    for directory in directories {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Our own reading of the files must not make us read them again.
fn is_read_only(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => false,
    }
}

fn directory_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}
