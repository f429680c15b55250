//! What each preset says, and what it makes of answers.

use std::net::SocketAddr;

use super::*;
use crate::script::{Dialogue, Step};

const NONCE_2: &[u8] = b"\xab\xcd";
const NONCE_12: &[u8] = b"0123456789ab";
const NONCE_16: &[u8] = b"0123456789abcdef";

fn preset(protocol: Protocol, transport: Transport) -> Script {
    Preset::new(protocol, Some(transport)).unwrap().script
}

fn dialogue<'s>(script: &'s Script, nonce: &[u8]) -> Dialogue<'s> {
    let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
    Dialogue::new(script, nonce.to_vec(), address(40_000), address(5060))
}

fn alive() -> Step {
    Step::Good(Vec::new())
}

fn assert_heard(script: &Script, nonce: &[u8], cases: &[(&[u8], Step)]) {
    for (answer, step) in cases {
        assert_eq!(dialogue(script, nonce).hear(answer), *step, "{:?}", answer.escape_ascii().to_string());
    }
}

#[test]
fn presets_run_over_what_can_carry_them() {
    let dns = || Protocol::Dns(DnsName::root());
    assert_eq!(Preset::new(dns(), None).unwrap().transport(), Transport::Udp);
    assert_eq!(Preset::new(Protocol::Mqtt, None).unwrap().transport(), Transport::Tcp);
    for (protocol, transport) in [(Protocol::A2s, Transport::Tcp), (Protocol::Mqtt, Transport::Udp)] {
        assert!(matches!(Preset::new(protocol, Some(transport)), Err(PresetError::Transport { .. })));
    }
    for protocol in [Protocol::A2s, Protocol::Stun, Protocol::SipOptions, Protocol::Mqtt, dns()] {
        for &transport in protocol.transports() {
            assert!(Preset::new(protocol.clone(), Some(transport)).is_ok(), "{protocol:?} {transport:?}");
        }
    }
}

#[test]
fn a2s_answers_one_challenge() {
    let script = preset(Protocol::A2s, Transport::Udp);
    let question = b"\xff\xff\xff\xffTSource Engine Query\0";
    let mut dialogue = dialogue(&script, b"");
    assert_eq!(dialogue.opening(), question);
    // The challenge is binary: a line break in it is a byte like another.
    let again = [&question[..], b"\n\x00\xff\x80"].concat();
    assert_eq!(dialogue.hear(b"\xff\xff\xff\xffA\n\x00\xff\x80"), Step::Send(again));
    assert_eq!(dialogue.hear(b"\xff\xff\xff\xffA\x01\x02\x03\x04"), Step::Wait);
    assert_eq!(dialogue.hear(b"\xff\xff\xff\xffI\x11name\0"), alive());
    assert_heard(
        &script,
        b"",
        &[
            (b"\xff\xff\xff\xffA\x01\x02\x03", Step::Wait),
            (b"\xff\xff\xff\xffD\x00", Step::Wait),
            (b"\xfe\xff\xff\xff\xff\xff\xff\xffI", Step::Wait),
        ],
    );
}

#[test]
fn stun_wants_our_transaction() {
    let script = preset(Protocol::Stun, Transport::Udp);
    assert_eq!(dialogue(&script, NONCE_12).opening(), b"\x00\x01\x00\x00\x21\x12\xa4\x420123456789ab");
    assert_heard(
        &script,
        NONCE_12,
        &[
            (b"\x01\x01\x00\x0c\x21\x12\xa4\x420123456789ab\x00\x20", alive()),
            (b"\x01\x11\x00\x00\x21\x12\xa4\x420123456789ab", alive()),
            (b"\x01\x01\x00\x00\x21\x12\xa4\x420123456789aX", Step::Wait),
            (b"\x00\x01\x00\x00\x21\x12\xa4\x420123456789ab", Step::Wait),
            (b"\x01\x01\x00\x00\x21\x12\xa4\x43\x300123456789ab", Step::Wait),
        ],
    );
}

#[test]
fn sip_takes_any_final_response_but_those_of_a_failing_server() {
    let response = |status: &str, branch: &str| {
        format!(
            "SIP/2.0 {status}\r\nVia: SIP/2.0/UDP 10.0.0.1:40000;rport=40000;branch=z9hG4bK{branch}\r\nCSeq: 1 OPTIONS\r\n\r\n"
        )
    };
    let ours = "0123456789abcdef";
    for transport in [Transport::Udp, Transport::Tcp] {
        let script = preset(Protocol::SipOptions, transport);
        for (status, step) in [
            ("200 OK", alive()),
            ("301 Moved Permanently", alive()),
            ("401 Unauthorized", alive()),
            ("404 Not Found", alive()),
            ("100 Trying", Step::Wait),
            ("408 Request Timeout", Step::Bad),
            ("503 Service Unavailable", Step::Bad),
            ("600 Busy Everywhere", Step::Bad),
        ] {
            assert_eq!(dialogue(&script, NONCE_16).hear(response(status, ours).as_bytes()), step, "{status}");
            assert_eq!(dialogue(&script, NONCE_16).hear(response(status, "fedcba9876543210").as_bytes()), Step::Wait);
        }
        let both = response("100 Trying", ours) + &response("200 OK", ours);
        assert_eq!(dialogue(&script, NONCE_16).hear(both.as_bytes()), alive());
    }
    let text = String::from_utf8(dialogue(&preset(Protocol::SipOptions, Transport::Udp), NONCE_16).opening()).unwrap();
    assert!(text.starts_with("OPTIONS sip:10.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1:40000;rport;branch=z9hG4bK0123"));
    assert!(text.ends_with("Content-Length: 0\r\n\r\n") && !text.replace("\r\n", "").contains(['\r', '\n']), "{text}");
}

#[test]
fn mqtt_is_alive_unless_it_says_that_it_is_not() {
    let script = preset(Protocol::Mqtt, Transport::Tcp);
    let opening = dialogue(&script, b"0123456789ab").opening();
    assert_eq!(usize::from(opening[1]), opening.len() - 2);
    assert_eq!(&opening[12..], b"\x00\x14landfall0123456789ab");
    assert_heard(
        &script,
        b"",
        &[
            (b"\x20\x02\x00\x00", Step::Good(b"\xe0\x00".to_vec())),
            (b"\x20\x02\x00\x01", alive()),
            (b"\x20\x02\x00\x05", alive()),
            (b"\x20\x02\x00\x03", Step::Bad),
            (b"\x20\x03\x00\x84\x00", alive()),
            (b"\x20\x03\x00\x88\x00", Step::Bad),
            (b"\x20\x02\x00", Step::Wait),
            (b"HTTP/1.1 400 Bad Request", Step::Wait),
        ],
    );
}

#[test]
fn dns_takes_any_answer_but_servfail_and_refused() {
    let udp = preset(Protocol::Dns(DnsName::root()), Transport::Udp);
    assert_eq!(dialogue(&udp, NONCE_2).opening(), b"\xab\xcd\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01");
    assert_heard(
        &udp,
        NONCE_2,
        &[
            (b"\xab\xcd\x81\x80\x00\x01", alive()),
            (b"\xab\xcd\x81\x83\x00\x01", alive()),
            (b"\xab\xcd\x81\x82\x00\x01", Step::Bad),
            (b"\xab\xcd\x80\x05\x00\x01", Step::Bad),
            (b"\xab\xcd\x80\xf5\x00\x01", Step::Bad),
            (b"\xab\xce\x81\x80\x00\x01", Step::Wait),
            (b"\xab\xcd\x01\x00\x00\x01", Step::Wait),
            (b"\xab", Step::Wait),
        ],
    );
    let tcp = preset(Protocol::Dns("a.example".parse().unwrap()), Transport::Tcp);
    assert_eq!(
        dialogue(&tcp, NONCE_2).opening(),
        b"\x00\x1b\xab\xcd\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01"
    );
    assert_heard(&tcp, NONCE_2, &[(b"\x00\x0c\xab\xcd\x81\x80", alive()), (b"\x00\x0c\xab\xcd\x81", Step::Wait)]);
}

#[test]
fn names_are_those_that_dns_knows() {
    for (text, shown) in [(".", "."), ("example.com.", "example.com"), ("_sip._udp.a-1", "_sip._udp.a-1")] {
        assert_eq!(text.parse::<DnsName>().unwrap().to_string(), shown);
    }
    let long = "a.".repeat(127);
    for text in ["", "..", "a..b", "ä.example", "a b", &"x".repeat(64), &long, &"abc.".repeat(64)] {
        assert_eq!(text.parse::<DnsName>().is_ok(), text == long, "{text}");
    }
}
