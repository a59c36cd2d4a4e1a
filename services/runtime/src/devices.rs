//! Memory, now: the host's, less where a control group allows less, and this process's own.

use std::sync::Mutex;

use millm_proto::runtime::v1::Device;
use sysinfo::{CpuRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

/// The one device there is without a GPU.
pub const CPU: &str = "cpu";

/// Reads the operating system's counters at each call.
pub struct Devices {
    cpu_name: String,
    system: Mutex<System>,
}

impl Devices {
    pub fn new() -> Self {
        let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
        let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
        let cpu_name = if brand.is_empty() { std::env::consts::ARCH.to_owned() } else { brand };
        Self { cpu_name, system: Mutex::new(system) }
    }

    pub fn cpu(&self) -> Device {
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
    pub fn own(&self) -> u64 {
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
        let devices = Devices::new();
        let cpu = devices.cpu();
        assert!(cpu.free_bytes > 0 && cpu.free_bytes <= cpu.total_bytes);
        assert_eq!(cpu.used_bytes + cpu.free_bytes, cpu.total_bytes);
        assert!(devices.resident() > 0 && devices.resident() < cpu.total_bytes as u64);
        assert!(devices.own() > 0);
    }

    #[test]
    fn pages_of_files_do_not_count() {
        let status =
            "Name:\tmillm\nVmRSS:\t  900 kB\nRssAnon:\t  500 kB\nRssFile:\t  390 kB\nRssShmem:\t 10 kB\n";
        assert_eq!(own_of(status), Some(510 * 1024));
        assert_eq!(own_of("nothing"), None);
    }
}
