//! Which commands are not sent, by configuration: the classes as the protocol knows them from those that the configuration names.

use sidepool_config::model::{CommandClass, Redis};
use sidepool_config::names::Named as _;
use sidepool_protocol::redis::command::{Command, Gate, Gates};

/// The gates that are closed.
pub fn gates(config: &Redis) -> Gates {
    Gate::ALL.into_iter().filter(|gate| config.denies(class(*gate))).fold(Gates::default(), Gates::with)
}

/// What a client is told whose command is not sent. It begins as the server's own refusals do.
pub fn refusal(command: &Command) -> String {
    let class = command.gate.map_or("", |gate| class(gate).name());
    format!(
        "NOPERM sidepool does not let '{}' through: commands of the class \"{class}\" are denied here (command_policy, command_allow, command_deny)",
        command.name.replace('|', " ")
    )
}

fn class(gate: Gate) -> CommandClass {
    match gate {
        Gate::Flush => CommandClass::Flush,
        Gate::Keys => CommandClass::Keys,
        Gate::SwapDb => CommandClass::SwapDb,
        Gate::Config => CommandClass::Config,
        Gate::Acl => CommandClass::Acl,
        Gate::Persistence => CommandClass::Persistence,
        Gate::Pause => CommandClass::Pause,
        Gate::Kill => CommandClass::Kill,
        Gate::Scripts => CommandClass::Scripts,
        Gate::Monitor => CommandClass::Monitor,
        Gate::Replication => CommandClass::Replication,
        Gate::Topology => CommandClass::Topology,
        Gate::Shutdown => CommandClass::Shutdown,
        Gate::Debug => CommandClass::Debug,
        Gate::Modules => CommandClass::Modules,
    }
}
