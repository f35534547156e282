//! The machine's memory, from /proc/meminfo.

use crate::BenchError;

/// Bytes, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Not used by anybody.
    pub(crate) free: u64,
    /// What the kernel could make free.
    pub(crate) available: u64,
    /// The kernel's own objects, sockets among them.
    pub(crate) slab: u64,
}

impl Memory {
    /// Now.
    pub(crate) fn read() -> Result<Self, BenchError> {
        let system = |source| BenchError::System {
            doing: "reading /proc/meminfo",
            source,
        };
        let text = std::fs::read_to_string("/proc/meminfo").map_err(system)?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let bytes = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|rest| rest.trim().strip_suffix("kB"));
            number
                .and_then(|n| n.trim().parse::<u64>().ok())
                .unwrap_or(0)
                << 10
        };
        Self {
            free: bytes("MemFree"),
            available: bytes("MemAvailable"),
            slab: bytes("Slab"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_meminfo_are_found() {
        let text = "MemTotal:  24105 kB\nMemFree:   100 kB\nMemAvailable: 200 kB\nSlab:  7 kB\n";
        let expected = Memory {
            free: 100 << 10,
            available: 200 << 10,
            slab: 7 << 10,
        };
        assert_eq!(Memory::parse(text), expected);
        assert!(Memory::read().unwrap().free > 0);
    }
}
