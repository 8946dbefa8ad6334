//! Gives up what a tool does not need of root's rights, for good. Rights are
//! each thread's own and handed on to new ones: this is for `main`, before
//! anything else.

use rustix::{
    io::{self, Errno},
    process::{DumpableBehavior, Gid, geteuid, set_dumpable_behavior},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs, set_thread_groups,
    },
};

/// Returns `true` if this thread has the capabilities.
pub(crate) fn has(wanted: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}

/// Keeps `kept` of the capabilities that this process has, and of root's
/// supplementary groups `groups`. No program that it runs has more; others of
/// the same user cannot look into its memory, and no core of it is written.
///
/// # Errors
///
/// Those of capset(2) and prctl(2): the kernel is older than all that.
pub fn confine(kept: CapabilitySet, groups: &[Gid]) -> io::Result<()> {
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    if effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(kept).iter() {
            match capability_is_in_bounding_set(capability) {
                Ok(true) => remove_capability_from_bounding_set(capability)?,
                // An older kernel does not know them all.
                Ok(false) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    if geteuid().is_root() && effective.contains(CapabilitySet::SETGID) {
        match set_thread_groups(groups) {
            // In some user namespaces nobody can change groups.
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    clear_ambient_capability_set()?;
    set_no_new_privs(true)?;
    let kept = permitted & kept;
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
