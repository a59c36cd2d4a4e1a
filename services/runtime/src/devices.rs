//! Where models run, and memory, now: the host's, less where a control group allows less, this process's own, and that
//! of the GPU where there is one to run on.

use std::sync::Mutex;

use millm_engine::Device as Place;
use millm_kit::settings::DeviceChoice;
use millm_proto::runtime::v1::Device;
use sysinfo::{CpuRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

#[cfg(feature = "cuda")]
use crate::gpu::Gpu;

/// The device of the host.
const CPU: &str = "cpu";

/// Which device a setting means on this machine; whether it can be used is seen when it is opened.
pub fn choose(choice: DeviceChoice) -> Place {
    match choice {
        DeviceChoice::Auto => Place::best(),
        DeviceChoice::Cpu => Place::Cpu,
        DeviceChoice::Cuda(number) => Place::Cuda(number as usize),
    }
}

/// Reads the operating system's counters, and the GPU's, at each call.
pub struct Devices {
    /// Where models run.
    pub place: Place,
    cpu_name: String,
    system: Mutex<System>,
    #[cfg(feature = "cuda")]
    gpu: Option<Gpu>,
}

impl Devices {
    /// Models run in `place`, which is there.
    pub fn open(place: Place) -> Result<Self, millm_engine::Error> {
        #[cfg_attr(
            not(feature = "cuda"),
            expect(unused_variables, reason = "only a GPU's memory is asked for by it")
        )]
        let handle = place.open()?;
        #[cfg(feature = "cuda")]
        let gpu = match place {
            Place::Cpu => None,
            Place::Cuda(_) => {
                let found = Gpu::find(place.to_string(), &handle);
                Some(found.map_err(|why| millm_engine::Error::NoDevice { device: place, why })?)
            }
        };
        let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
        let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
        let cpu_name = if brand.is_empty() { std::env::consts::ARCH.to_owned() } else { brand };
        Ok(Self {
            place,
            cpu_name,
            system: Mutex::new(system),
            #[cfg(feature = "cuda")]
            gpu,
        })
    }

    /// The host, and the GPU that models run on.
    pub fn all(&self) -> Vec<Device> {
        let mut devices = vec![self.cpu()];
        devices.extend(self.gpu());
        devices
    }

    /// Free where models run.
    pub fn free(&self) -> u64 {
        self.gpu().unwrap_or_else(|| self.cpu()).free_bytes as u64
    }

    /// Taken where models run: by this process; on a GPU by all who use it.
    pub fn taken(&self) -> u64 {
        self.gpu().map_or_else(|| self.own(), |gpu| gpu.used_bytes as u64)
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self) -> Option<Device> {
        let now = self.gpu.as_ref()?.now();
        now.inspect_err(|error| tracing::warn!("the GPU's memory cannot be read: {error}")).ok()
    }

    #[cfg(not(feature = "cuda"))]
    #[expect(clippy::unused_self, reason = "with CUDA it has one")]
    fn gpu(&self) -> Option<Device> {
        None
    }

    fn cpu(&self) -> Device {
        let mut system = self.system.lock().expect("nothing panics while it is held");
        system.refresh_memory();
        let (mut total, mut free) = (system.total_memory(), system.available_memory());
        if let Some(group) = system.cgroup_limits()
            && group.total_memory < total
        {
            total = group.total_memory;
            // Not the group's own `free`: its page cache makes room when asked.
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

    /// Resident bytes of this process.
    pub fn resident(&self) -> u64 {
        let pid = Pid::from_u32(std::process::id());
        let mut system = self.system.lock().expect("nothing panics while it is held");
        let what = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
        system.process(pid).map_or(0, sysinfo::Process::memory)
    }

    /// Resident bytes that are this process's own: without pages of mapped files, which the system takes back
    /// when it needs them. Where the system does not tell them apart, all.
    fn own(&self) -> u64 {
        std::fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|status| own_of(&status))
            .unwrap_or_else(|| self.resident())
    }
}

fn own_of(status: &str) -> Option<u64> {
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
        let devices = Devices::open(Place::Cpu).unwrap();
        let cpu = devices.cpu();
        assert_eq!((devices.all().len(), cpu.id.as_str()), (1, "cpu"));
        assert!(cpu.free_bytes > 0 && cpu.free_bytes <= cpu.total_bytes);
        assert_eq!(cpu.used_bytes + cpu.free_bytes, cpu.total_bytes);
        assert!(devices.resident() > 0 && devices.resident() < cpu.total_bytes as u64);
        assert!(devices.own() > 0);
    }

    #[test]
    fn a_gpu_that_is_not_there_is_not_taken_for_another_device() {
        assert!(Devices::open(choose(DeviceChoice::Cuda(4096))).is_err());
        assert!(Devices::open(choose(DeviceChoice::Auto)).is_ok());
        assert_eq!(choose(DeviceChoice::Cpu), Place::Cpu);
    }

    #[test]
    fn pages_of_files_do_not_count() {
        let status =
            "Name:\tmillm\nVmRSS:\t  900 kB\nRssAnon:\t  500 kB\nRssFile:\t  390 kB\nRssShmem:\t 10 kB\n";
        assert_eq!(own_of(status), Some(510 * 1024));
        assert_eq!(own_of("nothing"), None);
    }
}
