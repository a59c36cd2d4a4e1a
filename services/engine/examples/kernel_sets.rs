//! Prints the kernel sets that this machine can execute, one a line: `make kernels` tests each of them.

use millm_engine::KernelSet;

fn main() {
    for kernels in KernelSet::available() {
        println!("{kernels}");
    }
}
