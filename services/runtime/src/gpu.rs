//! The memory of a GPU, used by all processes, from NVML.

use millm_engine::{DeviceHandle, gpu_uuid};
use millm_proto::runtime::v1::Device;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// The GPU that models run on.
pub(crate) struct Gpu {
    id: String,
    uuid: String,
    name: String,
    nvml: Nvml,
}

impl Gpu {
    /// Finds the device of `handle` in NVML.
    ///
    /// NVML numbers devices differently from CUDA, which sees only some of them, so they are compared by UUID.
    ///
    /// # Errors
    ///
    /// Fails with the reason if NVML is missing or does not know the device.
    pub fn find(id: String, handle: &DeviceHandle) -> Result<Self, String> {
        let bytes = gpu_uuid(handle).map_err(|error| error.to_string())?;
        let nvml = Nvml::init().map_err(|error| error.to_string())?;
        // A MIG partition of a GPU has its own UUID.
        let names = ["GPU", "MIG"].map(|kind| nvml_uuid(kind, bytes));
        let known = |uuid: &String| nvml.device_by_uuid(uuid.as_str()).and_then(|device| device.name());
        let found = names.into_iter().find_map(|uuid| Some((known(&uuid).ok()?, uuid)));
        let (name, uuid) = found.ok_or_else(|| format!("NVML does not know {}", nvml_uuid("GPU", bytes)))?;
        Ok(Self { id, uuid, name, nvml })
    }

    /// Returns the device with its present memory.
    ///
    /// # Errors
    ///
    /// Fails if NVML cannot read the memory.
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

/// Returns a UUID as NVML spells it: `GPU-8932f937-d72c-4106-c12f-20bd9faed9f6`.
fn nvml_uuid(kind: &str, bytes: [u8; 16]) -> String {
    format!("{kind}-{}", uuid::Uuid::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_spelled_as_nvml_spells_them() {
        let bytes = std::array::from_fn(|index| 17 * index as u8);
        assert_eq!(nvml_uuid("GPU", bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
