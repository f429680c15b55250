//! The HTTP probe: one request, over TLS or not, and a look at status and body. HTTP/1.1; redirects are not followed.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{
    ANSWER_LIMIT, BadReason, Failure,
    socket::{Close, connect_tcp},
};
use crate::{http::Http, script::Expect, tls::Tls};

/// Asks once; sets `heard` once a response with a good status came, of whose body the rest depends.
pub(super) async fn ask(target: SocketAddr, source: Option<IpAddr>, http: &Http, heard: &mut bool) -> Result<(), Failure> {
    let stream = connect_tcp(target, source, Close::InOrder).await?;
    match &http.tls {
        None => request(stream, target, http, heard).await,
        Some(tls) => request(handshake(stream, target.ip(), tls).await?, target, http, heard).await,
    }
}

async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    ip: IpAddr,
    tls: &Tls,
) -> Result<tokio_rustls::client::TlsStream<S>, Failure> {
    let connected = TlsConnector::from(tls.config()).connect(tls.server_name(ip), stream).await;
    connected.map_err(of_stream)
}

/// An error of a stream that may be TLS: that library's own errors come wrapped.
fn of_stream(error: io::Error) -> Failure {
    if is_tls(&error) { Failure::Reason(BadReason::Tls) } else { Failure::Io(error) }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    target: SocketAddr,
    http: &Http,
    heard: &mut bool,
) -> Result<(), Failure> {
    let mut builder = http1::Builder::new();
    let (sender, connection) = builder.max_buf_size(ANSWER_LIMIT).handshake(TokioIo::new(stream)).await.map_err(of_hyper)?;
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange(sender, target, http, heard));
    // The connection moves the bytes of the exchange. It may end first, with all of the response handed over.
    tokio::select! {
        biased;
        result = &mut exchange => result,
        ended = &mut connection => match (exchange.await, ended) {
            (Err(_), Err(error)) => Err(of_hyper(error)),
            (result, _) => result,
        },
    }
}

async fn exchange(
    mut sender: SendRequest<Empty<Bytes>>,
    target: SocketAddr,
    http: &Http,
    heard: &mut bool,
) -> Result<(), Failure> {
    let host = http.host.as_ref().map_or_else(|| default_host(target, http.tls.is_some()), ToString::to_string);
    let request = Request::builder()
        .method(http.method.as_str())
        .uri(http.path.clone())
        .header(header::HOST, host)
        .header(header::USER_AGENT, "Landfall")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(of_hyper)?;
    let status = response.status().as_u16();
    if !http.status.iter().any(|range| range.contains(&status)) {
        return Err(Failure::Reason(BadReason::Status));
    }
    if http.body == Expect::Anything {
        return Ok(());
    }
    *heard = true;
    read_body(response, &http.body).await
}

async fn read_body(mut response: Response<Incoming>, expect: &Expect) -> Result<(), Failure> {
    let mut body = Vec::new();
    while body.len() < ANSWER_LIMIT {
        let Some(frame) = response.frame().await else { break };
        // Trailers are no part of the body.
        let Ok(data) = frame.map_err(of_hyper)?.into_data() else { continue };
        body.extend_from_slice(&data[..data.len().min(ANSWER_LIMIT - body.len())]);
        if expect.is_in(&body) {
            return Ok(());
        }
    }
    Err(Failure::Reason(BadReason::Unexpected))
}

/// The address, with its port unless that is the scheme's own.
fn default_host(target: SocketAddr, tls: bool) -> String {
    match (target, tls, target.port()) {
        (SocketAddr::V4(target), false, 80) | (SocketAddr::V4(target), true, 443) => target.ip().to_string(),
        (SocketAddr::V6(target), false, 80) | (SocketAddr::V6(target), true, 443) => format!("[{}]", target.ip()),
        _ => target.to_string(),
    }
}

/// What the network did is told as such; a peer that speaks something else than HTTP/1 is unexpected.
fn of_hyper(error: hyper::Error) -> Failure {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return Failure::Reason(BadReason::Closed);
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            if is_tls(io) {
                return Failure::Reason(BadReason::Tls);
            }
            // Copied by what it says, since hyper keeps the error itself.
            return Failure::Io(io.raw_os_error().map_or_else(|| io.kind().into(), io::Error::from_raw_os_error));
        }
        cause = current.source();
    }
    Failure::Reason(BadReason::Unexpected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_host_is_the_address_that_is_asked() {
        for (target, tls, host) in [
            ("10.0.0.1:80", false, "10.0.0.1"),
            ("10.0.0.1:80", true, "10.0.0.1:80"),
            ("10.0.0.1:443", true, "10.0.0.1"),
            ("[2001:db8::1]:443", true, "[2001:db8::1]"),
            ("[2001:db8::1]:8080", false, "[2001:db8::1]:8080"),
        ] {
            assert_eq!(default_host(target.parse().unwrap(), tls), host);
        }
    }
}
