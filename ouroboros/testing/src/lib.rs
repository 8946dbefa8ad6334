//! What the integration tests of this workspace share: a harness for tests that
//! need more than an ordinary process, network namespaces, folders, the corpora
//! of the fuzz targets, seeded random numbers. Not here: anything of the library; the tools and their
//! hosts (`ouroboros-cli/tests`).

mod bind;
mod corpus;
mod folder;
mod harness;
mod namespace;
mod random;

pub use bind::bind_when_free;
pub use corpus::replay;
pub use folder::Folder;
pub use harness::{Needs, Tests};
pub use namespace::{Namespace, isolated};
pub use random::Random;
