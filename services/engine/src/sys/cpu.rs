//! Instruction sets that the matrix kernels are written for, detected at run time.
//!
//! [`KernelSet`] is the choice of kernels. [`Avx2`], [`Avx512`] and [`Amx`] are proofs: a value of one exists only if
//! this process may execute the instructions, so a function that is given one may call the kernels.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// The kernels that compute matrix products and attention. Each set contains the instructions of the sets before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KernelSet {
    /// Plain Rust, compiled for the instruction set of the build. Products of quantized weights in decode are candle's,
    /// which uses AVX2 itself where the CPU has it.
    Portable,
    /// As [`KernelSet::Portable`], with AVX2 and FMA for products in f32: those of prefill, and of float weights.
    Avx2,
    /// AVX-512 (F, BW, VL, DQ, VNNI) for decode, prefill and attention.
    Avx512,
    /// As [`KernelSet::Avx512`], with Intel's matrix unit (AMX-TILE, AMX-BF16) for prefill.
    Amx,
}

impl KernelSet {
    /// All sets, from the slowest to the fastest.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Amx];

    /// Returns the fastest set that this machine can execute.
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Self::Portable)
    }

    /// Returns the sets that this machine can execute, from the slowest to the fastest.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// Returns whether this machine can execute the set.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 => Avx2::detect().is_some(),
            Self::Avx512 => Avx512::detect().is_some(),
            Self::Amx => Avx512::detect().is_some() && Amx::detect().is_some(),
        }
    }

    /// Returns the set itself if this machine can execute it.
    ///
    /// # Errors
    /// [`Error::NoKernels`], which names the sets that this machine can execute.
    pub fn require(self) -> Result<Self> {
        if self.is_available() {
            return Ok(self);
        }
        let available = Self::available().map(Self::name).collect::<Vec<_>>().join(", ");
        Err(Error::NoKernels { kernels: self.name(), available })
    }

    /// Returns the name that the setting `kernels` uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// Returns the proof for AVX2 if this set contains it.
    pub(crate) fn avx2(self) -> Option<Avx2> {
        if self >= Self::Avx2 { Avx2::detect() } else { None }
    }

    /// Returns the proof for AVX-512 if this set contains it.
    pub(crate) fn avx512(self) -> Option<Avx512> {
        if self >= Self::Avx512 { Avx512::detect() } else { None }
    }

    /// Returns the proof for AMX if this set contains it.
    pub(crate) fn amx(self) -> Option<Amx> {
        if self >= Self::Amx { Amx::detect() } else { None }
    }
}

impl fmt::Display for KernelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KernelSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|set| set.name() == text)
            .ok_or_else(|| format!("'{text}' is none of portable, avx2, avx512, amx"))
    }
}

/// Proof that this process may execute AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect() -> Option<Self> {
        None
    }
}

/// Proof that this process may execute the AVX-512 subset of [`crate::matmul::avx512`].
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    #[cfg(target_arch = "x86_64")]
    pub fn detect() -> Option<Self> {
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        detected.then_some(Self(()))
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn detect() -> Option<Self> {
        None
    }
}

/// Proof that this process may use the matrix unit (AMX-TILE and AMX-BF16).
#[derive(Clone, Copy)]
pub(crate) struct Amx(());

impl Amx {
    /// Detects the unit, and at the first call asks Linux for the permission to use it.
    pub fn detect() -> Option<Self> {
        static USABLE: OnceLock<bool> = OnceLock::new();
        USABLE.get_or_init(|| amx_present() && amx_permitted()).then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
fn amx_present() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    // The operating system must save the tiles' configuration and data when it switches threads.
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    // SAFETY: OSXSAVE says that the CPU has XGETBV.
    let saved = unsafe { enabled_states() };
    __cpuid_count(7, 0).edx & BF16_AND_TILE == BF16_AND_TILE && saved & TILE_STATE == TILE_STATE
}

#[cfg(not(target_arch = "x86_64"))]
fn amx_present() -> bool {
    false
}

/// Returns XCR0, the register states that the operating system saves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "xsave")]
fn enabled_states() -> u64 {
    // SAFETY: register 0 exists wherever XGETBV does.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}

/// Asks Linux for the permission to use the 8 KiB of tile data; without it the first tile instruction is a SIGILL.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn amx_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the system call takes two numbers and touches none of this process's memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn amx_permitted() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_back() {
        for set in KernelSet::ALL {
            assert_eq!(set.name().parse(), Ok(set));
        }
        assert!("auto".parse::<KernelSet>().is_err());
    }

    #[test]
    fn available_sets_have_their_proofs() {
        assert!(KernelSet::Portable.is_available());
        assert!(KernelSet::Portable.avx2().is_none());
        for set in KernelSet::available() {
            assert_eq!(set.avx2().is_some(), set >= KernelSet::Avx2, "{set}");
            assert_eq!(set.avx512().is_some(), set >= KernelSet::Avx512, "{set}");
            assert_eq!(set.amx().is_some(), set >= KernelSet::Amx, "{set}");
        }
        assert_eq!(KernelSet::available().last(), Some(KernelSet::best()));
    }

    #[test]
    fn a_set_that_this_machine_lacks_is_refused_with_those_it_has() {
        for set in KernelSet::ALL {
            match set.require() {
                Ok(required) => assert!(required == set && set.is_available()),
                Err(error) => {
                    assert!(!set.is_available());
                    let text = error.to_string();
                    assert!(
                        text.contains(set.name()) && text.contains("this machine has portable"),
                        "{text}"
                    );
                }
            }
        }
    }
}
