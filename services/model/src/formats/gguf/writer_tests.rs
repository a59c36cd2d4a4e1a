//! Round trips through this crate's reader, and the tables that the writer refuses.

use super::*;
use crate::formats::gguf::GgufHeader;
use crate::tensor::TensorType;

fn info(name: &str, ty: TensorType, shape: &[usize]) -> TensorInfo {
    TensorInfo { name: name.into(), ty, shape: shape.to_vec(), bytes: ty.bytes_for(shape).unwrap() }
}

#[test]
fn written_files_are_read_back() {
    let metadata: Pairs = vec![
        ("general.architecture".into(), Value::String("llama".into())),
        ("a.u8".into(), Value::U8(200)),
        ("a.i8".into(), Value::I8(-7)),
        ("a.u16".into(), Value::U16(40_000)),
        ("a.i16".into(), Value::I16(-40)),
        ("a.u32".into(), Value::U32(7)),
        ("a.i32".into(), Value::I32(-3)),
        ("a.u64".into(), Value::U64(1 << 40)),
        ("a.i64".into(), Value::I64(-1)),
        ("a.f32".into(), Value::F32(0.5)),
        ("a.f64".into(), Value::F64(0.1)),
        ("a.bool".into(), Value::Bool(true)),
        ("a.empty".into(), Value::Array(Array::String(vec![]))),
        ("a.texts".into(), Value::Array(Array::String(vec![String::new(), "ä b".into()]))),
        ("a.ints".into(), Value::Array(Array::I32(vec![3, -1]))),
        ("a.floats".into(), Value::Array(Array::F32(vec![-1.5]))),
        ("a.bools".into(), Value::Array(Array::Bool(vec![true, false]))),
        ("a.longs".into(), Value::Array(Array::U64(vec![u64::MAX]))),
    ];
    let tensors = [
        info("norm", TensorType::F32, &[5]),
        info("matrix", TensorType::Q8_0, &[3, 64]),
        info("last", TensorType::BF16, &[2, 3]),
    ];
    let mut writer = Writer::begin(Vec::new(), &metadata, &tensors).unwrap();
    let data: Vec<Vec<u8>> = tensors.iter().map(|t| (0..t.bytes).map(|i| i as u8 + 1).collect()).collect();
    writer.write(&data[0]).unwrap();
    for piece in data[1].chunks(50) {
        writer.write(piece).unwrap();
    }
    writer.write(&data[2]).unwrap();
    let (bytes, length) = writer.finish().unwrap();
    assert_eq!(bytes.len() as u64, length);

    let header = GgufHeader::parse("w.gguf", &bytes, length).unwrap().complete().unwrap();
    assert_eq!((header.version, header.alignment), (3, ALIGNMENT));
    assert_eq!(header.metadata.iter().count(), metadata.len());
    for (key, value) in &metadata {
        assert_eq!(header.metadata.get(key), Some(value), "{key}");
    }
    for ((stored, written), data) in header.tensors.iter().zip(&tensors).zip(&data) {
        assert_eq!((&stored.name, stored.ty, &stored.shape), (&written.name, written.ty, &written.shape));
        assert_eq!(stored.range.start % ALIGNMENT, 0);
        assert_eq!(&bytes[stored.range.start as usize..stored.range.end as usize], data.as_slice());
    }
}

#[test]
fn tables_that_no_reader_accepts_are_refused() {
    let refused = |metadata: &[(String, Value)], tensors: &[TensorInfo]| {
        let error = Writer::begin(Vec::new(), metadata, tensors).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
        error.to_string()
    };
    let good = info("a", TensorType::F32, &[1]);
    assert!(refused(&[], &[good.clone(), good.clone()]).contains("twice"));
    assert!(refused(&[], &[TensorInfo { name: "n".repeat(64), ..good.clone() }]).contains("63"));
    assert!(refused(&[], &[TensorInfo { bytes: 5, ..good.clone() }]).contains("5 bytes"));
    assert!(refused(&[], &[TensorInfo { shape: vec![], ..good.clone() }]).contains("shape"));
    assert!(refused(&[], &[TensorInfo { shape: vec![1; 5], ..good }]).contains("shape"));
    let pair = ("k".to_owned(), Value::Bool(true));
    assert!(refused(&[pair.clone(), pair], &[]).contains("'k'"));
}

#[test]
fn data_must_be_exactly_that_of_the_table() {
    let tensors = [info("a", TensorType::F32, &[2])];
    let begin = || Writer::begin(Vec::new(), &[], &tensors).unwrap();
    assert!(begin().write(&[0; 9]).is_err());
    assert!(begin().finish().is_err());
    let mut writer = begin();
    writer.write(&[0; 8]).unwrap();
    assert!(writer.write(&[0]).is_err());
}
