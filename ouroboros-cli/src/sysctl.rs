//! Settings of the kernel that tunnels depend on, by their names as sysctl(8) has them.
//! Not here: what is said of them (`ovpn`).

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The settings of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Sysctl(PathBuf);

/// A setting by which packets of a family are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forwarding {
    pub(crate) family: &'static str,
    pub(crate) setting: &'static str,
}

impl Forwarding {
    pub(crate) const V4: Self = Self { family: "IPv4", setting: "net.ipv4.ip_forward" };
    pub(crate) const V6: Self = Self { family: "IPv6", setting: "net.ipv6.conf.all.forwarding" };
}

impl Sysctl {
    /// Those of the machine whose root directory is `root`.
    pub(crate) fn of(root: &Path) -> Self {
        Self(root.join("proc/sys"))
    }

    /// Those of the machine that this process runs on.
    pub(crate) fn own() -> Self {
        Self::of(Path::new("/"))
    }

    fn number(&self, path: &str) -> Option<u32> {
        fs::read_to_string(self.0.join(path)).ok()?.trim().parse().ok()
    }

    /// Returns `true` if packets of the family are passed on; `None` if this machine does
    /// not have it.
    pub(crate) fn forwards(&self, Forwarding { setting, .. }: Forwarding) -> Option<bool> {
        self.number(&setting.replace('.', "/")).map(|value| value != 0)
    }

    /// The setting by which the kernel drops packets that come by `interface`, if answers to
    /// them would leave by another one, without regard for marks: `None` if none does.
    pub(crate) fn strict_filter(&self, interface: &str) -> Option<String> {
        // A name may have dots in it.
        let value = |name: &str| self.number(&format!("net/ipv4/conf/{name}/rp_filter"));
        let (all, own) = (value("all").unwrap_or(0), value(interface).unwrap_or(0));
        // The kernel takes the larger one.
        let name = if all == 1 { "all" } else { interface };
        (all.max(own) == 1).then(|| format!("net.ipv4.conf.{name}.rp_filter"))
    }

    /// The first [`strict_filter`](Self::strict_filter) of an interface.
    pub(crate) fn any_strict_filter(&self) -> Option<String> {
        let interfaces = fs::read_dir(self.0.join("net/ipv4/conf")).ok()?.flatten();
        let names = interfaces.filter_map(|entry| entry.file_name().into_string().ok());
        let mut links = names.filter(|name| !["all", "default", "lo"].contains(&name.as_str()));
        links.find_map(|name| self.strict_filter(&name))
    }
}

#[cfg(test)]
mod tests {
    use ouroboros_testing::Folder;

    use super::*;

    #[test]
    fn the_larger_of_two_filters_counts() {
        for (all, own, strict) in [
            (0, 0, None),
            (2, 1, None),
            (1, 2, None),
            (1, 0, Some("net.ipv4.conf.all.rp_filter")),
            (0, 1, Some("net.ipv4.conf.eth0.rp_filter")),
        ] {
            let folder = Folder::new();
            for (name, value) in [("all", all), ("default", 1), ("lo", 1), ("eth0", own)] {
                let place = folder.path().join("proc/sys/net/ipv4/conf").join(name);
                fs::create_dir_all(&place).expect("made");
                fs::write(place.join("rp_filter"), format!("{value}\n")).expect("written");
            }
            let found = Sysctl::of(folder.path()).any_strict_filter();
            // `lo` is never asked.
            assert_eq!(found.as_deref(), strict, "{all} {own}");
        }
    }
}
