//! The `landfall` command.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use landfall::{
    attached, check,
    cli::{Cli, Command, RunArgs},
    commands,
    config::{Config, Host, LoadError},
    demo,
    explain::{self, what_if::WhatIfError},
    logging, run, simulate,
};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Try(args) => finish(demo::run(args.hold)),
        Command::Run(args) => serve(args),
        Command::Check(args) => {
            let format = if args.json { check::Format::Json } else { check::Format::Text };
            let outcome = check::check(&args.config, &Host::detect(), format);
            print!("{}", outcome.text);
            ExitCode::from(outcome.status)
        }
        Command::Status(args) => commands::status(&args),
        Command::Flows(args) => commands::flows(&args),
        Command::Weight(args) => commands::weight(args),
        Command::Drain(args) => commands::drain(args),
        Command::Undrain(args) => commands::undrain(args),
        Command::Reload(ask) => commands::reload(&ask),
        Command::Explain(args) => match &args.config {
            Some(config) => print_answer(explain::offline(config, &args, now())),
            None => commands::explain(&args),
        },
        Command::Simulate(args) => print_answer(simulate::offline(&args, now())),
        Command::FastPath(args) => attached::run(&args),
        Command::Echo(args) => finish(demo::echo::run(&args.name)),
    }
}

/// Where the time of an imagined edge begins; only differences matter.
fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

fn print_answer(answer: Result<String, WhatIfError>) -> ExitCode {
    match answer {
        Ok(text) => {
            // Err: whoever reads has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error @ (WhatIfError::Config(_) | WhatIfError::Scenario(_))) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_status())
        }
        Err(error) => {
            eprintln!("landfall: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}

fn finish<E: std::error::Error>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("landfall: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: RunArgs) -> ExitCode {
    logging::start(args.log_format);
    // Err: the limit stays as it is, and the host's facts below say what it is.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let host = Host::detect();
    match Config::load(&args.config, &host) {
        Ok(config) => {
            for warning in &config.warnings {
                tracing::warn!("{}", warning.render(&args.config));
            }
            finish(run::run(config, host, args.config))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(match error {
                LoadError::Read { .. } => check::EXIT_NO_INPUT,
                LoadError::Invalid { .. } => check::EXIT_CONFIG,
            })
        }
    }
}
