//! Compares the encoders with candle's decoders and its older encoders, which are independent of this crate.

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::*;

const TYPES: [(TensorType, GgmlDType); 8] = [
    (TensorType::Q8_0, GgmlDType::Q8_0),
    (TensorType::Q4_0, GgmlDType::Q4_0),
    (TensorType::Q5_0, GgmlDType::Q5_0),
    (TensorType::Q2K, GgmlDType::Q2K),
    (TensorType::Q3K, GgmlDType::Q3K),
    (TensorType::Q4K, GgmlDType::Q4K),
    (TensorType::Q5K, GgmlDType::Q5K),
    (TensorType::Q6K, GgmlDType::Q6K),
];

/// Normal enough: the sum of twelve uniforms from a linear congruential generator.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

fn gaussian(n: usize) -> Vec<f32> {
    let mut noise = Noise(1);
    (0..n).map(|_| 0.02 * noise.normal()).collect()
}

/// One in a hundred is ten times larger.
fn with_outliers(n: usize) -> Vec<f32> {
    let mut noise = Noise(2);
    (0..n).map(|_| noise.normal() * if noise.uniform() < 0.01 { 0.2 } else { 0.02 }).collect()
}

fn encoded(ty: TensorType, row: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0; ty.bytes_for(&[row.len()]).unwrap() as usize];
    encode_row(ty, row, importance, &mut out).unwrap();
    out
}

fn decoded(dtype: GgmlDType, bytes: Vec<u8>, n: usize) -> Vec<f32> {
    let storage = QStorage::from_data(bytes.into(), &Device::Cpu, dtype).unwrap();
    values(&QTensor::new(storage, (1, n)).unwrap())
}

fn values(tensor: &QTensor) -> Vec<f32> {
    tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn rmse(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    (squares / a.len() as f64).sqrt()
}

#[test]
fn errors_are_below_the_older_encoders() {
    let n = 256 * 64;
    // The largest share of candle's error that ours may have: gaussian rows, rows with outliers.
    let bounds = [
        (TensorType::Q8_0, 1.0001, 1.0001),
        (TensorType::Q4_0, 0.96, 0.995),
        (TensorType::Q5_0, 0.96, 0.995),
        (TensorType::Q2K, 0.94, 0.97),
        (TensorType::Q3K, 0.97, 1.0),
        (TensorType::Q4K, 0.96, 0.98),
        (TensorType::Q5K, 0.97, 0.98),
        (TensorType::Q6K, 0.94, 0.985),
    ];
    for ((ty, dtype), (bound_ty, gauss, outliers)) in TYPES.into_iter().zip(bounds) {
        assert_eq!(ty, bound_ty);
        for (kind, row, bound) in [("gaussian", gaussian(n), gauss), ("outliers", with_outliers(n), outliers)]
        {
            let ours = rmse(&row, &decoded(dtype, encoded(ty, &row, None), n));
            let tensor = Tensor::from_slice(&row, (1, n), &Device::Cpu).unwrap();
            let theirs = rmse(&row, &values(&QTensor::quantize(&tensor, dtype).unwrap()));
            assert!(ours <= theirs * bound, "{ty} {kind}: {ours:.6} is not below {bound} of {theirs:.6}");
        }
    }
}

#[test]
fn exactly_representable_values_are_exact() {
    // Steps of one size within the range of levels of every type, its extreme level included where that is
    // what a search must find.
    for (ty, dtype) in TYPES {
        let (low, high) = match ty {
            TensorType::Q2K => (0, 3),
            TensorType::Q3K => (-4, 3),
            TensorType::Q4_0 => (-8, 7),
            TensorType::Q4K => (-5, 10),
            TensorType::Q5_0 => (-16, 15),
            TensorType::Q5K => (-9, 22),
            TensorType::Q6K => (-32, 31),
            _ => (-127, 127),
        };
        for step in [0.5_f32, -0.5] {
            if ty == TensorType::Q2K && step < 0.0 {
                continue;
            }
            let spread = high - low + 1;
            let mut row: Vec<f32> = (0..512).map(|i| step * ((i * 7) % spread + low) as f32).collect();
            // Every sub-block shows its range: the search measures by the extreme.
            row.iter_mut().step_by(16).for_each(|first| *first = step * low as f32);
            let back = decoded(dtype, encoded(ty, &row, None), row.len());
            let worst = row.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // Shared factors are halves: 2^-11 of the largest value, and where 63 or 127 steps must carry one
            // scale, a part of a step.
            let largest = row.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
            assert!(worst <= largest / 1000.0, "{ty} by {step}: off by {worst} of {largest}");
        }
    }
}

/// One value throughout a sub-block leaves least squares no slope.
#[test]
fn flat_rows_keep_their_value() {
    let check = |kind: &str, row: &[f32]| {
        let largest = row.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        for (ty, dtype) in TYPES {
            let back = decoded(dtype, encoded(ty, row, None), row.len());
            let worst = row.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // Half a step of the smallest shared scales.
            let bound = if ty == TensorType::Q2K { 0.05 } else { 0.02 };
            assert!(worst <= bound * largest, "{ty} {kind}: off by {worst} of {largest}");
        }
    };
    check("positive", &[0.25; 512]);
    check("negative", &[-0.25; 512]);
    let stairs: Vec<f32> = (0..512).map(|i| (i / 32) as f32 - 7.0).collect();
    check("stairs", &stairs);
}

#[test]
fn zeros_stay_zeros_and_tiny_values_do_no_harm() {
    for (ty, dtype) in TYPES {
        assert!(decoded(dtype, encoded(ty, &[0.0; 512], None), 512).iter().all(|v| *v == 0.0), "{ty}");
        for tiny in [1e-45, 1e-30, 1e-9] {
            let mut row = vec![0.0; 512];
            row[3] = tiny;
            row[300] = -tiny;
            let back = decoded(dtype, encoded(ty, &row, None), 512);
            assert!(back.iter().all(|v| v.abs() < 1e-6), "{ty} {tiny}: {back:?}");
        }
    }
}

#[test]
fn rows_of_few_blocks_are_not_padded_into_each_other() {
    for (ty, dtype) in [(TensorType::Q4_0, GgmlDType::Q4_0), (TensorType::Q5_0, GgmlDType::Q5_0)] {
        let row = gaussian(96);
        let back = decoded(dtype, encoded(ty, &row, None), 96);
        let first = decoded(dtype, encoded(ty, &row[..32], None), 32);
        assert!(rmse(&row, &back) < 0.1 * 0.02, "{ty}");
        assert!(rmse(&row[..32], &first) < 0.1 * 0.02, "{ty}");
    }
}

#[test]
fn importance_moves_error_to_where_it_matters_less() {
    let n = 256 * 16;
    let row = gaussian(n);
    let importance: Vec<f32> = (0..n).map(|i| if i % 4 == 0 { 50.0 } else { 1.0 }).collect();
    let error_there = |back: &[f32]| {
        let there = |v: &[f32]| v.iter().copied().step_by(4).collect::<Vec<f32>>();
        rmse(&there(&row), &there(back))
    };
    for (ty, dtype) in TYPES.into_iter().filter(|(ty, _)| *ty != TensorType::Q8_0) {
        let plain = error_there(&decoded(dtype, encoded(ty, &row, None), n));
        let weighted = error_there(&decoded(dtype, encoded(ty, &row, Some(&importance)), n));
        assert!(weighted < 0.95 * plain, "{ty}: {weighted} of {plain}");
        // Columns that were never active weigh nothing; there must still be numbers.
        assert!(decoded(dtype, encoded(ty, &row, Some(&vec![0.0; n])), n).iter().all(|v| v.is_finite()));
    }
}

#[test]
fn values_that_no_block_holds_are_refused_by_column() {
    let check = |ty: TensorType, value: f32, expected: Option<Unencodable>| {
        let mut row = vec![0.25; 256];
        row[17] = value;
        let mut out = vec![0; ty.bytes_for(&[256]).unwrap() as usize];
        let end = encode_row(ty, &row, None, &mut out);
        // NaN is not equal to itself.
        assert_eq!(format!("{:?}", end.err()), format!("{expected:?}"), "{ty} {value}");
    };
    for (ty, _) in TYPES {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            check(ty, value, Some(Unencodable::NotFinite { column: 17, value }));
        }
        check(ty, 1e30, Some(Unencodable::TooLarge { column: 17, value: 1e30 }));
        check(ty, -LARGEST, None);
    }
    check(TensorType::F16, 1e6, Some(Unencodable::TooLarge { column: 17, value: 1e6 }));
    check(TensorType::BF16, 1e30, None);
    check(TensorType::F32, f32::NAN, Some(Unencodable::NotFinite { column: 17, value: f32::NAN }));
}

proptest! {
    /// The error of a row with any scale stays within the bound that the number of levels sets.
    #[test]
    fn error_is_bounded_by_the_step(seed in any::<u64>(), exponent in -12_i32..14) {
        let mut noise = Noise(seed);
        let scale = 2.0_f32.powi(exponent);
        let row: Vec<f32> = (0..256).map(|_| scale * noise.normal()).collect();
        let largest = row.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        for (ty, dtype) in TYPES {
            let levels = match ty {
                TensorType::Q2K => 3.0,
                TensorType::Q3K => 7.0,
                TensorType::Q4_0 | TensorType::Q4K => 15.0,
                TensorType::Q5_0 | TensorType::Q5K => 31.0,
                TensorType::Q6K => 63.0,
                _ => 255.0,
            };
            let back = decoded(dtype, encoded(ty, &row, None), 256);
            // A step over the whole range, and what rounding the shared scales adds.
            let bound = 2.0 * largest / levels * 1.3;
            for (a, b) in row.iter().zip(&back) {
                prop_assert!((a - b).abs() <= bound, "{} {} {} of {}", ty, a, b, largest);
            }
        }
    }
}
