//! Plays scenarios and says what happened: `scenarios --help`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum as _};
use sidepool_scenarios::network;
use sidepool_scenarios::report::{self, Report};
use sidepool_scenarios::scale::Scale;
use sidepool_scenarios::scenario::{Order, Scenario};
use sidepool_scenarios::stage::Peer;

/// Bursts, queues and faults: what becomes of clients. One line of JSON for each run; a table at the end.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    inner: Option<Inner>,
    /// Which to play, in this order; without any: all that take no longer than two minutes.
    scenarios: Vec<Scenario>,
    /// Through the peer (PgBouncer, nutcracker), too.
    #[arg(long)]
    compare: bool,
    /// A tenth of the clients and a quarter of the time.
    #[arg(long)]
    small: bool,
    /// How long a soak lasts.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Plays each so many times, in turns.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
}

#[derive(Subcommand)]
enum Inner {
    /// Passes connections on to a Unix socket; started inside of a network namespace by a scenario.
    #[command(hide = true)]
    Relay {
        /// Where to listen.
        address: String,
        /// Where to pass them on.
        socket: PathBuf,
    },
}

#[tokio::main(flavor = "multi_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Inner::Relay { address, socket }) = arguments.inner {
        return match network::relay(&address, &socket).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("the relay cannot listen at {address}: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let reports = play(&arguments).await;
    print!("\n{}", report::table(&reports));
    if reports.iter().any(|report| report.against == "sidepool" && !report.broken.is_empty()) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

async fn play(arguments: &Arguments) -> Vec<Report> {
    let quick = |scenario: &Scenario| !matches!(scenario, Scenario::Soak | Scenario::RedisSoak | Scenario::Cut120 | Scenario::RedisCut120);
    let scenarios = match arguments.scenarios.as_slice() {
        [] => Scenario::value_variants().iter().copied().filter(quick).collect(),
        chosen => chosen.to_vec(),
    };
    let peers: &[Peer] = if arguments.compare { &[Peer::Sidepool, Peer::Other] } else { &[Peer::Sidepool] };
    let mut reports = Vec::new();
    for scenario in scenarios {
        for _ in 0..arguments.rounds {
            for peer in peers {
                let order = Order {
                    peer: *peer,
                    scale: if arguments.small { Scale::Small } else { Scale::Full },
                    soak: Duration::from_secs(arguments.minutes * 60),
                };
                match scenario.play(order).await {
                    Ok(report) => {
                        println!("{}", report.line());
                        reports.push(report);
                    }
                    Err(reason) => eprintln!("{} cannot be played here: {reason}", scenario.name()),
                }
            }
        }
    }
    reports
}
