//! A linear layer on a device: weights as they were stored, quantized or not.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Module, Tensor};
use millm_model::{TensorData, TensorType};

use crate::error::Result;

/// `y = x Wᵀ + b`.
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    pub bytes: usize,
}

enum Weight {
    /// `[out, in]`.
    Plain(Tensor),
    Quantized(QMatMul),
}

impl Linear {
    /// The shape and the length of `data` have been checked.
    pub fn read(device: &Device, data: TensorData<'_>, bias: Option<Vec<f32>>) -> Result<Self> {
        let bytes = data.bytes.len() + bias.as_ref().map_or(0, |bias| 4 * bias.len());
        let bias = bias.map(|bias| Tensor::new(bias, device)).transpose()?;
        Ok(Self { weight: Weight::read(device, data)?, bias, bytes })
    }

    /// `[rows, in]` to `[rows, out]`, floats both.
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

impl Weight {
    fn read(device: &Device, data: TensorData<'_>) -> Result<Self> {
        let shape = data.info.shape.as_slice();
        let plain = |ty: DType| -> Result<Self> {
            let weight = Tensor::from_raw_buffer(data.bytes, ty, shape, device)?;
            // On the processor candle multiplies in few types.
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
        };
        // Blocks are read where they lie, which must be at an even address; a file need not put them there.
        let even = data.bytes.as_ptr().addr().is_multiple_of(2);
        let bytes = if even { Cow::Borrowed(data.bytes) } else { Cow::Owned(data.bytes.to_vec()) };
        let storage = QStorage::from_data(bytes, device, ty)?;
        Ok(Self::Quantized(QMatMul::QTensor(Arc::new(QTensor::new(storage, shape)?))))
    }
}
