//! The stack of the program's longest chains of calls, as kernels before 6.8 and those without a JIT count it: each frame rounded up to 32 bytes,
//! 512 in all. Newer ones round to 16, so a kernel that takes the program does not tell.

#![allow(clippy::unwrap_used, reason = "a test file; the lint knows test functions only, not their helpers")]

use std::collections::{BTreeMap, HashMap};

use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SymbolKind};

const STACK: usize = 512;
const ROUNDED_TO: usize = 32;

/// An instruction's size.
const SIZE: usize = 8;
const FRAME_POINTER: u8 = 10;
const LOAD_WIDE: u8 = 0x18;
const CALL: u8 = 0x85;
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
/// What `src` of a call says of one to a function of the program.
const TO_FUNCTION: u8 = 1;

/// A section, and an address in it.
type Place = (usize, usize);

#[derive(Debug)]
struct Function {
    name: String,
    frame: usize,
    calls: Vec<Place>,
}

#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    value: i32,
}

fn instruction(bytes: &[u8]) -> Instruction {
    let offset = i16::from_le_bytes(bytes[2..4].try_into().unwrap());
    let value = i32::from_le_bytes(bytes[4..8].try_into().unwrap());
    Instruction { code: bytes[0], to: bytes[1] & 15, from: bytes[1] >> 4, offset, value }
}

/// How far below the frame pointer it reaches; `before` is the instruction before it.
fn reach(now: Instruction, before: Option<Instruction>) -> usize {
    let class = now.code & 7;
    let through_frame = (class == 1 && now.from == FRAME_POINTER) || ((class == 2 || class == 3) && now.to == FRAME_POINTER);
    let is_address = before.is_some_and(|move_| move_.code == MOVE && move_.from == FRAME_POINTER && move_.to == now.to);
    match now.code {
        ADD if is_address => usize::try_from(now.value.unsigned_abs()).unwrap(),
        _ if through_frame => now.offset.unsigned_abs().into(),
        _ => 0,
    }
}

fn functions(object: &[u8]) -> BTreeMap<Place, Function> {
    let file = object::File::parse(object).unwrap();
    let code: HashMap<_, _> = file.sections().map(|section| (section.index().0, section.data().unwrap())).collect();
    let named: HashMap<_, _> = file
        .sections()
        .flat_map(|section| {
            section.relocations().map(move |(at, relocation)| ((section.index().0, usize::try_from(at).unwrap()), relocation))
        })
        .filter_map(|(place, relocation)| match relocation.target() {
            RelocationTarget::Symbol(index) => Some((place, file.symbol_by_index(index).unwrap())),
            _ => None,
        })
        .collect();
    let symbols = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0);
    let function = |symbol: object::Symbol<'_, '_>| {
        let SectionIndex(section) = symbol.section_index().unwrap();
        let start = usize::try_from(symbol.address()).unwrap();
        let end = start + usize::try_from(symbol.size()).unwrap();
        let (mut frame, mut calls, mut before, mut at) = (0, Vec::new(), None, start);
        while at < end {
            let now = instruction(&code[&section][at..at + SIZE]);
            frame = frame.max(reach(now, before));
            if now.code == CALL && now.from == TO_FUNCTION {
                // Behind the symbol that is named, which may be that of a section, or behind the call.
                let distance = isize::try_from((now.value + 1) * 8).unwrap();
                let (section, from) = named.get(&(section, at)).map_or((section, at), |symbol| {
                    (symbol.section_index().unwrap().0, usize::try_from(symbol.address()).unwrap())
                });
                calls.push((section, from.checked_add_signed(distance).unwrap()));
            }
            before = Some(now);
            at += if now.code == LOAD_WIDE { 2 * SIZE } else { SIZE };
        }
        ((section, start), Function { name: symbol.name().unwrap().into(), frame, calls })
    };
    symbols.map(function).collect()
}

/// The stack that a function and what it calls may take, and by which calls.
fn deepest(functions: &BTreeMap<Place, Function>, at: Place) -> (usize, Vec<String>) {
    let function = &functions[&at];
    let below = function.calls.iter().map(|&call| deepest(functions, call)).max().unwrap_or_default();
    let frame = function.frame.max(1).next_multiple_of(ROUNDED_TO);
    (frame + below.0, [vec![format!("{} {frame}", function.name)], below.1].concat())
}

#[test]
fn no_chain_of_calls_takes_more_stack_than_any_kernel_gives() {
    for (name, object) in
        [("fast_path.o", &include_bytes!("../bpf/fast_path.o")[..]), ("sk_lookup.o", include_bytes!("../bpf/sk_lookup.o"))]
    {
        let functions = functions(object);
        assert!(!functions.is_empty(), "{name}");
        let (bytes, chain) = functions.keys().map(|&at| deepest(&functions, at)).max().unwrap();
        println!("{name}: {} functions, {bytes} bytes: {}", functions.len(), chain.join(", "));
        assert!(bytes <= STACK, "{name}: {bytes} bytes by {}", chain.join(", "));
    }
}

#[test]
fn frames_are_measured_by_what_is_read_written_and_pointed_at() {
    let of = |bytes: [u8; SIZE], before: Option<[u8; SIZE]>| reach(instruction(&bytes), before.map(|bytes| instruction(&bytes)));
    // *(u64 *)(r10 - 32) = r3; r2 = *(u64 *)(r10 - 16); *(u64 *)(r3 - 8) = r10
    assert_eq!(of([0x7b, 0x3a, 0xe0, 0xff, 0, 0, 0, 0], None), 32);
    assert_eq!(of([0x79, 0xa2, 0xf0, 0xff, 0, 0, 0, 0], None), 16);
    assert_eq!(of([0x7b, 0xa3, 0xf8, 0xff, 0, 0, 0, 0], None), 0);
    // r2 += -56, where r2 = r10, and where r3 = r10
    assert_eq!(of([0x07, 2, 0, 0, 0xc8, 0xff, 0xff, 0xff], Some([0xbf, 0xa2, 0, 0, 0, 0, 0, 0])), 56);
    assert_eq!(of([0x07, 2, 0, 0, 0xc8, 0xff, 0xff, 0xff], Some([0xbf, 0xa3, 0, 0, 0, 0, 0, 0])), 0);
}
