//! Who the process is: it becomes the configured user before it opens anything, and never serves as root.

use std::ffi::CString;

use nix::unistd::{Uid, User, getuid, initgroups, setgid, setuid};

/// Becomes `user` with its groups, for good.
pub(crate) fn become_user(user: &str) -> Result<(), String> {
    let entry = match User::from_name(user) {
        Ok(Some(entry)) => entry,
        Ok(None) => return Err(format!("could not find user '{user}' to switch to")),
        Err(error) => return Err(format!("could not look up user '{user}': {error}")),
    };
    if getuid() == entry.uid {
        return Ok(());
    }
    if !getuid().is_root() {
        return Err("only root can switch to another user".to_owned());
    }
    let name = CString::new(user).map_err(|_| format!("could not find user '{user}' to switch to"))?;
    let failed = |what: &str, error: nix::Error| format!("cannot become user '{user}': {what}: {error}");
    initgroups(&name, entry.gid).map_err(|error| failed("initgroups", error))?;
    setgid(entry.gid).map_err(|error| failed("setgid", error))?;
    setuid(entry.uid).map_err(|error| failed("setuid", error))?;
    // A kernel that would let us back has not done what it said.
    if !entry.uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err(format!("cannot become user '{user}': root could be had back"));
    }
    Ok(())
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    getuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_is_a_reason_not_to_start() {
        assert_eq!(become_user("no-such-user-here").unwrap_err(), "could not find user 'no-such-user-here' to switch to");
        let ourselves = User::from_uid(getuid()).unwrap().unwrap();
        assert_eq!(become_user(&ourselves.name), Ok(()));
    }
}
