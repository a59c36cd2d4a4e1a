//! A GPU's memory, now, through NVML: of all that use it.

use millm_engine::device::{self, Handle};
use millm_proto::runtime::v1::Device;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

pub struct Gpu {
    id: String,
    uuid: String,
    name: String,
    nvml: Nvml,
}

impl Gpu {
    /// Finds the device that `handle` is among those that NVML knows. It counts otherwise than CUDA, which is told what
    /// to see, so both are asked for its UUID.
    pub fn find(id: String, handle: &Handle) -> Result<Self, String> {
        let bytes = device::uuid(handle).map_err(|error| error.to_string())?;
        let nvml = Nvml::init().map_err(|error| error.to_string())?;
        // A part of a GPU has an identity of its own.
        let names = ["GPU", "MIG"].map(|kind| spelled(kind, bytes));
        let known = |uuid: &String| nvml.device_by_uuid(uuid.as_str()).and_then(|device| device.name());
        let found = names.into_iter().find_map(|uuid| Some((known(&uuid).ok()?, uuid)));
        let (name, uuid) = found.ok_or_else(|| format!("NVML does not know {}", spelled("GPU", bytes)))?;
        Ok(Self { id, uuid, name, nvml })
    }

    pub fn now(&self) -> Result<Device, NvmlError> {
        let memory = self.nvml.device_by_uuid(self.uuid.as_str())?.memory_info()?;
        Ok(Device {
            id: self.id.clone(),
            name: self.name.clone(),
            total_bytes: memory.total as i64,
            used_bytes: memory.used as i64,
            free_bytes: memory.free as i64,
        })
    }
}

/// `GPU-8932f937-d72c-4106-c12f-20bd9faed9f6`
fn spelled(kind: &str, bytes: [u8; 16]) -> String {
    let mut text = kind.to_owned();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_spelled_as_nvml_spells_them() {
        let bytes = std::array::from_fn(|index| 17 * index as u8);
        assert_eq!(spelled("GPU", bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
