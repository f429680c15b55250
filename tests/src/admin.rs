//! The smallest HTTP client that can read an edge's admin address.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::lab::Namespace;
use crate::{Failure, Result};

/// How long the admin address may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// An answer: the status code and the body.
pub struct Answer {
    /// The HTTP status code.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// Gets `path` from `address` in `namespace`, or where the test runs when there is none.
///
/// # Errors
/// When nobody listens, or the answer is not HTTP.
pub fn get(namespace: Option<&Namespace>, address: SocketAddr, path: &str) -> Result<Answer> {
    match namespace {
        Some(namespace) => namespace.enter(|| get_here(address, path)),
        None => get_here(address, path),
    }
}

/// As [`get`], in the namespace of the calling thread.
///
/// # Errors
/// As [`get`].
pub fn get_here(address: SocketAddr, path: &str) -> Result<Answer> {
    let text = exchange(address, path).map_err(|error| cannot(address, path, error))?;
    parse(&text).ok_or_else(|| cannot(address, path, format_args!("the answer is not HTTP: {text:?}")))
}

fn exchange(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // HTTP/1.0: the server closes, so the body ends with the stream and is never chunked.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut status_line = head.lines().next()?.split(' ');
    let version = status_line.next()?;
    let status = status_line.next()?.parse().ok()?;
    version.starts_with("HTTP/1.").then(|| Answer { status, body: body.to_owned() })
}

fn cannot(address: SocketAddr, path: &str, cause: impl std::fmt::Display) -> Failure {
    let subject = format!("http://{address}{path}");
    Failure::new("get", subject, cause, "check that the edge runs and that its [edge] admin address is this one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_status_and_body() {
        let answer = parse("HTTP/1.0 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nsoon").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "soon"));
        assert!(parse("220 mail.example ready\r\n\r\n").is_none());
    }
}
