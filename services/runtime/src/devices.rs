//! The devices that models run on and their memory: the host's, limited by the control group, this process's, and the
//! GPU's.

use millm_engine::{Device as EngineDevice, KernelSet};
use millm_kit::settings::{DeviceChoice, KernelChoice};
use millm_proto::runtime::v1::Device;
use parking_lot::Mutex;
use sysinfo::{CpuRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

#[cfg(feature = "cuda")]
use crate::gpu::Gpu;

/// The id of the host's device.
const CPU: &str = "cpu";

/// Returns the device that a setting means on this machine. Opening it shows whether it can be used.
pub(crate) fn choose(choice: DeviceChoice) -> EngineDevice {
    match choice {
        DeviceChoice::Auto => EngineDevice::best(),
        DeviceChoice::Cpu => EngineDevice::Cpu,
        DeviceChoice::Cuda(number) => EngineDevice::Cuda(number as usize),
    }
}

/// Returns the CPU kernels that a setting means; `None` is the fastest set of this machine. [`KernelSet::require`] shows
/// whether the CPU supports them.
pub(crate) fn kernel_set(choice: KernelChoice) -> Option<KernelSet> {
    match choice {
        KernelChoice::Auto => None,
        KernelChoice::Portable => Some(KernelSet::Portable),
        KernelChoice::Avx2 => Some(KernelSet::Avx2),
        KernelChoice::Avx512 => Some(KernelSet::Avx512),
        KernelChoice::Amx => Some(KernelSet::Amx),
    }
}

/// The devices of this process. Each call reads the present counters of the system and of the GPU.
pub(crate) struct Devices {
    /// The device that models run on.
    pub device: EngineDevice,
    cpu_name: String,
    system: Mutex<System>,
    #[cfg(feature = "cuda")]
    gpu: Option<Gpu>,
}

impl Devices {
    /// Opens `device` for models.
    ///
    /// # Errors
    ///
    /// Fails if the device does not exist or cannot be used.
    pub fn open(device: EngineDevice) -> Result<Self, millm_engine::Error> {
        #[cfg_attr(
            not(feature = "cuda"),
            expect(unused_variables, reason = "only needed to find the GPU's memory")
        )]
        let handle = device.open()?;
        #[cfg(feature = "cuda")]
        let gpu = match device {
            EngineDevice::Cpu => None,
            EngineDevice::Cuda(_) => {
                let found = Gpu::find(device.to_string(), &handle);
                Some(found.map_err(|why| millm_engine::Error::NoDevice { device, why })?)
            }
        };
        let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
        let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
        let cpu_name = if brand.is_empty() { std::env::consts::ARCH.to_owned() } else { brand };
        Ok(Self {
            device,
            cpu_name,
            system: Mutex::new(system),
            #[cfg(feature = "cuda")]
            gpu,
        })
    }

    /// Returns the host, and the GPU that models run on.
    pub fn all(&self) -> Vec<Device> {
        let mut devices = vec![self.cpu()];
        devices.extend(self.gpu());
        devices
    }

    /// Returns the free bytes of the device that models run on.
    pub fn free(&self) -> u64 {
        self.gpu().unwrap_or_else(|| self.cpu()).free_bytes as u64
    }

    /// Returns the used bytes of the device that models run on: on the CPU by this process, on a GPU by all processes.
    pub fn used(&self) -> u64 {
        self.gpu().map_or_else(|| self.private_bytes(), |gpu| gpu.used_bytes as u64)
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self) -> Option<Device> {
        let now = self.gpu.as_ref()?.now();
        now.inspect_err(|error| tracing::warn!("cannot read the GPU's memory: {error}")).ok()
    }

    #[cfg(not(feature = "cuda"))]
    #[expect(clippy::unused_self, reason = "builds with CUDA use it")]
    fn gpu(&self) -> Option<Device> {
        None
    }

    fn cpu(&self) -> Device {
        let mut system = self.system.lock();
        system.refresh_memory();
        let (mut total, mut free) = (system.total_memory(), system.available_memory());
        if let Some(group) = system.cgroup_limits()
            && group.total_memory < total
        {
            total = group.total_memory;
            // The group's own `free` counts its page cache as used, which the kernel would reclaim.
            free = free.min(total.saturating_sub(group.rss));
        }
        Device {
            id: CPU.to_owned(),
            name: self.cpu_name.clone(),
            total_bytes: total as i64,
            used_bytes: total.saturating_sub(free) as i64,
            free_bytes: free as i64,
        }
    }

    /// Returns the resident bytes of this process.
    pub fn resident_bytes(&self) -> u64 {
        let pid = Pid::from_u32(std::process::id());
        let mut system = self.system.lock();
        let what = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
        system.process(pid).map_or(0, sysinfo::Process::memory)
    }

    /// Returns the resident bytes without pages of mapped files, which the system reclaims when it needs them. Where the
    /// system does not distinguish them, returns all resident bytes.
    fn private_bytes(&self) -> u64 {
        std::fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| private_bytes_of(&status))
            .unwrap_or_else(|| self.resident_bytes())
    }
}

/// Sums the fields RssAnon and RssShmem of /proc/self/status (proc_pid_status(5)).
fn private_bytes_of(status: &str) -> Option<u64> {
    let kilobytes = |field: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some((kilobytes("RssAnon:")? + kilobytes("RssShmem:").unwrap_or(0)) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_memory_and_this_process_uses_some() {
        let devices = Devices::open(EngineDevice::Cpu).unwrap();
        let cpu = devices.cpu();
        assert_eq!((devices.all().len(), cpu.id.as_str()), (1, "cpu"));
        assert!(cpu.free_bytes > 0 && cpu.free_bytes <= cpu.total_bytes);
        assert_eq!(cpu.used_bytes + cpu.free_bytes, cpu.total_bytes);
        assert!(devices.resident_bytes() > 0 && devices.resident_bytes() < cpu.total_bytes as u64);
        assert!(devices.private_bytes() > 0);
    }

    #[test]
    fn a_missing_gpu_is_not_replaced_by_another_device() {
        assert!(Devices::open(choose(DeviceChoice::Cuda(4096))).is_err());
        assert!(Devices::open(choose(DeviceChoice::Auto)).is_ok());
        assert_eq!(choose(DeviceChoice::Cpu), EngineDevice::Cpu);
    }

    #[test]
    fn pages_of_mapped_files_do_not_count() {
        let status =
            "Name:\tmillm\nVmRSS:\t  900 kB\nRssAnon:\t  500 kB\nRssFile:\t  390 kB\nRssShmem:\t 10 kB\n";
        assert_eq!(private_bytes_of(status), Some(510 * 1024));
        assert_eq!(private_bytes_of("nothing"), None);
    }
}
