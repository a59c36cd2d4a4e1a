//! Linear layers on a GPU. Weights stay in the type of the file, quantized or not, except for MXFP4, for which candle
//! has no products.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use half::bf16;
use millm_model::{TensorData, TensorInfo, TensorType};

use crate::error::Result;
use crate::matmul::portable::mxfp4::BlockMxfp4;
use crate::sys::pod::{copied, zeroed};

/// `y = x Wᵀ + b`.
pub(crate) struct CandleLinear {
    weight: Weight,
    bias: Option<Tensor>,
    pub bytes: usize,
}

enum Weight {
    /// `[out, in]`.
    Plain(Tensor),
    /// `[out, in]`.
    Quantized(QMatMul),
}

impl CandleLinear {
    /// Copies a layer to a device. The shape and the length of `data` must have been checked.
    pub fn load(device: &Device, data: TensorData<'_>, bias: Option<Vec<f32>>) -> Result<Self> {
        let bytes = candle_tensor_bytes(data.info) as usize + bias.as_ref().map_or(0, |bias| 4 * bias.len());
        let bias = bias.map(|bias| Tensor::new(bias, device)).transpose()?;
        Ok(Self { weight: Weight::load(device, data)?, bias, bytes })
    }

    /// Returns the layer's output, `[rows, out]`, for its input, `[rows, in]`, both f32.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let out = match &self.weight {
            Weight::Plain(weight) => {
                input.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(DType::F32)?
            }
            Weight::Quantized(weight) => weight.forward(input)?,
        };
        Ok(match &self.bias {
            Some(bias) => out.broadcast_add(bias)?,
            None => out,
        })
    }
}

/// Returns the bytes that a tensor takes on a GPU.
pub fn candle_tensor_bytes(tensor: &TensorInfo) -> u64 {
    if tensor.ty == TensorType::MXFP4 { 2 * tensor.elements() } else { tensor.bytes }
}

impl Weight {
    /// Converts MXFP4 to bf16, which holds its values exactly.
    fn dequantized(device: &Device, data: TensorData<'_>) -> Result<Self> {
        let (shape, count) = (data.info.shape.as_slice(), data.info.elements() as usize);
        let mut values = zeroed("weights", count)?;
        BlockMxfp4::to_float(&copied::<BlockMxfp4>("weights", data.bytes)?, &mut values);
        if device.is_cpu() {
            return Ok(Self::Plain(Tensor::from_vec(values, shape, device)?));
        }
        let values: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
        Ok(Self::Plain(Tensor::from_vec(values, shape, device)?))
    }

    fn load(device: &Device, data: TensorData<'_>) -> Result<Self> {
        let shape = data.info.shape.as_slice();
        let plain = |ty: DType| -> Result<Self> {
            let weight = Tensor::from_raw_buffer(data.bytes, ty, shape, device)?;
            // On the CPU candle has products for few types.
            Ok(Self::Plain(if device.is_cpu() { weight.to_dtype(DType::F32)? } else { weight }))
        };
        let ty = match data.info.ty {
            TensorType::F32 => return plain(DType::F32),
            TensorType::F16 => return plain(DType::F16),
            TensorType::BF16 => return plain(DType::BF16),
            TensorType::Q4_0 => GgmlDType::Q4_0,
            TensorType::Q4_1 => GgmlDType::Q4_1,
            TensorType::Q5_0 => GgmlDType::Q5_0,
            TensorType::Q5_1 => GgmlDType::Q5_1,
            TensorType::Q8_0 => GgmlDType::Q8_0,
            TensorType::Q2K => GgmlDType::Q2K,
            TensorType::Q3K => GgmlDType::Q3K,
            TensorType::Q4K => GgmlDType::Q4K,
            TensorType::Q5K => GgmlDType::Q5K,
            TensorType::Q6K => GgmlDType::Q6K,
            TensorType::MXFP4 => return Self::dequantized(device, data),
        };
        // candle reads blocks in place, at an even address, which a file does not guarantee.
        let even = data.bytes.as_ptr().addr().is_multiple_of(2);
        let bytes = if even { Cow::Borrowed(data.bytes) } else { Cow::Owned(data.bytes.to_vec()) };
        let storage = QStorage::from_data(bytes, device, ty)?;
        Ok(Self::Quantized(QMatMul::QTensor(Arc::new(QTensor::new(storage, shape)?))))
    }
}
