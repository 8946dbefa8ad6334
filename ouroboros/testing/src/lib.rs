//! What the integration tests of this workspace share: a harness for tests that
//! need more than an ordinary process, network namespaces, folders. Not here:
//! anything of the library; the tools and their hosts (`ouroboros-cli/tests`).

mod folder;
mod harness;
mod namespace;

pub use folder::Folder;
pub use harness::{Needs, Tests};
pub use namespace::{Namespace, isolated};
