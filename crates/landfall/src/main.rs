//! The `landfall` command.

use std::process::ExitCode;

use clap::Parser;
use landfall::{
    check,
    cli::{Cli, Command, ReloadArgs, RunArgs},
    config::{Config, Host, LoadError},
    control_socket::{self, Request},
    demo, logging, run,
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
        Command::Reload(args) => reload(&args),
        Command::Echo(args) => finish(demo::echo::run(&args.name)),
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

fn reload(args: &ReloadArgs) -> ExitCode {
    let asked = run::runtime().map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(control_socket::ask(&args.control, &Request::Reload)).map_err(|error| error.to_string())
    });
    match asked {
        Ok(answer) if answer.ok => {
            println!("reloaded: {}", answer.message);
            ExitCode::SUCCESS
        }
        Ok(answer) => {
            eprintln!("landfall: reload refused, the old configuration stays in force:\n{}", answer.message);
            ExitCode::from(check::EXIT_CONFIG)
        }
        Err(error) => {
            eprintln!("landfall: {error}");
            ExitCode::FAILURE
        }
    }
}
