//! `landfall fast-path`: which processes' programs take packets on this host, and how to take them away from a process that hangs.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use fast_path::{Attachment, Error, attachments};

/// Of `fast-path`.
#[derive(Debug, Args)]
pub struct FastPathArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: FastPathCommand,
}

/// What to do about the attached programs of this network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum FastPathCommand {
    /// List them.
    List,
    /// Detach those that forward packets, for example of an edge that hangs and cannot be killed. One that runs attaches them again within
    /// a second or two; with the end of its process each is gone by itself. What chooses sockets stays: it forwards nothing.
    Detach,
}

/// Carries it out.
pub fn run(args: &FastPathArgs) -> ExitCode {
    match carry_out(args.command) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("landfall: {error}; run this as root");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: FastPathCommand) -> Result<String, Error> {
    let mut attached = attachments()?;
    attached.retain(|attachment| command == FastPathCommand::List || attachment.device.is_some());
    if attached.is_empty() {
        return Ok("nothing is attached\n".to_owned());
    }
    let mut text = String::new();
    for attachment in &attached {
        if command == FastPathCommand::Detach {
            attachment.detach()?;
            text.push_str("detached ");
        }
        text.push_str(&words(attachment));
    }
    Ok(text)
}

fn words(attachment: &Attachment) -> String {
    let Attachment { process, kind, program, device, .. } = attachment;
    let place = device.as_ref().map_or_else(|| "the network namespace".to_owned(), |device| format!("device {device}"));
    format!("{program} of process {process} at {place} ({kind})\n")
}
