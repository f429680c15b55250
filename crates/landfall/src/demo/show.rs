//! Where the demonstration is shown: one live screen, or line after line.

use std::io::{self, IsTerminal, Write};

use super::{
    DemoError,
    render::{self, Colour},
    snapshot::{Event, Snapshot},
};

/// To the other screen, without a cursor and without wrapping.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// To the top left; to the end of a line, and of the screen, there is nothing.
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K\r\n";
const REST_OF_SCREEN: &str = "\x1b[J";

/// Standard output.
#[derive(Debug)]
pub(super) struct Show {
    live: Option<Colour>,
}

impl Show {
    /// Live on a terminal, unless log lines would be written across it.
    pub(super) fn open(logging: bool) -> Result<Self, DemoError> {
        let logs_here = logging && io::stderr().is_terminal();
        let live = io::stdout().is_terminal() && !logs_here && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        // See no-color.org.
        let colour = if std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) { Colour::Yes } else { Colour::No };
        let show = Self { live: live.then_some(colour) };
        if live {
            write(ENTER)?;
        }
        Ok(show)
    }

    /// Shows the moment, where there is a screen.
    pub(super) fn paint(&self, snapshot: &Snapshot) -> Result<(), DemoError> {
        let Some(colour) = self.live else { return Ok(()) };
        // No line end after the last line: on the last row of the terminal it would scroll.
        let frame = render::frame(snapshot, colour).trim_end().replace('\n', REST_OF_LINE);
        write(&format!("{HOME}{frame}{REST_OF_SCREEN}"))
    }

    /// Says something, where there is no screen that shows it anyway.
    pub(super) fn say(&self, text: &str) -> Result<(), DemoError> {
        if self.live.is_some() { Ok(()) } else { write(text) }
    }

    /// Tells of an event, likewise.
    pub(super) fn tell(&self, event: &Event) -> Result<(), DemoError> {
        self.say(&render::event(event))
    }

    /// Leaves the screen, if there is one, and goes on line after line.
    pub(super) fn go_plain(&mut self) -> Result<(), DemoError> {
        if self.live.take().is_some() { write(LEAVE) } else { Ok(()) }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        // Err: there is no terminal any more to be put right.
        let _ = self.go_plain();
    }
}

fn write(text: &str) -> Result<(), DemoError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(DemoError::Output)
}
