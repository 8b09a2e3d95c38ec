//! Sizes as texts: `64KiB`, `1MiB`, `512B`.

use crate::spec::text::text;
use std::fmt;
use std::str::FromStr;

/// Units from large to small, in octets.
const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of octets; written as `512B`, `64KiB`, `1MiB` or `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Size(u64);

text!(
    Size, "Size",
    expecting "a size with its unit, such as \"64KiB\" or \"512B\"",
    pattern "^[0-9]+(B|KiB|MiB|GiB)$",
    example "64KiB"
);

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// A number without a unit behind it.
    #[error("size {0:?} has no unit: write it as \"{0}B\" or with KiB, MiB or GiB")]
    NoUnit(String),
    /// A decimal unit or another spelling of a binary one.
    #[error("size {text:?} has an unknown unit: did you mean \"{number}{unit}\"?")]
    Unit {
        /// The size as written.
        text: String,
        /// Its number.
        number: String,
        /// The nearest unit.
        unit: &'static str,
    },
    /// Another form than a number with a unit.
    #[error("{0:?} is no size: write a whole number with the unit B, KiB, MiB or GiB, such as \"64KiB\"")]
    Form(String),
    /// Above 2⁶³-1 octets.
    #[error("size {0:?} is too large")]
    TooLarge(String),
}

impl Size {
    /// Wraps a number of octets.
    pub fn new(octets: u64) -> Self {
        Self(octets)
    }

    /// Returns the number of octets.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Returns the number of octets in memory terms.
    pub fn octets(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err(SizeError::Form(text.to_owned()));
        }
        if unit.is_empty() {
            return Err(SizeError::NoUnit(text.to_owned()));
        }
        let Some((_, octets)) = UNITS.into_iter().find(|(name, _)| *name == unit) else {
            return Err(match unit.to_ascii_lowercase().as_str() {
                "b" => SizeError::Unit { text: text.to_owned(), number: number.to_owned(), unit: "B" },
                "k" | "kb" | "kib" => SizeError::Unit { text: text.to_owned(), number: number.to_owned(), unit: "KiB" },
                "m" | "mb" | "mib" => SizeError::Unit { text: text.to_owned(), number: number.to_owned(), unit: "MiB" },
                "g" | "gb" | "gib" => SizeError::Unit { text: text.to_owned(), number: number.to_owned(), unit: "GiB" },
                _ => SizeError::Form(text.to_owned()),
            });
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(octets))
            .filter(|total| i64::try_from(*total).is_ok())
            .map(Self)
            .ok_or_else(|| SizeError::TooLarge(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) =
            UNITS.into_iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)).unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::{Size, SizeError};
    use proptest::prelude::{any, proptest};

    #[test]
    fn reads_each_unit() {
        let octets = |text: &str| text.parse::<Size>().unwrap().get();
        assert_eq!([octets("512B"), octets("64KiB"), octets("1MiB"), octets("2GiB")], [512, 65_536, 1 << 20, 2 << 30]);
        assert_eq!(octets("0B"), 0);
    }

    #[test]
    fn names_what_is_wrong() {
        assert_eq!("64".parse::<Size>(), Err(SizeError::NoUnit("64".into())));
        assert_eq!(
            "64kb".parse::<Size>().unwrap_err().to_string(),
            "size \"64kb\" has an unknown unit: did you mean \"64KiB\"?"
        );
        for bad in ["", "KiB", "1.5MiB", "64 KiB", "64TiX", "-1B"] {
            assert!(matches!(bad.parse::<Size>(), Err(SizeError::Form(_))), "{bad}");
        }
        assert!(matches!("99999999999999GiB".parse::<Size>(), Err(SizeError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_as_the_same(octets in 0_u64..=i64::MAX as u64) {
            assert_eq!(Size::new(octets).to_string().parse(), Ok(Size::new(octets)));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Size>();
        }
    }
}
