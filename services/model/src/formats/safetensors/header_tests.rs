//! Hostile safetensors headers: a table of every false claim that the format allows, and mutations of a valid file.

use super::*;

const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#;

fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn parse(bytes: &[u8]) -> Result<HeaderPrefix<SafetensorsHeader>> {
    SafetensorsHeader::parse("model.safetensors", bytes, bytes.len() as u64)
}

#[test]
fn a_good_header_is_read_and_agrees_with_the_reference_reader() {
    let bytes = file(GOOD, 32);
    let header = parse(&bytes).expect("good").complete().expect("whole");
    let (_, reference) = ::safetensors::SafeTensors::read_metadata(&bytes).expect("the reference reads it");
    assert_eq!(header.tensors.len(), reference.tensors().len());
    assert_eq!(header.tensors[1].name, "b");
    assert_eq!(header.tensors[1].range, (8 + GOOD.len() as u64 + 24)..(8 + GOOD.len() as u64 + 32));
}

#[test]
fn a_prefix_says_how_much_it_needs() {
    let bytes = file(GOOD, 32);
    let len = bytes.len() as u64;
    let needed =
        |prefix: usize| match SafetensorsHeader::parse("f", &bytes[..prefix], len).expect("good so far") {
            HeaderPrefix::NeedMore(count) => count,
            HeaderPrefix::Complete(_) => panic!("complete at {prefix}"),
        };
    assert_eq!(needed(0), 8);
    assert_eq!(needed(7), 8);
    assert_eq!(needed(8), 8 + GOOD.len() as u64);
    assert!(SafetensorsHeader::parse("f", &bytes[..8 + GOOD.len()], len).expect("good").complete().is_some());
}

#[test]
fn false_claims_are_refused() {
    let check = |bytes: &[u8], expected: &str| match parse(bytes) {
        Err(Error::InvalidFile { file, why }) => {
            assert_eq!(file, "model.safetensors");
            assert!(why.contains(expected), "'{why}' does not say '{expected}'");
        }
        other => panic!("{expected}: {other:?}"),
    };
    let tensor = |entry: &str, data: usize| file(&format!(r#"{{"a":{entry}}}"#), data);
    check(b"", "0 bytes long");
    check(b"1234567", "7 bytes long");
    check(&200_000_000_u64.to_le_bytes(), "over the limit");
    check(&u64::MAX.to_le_bytes(), "over the limit");
    check(&50_u64.to_le_bytes(), "ends after the file");
    check(&file("\u{fffd}", 0), "does not begin");
    check(&[&2_u64.to_le_bytes()[..], b"{\xff"].concat(), "not UTF-8 at byte 9");
    check(&file("", 0), "does not begin");
    check(&file(" {}", 0), "does not begin");
    check(&file("{", 0), "not JSON");
    check(&file("{} x", 0), "not JSON");
    check(&file(&format!("{{\"a\":{}", "[".repeat(1_000_000)), 0), "tensor 'a': invalid type: sequence");
    check(&tensor(&"{\"x\":".repeat(1_000), 0), "recursion limit");
    check(&tensor("[]", 0), "expected an object");
    check(&tensor("\"text\"", 0), "expected an object");
    check(&tensor(r#"{"shape":[1],"data_offsets":[0,4]}"#, 4), "no dtype");
    check(&tensor(r#"{"dtype":"F31","shape":[1],"data_offsets":[0,4]}"#, 4), "unknown");
    check(&tensor(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#, 4), "expected a whole number");
    check(&tensor(r#"{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}"#, 4), "expected a whole number");
    check(&tensor(r#"{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}"#, 4), "expected a whole number");
    check(&tensor(r#"{"dtype":"F32","shape":7,"data_offsets":[0,4]}"#, 4), "expected a shape");
    check(&tensor(r#"{"dtype":"F32","data_offsets":[0,4]}"#, 4), "no shape");
    check(&tensor(r#"{"dtype":7,"shape":[1],"data_offsets":[0,4]}"#, 4), "expected the name of a dtype");
    check(&tensor(r#"{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}"#, 4), "'dtype' twice");
    check(&tensor(r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}"#, 4), "dimensions");
    check(&tensor(r#"{"dtype":"F32","shape":[1],"data_offsets":[0]}"#, 4), "no data_offsets");
    check(&tensor(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#, 4), "end before");
    check(&tensor(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#, 4), "needs 8");
    check(&tensor(r#"{"dtype":"F4","shape":[3],"data_offsets":[0,1]}"#, 1), "whole bytes");
    let huge = r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}"#;
    check(&tensor(huge, 0), "overflows");
    let far = r#"{"dtype":"F32","shape":[0],"data_offsets":[18446744073709551615,18446744073709551615]}"#;
    check(&tensor(far, 0), "overflow");
    check(&tensor(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#, 3), "after the file");
    check(&tensor(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#, 5), "1 bytes follow");
    check(&tensor(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#, 8), "hole of 4");
    let two = |first: &str, second: &str| file(&format!("{{{first},{second}}}"), 8);
    let entry = |name: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}"#)
    };
    check(&two(&entry("a", "[0,4]"), &entry("b", "[2,6]")), "overlaps");
    check(&two(&entry("a", "[0,4]"), &entry("b", "[0,4]")), "overlaps");
    check(&two(&entry("a", "[0,4]"), &entry("a", "[4,8]")), "twice");
    check(&file(r#"{"__metadata__":{"a":1}}"#, 0), "__metadata__: invalid type");
    check(&file(r#"{"__metadata__":"a"}"#, 0), "expected an object of strings");
}

proptest::proptest! {
    #[test]
    fn mutated_headers_never_panic(at in 0_usize..180, byte: u8, cut in 0_usize..200) {
        let mut bytes = file(GOOD, 32);
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(cut.max(1));
        let _ = parse(&bytes);
        let _ = SafetensorsHeader::parse("f", &bytes, 1 << 40);
    }

    #[test]
    fn accepted_headers_are_accepted_by_the_reference(at in 8_usize..160, byte in 32_u8..127) {
        let mut bytes = file(GOOD, 32);
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(HeaderPrefix::Complete(header)) = parse(&bytes) {
            let read = ::safetensors::SafeTensors::deserialize(&bytes);
            proptest::prop_assert!(read.is_ok(), "{:?}", header);
        }
    }
}
