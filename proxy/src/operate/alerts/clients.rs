//! Alerts about clients that do not come in.

use super::Alert;
use super::Severity::{Critical, Page, Warning};

/// Clients that are kept out.
pub(super) const ALERTS: &[Alert] = &[
    Alert {
        name: "SidepoolListenerRefusesClients",
        severity: Page,
        lasting: "1m",
        signal: "rate(sidepool_listener_rejections_total{reason!=\"draining\"}[5m])",
        condition: "> 0",
        only_if: "",
        silent_because: "",
        summary: "{{ $labels.listener }} turns {{ $value | humanize }} clients a second away ({{ $labels.reason }}).",
        cause: "New clients were refused at the door: as many are connected as may be (`max_client_conn`), or there are no more descriptors (`open_files`) or no more memory (`memory`).",
        look: &[
            "`sidepool_listener_client_connections` against `…_max`; `SHOW CLIENTS`: do old ones never leave?",
            "`process_open_fds`, `sidepool_memory_pressure`.",
        ],
        act: &[
            "Raise what is named: `max_client_conn`, the limit on open files (LimitNOFILE, ulimit -n), the memory limit.",
            "Clients that leak connections: `client_idle_timeout`, and mend them.",
        ],
    },
    Alert {
        name: "SidepoolClientSlotsNearlyUsed",
        severity: Warning,
        lasting: "5m",
        signal: "sidepool_listener_client_connections / sidepool_listener_client_connections_max",
        condition: "> 0.85",
        only_if: "",
        silent_because: "",
        summary: "{{ $labels.listener }} has {{ $value | humanizePercentage }} of the clients that it may have.",
        cause: "More than 85 % of `max_client_conn`, or of what the limit on open files allows, are connected.",
        look: &["As for SidepoolListenerRefusesClients."],
        act: &["As for SidepoolListenerRefusesClients, before it comes to that. An idle client costs about 1 kB."],
    },
    Alert {
        name: "SidepoolLoginsFail",
        severity: Warning,
        lasting: "5m",
        signal: "sum without (result) (rate(sidepool_client_logins_total{result!=\"ok\"}[5m])) / sum without (result) (rate(sidepool_client_logins_total[5m]))",
        condition: "> 0.2",
        only_if: "",
        silent_because: "",
        summary: "{{ $value | humanizePercentage }} of the {{ $labels.protocol }} logins fail.",
        cause: "More than a fifth of the clients that log in are refused: a wrong or rotated password, an unknown database, a login that takes too long, or no upstream connection for it.",
        look: &["`sidepool_client_logins_total` by result.", "The log has user, database and address of each."],
        act: &[
            "`bad_password`: is a rotated secret here as well as there? Secrets are live: save the file.",
            "`refused`: see SidepoolServerDown.",
            "From one address only: somebody is guessing.",
        ],
    },
    Alert {
        name: "SidepoolAcceptsFail",
        severity: Critical,
        lasting: "1m",
        signal: "rate(sidepool_listener_accept_errors_total[5m])",
        condition: "> 0",
        only_if: "",
        silent_because: "",
        summary: "{{ $labels.listener }} cannot accept clients, {{ $value | humanize }} times a second.",
        cause: "The system refuses to accept connections, nearly always for want of file descriptors.",
        look: &["`process_open_fds` against `process_max_fds`; `/proc/sys/fs/file-nr`."],
        act: &["Raise the limit on open files of the process or of the machine."],
    },
    Alert {
        name: "SidepoolListenersMayHaveMissed",
        severity: Warning,
        lasting: "0m",
        signal: "increase(sidepool_listen_clients_closed_total[15m])",
        condition: "> 0",
        only_if: "",
        silent_because: "",
        summary: "{{ $value | humanize }} clients of {{ $labels.pool }} that LISTEN were closed ({{ $labels.reason }}).",
        cause: "`gap`: the connection that listens for all of them was lost, and they may have missed notifications. `slow`: they did not take theirs.",
        look: &["`sidepool_listen_connections_lost_total`; the log.", "`slow`: what do those clients do between two reads?"],
        act: &[
            "Clients have to read the state anew after they reconnect, as after any lost connection.",
            "`listen_gap = \"warn\"` tells them instead of closing them.",
        ],
    },
];
