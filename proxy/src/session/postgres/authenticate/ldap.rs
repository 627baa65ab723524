//! Asks an LDAP server whether a password is right. On the worker's runtime, without ever blocking it.
//!
//! Not here: what the options mean (`sidepool_config::auth::ldap`).

use std::time::Duration;

use ldap3::{LdapConnAsync, LdapConnSettings, LdapError, SearchEntry};
use sidepool_config::auth::ldap::{Ldap, Scope, Way};
use sidepool_config::secret::Secret;
use tokio::sync::Semaphore;

/// How long one server may take to answer, all in all.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The server says no.
const INVALID_CREDENTIALS: u32 = 49;

/// What came of asking one server.
enum Answer {
    Yes,
    No,
    /// It did not say: the next one is asked.
    Silent(String),
}

/// Whether the password of `user` is right. It is not empty: a bind without one succeeds for everybody (RFC 4513, 5.1.2).
pub(super) async fn knows(ldap: Ldap, user: &str, password: &Secret, turns: &Semaphore) -> bool {
    let Ok(_turn) = turns.acquire().await else { return false };
    for server in &ldap.servers {
        let answer = match tokio::time::timeout(TIMEOUT, ask(server, &ldap, user, password)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Silent(error.to_string()),
            Err(_) => Answer::Silent(format!("no answer within {} s", TIMEOUT.as_secs())),
        };
        match answer {
            Answer::Yes => return true,
            Answer::No => return false,
            Answer::Silent(error) => tracing::warn!(server, user, error, "an LDAP server could not be asked"),
        }
    }
    false
}

async fn ask(server: &str, ldap: &Ldap, user: &str, password: &Secret) -> Result<Answer, LdapError> {
    let Some(entry) = (match (ldap.entry(user), &ldap.way) {
        (Some(entry), _) => Some(entry),
        (None, Way::Search { base, scope, bind, filter }) => {
            let (scope, filter) = (scope_of(*scope), Way::filter_for(filter, user));
            find(server, ldap, base, scope, bind.as_ref(), &filter).await?
        }
        (None, Way::Prefix { .. }) => None,
    }) else {
        return Ok(Answer::No);
    };
    let mut connection = open(server, ldap).await?;
    let result = connection.simple_bind(&entry, password.reveal()).await?;
    // The answer is there; a goodbye that does not arrive changes nothing.
    let _ = connection.unbind().await;
    Ok(match result.rc {
        0 => Answer::Yes,
        INVALID_CREDENTIALS => Answer::No,
        _ => Answer::Silent(result.to_string()),
    })
}

/// The name of the one entry that the filter finds; `None` for none, and for several.
async fn find(
    server: &str,
    ldap: &Ldap,
    base: &str,
    scope: ldap3::Scope,
    bind: Option<&(String, Secret)>,
    filter: &str,
) -> Result<Option<String>, LdapError> {
    let mut connection = open(server, ldap).await?;
    if let Some((name, password)) = bind {
        connection.simple_bind(name, password.reveal()).await?.success()?;
    }
    // No attributes: the name is all that is wanted. Two entries are as many as it takes to see that it is not one.
    let options = ldap3::SearchOptions::new().sizelimit(2);
    let (entries, _) = connection.with_search_options(options).search(base, scope, filter, vec!["1.1"]).await?.success()?;
    let _ = connection.unbind().await;
    let mut names =
        entries.into_iter().filter(|entry| !entry.is_ref() && !entry.is_intermediate()).map(|entry| SearchEntry::construct(entry).dn);
    Ok(match (names.next(), names.next()) {
        (Some(name), None) => Some(name),
        (None | Some(_), _) => None,
    })
}

async fn open(server: &str, ldap: &Ldap) -> Result<ldap3::Ldap, LdapError> {
    let settings = LdapConnSettings::new().set_conn_timeout(TIMEOUT).set_starttls(ldap.start_tls);
    let (connection, handle) = LdapConnAsync::with_settings(settings, server).await?;
    tokio::task::spawn_local(async move {
        // An error shows up as the end of what is asked over the handle.
        let _ = connection.drive().await;
    });
    Ok(handle)
}

fn scope_of(scope: Scope) -> ldap3::Scope {
    match scope {
        Scope::Base => ldap3::Scope::Base,
        Scope::One => ldap3::Scope::OneLevel,
        Scope::Subtree => ldap3::Scope::Subtree,
    }
}
