//! CPython versions.

use std::fmt;

/// A CPython version as `PY_VERSION_HEX` encodes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u8,
    pub minor: u8,
    pub patch: u8,
    /// 0xa alpha, 0xb beta, 0xc release candidate, 0xf final.
    pub level: u8,
    pub serial: u8,
}

impl Version {
    /// From `Py_Version` (3.11 and later). `None` for a word that no CPython can have there.
    pub fn from_hex(hex: u32) -> Option<Self> {
        let [low, patch, minor, major] = hex.to_le_bytes();
        let version = Self { major, minor, patch, level: low >> 4, serial: low & 15 };
        (major == 3 && (11..100).contains(&minor) && version.level >= 0xa).then_some(version)
    }

    /// From text that begins like `sys.version`: "3.8.18 (default, ...", "2.7.18+", "3.13.0rc2".
    pub fn from_text(text: &str) -> Option<Self> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let mut numbers = text[..end].split('.').map(str::parse::<u8>);
        let mut number = || numbers.next()?.ok();
        let (major, minor, patch) = (number()?, number()?, number()?);
        let rest = &text[end..];
        let (level, serial) = [("a", 0xa), ("b", 0xb), ("rc", 0xc)]
            .into_iter()
            .find_map(|(name, level)| Some((level, rest.strip_prefix(name)?)))
            .map_or((0xf, 0), |(level, n)| (level, n.bytes().next().map_or(0, |b| b.wrapping_sub(b'0') & 15)));
        (matches!(major, 2 | 3) && numbers.next().is_none()).then_some(Self { major, minor, patch, level, serial })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        match self.level {
            0xa => write!(f, "a{}", self.serial),
            0xb => write!(f, "b{}", self.serial),
            0xc => write!(f, "rc{}", self.serial),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_text_agree() {
        let pairs = [(0x030b02f0, "3.11.2"), (0x030d00c2, "3.13.0rc2"), (0x030f00a4, "3.15.0a4")];
        for (hex, text) in pairs {
            let version = Version::from_hex(hex).unwrap();
            assert_eq!(version.to_string(), text);
            assert_eq!(Version::from_text(&format!("{text} (main, today) [GCC]")), Some(version));
        }
        assert_eq!(Version::from_text("2.7.18+").unwrap().to_string(), "2.7.18");
        assert!(Version::from_hex(0).is_none() && Version::from_hex(0x030b0200).is_none());
        for bad in ["", "3", "3.11", "1.2.13", "3.11.2.1", "3.999.1", "x"] {
            assert_eq!(Version::from_text(bad), None, "{bad}");
        }
    }
}
