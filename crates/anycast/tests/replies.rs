//! BIRD's answers, as BIRD 2.0.12 gives them, cut in any place, and bytes that are none.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use anycast::{
    bird::{Garbled, Parser, Reply},
    reconcile::Protocols,
};
use proptest::prelude::*;

const GREETING: &str = "0001 BIRD 2.0.12 ready.\n";
const ENABLED: &str = "0011-landfall_1: enabled\n0000 \n";
const SYNTAX: &str = "9001 syntax error, unexpected CF_SYM_UNDEFINED, expecting CF_SYM_KNOWN or TEXT or ALL\n";
const NOT_FOUND: &str = "8001 Network not found\n";
const PROTOCOLS: &str = "2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     10:27:10.896  
 landfall_1 Static     master4    up     10:27:11.041  
 landfall_1_low Static     master4    down   10:27:10.896  
 up BGP        ---        start  10:27:10.896  Connect       Socket: Connection refused
0000 
";

fn all(parser: &mut Parser) -> Vec<Reply> {
    let mut replies = Vec::new();
    while let Some(reply) = parser.next_reply().unwrap() {
        replies.push(reply);
    }
    replies
}

fn parsed(text: &str) -> Vec<Reply> {
    let mut parser = Parser::default();
    parser.feed(text.as_bytes());
    all(&mut parser)
}

#[test]
fn a_reply_ends_with_the_line_that_says_so() {
    assert_eq!(parsed(GREETING), [Reply(vec![(1, "BIRD 2.0.12 ready.".into())])]);
    assert_eq!(parsed(ENABLED), [Reply(vec![(11, "landfall_1: enabled".into()), (0, String::new())])]);
    assert_eq!(parsed("0000\r\n"), [Reply(vec![(0, String::new())])]);
    assert_eq!(parsed("7777 from a later BIRD\n")[0].0[0].0, 7777);
    assert!(parsed("1002-half of it\n").is_empty());
    assert!(parsed("0000 ").is_empty());
    // News between the replies, if somebody has asked for it.
    assert_eq!(parsed(&format!("+<INFO> x\n{NOT_FOUND}")).len(), 1);
}

#[test]
fn protocols_are_read_from_the_table() {
    let [reply] = &parsed(PROTOCOLS)[..] else { panic!() };
    let expected: Protocols =
        [("device1", true), ("landfall_1", true), ("landfall_1_low", false), ("up", true)].map(|(n, up)| (n.into(), up)).into();
    assert_eq!(reply.protocols(), expected);
    assert!(parsed(ENABLED)[0].protocols().is_empty());
}

#[test]
fn what_is_no_reply_is_refused() {
    for text in
        ["hello\n", "\n", " a continuation of nothing\n", "12\n", "12345 x\n", "00a1 x\n", "0001+x\n", "-001 x\n", "ünü x\n"]
    {
        let mut parser = Parser::default();
        parser.feed(text.as_bytes());
        assert!(matches!(parser.next_reply(), Err(Garbled::Line(_))), "{text:?}");
    }
    let mut parser = Parser::default();
    parser.feed(&vec![b'x'; 2 << 20]);
    assert_eq!(parser.next_reply(), Err(Garbled::Endless));
    let mut parser = Parser::default();
    parser.feed("1002-x\n".repeat(200_000).as_bytes());
    assert_eq!(parser.next_reply(), Err(Garbled::Endless));
}

proptest! {
    #[test]
    fn where_reads_are_split_does_not_matter(cuts in prop::collection::vec(1usize..60, 0..40)) {
        let text = [GREETING, ENABLED, PROTOCOLS, SYNTAX, NOT_FOUND, PROTOCOLS].concat();
        let (mut parser, mut rest, mut replies) = (Parser::default(), text.as_bytes(), Vec::new());
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            parser.feed(now);
            replies.extend(all(&mut parser));
            rest = later;
        }
        parser.feed(rest);
        replies.extend(all(&mut parser));
        prop_assert_eq!(replies, parsed(&text));
    }

    #[test]
    fn no_bytes_panic(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
        let mut parser = Parser::default();
        for chunk in chunks {
            parser.feed(&chunk);
            match parser.next_reply() {
                Ok(Some(reply)) => drop(reply.protocols()),
                Ok(None) => {}
                Err(_) => break,
            }
        }
    }

    #[test]
    fn no_lines_of_bird_s_kind_panic(lines in prop::collection::vec("([0-9]{4}[- ]|[ +])[ -~]{0,40}", 0..30)) {
        let mut parser = Parser::default();
        parser.feed(lines.join("\n").as_bytes());
        while let Ok(Some(reply)) = parser.next_reply() {
            drop(reply.protocols());
        }
    }
}
