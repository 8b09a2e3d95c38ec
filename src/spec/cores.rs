//! CPU bounds as numbers: `0.5`, `2`.

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Bounds in thousandths of a core: what the kernel can enforce, and more than any machine has.
const MILLICORES: std::ops::RangeInclusive<u32> = 10..=1_024_000;

/// CPU time per time in cores, in steps of a thousandth; written as a number from 0.01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cores(u32);

impl Cores {
    /// Wraps thousandths of a core.
    pub fn from_millicores(millicores: u32) -> Self {
        Self(millicores)
    }

    /// Returns thousandths of a core.
    pub fn millicores(self) -> u32 {
        self.0
    }

    /// Reads a number of cores.
    ///
    /// # Errors
    /// What is wrong with it and what to write.
    fn from_number(number: f64) -> Result<Self, String> {
        let millicores = (number * 1000.0).round();
        let bounds = f64::from(*MILLICORES.start())..=f64::from(*MILLICORES.end());
        if !bounds.contains(&millicores) {
            return Err(format!("{number} is no number of cores: write 0.01 to 1024, such as 0.5"));
        }
        if (number * 1000.0 - millicores).abs() > 1e-6 {
            return Err(format!("{number} is finer than a thousandth of a core: write {}", millicores / 1000.0));
        }
        // In bounds, so nothing is lost.
        Ok(Self(millicores as u32))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1000.0)
    }
}

impl Serialize for Cores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = Cores;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of cores, such as 0.5")
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Cores, E> {
                Cores::from_number(number).map_err(E::custom)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Cores, E> {
                let number = i32::try_from(number).unwrap_or(i32::MAX);
                self.visit_f64(f64::from(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Cores, E> {
                let number = i32::try_from(number).unwrap_or(i32::MAX);
                self.visit_f64(f64::from(number))
            }
        }

        deserializer.deserialize_any(Number)
    }
}

impl schemars::JsonSchema for Cores {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cores".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "number", "minimum": 0.01, "maximum": 1024 })
    }
}

impl utoipa::PartialSchema for Cores {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::Number)
            .minimum(Some(0.01))
            .maximum(Some(1024.0))
            .into()
    }
}

impl utoipa::ToSchema for Cores {
    fn name() -> std::borrow::Cow<'static, str> {
        "Cores".into()
    }
}

#[cfg(test)]
mod tests {
    use super::Cores;

    fn read(text: &str) -> Result<u32, String> {
        serde_json::from_str::<Cores>(text).map(Cores::millicores).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_thousandths_of_a_core_and_writes_the_same_number() {
        for (text, millicores) in [("0.5", 500), ("2", 2000), ("0.01", 10), ("1.25", 1250), ("0.333", 333)] {
            assert_eq!(read(text), Ok(millicores));
            let again = serde_json::to_string(&Cores::from_millicores(millicores)).unwrap();
            assert_eq!(read(&again), Ok(millicores));
        }
        for text in ["0", "0.001", "-1", "1e9", "0.0005", "1.00005", "NaN", "\"1\"", "99999999999999"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
