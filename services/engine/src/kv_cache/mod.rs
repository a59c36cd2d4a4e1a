//! The KV cache, in two halves that know nothing of each other: the accounting of blocks ([`BlockPool`], the same for
//! every device) and the storage of keys and values, which belongs to the model that computes them ([`HostKvStore`],
//! or candle's).
//!
//! ```text
//! Scheduler ─ BlockPool ─ BlockTable (block numbers of a sequence) ─> Forward ─ HostKvStore (keys and values)
//!                 └ PrefixCache (full blocks by their tokens)
//! ```

pub(crate) mod block;
pub(crate) mod block_pool;
pub(crate) mod host_store;
pub(crate) mod prefix_cache;

pub use block::{BLOCK_SIZE, KvType};
pub use block_pool::{BlockCopy, BlockPool, BlockTable, KvSlot, SequenceId};
pub use prefix_cache::{BlockKey, PrefixId};

pub(crate) use block::kv_bytes;
pub(crate) use host_store::{HeadBlock, HostKvStore};
